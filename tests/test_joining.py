"""Joined pieces: exact lengths, no clicks, one loudness; single pieces untouched, memory flat."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentences import SENTENCES
from sound import RATE, loudness_db

from audio_api.audio.joining import PAUSE_S, Joiner, Span
from audio_api.emulator.speech import synthesize
from audio_api.engines.base import Turn, Utterance
from audio_api.engines.offline import OfflineEngine
from audio_api.models.audio_request import VoiceConfig

FADE = 192
KEPT = 960
Pcm16 = npt.NDArray[np.int16]

pcm = st.binary(max_size=20_000).map(lambda raw: raw[: len(raw) & ~1])
pauses_s = st.sampled_from(sorted(PAUSE_S.values())) | st.floats(0, 2)


def samples_of(sound: bytes) -> Pcm16:
    """The samples of a sound."""
    return np.frombuffer(sound, "<i2")


def scaled(sound: bytes, gain_db: float) -> bytes:
    """A sound made louder or softer, cut off at full scale."""
    loud = samples_of(sound) * 10 ** (gain_db / 20)
    return np.rint(loud).clip(-32_768, 32_767).astype("<i2").tobytes()


def joined(pieces: Sequence[bytes], pause_s: float = 0.25) -> tuple[Pcm16, list[Span]]:
    """All pieces with the same pause after each."""
    joiner = Joiner()
    sound = b"".join([joiner.add(piece, pause_s) for piece in pieces] + [joiner.finish()])
    return samples_of(sound), joiner.spans


def loudness_dbfs(samples: Pcm16) -> float:
    """The power of what is louder than -50 dBFS, by other means than the code under test."""
    levels = loudness_db(samples / 32_768)
    return float(10 * np.log10(np.mean(10 ** (levels[levels > -50] / 10))))


def spread_db(sound: Pcm16, spans: Sequence[Span]) -> float:
    """How far the loudest piece stands above the softest."""
    levels = [loudness_dbfs(sound[span.start : span.end]) for span in spans]
    return max(levels) - min(levels)


def largest_step(samples: Pcm16) -> int:
    """The largest difference of two neighbours."""
    return int(np.abs(np.diff(samples.astype(int))).max(initial=0))


def same(one: Pcm16, other: Pcm16) -> bool:
    """Whether two sounds are equal; pytest's own comparison would print them."""
    return bool(np.array_equal(one, other))


@pytest.fixture(scope="module")
def real_speech() -> list[bytes]:
    """Sentences in three languages, from the offline engine."""

    async def speak() -> list[bytes]:
        engine = OfflineEngine()
        voice = VoiceConfig(voice_name="kore")
        try:
            return [
                (await engine.synthesize(Utterance((Turn(text, voice),), "espeak-ng", language))).pcm
                for language in ("en-US", "hi-IN", "ja-JP")
                for text in SENTENCES[language]
            ]
        finally:
            await engine.close()

    return asyncio.run(speak())


@pytest.fixture(scope="module")
def computed_speech() -> list[bytes]:
    """Sentences as the emulator speaks them."""
    return [synthesize(text, "kore", "en-US") for text in SENTENCES["en-US"]]


@pytest.fixture(params=["real_speech", "computed_speech"])
def speech(request: pytest.FixtureRequest) -> list[bytes]:
    """Sentences from either source."""
    sentences: list[bytes] = request.getfixturevalue(request.param)
    return sentences


@given(pcm, pauses_s)
def test_a_single_piece_goes_through_unchanged(piece: bytes, pause_s: float) -> None:
    """A text of one piece comes out bit for bit, without the pause that would follow."""
    joiner = Joiner()
    assert joiner.add(piece, pause_s) + joiner.finish() == piece
    assert joiner.spans == [Span(0, len(piece) // 2, 0)]
    assert joiner.finish() == b""


def test_a_single_spoken_piece_goes_through_unchanged(speech: list[bytes]) -> None:
    """Neither the loudness nor the quiet ends of speech are altered when there is nothing to join."""
    for piece in speech:
        sound, _ = joined([piece])
        assert same(sound, samples_of(piece))


@given(st.lists(st.tuples(pcm, pauses_s), max_size=6), st.sampled_from([8_000, 22_050, 24_000, 48_000]))
@example([(b"\xff\x7f", 0.0), (b"", 0.6), (b"\x00\x80" * 2, 0.1)], 24_000)
def test_the_length_is_that_of_pieces_and_pauses(pieces: list[tuple[bytes, float]], rate: int) -> None:
    """Spans and pauses fill the sound exactly, whatever the samples are; a span is never longer than its piece."""
    joiner = Joiner(rate)
    sound = samples_of(b"".join([joiner.add(*piece) for piece in pieces] + [joiner.finish()]))
    expected_pauses = [round(pause_s * rate) for _, pause_s in pieces[:-1]]
    assert [after.start - before.end for before, after in pairwise(joiner.spans)] == expected_pauses
    assert sound.size == sum(span.end - span.start for span in joiner.spans) + sum(expected_pauses)
    for (piece, _), span in zip(pieces, joiner.spans, strict=True):
        assert 0 <= span.end - span.start <= len(piece) // 2 - span.skipped
    for before, after in pairwise(joiner.spans):
        assert not sound[before.end : after.start].any(), "a pause is silent"


@given(st.lists(pcm, min_size=2, max_size=5))
def test_every_join_begins_and_ends_in_silence(pieces: list[bytes]) -> None:
    """Whatever the samples are, a piece rises from zero after a join and falls to zero before one."""
    sound, spans = joined(pieces, 0)
    for before, after in pairwise(spans):
        assert not sound[before.start : before.end][-1:].any() or before.end - before.start < 2
        assert not sound[after.start : after.end][:1].any() or after.end - after.start < 2


def test_spoken_lengths_are_exact(speech: list[bytes]) -> None:
    """Of real speech, too, the joined sound has the samples of its pieces and pauses and no others."""
    sound, spans = joined(speech, 0.6)
    assert sound.size == sum(span.end - span.start for span in spans) + (len(speech) - 1) * 14_400


def test_no_step_at_a_join_is_larger_than_the_speech_has_itself(speech: list[bytes]) -> None:
    """Where pieces meet, whole or cut off in the midst of a word, there is no click."""
    middles = [piece[len(piece) // 3 & ~1 : len(piece) // 3 * 2 & ~1] for piece in speech]
    for pieces in (speech, middles):
        for pause_s in (0.0, 0.25):
            sound, spans = joined(pieces, pause_s)
            for before, after in pairwise(spans):
                own = min(largest_step(samples_of(pieces[spans.index(span)])) for span in (before, after))
                assert largest_step(sound[before.end - FADE - 1 : after.start + FADE + 1]) <= own


def test_pieces_of_any_loudness_become_one(speech: list[bytes]) -> None:
    """Pieces from 20 dB softer to 6 dB louder than the first are within 1 dB of each other, and none clips."""
    gains_db = np.resize([0.0, -20.0, 6.0, -12.0, -3.0, 3.0], len(speech))
    pieces = [scaled(piece, gain_db) for piece, gain_db in zip(speech, gains_db, strict=True)]
    sound, spans = joined(pieces)
    assert spread_db(sound, spans) < 1.0
    assert np.abs(sound.astype(int)).max() < 32_767
    assert same(sound[: spans[0].end - FADE], samples_of(pieces[0])[: spans[0].end - FADE]), "the first one sets it"


def test_peaks_are_limited_without_a_click(speech: list[bytes]) -> None:
    """Speech with peaks at full scale is made louder by turning its peaks down, not by cutting them off."""
    first, second = scaled(speech[0], 6), samples_of(scaled(speech[1], -6)).copy()
    magnitude = np.abs(second.astype(int))
    peaks = np.flatnonzero(magnitude > magnitude.max() // 2)[::40]
    second[peaks] = np.where(second[peaks] > 0, 32_767, -32_768)
    sound, spans = joined([first, second.tobytes()])
    made = sound[spans[1].start : spans[1].end].astype(float)
    assert np.abs(made).max() <= 29_204
    assert spread_db(sound, spans) < 1.0
    before = second[spans[1].skipped :][: made.size].astype(float)
    heard = np.flatnonzero(np.abs(before) > 2_000)
    gains, apart = made[heard] / before[heard], np.diff(heard)
    assert gains.min() < 0.9 < 2 < gains.max(), "full scale was turned down, speech turned up"
    assert (np.abs(np.diff(gains)) / apart).max() < 0.015 * gains.max(), "the gain moves, it does not jump"


@given(st.lists(st.tuples(pcm, st.floats(0.001, 1)), min_size=2, max_size=4))
def test_nothing_ever_wraps_around(pieces: list[tuple[bytes, float]]) -> None:
    """Noise of any loudness after noise at full scale keeps the sign of every sample."""
    noise = np.random.default_rng(0).integers(-32_768, 32_767, 4_800).astype("<i2").tobytes()
    made = [noise, *(np.rint(samples_of(piece) * gain).astype("<i2").tobytes() for piece, gain in pieces)]
    sound, spans = joined(made)
    for piece, span in zip(made, spans, strict=True):
        kept = samples_of(piece)[span.skipped : span.skipped + span.end - span.start]
        assert (np.sign(kept) * np.sign(sound[span.start : span.end]) >= 0).all()


def test_the_gap_at_a_join_is_the_pause_and_a_little_quiet(speech: list[bytes]) -> None:
    """From the last speech before a join to the first after it there are the pause and at most 40 ms on either side."""
    for pause_s in PAUSE_S.values():
        sound, spans = joined(speech, pause_s)
        for before, after in pairwise(spans):
            assert np.abs(sound[before.end - KEPT - 480 : before.end].astype(int)).max() > 50
            assert np.abs(sound[after.start : after.start + KEPT + 480].astype(int)).max() > 50
            assert after.start - before.end == round(pause_s * RATE)


def test_outer_ends_keep_their_quiet(speech: list[bytes]) -> None:
    """The sound begins as its first piece begins and ends as its last one ends."""
    sound, spans = joined(speech[:1] * 3)
    piece = samples_of(speech[0])
    assert same(sound[:12_000], piece[:12_000])
    assert same(sound[-12_000:], piece[-12_000:])
    assert spans[0].skipped == 0 < spans[1].skipped == spans[2].skipped


def test_the_first_sound_does_not_wait_for_the_second_piece(speech: list[bytes]) -> None:
    """Adding the first piece hands out all of it but its quiet end."""
    samples = samples_of(speech[0])
    now = samples_of(Joiner().add(speech[0], 0.25))
    assert same(now, samples[: now.size])
    assert np.abs(samples[now.size + FADE :].astype(int)).max() < 500


def test_a_span_says_where_each_sample_went(speech: list[bytes]) -> None:
    """Sample n of a piece is found at ``start + n - skipped``: words keep their place in subtitles."""
    sound, spans = joined(speech[:1] * 3)
    piece = samples_of(speech[0])
    n = piece.size // 2
    for span in spans:
        at = span.start + n - span.skipped
        assert same(sound[at : at + 1_000], piece[n : n + 1_000])


def test_joining_the_joined_pieces_again_changes_nothing(speech: list[bytes]) -> None:
    """Pieces cut from a joined sound have the length and loudness they need; only fades are faded twice."""
    gains_db = np.resize([0.0, -9.0, 3.0], len(speech))
    once, spans = joined([scaled(*piece) for piece in zip(speech, gains_db, strict=True)])
    twice, again = joined([once[span.start : span.end].tobytes() for span in spans])
    assert [(span.start, span.end, 0) for span in spans] == [(span.start, span.end, span.skipped) for span in again]
    for span in spans:
        assert same(once[span.start + FADE : span.end - FADE], twice[span.start + FADE : span.end - FADE])


def test_silence_between_pieces_keeps_its_length(speech: list[bytes]) -> None:
    """A piece without speech is a pause that was asked for; it sets no loudness and is not made louder."""
    hiss = np.random.default_rng(1).integers(-20, 20, RATE).astype("<i2").tobytes()
    sound, spans = joined([hiss, speech[0], hiss, scaled(speech[1], -12)], 0.1)
    assert [spans[n].end - spans[n].start for n in (0, 2)] == [RATE, RATE]
    assert np.abs(sound[spans[2].start : spans[2].end]).max() <= 20
    assert spread_db(sound, [spans[1], spans[3]]) < 1.0


def test_a_first_piece_at_the_edge_of_silence_turns_the_others_down_to_it() -> None:
    """Even when a louder piece thereby sinks to what no longer counts as speech."""
    steady = (np.sin(np.arange(RATE) / 20) * 32_768).astype("<f4")
    faint, loud = ((steady * 10 ** (dbfs / 20)).astype("<i2") for dbfs in (-46.98, -20.0))
    sound, spans = joined([faint.tobytes(), loud.tobytes()])
    assert spans[1].end - spans[1].start >= RATE - 2 * KEPT
    assert np.abs(sound).max() < 160


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 100, 479, 481])
def test_very_short_pieces_are_joined_too(size: int) -> None:
    """From no sample to a frame: nothing is lost, nothing clicks."""
    piece = np.full(size, 12_000, "<i2").tobytes()
    sound, spans = joined([piece] * 3, 0.1)
    assert [span.end - span.start for span in spans] == [size] * 3
    assert sound.size == 3 * size + 2 * 2_400


@pytest.mark.parametrize("pause_s", [-0.1, float("inf"), float("nan")])
def test_an_impossible_pause_is_refused(pause_s: float) -> None:
    """A pause takes time, and ends."""
    with pytest.raises(ValueError, match="a pause takes 0 seconds or more"):
        Joiner().add(b"", pause_s)


def test_half_a_sample_is_refused() -> None:
    """A piece holds whole samples."""
    with pytest.raises(ValueError, match="multiple"):
        Joiner().add(b"abc", 0)


def test_nothing_joined_is_nothing() -> None:
    """Without pieces there is no sound."""
    assert joined([])[0].size == 0


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.floats(-30, 6))
def test_a_piece_scaled_and_levelled_is_the_piece(seed: int, gain_db: float) -> None:
    """What was only made softer or louder comes back as it was, but for rounding."""
    text = SENTENCES["en-US"][seed % 5]
    piece = synthesize(text, "kore", "en-US")
    sound, spans = joined([piece, scaled(piece, gain_db)])
    kept = samples_of(piece)[spans[1].skipped :][: spans[1].end - spans[1].start].astype(float)
    found = sound[spans[1].start : spans[1].end].astype(float)
    assert np.linalg.norm(found[FADE:] - kept[FADE:]) < 0.05 * np.linalg.norm(kept)


def test_memory_does_not_grow_with_the_text(computed_speech: list[bytes]) -> None:
    """Two hundred pieces need no more memory than ten, but for their spans."""
    quieter = [scaled(piece, -6) for piece in computed_speech]

    def peak_bytes(pieces: int) -> int:
        joiner = Joiner()
        tracemalloc.start()
        for n in range(pieces):
            joiner.add((computed_speech, quieter)[n % 2][n % 5], 0.25)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few = peak_bytes(10)
    assert peak_bytes(200) < few + 200_000
    assert few < 8 * max(map(len, computed_speech))
