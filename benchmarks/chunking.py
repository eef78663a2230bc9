"""How fast a long text is cut: ordinary and hostile kinds, each at two lengths; time per character must not grow.

    python benchmarks/chunking.py [BYTES]

BYTES of UTF-8 of each kind, 10,000,000 when not given, and a tenth of it. A figure is the best of three runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

from audio_api.text.chunking import split_sentences, split_text

GOAL_S = 2.0
RUNS = 3
NOVEL = (
    "It was a bright cold day in April, and the clocks were striking thirteen. “What is it?” asked Mr. Jones, who had "
    "paid $1,299.99 for it at 5 p.m. on the U.S. coast. <laugh> Nobody knew; see https://example.com/a?b=c.\n\n"
)
KINDS = {
    "English": NOVEL,
    "German": "Am 3. Oktober kam Hr. Müller z. B. um 8 Uhr, bzw. später. Er sagte: „Das kostet ca. 1.299,99 EUR!“\n\n",
    "Chinese": "他走了。“你好！”他说，价格是1,299.99元，对吗？我们明天再见面吧；好的。\n",
    "Japanese": "彼は静かに窓を開けて、雨を見ながら「今日は家にいよう」と言った。価格は３．１４円です！",
    "Thai": "สวัสดีครับผมชื่อสมชายวันนี้อากาศดีมากเลยครับ ผมกำลังจะไปตลาดเพื่อซื้อผลไม้และผัก ",
    "Hindi": "डॉ. शर्मा आज सुबह बाज़ार गए थे। क्या आप भी वहाँ जाना चाहते हैं? ठीक है॥ ",
    "Arabic": "هل أنت هنا؟ نعم، أنا هنا منذ الصباح؛ د. أحمد جاء إلى المدينة في الساعة الخامسة. ",
    "words only": "word ",
    "one word": "a",
    "ideographs only": "字",
    "white space": " ",
    "newlines": "\n",
    "full stops": ".",
    "initials": "A. ",
    "quotes": '"',
    "open tags": "<a",
    "open brackets": "[",
    "bars": "|a",
    "URLs": "https://a.b/c ",
    "www": "www.",
    "numbers": "100 ",
    "combining marks": "\u0301",
    "flags": "🇩🇪",
    "families": "👩\u200d👩\u200d👧",
    "lone surrogates": "\ud83d",
}


def of_size(unit: str, size_bytes: int) -> str:
    """A unit repeated to that many bytes of UTF-8."""
    return unit * (size_bytes // len(unit.encode("utf-8", "surrogatepass")))


def best_s(work: Callable[[str], Iterable[object]], text: str) -> float:
    """The shortest of several runs, in seconds."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        for _piece in work(text):
            pass
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print one line for each kind of text."""
    size_bytes = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    works = {
        "2,000 chars": lambda text: split_text(text, 2_000),
        "and 4,000 bytes, 120 s": lambda text: split_text(text, 2_000, max_bytes=4_000, max_s=120),
        "800 chars": lambda text: split_text(text, 800),
        "sentences": split_sentences,
    }
    print(f"seconds for {size_bytes:,} bytes (growth from a tenth of it, 10 is linear); goal {GOAL_S} s")
    print(f"{'':16}" + "".join(f"{name:>26}" for name in works))
    for kind, unit in KINDS.items():
        small, large = of_size(unit, size_bytes // 10), of_size(unit, size_bytes)
        columns = []
        for work in works.values():
            seconds = best_s(work, large)
            columns.append(f"{seconds:.2f} (x{seconds / best_s(work, small):.0f})")
        print(f"{kind:16}" + "".join(f"{column:>26}" for column in columns), flush=True)


if __name__ == "__main__":
    main()
