"""The offline engine: real processes, real speech, and every way in which a child process can go wrong."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest
from blockbuster import blockbuster_ctx
from decoded import pcm_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from own_time import PATIENCE_S, until
from sentences import SENTENCES
from sound import RATE, Samples, loudness_db, spectrum_db

from audio_api.audio.checks import Take, judge
from audio_api.engines import offline
from audio_api.engines.base import Turn, Utterance
from audio_api.engines.espeak_request import espeak_turns
from audio_api.engines.offline import OfflineEngine
from audio_api.errors import AudioAPIError, ConfigurationError, ErrorCode, TTSUnavailableError, TTSValidationError
from audio_api.models.audio_request import VoiceConfig
from audio_api.models.usage import TokenUsage
from audio_api.models.voices import VoiceName

pytestmark = pytest.mark.measured

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests in the shade of an old tree."
LONG_TEXT = "The quick brown fox jumps over the lazy dog. " * 2_000
FEMALE_NAMES = """
    zephyr kore leda aoede callirrhoe autonoe despina erinome laomedeia achernar gacrux pulcherrima vindemiatrix sulafat
"""
STYLE_WORDS = "slow fast calm excited loud soft deep high robotic whisper"


@pytest.fixture
def fresh_engine() -> Iterator[OfflineEngine]:
    """An engine that has not spoken yet."""
    engine = OfflineEngine()
    yield engine
    asyncio.run(engine.close())


def utterance(
    text: str = TEXT,
    *,
    voice: str = "kore",
    language: str = "en-US",
    style: str | None = None,
    speed: float | None = None,
    pitch: float | None = None,
) -> Utterance:
    """One turn of a single voice."""
    turn = Turn(text, VoiceConfig(voice_name=voice, speed=speed, pitch=pitch), style=style)
    return Utterance((turn,), "gemini-3.8-flash-tts", language)


def pitch_hz(sound: Samples) -> float:
    """The median pitch of the voiced parts, by autocorrelation."""
    found = []
    for start in range(0, len(sound) - 2048, 1024):
        frame = sound[start : start + 2048] - sound[start : start + 2048].mean()
        if np.sqrt(np.mean(frame**2)) < 0.05:
            continue
        correlation = np.fft.irfft(np.abs(np.fft.rfft(frame, 4096)) ** 2)
        lags = correlation[RATE // 400 : RATE // 60] / correlation[0]
        if lags.max() > 0.4:
            found.append(RATE / (RATE // 400 + int(lags.argmax())))
    return float(np.median(found))


def child_pid(engine: OfflineEngine) -> int:
    """The process id of the engine's child."""
    assert engine._child is not None
    return engine._child._process.pid


def kill_and_wait(pid: int) -> None:
    """Kill a child of this process for good, and leave its exit status to the library."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def assert_no_such_process(pid: int) -> None:
    """Assert that a child has ended and was waited for: nothing, not even a zombie, has its id."""
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def is_speaking(engine: OfflineEngine) -> bool:
    """Whether a call is with the child: the watch over its time limit runs just then. Earlier watches may still end."""
    watches = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    return engine._child is not None and any(watch.function.__self__._child is engine._child for watch in watches)


async def test_what_comes_back(offline_engine: OfflineEngine) -> None:
    """Speech is 24 kHz, costs nothing, names its model, ends normally, and says that a robot spoke."""
    audio = await offline_engine.synthesize(utterance())
    assert (audio.sample_rate, audio.model, audio.finish_reason) == (24_000, "espeak-ng", "STOP")
    assert audio.usage == TokenUsage()
    assert audio.warnings == ("spoken offline by eSpeak NG: a robotic voice, not Gemini",)
    assert 4 < audio.duration_s < 9
    assert not any(audio.pcm[: 2 * RATE * 140 // 1_000])
    assert not any(audio.pcm[-2 * RATE * 240 // 1_000 :])


async def test_the_event_loop_is_never_blocked(fresh_engine: OfflineEngine) -> None:
    """Checking, starting the process, speaking, and ending it make no blocking call in the event loop."""
    with blockbuster_ctx():
        fresh_engine.preflight(utterance())
        await fresh_engine.synthesize(utterance())
        await fresh_engine.health_check("any")
        await fresh_engine.close()


@pytest.mark.parametrize("language", [*SENTENCES, "zh"])
async def test_speech_of_every_language_passes_the_checks(language: str, offline_engine: OfflineEngine) -> None:
    """Sentences of each of the 22 speakable languages and of Chinese are accepted as speech of the whole text."""
    for text in SENTENCES.get(language, ("人人生而自由，在尊严和权利上一律平等。",)):
        audio = await offline_engine.synthesize(utterance(text, language=language))
        verdict = judge(Take(audio.pcm, audio.sample_rate, text, language))
        assert verdict.outcome == "accept", (text, verdict)
        assert 2.5 < len(text) / audio.duration_s < 25


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("en-US", "en-us"),
        ("en-IN", "en"),
        ("en-AU", "en"),
        ("es-US", "es-419"),
        ("es-ES", "es"),
        ("pt-BR", "pt-br"),
        ("pt-PT", "pt"),
        ("zh", "cmn"),
        ("zh-Hant-TW", "cmn"),
        ("zh-Hant-HK", "yue"),
        ("sv-SE", "sv"),
        ("sr-Latn-RS", "sr"),
        ("no", "nb"),
    ],
)
def test_the_nearest_language_speaks(code: str, name: str) -> None:
    """A region or script that eSpeak NG does not have falls back to the language."""
    assert espeak_turns(utterance("Ok", language=code))[0]["voice"] == f"{name}+f5"


@pytest.mark.parametrize("code", ["th-TH", "th", "fo-FO", "fil-PH", "xx"])
def test_a_language_it_cannot_speak_is_named(code: str, offline_engine: OfflineEngine) -> None:
    """Thai, and languages unknown to eSpeak NG, are refused before anything is spoken."""
    with pytest.raises(TTSValidationError, match=f"cannot speak the language '{code}': use Gemini"):
        offline_engine.preflight(utterance("Ok", language=code))


@pytest.mark.parametrize(
    ("text", "language", "advice"),
    [
        ("きょうは東へいく", "ja-JP", "write it in kana"),
        ("ひと々", "ja-JP", "write it in kana"),
        ("你好", "en-US", "set the language to 'zh'"),
        ("\U00020bb7", "ko-KR", "set the language to 'zh'"),
        ("สวัสดี", "en-US", "the text is Thai"),
    ],
)
async def test_a_script_it_cannot_read_is_refused(
    text: str, language: str, advice: str, offline_engine: OfflineEngine
) -> None:
    """Kanji outside Chinese and Thai letters get advice rather than noise, and the text stays out of it."""
    with pytest.raises(TTSValidationError, match=advice) as caught:
        await offline_engine.synthesize(utterance(text, language=language))
    assert text not in str(caught.value)


def test_every_language_of_the_table_loads() -> None:
    """There is a file and a working voice for every name in the table of languages."""
    names = subprocess.run(
        [
            sys.executable,
            "-c",
            "from audio_api.engines.espeak_process import Espeak\n"
            "from audio_api.engines.espeak_request import _LANGUAGES, _VARIANT\n"
            "espeak = Espeak()\n"
            "turn = dict(text='1 2 3 abc', rate_wpm=450, pitch=50, range=50)\n"
            "def count(voice):\n"
            "    heard = []\n"
            "    espeak.speak(turn | {'voice': voice}, lambda native, words: heard.append(len(native)))\n"
            "    return sum(heard)\n"
            "print(*(n for n in _LANGUAGES if count(n + '+f5') < 4_000))",
        ],
        capture_output=True,
        check=True,
        text=True,
    )
    assert (names.stdout.strip(), names.stderr) == ("", "")


def test_every_variant_exists() -> None:
    """The library silently ignores an unknown variant, so each one named must be a file of its data."""
    variants = {
        espeak_turns(utterance(voice=voice, style=style))[0]["voice"].partition("+")[2]
        for voice in VoiceName
        for style in (None, "whispering")
    }
    files = {file.name for file in Path(espeakng_loader.get_data_path(), "voices", "!v").iterdir()}
    assert variants <= files
    assert len(variants) == 32


async def test_thirty_voices_differ_and_are_equally_loud(offline_engine: OfflineEngine) -> None:
    """Voices differ pairwise in pitch or spectrum, sound female or male as Gemini's do, and have one loudness."""
    heard = {}
    for voice in VoiceName:
        sound = pcm_samples((await offline_engine.synthesize(utterance(voice=voice))).pcm)
        # Semitones and decibels count alike.
        heard[voice] = np.append(spectrum_db(sound) / np.sqrt(40), 12 * np.log2(pitch_hz(sound)))
        assert (pitch_hz(sound) > 155) == (voice in FEMALE_NAMES.split()), voice
        assert np.abs(sound).max() < 10 ** (-1 / 20) + 1e-3
        assert -21.5 < 10 * np.log10(np.mean(sound**2)) < -19.5
    distances = {pair: float(np.linalg.norm(heard[pair[0]] - heard[pair[1]])) for pair in combinations(VoiceName, 2)}
    closest = min(distances, key=distances.__getitem__)
    assert distances[closest] > 2, closest


def test_a_custom_voice_is_refused(offline_engine: OfflineEngine) -> None:
    """A stored voice lives at Google; the error names it and the way out."""
    with pytest.raises(TTSValidationError, match=r"no custom voice 'voice_abc': use Gemini"):
        offline_engine.preflight(utterance(voice="voice_abc"))


async def test_speed_and_pitch_are_real(offline_engine: OfflineEngine) -> None:
    """Twice the speed halves the time; a higher pitch number is a higher pitch."""
    natural, fast, slow, high, deep = [
        pcm_samples((await offline_engine.synthesize(utterance(speed=speed, pitch=pitch))).pcm)
        for speed, pitch in [(None, None), (2.0, None), (0.6, None), (None, 1.8), (None, 0.3)]
    ]
    assert 0.4 < len(fast) / len(natural) < 0.65
    assert 1.3 < len(slow) / len(natural) < 2.0
    assert pitch_hz(deep) * 1.1 < pitch_hz(natural) < pitch_hz(high) / 1.1


async def test_style_words_are_parameters(offline_engine: OfflineEngine) -> None:
    """Slow is longer, fast shorter, soft quieter, loud louder, deep lower, monotone flatter; "nice" changes nothing."""

    async def take(style: str | None) -> Samples:
        return pcm_samples((await offline_engine.synthesize(utterance(style=style))).pcm)

    plain, loudness = await take(None), lambda sound: 10 * np.log10(np.mean(sound**2))
    assert len(await take("calm and slow")) > 1.2 * len(plain)
    assert len(await take("Excited!")) < len(plain) < 1.01 * len(await take("nice"))
    assert loudness(await take("softly")) < loudness(plain) - 4
    assert loudness(await take("shouting")) > loudness(plain) + 3
    assert pitch_hz(await take("in a deep voice")) < 0.95 * pitch_hz(plain)
    whispered = await take("whispering")
    assert loudness(whispered) < loudness(plain) - 4
    assert np.abs(spectrum_db(whispered) - spectrum_db(plain)).mean() > 3


@given(
    speed=st.none() | st.floats(0.1, 3.0),
    pitch=st.none() | st.floats(0.1, 2.0),
    style=st.none() | st.lists(st.sampled_from(STYLE_WORDS.split())),
)
def test_numbers_stay_within_the_limits(speed: float | None, pitch: float | None, style: list[str] | None) -> None:
    """Whatever speed, pitch and style say together, the library gets what it takes."""
    words = " ".join(style) if style else None
    (turn,) = espeak_turns(utterance(speed=speed, pitch=pitch, style=words))
    assert 80 <= turn["rate_wpm"] <= 450
    assert 0 <= turn["pitch"] <= 99
    assert 0 <= turn["range"] <= 99
    assert -12 <= turn["loudness_db"] <= 4


def test_natural_speed_and_pitch_are_the_voices_own() -> None:
    """1.0 means the same as nothing said; the ends of the scale of pitch are the ends of the library's."""
    assert espeak_turns(utterance(speed=1.0, pitch=1.0)) == espeak_turns(utterance())
    assert [espeak_turns(utterance(pitch=pitch))[0]["pitch"] for pitch in (0.1, 1.0, 2.0)] == [0, 50, 99]


async def test_a_dialogue_has_two_voices_and_a_pause(offline_engine: OfflineEngine) -> None:
    """Each turn is spoken by its own voice, 250 ms apart."""
    turns = (
        Turn("Good morning, how are you today?", VoiceConfig(voice_name="leda"), "Alice"),
        Turn("I am fine, thank you very much.", VoiceConfig(voice_name="algenib"), "Bob"),
    )
    sound = pcm_samples((await offline_engine.synthesize(Utterance(turns, "any", "en-US"))).pcm)
    first = len(pcm_samples((await offline_engine.synthesize(utterance(turns[0].text, voice="leda"))).pcm))
    # A recording of the first turn alone ends with 250 ms of quiet: the pause.
    alice, pause, bob = sound[: first - 6_000], sound[first - 5_000 : first - 1_000], sound[first:]
    assert np.abs(pause).max() < 0.01
    assert pitch_hz(alice) > 1.8 * pitch_hz(bob)


HOSTILE = {
    "markup": '<speak><sub alias="x">y</sub><break time="9s"/><voice name="de">word</voice></speak> &lt; &#0;',
    "phonemes": "[[h@l'oU]] word [[",
    "emoji": "😀👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿 word " * 20,
    "combining marks": "a" + "\u0301" * 5_000 + " word",
    "digits": "9" * 3_000,
    "one word": "a" * 20_000,
    "direction marks": "\u202eword\u202c \u2066word\u2069 \ufeff",
    "half a surrogate pair": "one \ud800 two",
    "punctuation": "!?" * 2_000 + " word",
    "private use": "\ue000\uf8ff\U0010ffff word",
    "formats": "%s%n%x{0}$(word)`word`",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_text_is_just_spoken(text: str, offline_engine: OfflineEngine) -> None:
    """No text harms the process: it speaks, and the same process speaks the next sentence."""
    await offline_engine.health_check("any")
    pid = child_pid(offline_engine)
    audio = await offline_engine.synthesize(utterance(text, speed=3.0))
    assert loudness_db(pcm_samples(audio.pcm)).max() > -30
    assert child_pid(offline_engine) == pid


@settings(max_examples=60)
@given(st.text(min_size=1, max_size=300), st.sampled_from(["en-US", "ru-RU", "ja-JP", "ar-EG", "zh"]))
def test_any_text_is_spoken_or_refused(offline_engine: OfflineEngine, text: str, language: str) -> None:
    """Random text never kills the process; the one other outcome is that its script is refused."""
    with suppress(TTSValidationError):
        asyncio.run(offline_engine.synthesize(utterance(text, language=language)))


@pytest.mark.parametrize("control", ["\0", "\x01", "\x0180s", "\x1b", "\x7f", "\x9b"])
async def test_control_characters_cut_nothing_off(control: str, offline_engine: OfflineEngine) -> None:
    """NUL does not end the speech, and 0x01 with "80s" does not set the library's speed: both are just a space."""
    plain = await offline_engine.synthesize(utterance(f"one two {control[1:]} three four five six seven"))
    audio = await offline_engine.synthesize(utterance(f"one two {control} three four five six seven"))
    assert audio.duration_s == pytest.approx(plain.duration_s, rel=0.03)


async def test_a_hundred_thousand_characters(offline_engine: OfflineEngine) -> None:
    """A book's chapter is spoken to its end: a hundred times the text takes a hundred times as long."""
    part = "The quick brown fox jumps over the lazy dog. " * 22 + "The end. "
    text = (part * 100)[:100_000]
    short = await offline_engine.synthesize(utterance(part, speed=3.0))
    audio = await offline_engine.synthesize(utterance(text, speed=3.0))
    assert audio.duration_s == pytest.approx(len(text) / len(part) * short.duration_s, rel=0.03)


async def test_a_text_without_sound_is_quiet(offline_engine: OfflineEngine) -> None:
    """What has no sound is short silence, for the checks to judge, and the process lives on."""
    audio = await offline_engine.synthesize(utterance("\u200b"))
    assert not any(audio.pcm)
    await offline_engine.health_check("any")


async def test_a_cancelled_call_ends_at_once(fresh_engine: OfflineEngine) -> None:
    """Cancelling stops the speaking process; the next call starts another, and no process is left over."""
    call = asyncio.create_task(fresh_engine.synthesize(utterance(LONG_TEXT)))
    await until(lambda: is_speaking(fresh_engine))
    pid = child_pid(fresh_engine)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await fresh_engine.synthesize(utterance("Yes."))).duration_s < 2
    assert child_pid(fresh_engine) != pid
    assert_no_such_process(pid)


async def test_cancelling_a_waiting_call_disturbs_no_other(fresh_engine: OfflineEngine) -> None:
    """A call that waits behind another one can be cancelled, before or after the process has started."""
    speaking = asyncio.create_task(fresh_engine.synthesize(utterance(TEXT * 50)))
    waiting = asyncio.create_task(fresh_engine.synthesize(utterance("Yes.")))
    await until(lambda: is_speaking(fresh_engine))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await speaking).duration_s > 100
    pid = child_pid(fresh_engine)
    await fresh_engine.synthesize(utterance("Yes."))
    assert child_pid(fresh_engine) == pid


async def test_cancelling_while_the_process_starts(
    fresh_engine: OfflineEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call cancelled before its process runs never reaches it."""
    starting, go_on = threading.Event(), threading.Event()
    start = offline._Child

    def slow_start() -> object:
        starting.set()
        assert go_on.wait(PATIENCE_S)
        return start()

    monkeypatch.setattr(offline, "_Child", slow_start)
    call = asyncio.create_task(fresh_engine.synthesize(utterance(LONG_TEXT)))
    await until(starting.is_set)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    go_on.set()
    assert (await fresh_engine.synthesize(utterance("Yes."))).duration_s < 2


async def test_a_dead_process_is_replaced(fresh_engine: OfflineEngine) -> None:
    """When the process was killed between two calls, the next call does not even notice."""
    await fresh_engine.synthesize(utterance("Yes."))
    pid = child_pid(fresh_engine)
    kill_and_wait(pid)
    await fresh_engine.synthesize(utterance("Yes."))
    assert_no_such_process(pid)


async def test_a_crash_while_speaking_can_be_tried_again(fresh_engine: OfflineEngine) -> None:
    """The call fails with an error that says so; the next one gets a fresh process."""
    call = asyncio.create_task(fresh_engine.synthesize(utterance(LONG_TEXT)))
    await until(lambda: is_speaking(fresh_engine))
    pid = child_pid(fresh_engine)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(TTSUnavailableError, match="the process of eSpeak NG died") as caught:
        await call
    assert caught.value.retryable
    await fresh_engine.synthesize(utterance("Yes."))
    assert_no_such_process(pid)


async def test_ctrl_c_does_not_reach_the_child(fresh_engine: OfflineEngine) -> None:
    """The terminal interrupts all processes of the group; the program decides what ends, so the child speaks on."""
    await fresh_engine.synthesize(utterance("Yes."))
    pid = child_pid(fresh_engine)
    for _ in range(3):
        os.kill(pid, signal.SIGINT)
        await fresh_engine.synthesize(utterance("Yes."))
        assert child_pid(fresh_engine) == pid


def limit_memory(pid: int, spare_bytes: int) -> None:
    """Let a process take no more than this in addition to what it has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    limit_bytes = pages * resource.getpagesize() + spare_bytes
    resource.prlimit(pid, resource.RLIMIT_AS, (limit_bytes, limit_bytes))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of another process")
async def test_the_process_needs_no_memory_for_a_long_text(fresh_engine: OfflineEngine) -> None:
    """An hour and a half of sound, 260 MB, passes through a process that has 16 MB to spare."""
    await fresh_engine.health_check("any")
    pid = child_pid(fresh_engine)
    limit_memory(pid, 16_000_000)
    assert (await fresh_engine.synthesize(utterance(LONG_TEXT))).duration_s > 4_000
    assert child_pid(fresh_engine) == pid


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of another process")
async def test_a_lack_of_memory_is_reported(fresh_engine: OfflineEngine) -> None:
    """Sound that does not fit into memory is an error that says so, never a shortened recording."""
    await fresh_engine.health_check("any")
    limit_memory(child_pid(fresh_engine), 500_000)
    with pytest.raises(TTSUnavailableError, match=r"eSpeak NG failed: .*(allocate|memory)"):
        await fresh_engine.synthesize(utterance(LONG_TEXT))
    await fresh_engine.synthesize(utterance("Yes."))


async def test_a_hung_process_is_ended(fresh_engine: OfflineEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not answer is killed after the time limit, which can be tried again."""
    await fresh_engine.synthesize(utterance("Yes."))
    pid = child_pid(fresh_engine)
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(offline, "_START_LIMIT_S", 0.05)
    with pytest.raises(TTSUnavailableError, match="did not finish within") as caught:
        await fresh_engine.synthesize(utterance("Yes."))
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.TIMEOUT, True)
    assert_no_such_process(pid)
    monkeypatch.undo()
    await fresh_engine.synthesize(utterance("Yes."))


async def test_closing_ends_even_a_hung_process(fresh_engine: OfflineEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end by itself is killed."""
    await fresh_engine.synthesize(utterance("Yes."))
    pid = child_pid(fresh_engine)
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(offline, "_END_LIMIT_S", 0.05)
    await fresh_engine.close()
    assert_no_such_process(pid)


async def test_closing_twice_and_speaking_again(fresh_engine: OfflineEngine) -> None:
    """Closing may be repeated, also before the first word; a later call starts another process."""
    await fresh_engine.close()
    await fresh_engine.synthesize(utterance("Yes."))
    pid = child_pid(fresh_engine)
    await fresh_engine.close()
    await fresh_engine.close()
    assert_no_such_process(pid)
    await fresh_engine.synthesize(utterance("Yes."))


async def test_concurrent_calls_take_turns(offline_engine: OfflineEngine) -> None:
    """Eight calls at once each get their own words, in one process."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    calls = [
        utterance("word " * count, voice=voice)
        for count, voice in zip(range(2, 26, 3), random.Random(seed).sample(list(VoiceName), 8), strict=True)
    ]
    alone = [(await offline_engine.synthesize(call)).duration_s for call in calls]
    together = [audio.duration_s for audio in await asyncio.gather(*map(offline_engine.synthesize, calls))]
    assert together == pytest.approx(alone, rel=0.05)
    assert alone[0] < alone[3] < alone[7]


def test_other_event_loops_and_threads(fresh_engine: OfflineEngine) -> None:
    """One engine serves loops that follow each other, and loops of several threads at the same time."""
    durations = [asyncio.run(fresh_engine.synthesize(utterance())).duration_s for _ in range(2)]
    threads = [
        threading.Thread(target=lambda: durations.append(asyncio.run(fresh_engine.synthesize(utterance())).duration_s))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert durations == pytest.approx([durations[0]] * 6, rel=0.05)


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    """When the program is killed, the child sees its stdin close and ends."""
    program = subprocess.run(
        [
            sys.executable,
            "-c",
            "import asyncio, os, signal\n"
            "from audio_api.engines.offline import OfflineEngine\n"
            "engine = OfflineEngine()\n"
            "asyncio.run(engine.health_check('any'))\n"
            "print(engine._child._process.pid, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)",
        ],
        capture_output=True,
        check=False,
        text=True,
    )
    assert program.returncode == -signal.SIGKILL
    try:
        child = os.pidfd_open(int(program.stdout))
    except ProcessLookupError:
        return
    try:
        assert select.select([child], [], [], 10)[0], "the child lives on"
    finally:
        os.close(child)


def test_a_forgotten_engine_leaves_nothing_behind() -> None:
    """A program that never closes its engine ends quietly: no warning, no child, nothing on stderr."""
    program = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "error",
            "-c",
            "import asyncio\n"
            "from audio_api.engines.offline import OfflineEngine\n"
            "one, other = OfflineEngine(), OfflineEngine()\n"
            "asyncio.run(one.health_check('any')); asyncio.run(other.health_check('any'))\n"
            "print(one._child._process.pid, other._child._process.pid)\n"
            "del one",
        ],
        capture_output=True,
        check=True,
        text=True,
    )
    assert program.stderr == ""
    for pid in program.stdout.split():
        assert_no_such_process(int(pid))


def test_importing_the_engine_loads_nothing_heavy() -> None:
    """The libraries of the extra load in the child only."""
    program = (
        "import sys, json, audio_api.engines.offline\n"
        "print(json.dumps(sorted({'numpy', 'soxr', 'espeakng_loader', 'google.genai'} & set(sys.modules))))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    assert json.loads(out) == []


@pytest.mark.parametrize("package", ["espeakng_loader"])
async def test_a_missing_extra_is_named(
    package: str, fresh_engine: OfflineEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra, checking and speaking say which package is missing and how to install it."""
    monkeypatch.setitem(sys.modules, package, None)
    expected = rf"needs {package}, .* pip install 'audio-api\[offline\]'"
    with pytest.raises(ConfigurationError, match=expected):
        fresh_engine.preflight(utterance())
    with pytest.raises(ConfigurationError, match=expected):
        await fresh_engine.health_check("any")


async def test_a_long_path_to_the_data(
    fresh_engine: OfflineEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment so deep that the library's own buffer for the path would overflow works all the same."""
    folder = tmp_path.joinpath(*["a-long-name-of-a-folder"] * 10)
    shutil.copytree(
        Path(espeakng_loader.__file__).parent, folder / "espeakng_loader", copy_function=os.symlink, symlinks=True
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    audio = await fresh_engine.synthesize(utterance())
    assert audio.duration_s > 4
    if Path("/proc").is_dir():
        assert str(Path(f"/proc/{child_pid(fresh_engine)}/cwd").readlink()).startswith(str(folder))


async def test_a_hostile_working_folder(
    fresh_engine: OfflineEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that lie in the working folder are not imported by the child."""
    (tmp_path / "numpy.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    await fresh_engine.health_check("any")


@pytest.mark.parametrize("broken", ["library", "data"])
async def test_a_library_that_does_not_load(
    broken: str, fresh_engine: OfflineEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library made for another system, or without its data, is a matter of installation; the error says what."""
    package = tmp_path / "espeakng_loader"
    package.mkdir()
    (package / "data").mkdir()
    (package / "library.so").write_text("not a library")
    library = package / "library.so" if broken == "library" else espeakng_loader.get_library_path()
    (package / "__init__.py").write_text(
        f"get_library_path = lambda: {str(library)!r}\nget_data_path = lambda: {str(package / 'data')!r}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=f"eSpeak NG cannot be used on this machine: .*{broken}"):
            await fresh_engine.synthesize(utterance())


async def test_a_process_that_cannot_start(fresh_engine: OfflineEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system starts no process, the error says so and can be tried again."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(TTSUnavailableError, match="does not start: No such file"):
        await fresh_engine.synthesize(utterance())


async def test_a_voice_the_library_refuses(fresh_engine: OfflineEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library refuses is an error with its reason; the call after it works."""
    with monkeypatch.context() as patch:
        patch.setattr(offline, "espeak_turns", lambda _: [{**espeak_turns(utterance())[0], "voice": "xx+f5"}])
        with pytest.raises(AudioAPIError, match=r"eSpeak NG has no voice 'xx\+f5'"):
            await fresh_engine.synthesize(utterance())
    await fresh_engine.synthesize(utterance())
