"""A speech recogniser understands a long file as well as the pieces it was joined from."""

from __future__ import annotations

import importlib
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soxr
from sound import RATE, Samples, read_wav

from audio_api.engines.base import SpeechAudio, Turn, Utterance
from audio_api.engines.offline import OfflineEngine
from audio_api.models.audio_request import VoiceConfig
from audio_api.speech.assembly import Joint, Target, joined_blocks, write_blocks
from audio_api.speech.planning import PlannedPiece, SpokenPiece, plan_pieces

pocketsphinx = pytest.importorskip("pocketsphinx", reason="it has wheels for Python 3.11 and 3.13")
pytestmark = pytest.mark.slow

SENTENCES = """
The old house stood at the end of a quiet street.
Nobody had lived there for more than twenty years.
In the garden there were apple trees, and the grass was very tall.
One morning a young woman opened the gate and walked to the door.
She had found the key in a box that belonged to her grandmother.
The windows were broken, and the rooms were cold and dark.
Still she could see how beautiful the place had been.
She sat down on the stairs and began to write a letter to her brother.
We should come back in the summer, she wrote, and paint the walls.
The garden needs some work, but the roof is strong.
I think that our family could be happy here.
Please bring your children, and tell them to bring their boots.
""".strip().splitlines()
TEXT = " ".join(SENTENCES)
HEARD_RATE = 16_000


class Recogniser:
    """CMU Sphinx, which expects the text, in sentences or as a whole.

    Expecting any English, it takes a third of what eSpeak NG says for other words, joined or not.

    Args:
        folder: Where its language model is made.
    """

    def __init__(self, folder: Path) -> None:
        model = folder / "text.lm"
        expected = "\n".join(" ".join(words(text)) for text in [*SENTENCES, TEXT])
        builder = importlib.import_module("pocketsphinx.lm").ArpaBoLM(text=expected, add_start=True)
        builder.compute()
        builder.write_file(str(model))
        self._decoder = pocketsphinx.Decoder(samprate=HEARD_RATE, loglevel="FATAL", lm=str(model))

    def words(self, samples: Samples) -> list[str]:
        """The words that are understood."""
        heard = soxr.resample(samples, RATE, HEARD_RATE)
        self._decoder.start_utt()
        self._decoder.process_raw(np.rint(np.clip(heard, -1, 1) * 32_767).astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return words(hypothesis.hypstr) if hypothesis else []


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return re.findall("[a-z']+", text.lower())


def errors(said: list[str], understood: list[str]) -> int:
    """Words left out, put in or replaced (the Levenshtein distance)."""
    distances = list(range(len(understood) + 1))
    for row, word in enumerate(said, 1):
        diagonal, distances[0] = distances[0], row
        for column, other in enumerate(understood, 1):
            diagonal, distances[column] = (
                distances[column],
                min(diagonal + (word != other), distances[column] + 1, distances[column - 1] + 1),
            )
    return distances[-1]


async def understood_whole(
    takes: dict[PlannedPiece, SpeechAudio], recogniser: Recogniser, folder: Path, name: str
) -> list[str]:
    """The words understood of the file into which takes are joined."""

    async def parts() -> AsyncIterator[SpokenPiece]:
        for piece, audio in takes.items():
            yield SpokenPiece(piece, audio)

    joint, target = Joint(), Target(folder / name, overwrite=False, real=folder)
    async with AsyncExitStack() as opened:
        draft = await write_blocks(joined_blocks(parts(), joint), joint, len(takes), target, opened, None)
        recording = await draft.publish()
    return recogniser.words(read_wav(recording.path))


def damaged(audio: SpeechAudio) -> SpeechAudio:
    """A take without its quiet ends, and without the first and last 250 ms of its speech."""
    quarter = 2 * RATE // 4
    return replace(audio, pcm=audio.pcm[2 * RATE * 15 // 100 + quarter : -2 * quarter])


@pytest.mark.slow
@pytest.mark.parametrize("voice", ["kore", "charon"])
async def test_joining_loses_no_words(voice: str, tmp_path: Path) -> None:
    """Of a text in pieces of a sentence or two, the joined file is understood as well as the pieces one by one.

    What is understood at a join depends on the neighbour, too: half a word a join is allowed. Joins that swallow 250 ms
    on either side are beyond that, so the recogniser would notice.
    """
    said, recogniser, engine = words(TEXT), Recogniser(tmp_path), OfflineEngine()
    spoken = Utterance((Turn(TEXT, VoiceConfig(voice_name=voice)),), "any", "en-US")
    takes = {piece: await engine.synthesize(piece.utterance) for piece in plan_pieces(spoken, max_chars=110)}
    await engine.close()
    alone = [word for take in takes.values() for word in recogniser.words(np.frombuffer(take.pcm, "<i2") / 32_768)]
    joined = await understood_whole(takes, recogniser, tmp_path, "joined.wav")
    worse = {piece: damaged(take) for piece, take in takes.items()}
    cut_short = await understood_whole(worse, recogniser, tmp_path, "worse.wav")
    wrong = {"one by one": errors(said, alone), "joined": errors(said, joined), "cut short": errors(said, cut_short)}
    rates = ", ".join(f"{count / len(said):.1%} {how}" for how, count in wrong.items())
    print(f"{voice}: {len(said)} words in {len(takes)} pieces, word error rate {rates}")
    allowed = wrong["one by one"] + len(takes) // 2
    assert wrong["joined"] <= allowed < wrong["cut short"]
