"""Speech without key or network: eSpeak NG in a child process. Real and complete, but robotic."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib import resources
from importlib.resources import as_file
from importlib.util import find_spec
from itertools import starmap
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from audio_api.engines.base import SpeechAudio, SpeechEngine, Turn, Utterance
from audio_api.engines.espeak_request import espeak_turns
from audio_api.engines.espeak_words import WordSpan, word_times
from audio_api.errors import ConfigurationError, ErrorCode, TTSUnavailableError
from audio_api.models.audio_request import VoiceConfig

MODEL = "espeak-ng"
ROBOTIC = "spoken offline by eSpeak NG: a robotic voice, not Gemini"
_SAMPLE_RATE = 24_000

# Ten times what a loaded two-core machine takes; synthesis needs about 0.1 ms a character, starting about 0.3 s.
_START_LIMIT_S = 30.0
_LIMIT_S_PER_CHARACTER = 0.005
_END_LIMIT_S = 2.0


# What Python, the loader of libraries and the tools that measure programs read. Nothing else: a library in C reads a
# stranger's text there, and the environment may hold keys and passwords.
_PASSED_ON = re.compile(
    r"PATH|HOME|LANG|TMPDIR|SYSTEMROOT|(PYTHON|__PYVENV|LC_|LD_|DYLD_|OMP_|OPENBLAS_|MKL_|COVERAGE_|COV_).*"
)
_PYTHON = re.compile(r"(python|pypy|graalpy)[\w.-]*", re.IGNORECASE)


_NO_PYTHON = (
    "offline speech needs Python in a process of its own, and this program came without one, as PyInstaller makes "
    "them: use Gemini (TTS_ENGINE=gemini), or run the program by Python"
)
_RUN = "import runpy, sys; sys.path += sys.argv[2:]; runpy.run_path(sys.argv[1], run_name='__main__')"


def _request(utterance: Utterance) -> bytes:
    _python()
    if find_spec("espeakng_loader") is None:
        raise ConfigurationError(
            "offline speech needs espeakng_loader, not installed here: pip install 'audio-api[offline]'"
        )
    return json.dumps(espeak_turns(utterance)).encode()


def _python() -> str:
    """The program that runs Python: this one, or that of the environment where a server embeds Python.

    Raises:
        ConfigurationError: This process is a frozen program, which would start itself.
    """
    # Nuitka, unlike PyInstaller, marks each module.
    if getattr(sys, "frozen", False) or "__compiled__" in globals():
        raise ConfigurationError(_NO_PYTHON)
    if _is_python():
        return sys.executable
    return f"{sys.exec_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"


def _is_python() -> bool:
    return _PYTHON.fullmatch(sys.executable.rpartition(os.sep)[2]) is not None


class _Child:
    """The process in which eSpeak NG speaks; ends with this object, and by itself when this process ends."""

    def __init__(self) -> None:
        with ExitStack() as files:
            # A file wherever this package was found: out of a zip file, too.
            source = files.enter_context(as_file(resources.files("audio_api.engines") / "espeak_process.py"))
            self._connection, theirs = Pipe()
            with theirs:
                # Packages may also be where this process alone knows, but never in the working folder (-P).
                folders = filter(os.path.isabs, sys.path)
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    [_python(), "-P", "-c", _RUN, str(source), *folders],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)},
                )
            self.end = weakref.finalize(self, _end, self._process, self._connection, files.pop_all())

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def forget(self) -> None:
        """Leave the process to the one that started it, of which this one is a copy."""
        self.end.detach()
        self._connection.close()
        self._process.poll()  # which finds that it is no child of this one

    def exchange(self, request: bytes, hear: Callable[[bytes], object]) -> list[list[WordSpan]]:
        """Send a request, pass the sound to a listener block by block, and return the readings of each turn.

        Raises:
            OSError, EOFError: The process died.
            ConfigurationError: The library cannot be used on this machine.
            TTSUnavailableError: The library refused.
        """
        self._connection.send_bytes(request)
        for pcm in iter(self._connection.recv_bytes, b""):
            hear(pcm)
        outcome = json.loads(self._connection.recv_bytes())
        if "readings" in outcome:
            return [list(starmap(WordSpan, of_turn)) for of_turn in outcome["readings"]]
        if outcome["broken"]:
            raise ConfigurationError(f"eSpeak NG cannot be used on this machine: {outcome['error']}")
        raise TTSUnavailableError(f"eSpeak NG failed: {outcome['error']}")


def _end(process: subprocess.Popen[bytes], connection: Connection, files: ExitStack) -> None:
    connection.close()
    files.close()
    try:
        process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Exchange:
    """One exchange with the child, which another thread may abort for as long as it lasts, and no longer."""

    def __init__(self, request: bytes, limit_s: float) -> None:
        self._request = request
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._aborted = False

    def abort(self) -> None:
        """Kill the child if it works on this call."""
        with self._lock:
            self._aborted = True
            if self._child:
                self._child.kill()

    def run(self, child: _Child, hear: Callable[[bytes], object]) -> list[list[WordSpan]]:
        """Let the child speak into a listener, and return the readings of each turn.

        Raises:
            TTSUnavailableError: It died, or was killed after the time limit.
            ConfigurationError: The library cannot be used on this machine.
        """
        timer = threading.Timer(self._limit_s, self.abort)
        with self._lock:
            if self._aborted:
                raise CancelledError
            self._child = child
        timer.start()
        try:
            return child.exchange(self._request, hear)
        except (OSError, EOFError):
            if self._aborted:
                raise TTSUnavailableError(
                    f"eSpeak NG did not finish within {self._limit_s:.0f} s and was ended", code=ErrorCode.TIMEOUT
                ) from None
            raise TTSUnavailableError("the process of eSpeak NG died; the next call starts a new one") from None
        finally:
            timer.cancel()
            with self._lock:
                self._child = None


class OfflineEngine(SpeechEngine):
    """Speaks with eSpeak NG, on this machine, without a key: for development, tests and demonstrations.

    Every ``VoiceName`` has a voice of its own, and ``speed`` (about 0.55 to 3.0 take effect) and ``pitch`` are real
    numbers here. Of ``style``, these words have an effect, others are ignored: whisper; slow; calm, relaxed, gentle,
    soothing, sleepy, tired, sad (slower); fast, quick, rapid, hurried, rushed; excited, happy, cheerful, energetic,
    enthusiastic, joyful (faster, higher, livelier); loud, shouting; quiet, soft; deep, low; high; monotone, robotic.

    One child process, started on first use, speaks one utterance after the other; a call may come from any event loop.
    Cancelling a call that speaks ends the process, and the next call starts a new one.
    """

    name = "offline"
    is_billed = False

    def __init__(self) -> None:
        self._child: _Child | None = None
        self._begin()
        _engines.add(self)

    def _begin(self) -> None:
        # A single thread: it does the waiting, and makes concurrent calls wait for each other.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")

    def begin_in_fork(self) -> None:
        """Begin without the thread and the child of the process of which this one is a copy."""
        if self._child:
            self._child.forget()
            self._child = None
        self._begin()

    def preflight(self, utterance: Utterance) -> None:
        """Find what eSpeak NG cannot speak.

        Raises:
            TTSValidationError: Thai or an unknown language, Chinese characters in a language other than Chinese, or a
                custom voice.
            ConfigurationError: The extra ``[offline]`` is not installed.
        """
        _request(utterance)

    async def synthesize(self, utterance: Utterance) -> SpeechAudio:
        """Speak at 24,000 Hz, about -20 dBFS loud, 250 ms between turns, every word timed; a warning says who spoke.

        Raises:
            TTSValidationError, ConfigurationError: As from ``preflight``; also when the library does not load.
            TTSUnavailableError: The child process died, or took far longer than the text's length explains.
        """
        blocks = [block async for block in self.stream(utterance)]
        return replace(blocks[-1], pcm=b"".join(block.pcm for block in blocks))

    async def stream(self, utterance: Utterance) -> AsyncGenerator[SpeechAudio, None]:
        """Speak what ``synthesize`` does, in blocks of about a second; the first one is of up to ten.

        A slow listener does not hold the speaker up: the process goes on, and the blocks wait in memory.

        Raises:
            TTSValidationError, ConfigurationError, TTSUnavailableError: As from ``synthesize``.
        """
        call = _Exchange(_request(utterance), _START_LIMIT_S + len(utterance.text) * _LIMIT_S_PER_CHARACTER)
        blocks: asyncio.Queue[bytes] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def hand_over(pcm: bytes) -> None:
            # A loop that has ended listens no more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(blocks.put_nowait, pcm)

        future = self._thread.submit(self._speak, call, hand_over)
        future.add_done_callback(lambda _: hand_over(b""))
        try:
            while pcm := await blocks.get():
                yield SpeechAudio(pcm, _SAMPLE_RATE, MODEL, finish_reason=None)
            readings = await asyncio.wrap_future(future)
        finally:
            future.cancel()
            call.abort()
        words = word_times(utterance, readings, _SAMPLE_RATE)
        yield SpeechAudio(b"", _SAMPLE_RATE, MODEL, warnings=(ROBOTIC,), words=words)

    def _speak(self, call: _Exchange, hear: Callable[[bytes], object]) -> list[list[WordSpan]]:
        if not (self._child and self._child.alive):
            self._end_child()
            try:
                self._child = _Child()
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not _is_python():
                    raise ConfigurationError(_NO_PYTHON) from None
                raise TTSUnavailableError(f"the process of eSpeak NG does not start: {error.strerror}") from None
        try:
            return call.run(self._child, hear)
        # Whatever the reason: what the child may still say would be taken for the next call's.
        except BaseException:
            self._end_child()
            raise

    def _end_child(self) -> None:
        if self._child:
            self._child.end()
            self._child = None

    async def health_check(self, model: str) -> None:
        """Speak a word, in the one model there is.

        Raises:
            ConfigurationError: The extra is not installed, or the library does not load.
            TTSUnavailableError: The child process died.
        """
        await self.synthesize(Utterance((Turn("ready", VoiceConfig()),), MODEL, "en-US"))

    async def close(self) -> None:
        """End the child process, after the calls that still run. A later call starts a new one."""
        await asyncio.wrap_future(self._thread.submit(self._end_child))


_engines: weakref.WeakSet[OfflineEngine] = weakref.WeakSet()


def _begin_in_fork() -> None:
    for engine in list(_engines):
        engine.begin_in_fork()


os.register_at_fork(after_in_child=_begin_in_fork)
