"""What users get from an API that fails: this library beside the bare SDK and LiteLLM, in one run.

    python benchmarks/clients.py [--texts 300] [--rate 0.4] [--litellm PYTHON]

Each client speaks the same texts, at its own default settings, to the emulator, which fails a share of all calls as the
real API does: errors, broken connections, replies without sound, silence, half the text. The same call of a text has
the same fate for each client. A file is right if it holds the whole sound, sample by sample; LiteLLM may put the header
of the API's WAV before it, which is heard as a click. LiteLLM runs with the Python that is named (``pip install
litellm`` into an environment of its own); without one it is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from google import genai
from google.genai import types
from measuring import machine

from audio_api import AudioConfig, AudioRequest, TTSService
from audio_api.audio.wav import decode_wav, encode_wav
from audio_api.emulator import Emulator, Fault, ReceivedCall
from audio_api.emulator.speech import synthesize

MODEL = "gemini-3.8-flash-tts"
KEY = "benchmark"
VOICE = "Kore"
AT_ONCE = 10
FAULTS = (
    Fault.UNAVAILABLE_503, Fault.INTERNAL_500, Fault.DEADLINE_504, Fault.RATE_LIMIT_BARE,
    Fault.RESET_IN_BODY, Fault.CLOSE_BEFORE_BODY, Fault.TRUNCATED_JSON,
    Fault.CANDIDATES_EMPTY, Fault.CONTENT_EMPTY, Fault.TEXT_ONLY, Fault.INLINE_DATA_EMPTY, Fault.FINISH_OTHER,
    Fault.SILENT, Fault.HALF_SILENT, Fault.GARBAGE, Fault.TRUNCATED, Fault.TRUNCATED_BILLED, Fault.TOO_SHORT,
)  # fmt: skip
Speak = Callable[[str, Path], Awaitable[None]]
"""Speaks a text into a file, or raises."""

LITELLM = """
import asyncio, sys
import litellm
litellm.suppress_debug_info = True

async def speak(text, path):
    try:
        answer = await litellm.aspeech(model=sys.argv[1], input=text, voice=sys.argv[2], api_key=sys.argv[3])
        await asyncio.to_thread(answer.write_to_file, path)
    except Exception:
        pass

async def main():
    jobs = iter([line.rstrip("\\n").split("\\t") for line in sys.stdin])
    async def work():
        for path, text in jobs:
            await speak(text, path)
    await asyncio.gather(*(work() for _ in range(int(sys.argv[4]))))

asyncio.run(main())
"""


def texts_of(number: int) -> list[str]:
    """Sentences that differ."""
    return [f"This is sentence number {n}, read aloud to see who notices what went wrong." for n in range(number)]


def is_right(path: Path, text: str) -> bool:
    """Whether a file holds the whole sound of a text."""
    try:
        pcm = decode_wav(path.read_bytes()).pcm
        pcm = decode_wav(pcm).pcm if pcm.startswith(b"RIFF") else pcm
    except ValueError:
        return False
    return pcm == synthesize(text, VOICE.lower(), "en-US")


async def speak_all(speak: Speak, texts: list[str], folder: Path) -> None:
    """Speak the texts, some at once, as a program that logs an error and goes on."""
    waiting = iter(enumerate(texts))

    async def work() -> None:
        for number, text in waiting:
            try:
                await speak(text, folder / f"{number}.wav")
            except Exception:
                # Each client has errors of its own.
                continue

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def by_sdk(url: str, texts: list[str], folder: Path) -> None:
    """Google's sample: the first part of the reply becomes the file."""
    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=url))
    voice = types.VoiceConfig(prebuilt_voice_config=types.PrebuiltVoiceConfig(voice_name=VOICE))
    config = types.GenerateContentConfig(
        response_modalities=["AUDIO"], speech_config=types.SpeechConfig(voice_config=voice, language_code="en-US")
    )

    async def speak(text: str, path: Path) -> None:
        reply = await client.aio.models.generate_content(model=MODEL, contents=text, config=config)
        data = reply.candidates[0].content.parts[0].inline_data.data
        await asyncio.to_thread(path.write_bytes, data if data.startswith(b"RIFF") else encode_wav(data))

    await speak_all(speak, texts, folder)
    await client.aio.aclose()


async def by_audio_api(url: str, texts: list[str], folder: Path) -> None:
    """This library at its default settings."""
    config = AudioConfig(_env_file=None, gemini_api_key=KEY, gemini_base_url=url, output_dir=folder)  # type: ignore[call-arg]
    async with TTSService(config) as tts:

        async def speak(text: str, path: Path) -> None:
            (await tts.generate_audio(AudioRequest(text=text, output_filename=path.name))).raise_for_error()

        await speak_all(speak, texts, folder)


async def by_litellm(python: str, url: str, texts: list[str], folder: Path) -> None:
    """LiteLLM in a process of its own."""
    jobs = "".join(f"{folder / f'{number}.wav'}\t{text}\n" for number, text in enumerate(texts))
    command = [python, "-c", LITELLM, f"gemini/{MODEL}", VOICE, KEY, str(AT_ONCE)]
    environment = {"GEMINI_API_BASE": f"{url}/v1beta", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    await process.communicate(jobs.encode())
    assert process.returncode == 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Compare what users get from an API that fails.")
    parser.add_argument("--texts", type=int, default=300, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.4, metavar="R", help="share of calls that fail (%(default)s)")
    parser.add_argument("--litellm", metavar="PYTHON", help="a Python that has LiteLLM")
    options = parser.parse_args()
    texts = texts_of(options.texts)
    seed = random.SystemRandom().randrange(2**32)
    print(machine())
    print(f"{len(texts)} texts, {options.rate:.0%} of calls fail, seed {seed}\n")

    def fate(call: ReceivedCall) -> Fault:
        chance = random.Random(f"{seed} {call.text} {call.attempt}")
        return chance.choice(FAULTS) if chance.random() < options.rate else Fault.NONE

    clients: dict[str, Callable[[str, list[str], Path], Awaitable[None]]] = {
        "audio_api": by_audio_api,
        "google-genai": by_sdk,
    }
    if options.litellm:
        clients["LiteLLM"] = lambda *arguments: by_litellm(options.litellm, *arguments)
    print(f"{'client':<14}{'right':>8}{'wrong, told as success':>25}{'errors':>9}{'calls':>8}{'seconds':>9}")
    for name, client in clients.items():
        with TemporaryDirectory() as made, Emulator() as emulator:
            emulator.faults = fate
            folder, begin = Path(made), time.monotonic()
            asyncio.run(client(emulator.url, texts, folder))
            took_s = time.monotonic() - begin
            there = [(folder / f"{number}.wav", text) for number, text in enumerate(texts)]
            kept = [is_right(path, text) for path, text in there if path.exists()]
            errors = len(texts) - len(kept)
            print(
                f"{name:<14}{sum(kept):>8}{len(kept) - sum(kept):>25}{errors:>9}{len(emulator.calls):>8}{took_s:>9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
