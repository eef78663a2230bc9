"""Text in every script, ordinary and hostile, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st
from sentences import SENTENCES

TAGS = ("<laugh>", "<short pause>", "[sighs. Then laughs]", "</i>", "|mhm|")
"""Audio tags, with white space and full stops inside."""
URLS = ("https://example.com/a.b?c=d,e", "www.example.org/x.y", "me.you@example.co.uk")
"""What holds punctuation and no white space."""
NUMBERS = ("1,299.99", "3.14", "1 299,99", "1.299,00", "٣٫١٤", "12:30", "1 000 000")
"""Numbers with separators, white space among them."""
ABBREVIATIONS = (
    "Dr. Who",
    "z. B. Kaffee",
    "т. д. И",
    "U.S. Navy",
    "p.m. Then",
    "J. R. R. Tolkien",
    "डॉ. शर्मा",
    "ดร. สมชาย",
    "3. Oktober",
)
"""Abbreviations with what follows them."""

_HOSTILE = (
    *(" ", "  ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\u2029", "\x85", "\u00a0", "\u200b", "\u200d", "\ufeff"),
    *("\x00", ".", "...", "…", "!", "?!", "。", "।", "॥", "؟", "،", "；", "—", " – ", "-", "“", "”", '"', "'"),
    *("«", " »", "(", ")", "<", ">", "[", "]", "|", "a", "A.", "Word", "9", "\u0301", "\u0903", "\u094d", "क्ष", "กำ"),
    *("ᄀ", "ᅡ", "각", "🇩🇪", "🇫", "👩\u200d👩\u200d👧", "👍🏽", "❤️", "\ud83d\ude00", "\ud83d", "\ufffe", "字", "っ"),
    *("ン", "ไทย", "ខ្មែរ", "မြန်မာ", "ລາວ", "བོད་", "שלום ", "ኢትዮ።"),
)  # fmt: skip
_TEXTS = (
    *(sentence + " " for sentences in SENTENCES.values() for sentence in sentences),
    "他走了。",
    "“你好！”他说，价格是1,299.99元，对吗？",
    "我们明天再见面吧；好的",
    "彼は「今日は家にいよう」と言った。",
    "สวัสดีครับผมชื่อสมชาย วันนี้อากาศดี ",
)

ASSIGNED = st.characters(exclude_categories=["Cn", "Cs", "Co"])
"""Characters that every version of Unicode at hand knows."""


def any_text(most_parts: int = 60) -> st.SearchStrategy[str]:
    """Texts of sentences, tags, URLs, numbers, broken characters and everything else, side by side."""
    units = st.sampled_from(TAGS + URLS + NUMBERS + ABBREVIATIONS)
    part = st.one_of(st.sampled_from(_HOSTILE), st.sampled_from(_TEXTS), units, st.text(max_size=8))
    return st.lists(part, max_size=most_parts).map("".join)
