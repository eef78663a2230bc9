"""A long text is cut into pieces that fit, nothing is lost, and a cut is where a reader would pause."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import Any

import pytest
import regex
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scripts import ABBREVIATIONS, ASSIGNED, NUMBERS, TAGS, URLS, any_text
from sentences import SENTENCES

from audio_api.text.chunking import Break, Piece, split_sentences, split_text
from audio_api.text.graphemes import splits_grapheme
from audio_api.text.pace import spoken_s
from audio_api.text.sizes import COLUMNS

LANGUAGES = {
    **{code: " ".join(sentences) for code, sentences in SENTENCES.items()},
    "zh": "他走了。“你好！”她说，价格是1,299.99元，对吗？我们明天再见面吧；好的。是……吗？当然！",
    "ja": "彼は言った。「そうですか。」と。価格は３．１４円です！次はどこへ行きますか？",
    "km": "ខ្ញុំស្រឡាញ់ប្រទេសកម្ពុជា។ តើអ្នកសុខសប្បាយទេ? បាទ ខ្ញុំសុខសប្បាយ។",
    "my": "မင်္ဂလာပါ။ နေကောင်းလား။ ကျေးဇူးတင်ပါတယ်၊ နောက်မှတွေ့မယ်။",
    "am": "ሰላም ነው። እንዴት ነህ? ደህና ነኝ፣ አመሰግናለሁ።",
    "ur": "یہ ایک جملہ ہے۔ کیا آپ ٹھیک ہیں؟ جی ہاں، شکریہ۔",
}


def size_bytes(text: str) -> int:
    """Bytes of UTF-8; a lone surrogate counts three."""
    return len(text.encode("utf-8", "surrogatepass"))


def texts(pieces: Iterable[Piece]) -> list[str]:
    """The text of each piece."""
    return [piece.text for piece in pieces]


def cut_places(parts: list[str]) -> list[int]:
    """The indices of the cuts between parts."""
    return list(accumulate(map(len, parts)))[:-1]


@given(any_text(), st.integers(1, 300), st.none() | st.integers(4, 300), st.none() | st.floats(0.5, 30))
@example(" " * 50, 7, None, None)
@example("a" * 50, 7, None, None)
@example("\u0301" * 50, 7, 9, None)
@example("🇩🇪" * 50, 3, None, None)
def test_pieces_fit_and_make_up_the_text(text: str, max_chars: int, max_bytes: int | None, max_s: float | None) -> None:
    """Joined, the pieces are the text; none is empty or over a limit; the last one, and only it, ends the text."""
    pieces = list(split_text(text, max_chars, max_bytes=max_bytes, max_s=max_s))
    assert "".join(texts(pieces)) == text
    assert all(0 < len(piece.text) <= max_chars for piece in pieces)
    assert max_bytes is None or all(size_bytes(piece.text) <= max_bytes for piece in pieces)
    assert max_s is None or all(spoken_s(piece.text) <= max_s + 1e-9 or len(piece.text) == 1 for piece in pieces)
    assert [piece.break_after == "end" for piece in pieces] == [False] * (len(pieces) - 1) + [True] * bool(pieces)


@given(st.text(ASSIGNED, min_size=2, max_size=12))
@example("👩\u200d👩\u200d👧🇩🇪🇫🇷\r\nक्षि각ᄀ\u0600A")
def test_no_cut_is_allowed_inside_a_grapheme(text: str) -> None:
    """Where Unicode sees one character, the rule sees one; ``regex`` knows Unicode's own rule."""
    unicodes = set(cut_places(regex.findall(r"\X", text)))
    ours = {cut for cut in range(1, len(text)) if not splits_grapheme(text, cut)}
    assert ours <= unicodes


@given(any_text(), st.integers(1, 60))
def test_a_character_is_cut_only_when_it_is_too_long(text: str, max_chars: int) -> None:
    """No cut is inside a grapheme, but in one longer than a piece."""
    assume(not any("\ud800" <= char <= "\udfff" for char in text))
    longest = max((len(grapheme) for grapheme in clusters(text)), default=0)
    assume(longest <= max_chars)
    cuts = cut_places(texts(split_text(text, max_chars)))
    assert set(cuts) <= set(cut_places(regex.findall(r"\X", text)))


def clusters(text: str) -> list[str]:
    """The characters of a text by our own, stricter rule."""
    cuts = [0, *(cut for cut in range(1, len(text)) if not splits_grapheme(text, cut)), len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]


def test_a_surrogate_pair_stays_together() -> None:
    """Two surrogates that make one character are never parted where a piece has room for both."""
    assert texts(split_text("\ud83d\ude00" * 5, 3)) == ["\ud83d\ude00"] * 5


@pytest.mark.parametrize("unit", TAGS + URLS + NUMBERS + ABBREVIATIONS)
@given(
    st.lists(st.sampled_from(["some ", "words, ", "Ends. ", "短い文。", "ไทย", "\n\n", "x"]), max_size=30),
    st.integers(32, 90),
)
def test_a_unit_is_never_cut(unit: str, words: list[str], max_chars: int) -> None:
    """Tags, URLs, numbers and abbreviations stay whole wherever they stand in a text."""
    text, places = "", []
    for word in words:
        places.append(len(text) + 1)
        text += f" {unit} {word}"
    cuts = cut_places(texts(split_text(text, max_chars)))
    assert not [cut for cut in cuts for place in places if place < cut < place + len(unit)]


@given(st.sampled_from(list(LANGUAGES)), st.integers(60, 400), st.integers(1, 40))
def test_pieces_are_even(language: str, max_chars: int, repeats: int) -> None:
    """Pieces of ordinary text in any language are never much shorter than the limit asks for, the last one included."""
    text = (LANGUAGES[language] + "\n") * repeats
    assume(len(text) > max_chars)
    assert min(map(len, texts(split_text(text, max_chars)))) >= max_chars // 4


@given(st.sampled_from(list(LANGUAGES)), st.integers(300, 2_000))
def test_no_short_piece_where_speech_fails_more_often(language: str, max_chars: int) -> None:
    """From 300 characters a piece on, none has fewer than 60."""
    text = LANGUAGES[language] * 20
    assert min(map(len, texts(split_text(text, max_chars)))) >= 60


def test_a_little_over_the_limit_makes_halves() -> None:
    """A text ten characters too long is cut in the middle, not ten characters before its end."""
    text = "word " * 402
    assert [len(piece.text) for piece in split_text(text, 2_000)] == [1_005, 1_005]


@pytest.mark.parametrize(
    ("text", "kind", "first"),
    [
        ("One two. Three four.\n\nFive six. Seven eight. Nine.", "paragraph", "One two. Three four.\n\n"),
        ("One two\r\n\r\nthree four. Five six seven eight", "paragraph", "One two\r\n\r\n"),
        ("One, two three four. Five, six seven eight nine", "sentence", "One, two three four. "),
        ("one two three, four five six seven eight nine ten", "clause", "one two three, "),
        ("first line of a poem\nsecond line of a poem", "clause", "first line of a poem\n"),
        ("สวัสดีครับผมชื่อสมชาย วันนี้อากาศดีมาก", "clause", "สวัสดีครับผมชื่อสมชาย "),
        ("one two three four five six seven eight", "word", "one two three four "),
        ("彼は昨日静かな町へ行った", "word", "彼は昨日静かな"),
        ("我们明天再见面吧我们", "word", "我们明天再"),
        ("abcdefghijkl", "grapheme", "abcdef"),
    ],
)
def test_the_best_kind_of_cut_wins(text: str, kind: Break, first: str) -> None:
    """A paragraph's end before a sentence's, a clause's, a word's, a character's; the piece says which."""
    assert next(split_text(text, len(text) * 3 // 4)) == Piece(first, kind)


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Smith met Dr. Jones. |He paid $1,299.99 at 5 p.m. on Monday. |“What?” he said. |Pi is 3.14. |So!",
        "The U.S. Navy vs. the rest, e.g. Britain. |See No. 512. |No. |Never... not now. |It was 1999. |Then: end.",
        "She left.” |“Really?” |Well . |Visit www.example.com. |Mail a.b@c.org. |[laughs. Hard] Well. |Done.",
        "Am 3. Oktober kam Hr. Müller z. B. um 8 Uhr. |Er sagte: „Ja!“ |Das kostet ca. 5 Euro bzw. mehr. |Gut.",
        "M. Dupont est parti. |Il dit : « Non ! » |Puis 1 299,99 €. |C'est fini !",
        "El Sr. García vive aquí. |¿Qué tal? |¡Bien! |Adiós.",
        "O Sr. Silva e a Dra. Ana moram aqui. |Fim.",
        "Il sig. Rossi abita qui. |Il dott. Bianchi pure. |Bene.",
        "Dl. Popescu și dna. Ionescu stau aici. |Gata.",
        "Dhr. Jansen en mevr. Bakker wonen hier. |Klaar.",
        "To jest prof. Kowalski, tzn. doktor. |Koniec.",
        "Это г. Москва, ул. Ленина. |А. С. Пушкин родился здесь. |Конец.",
        "Це м. Київ, вул. Хрещатик. |Кінець.",
        "Dr. Ahmet ve Prof. Ayşe geldi. |Bitti.",
        "Bpk. Joko tinggal di Jl. Sudirman. |Selesai.",
        "TS. Nguyễn và ThS. Trần ở đây. |Xong.",
        "डॉ. शर्मा आए। |ठीक है॥ |क्या?",
        "डॉ. पाटील आले. |तो गेला.",
        "ডাঃ রহমান এল। |সে গেল।",
        "திரு. குமார் வந்தார். |அவன் போனான்.",
        "శ్రీ. రావు వచ్చారు. |అతను వెళ్ళాడు.",
        "هل أنت هنا؟ |نعم، أنا هنا. |د. أحمد جاء.",
        "그는 갔다. |네. |3.14는 수다. |다음!",
        "他走了。|“你好！”|价格是3.14元……对吗？|３．１４。|好!|走",
        "彼は言った。|「そうですか。」|次へ！|はい",
        "「行くの？」と彼は聞いた。|「待って！」と叫んだ。|「はい。」|もう帰る。|「うん！」|とても嬉しい。|「待って！」の声。|「行く？」って。",
        "“你去吗？”他问。|“等等！”小王大声喊道。|“好！”|价格是三元。|“来！”|这个问题很难。",
        '"갈 거야?"라고 그가 물었다. |"기다려!" 하고 외쳤다. |"그래!" |나는 갔다.',
        "EE. UU. es grande. |Las FF. AA. llegan. |Los JJ. OO. empiezan. |Los RR. MM. vienen. |El Gral. Perón. |Fin.",
        "MM. Dupont et Durand. |Louis XX. |Fin. |I signori AA. VV. Fine. |Felipe II. |Luego. |World War II. |Then.",
        "Тов. Петров и гг. Ивановы. |Это было в 1941—1945 гг. |Потом. |Siehe S. 12 ff. |Danach kam Fa. Müller.",
        "śś. Piotra i Pawła. |To ks. Jan. |Sf. Gheorghe. |Hz. Muhammed. |GS. Nguyễn ở đây.",
        "He died.[1] |Then she left.[2][3] |So.† |And he.¹² |Is it?1 |Yes!‡ |Ok.[citation needed] |“Done.”[a] |So",
        "**Bold.** |Then _it._ |He died.12 |Or ‘so.’3 |See No.1 Or v.2 Now. |Section 3.1 Then. |Dr.[2] Who? |So.[1, 2]",
        "彼は死んだ。[1]|次に。¹|終わり？†|走った。|*強調*です。|वह गया।[1] |फिर आया।² |هل هو؟[3] |نعم.",
        "First line.\n\n|second paragraph without a capital.\n \n|Third.",
    ],
)
def test_sentences(text: str) -> None:
    """Sentences end where a reader ends them, in every language; titles, initials and ordinals end none."""
    assert list(split_sentences(text.replace("|", ""))) == text.split("|")


@given(any_text())
def test_sentences_make_up_the_text(text: str) -> None:
    """Joined, the sentences are the text, and none of them is blank."""
    sentences = list(split_sentences(text))
    assert "".join(sentences) == text
    assert all(sentence.strip() for sentence in sentences) or not text.strip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_cut_between_sentences(language: str) -> None:
    """Where sentences are shorter than half a piece, each piece ends with one, or with a clause where none end."""
    text = LANGUAGES[language] * 5 if language in {"zh", "ja"} else (LANGUAGES[language] + " ") * 5
    longest = max(map(len, split_sentences(text)))
    kinds = {piece.break_after for piece in split_text(text, 4 * longest)} - {"end"}
    assert kinds <= {"paragraph", "sentence"} if language != "th-TH" else kinds <= {"clause"}


def test_white_space_goes_with_the_text_before_it() -> None:
    """A piece keeps the white space behind it, which is not spoken; a blank piece speaks nothing."""
    first, second = split_text("Hello there you.   \nGood bye to you.", 25)
    assert (first.text, first.spoken) == ("Hello there you.   \n", "Hello there you.")
    assert second == Piece("Good bye to you.", "end")
    assert {piece.spoken for piece in split_text(" " * 9, 4)} == {""}


def test_a_small_limit_of_bytes_or_seconds_counts() -> None:
    """Chinese has three bytes a character and takes three times as long to say as English."""
    text = "我们明天再见面吧。" * 40
    assert max(size_bytes(piece.text) for piece in split_text(text, 1_000, max_bytes=300)) in range(200, 301)
    assert max(spoken_s(piece.text) for piece in split_text(text, 1_000, max_s=20)) == pytest.approx(17, abs=3)


def test_nothing_makes_no_piece() -> None:
    """An empty text has no pieces and no sentences."""
    assert not list(split_text("", 5))
    assert not list(split_sentences(""))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_chars": 0}, "max_chars is 0"),
        ({"max_chars": 9, "max_bytes": 3}, "max_bytes is 3"),
        ({"max_chars": 9, "max_s": 0.0}, "max_s is 0.0"),
        ({"max_chars": 9, "max_s": float("nan")}, "max_s is nan"),
    ],
)
def test_a_limit_that_fits_nothing_is_refused_at_once(limits: dict[str, Any], message: str) -> None:
    """A wrong limit is an error of the call, before the first piece is asked for."""
    with pytest.raises(ValueError, match=message):
        split_text("text", **limits)


def test_pieces_are_made_when_asked_for() -> None:
    """Pieces come one by one, so that the speech of a book can begin before all of it is cut."""
    pieces = split_text("A sentence of some words. " * 40, 200)
    assert iter(pieces) is pieces
    assert next(pieces).break_after == "sentence"


def test_sizes() -> None:
    """White space takes no time, a vowel sign does in Hindi but not in French; wide characters take two columns."""
    assert spoken_s(" \n") == 0
    assert spoken_s("e\u0301") == spoken_s("e")
    assert spoken_s("कि") == 2 * spoken_s("क")
    assert spoken_s("字") > 2 * spoken_s("a")
    assert [COLUMNS.total(text) for text in ("abc", "字", "e\u0301", "👍")] == [3, 2, 1, 2]
