"""The command line: ``audio-api say "Hello"``, lists of what there is, workers for a queue, and a doctor.

Exit codes: 0 done; 1 failed; 2 the command, a setting or the text is wrong; 3 failed, but trying again later may help;
130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import TextIO, get_args

from pydantic import ValidationError

from audio_api import __version__
from audio_api.books.command_options import add_options
from audio_api.config import AudioConfig, get_config, reload_config
from audio_api.errors import AudioAPIError, ConfigurationError, TTSOutputError, TTSValidationError
from audio_api.logging_config import setup_logging
from audio_api.models.audio_request import Markup
from audio_api.models.languages import Language, parse_language
from audio_api.models.sound_formats import OutputFormat
from audio_api.models.speech_models import DEFAULT_MODEL, VoiceModel, model_spec
from audio_api.models.voices import VoiceName
from audio_api.server.command import add_serve_options

logger = logging.getLogger(__name__)

DONE, FAILED, WRONG, TRY_LATER, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; ``None``: the process's own.

    Returns:
        The exit code.

    Raises:
        SystemExit: The arguments make no command, or ask for help.
    """
    _fill_standard_streams()
    try:
        arguments = _parser().parse_args(argv)
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A file's name may hold what the terminal cannot show, and by then its speech is paid for.
            sys.stdout.reconfigure(errors="backslashreplace")
        return _printed(arguments.run(arguments))
    except AudioAPIError as error:
        _complain(str(error).replace("set overwrite=True", "use --overwrite"))
        if isinstance(error, TTSOutputError) and error.audio:
            _rescue(error.audio)
        if isinstance(error, ConfigurationError | TTSValidationError):
            return WRONG
        return TRY_LATER if error.retryable else FAILED
    except ValidationError as error:
        _complain(_explain(error))
        return WRONG
    except OSError as error:
        # Of standard output: what is done with files and connections has errors of its own.
        return _unprinted(error)
    except (KeyboardInterrupt, EOFError):
        return INTERRUPTED


def _fill_standard_streams() -> None:
    """Keep the numbers 0 to 2 from the files opened later, where a shell closed them (``<&-``)."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("audio-api", description="Text to speech with Google's Gemini models.")
    parser.add_argument("--version", action="version", version=f"audio-api {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    say = commands.add_parser("say", help="speak a text into a file")
    say.set_defaults(run=_say)
    source = say.add_mutually_exclusive_group(required=True)
    source.add_argument("text", nargs="?", metavar="TEXT", help="what is spoken; - reads it from standard input")
    source.add_argument("--file", type=Path, metavar="PATH", help="a UTF-8 text to speak; - is standard input")
    say.add_argument("--markup", choices=["plain", "markdown"], help="default: markdown for *.md, else MARKUP")
    say.add_argument("--keep", action="append", default=[], choices=["code", "tables"], help="speak these, too")
    say.add_argument("-o", "--output", metavar="FILE", help="where the sound goes (default: a name in OUTPUT_DIR)")
    say.add_argument("--format", choices=get_args(OutputFormat), help="default: as FILE ends, else OUTPUT_FORMAT")
    say.add_argument("--voice", default=VoiceName.KORE.value, help="see the command voices (default: %(default)s)")
    say.add_argument("--language", default=Language.ENGLISH.value, help="a BCP-47 code (default: %(default)s)")
    say.add_argument("--style", help="how to speak, in a few adjectives")
    say.add_argument("--speed", type=float, help="0.1 to 3.0; 1.0 is natural")
    say.add_argument("--pitch", type=float, help="0.1 to 2.0; 1.0 is natural")
    say.add_argument("--model", help="see the command models (default: DEFAULT_TTS_MODEL)")
    say.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    say.add_argument("--offline", action="store_true", help="a robotic voice, without key or network")
    book = commands.add_parser("book", help="make an audiobook of an EPUB, Markdown or text")
    book.set_defaults(run=_book)
    add_options(book)
    commands.add_parser("voices", help="list the voices").set_defaults(run=_list_voices)
    commands.add_parser("languages", help="list the languages").set_defaults(run=_list_languages)
    commands.add_parser("models", help="list the models, with prices").set_defaults(run=_list_models)
    commands.add_parser("worker", help="work on the tasks of the queue in Redis until SIGTERM").set_defaults(run=_work)
    add_serve_options(commands.add_parser("serve", help="serve speech over HTTP, as OpenAI does"))
    doctor = commands.add_parser("doctor", help="check the installation, the settings and the connections")
    doctor.set_defaults(run=_doctor)
    doctor.add_argument("--live", action="store_true", help="check what is believed about the API; costs a few cents")
    doctor.add_argument("--yes", action="store_true", help="do not ask before spending them")
    return parser


def _explain(error: ValidationError) -> str:
    """Every problem; pydantic's own sentences do not say which option they are about, ours do."""
    # What is wrong with several fields together has no place.
    problems = [(" ".join(map(str, problem["loc"][-1:])), problem) for problem in error.errors(include_url=False)]
    return "; ".join(
        problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "value_error"
        else f"{name}: {problem['msg']}"
        for name, problem in problems
    )


def _complain(text: str) -> None:
    if sys.stderr is None:
        return
    try:
        print(f"audio-api: {' '.join(text.split())}", file=sys.stderr)
    except OSError:
        _silence(sys.stderr)


def _printed(code: int) -> int:
    # Now rather than at exit, where a failure could not be told.
    print(end="", flush=True)
    return code


def _unprinted(error: OSError) -> int:
    # Who reads it may have seen enough, as ``head`` has: no reason to complain.
    if not isinstance(error, BrokenPipeError):
        _complain(f"cannot print: {error.strerror}")
    _silence(sys.stdout)
    return FAILED


def _silence(stream: TextIO) -> None:
    # Python would try once more at exit, fail, and say so.
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _rescue(wav: bytes) -> None:
    """Put sound that may have been paid for into the temporary folder, and say where."""
    try:
        path = _write_temporary(wav)
    except OSError as error:
        _complain(f"nor can it be written to the temporary folder: {error.strerror}")
    else:
        _complain(f"the sound is complete in {str(path)!r}")


def _write_temporary(wav: bytes) -> Path:
    number, name = tempfile.mkstemp(".wav", "audio-api-")
    os.close(number)
    path = Path(name)
    try:
        path.write_bytes(wav)
    except OSError:
        path.unlink()
        raise
    return path


def _log(config: AudioConfig) -> None:
    """Leave the terminal to the results, unless LOG_LEVEL asks for more."""
    chosen = "log_level" in config.model_fields_set
    setup_logging(config if chosen else config.model_copy(update={"log_level": "ERROR"}))


def _read_text(arguments: argparse.Namespace) -> str:
    """What the arguments say, or the file or the standard input they name; the locale does not matter."""
    try:
        if arguments.file and str(arguments.file) != "-":
            return _decoded(arguments.file.read_bytes(), str(arguments.file))
    except OSError as error:
        raise TTSValidationError(f"cannot read {str(arguments.file)!r}: {error.strerror}") from None
    if arguments.file or arguments.text == "-":
        if sys.stdin is None:
            raise TTSValidationError("standard input is closed")
        return _decoded(sys.stdin.buffer.read(), "standard input")
    # What Python could not decode is in it as halves of surrogate pairs.
    return _decoded(arguments.text.encode("utf-8", "surrogateescape"), "the argument")


def _markup_of(file: Path | None, config: AudioConfig) -> Markup:
    return "markdown" if file and file.suffix.lower() in {".md", ".markdown"} else config.markup


def _decoded(content: bytes, source: str) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    # UTF-16 without its mark, and many a binary file, is UTF-8 by its letter.
    if "\0" in text:
        raise TTSValidationError(f"{source} is not UTF-8 text")
    return text


def _language(text: str) -> str:
    """The code, or a refusal that proposes what may have been meant: ``en_US``, or a language's name."""
    code = text.partition(".")[0].replace("_", "-")
    names = {language.display_name.partition(" ")[0].lower(): language.value for language in reversed(Language)}
    with suppress(ValueError):
        if parse_language(text):
            return text
    with suppress(ValueError):
        names[text.lower()] = str(parse_language(code))
    close = get_close_matches(text.lower(), names, 1)
    meant = f"did you mean {names[close[0]]}? " if close else ""
    raise TTSValidationError(f"--language: {text[:40]!r} is no language code; {meant}The command languages lists some")


@contextmanager
def _ended_tidily() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the work within as Ctrl-C does, which leaves no draft, and then the process."""
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        # A shell lets a job in the background ignore Ctrl-C.
        (on_ctrl_c if callable(on_ctrl_c) else signal.default_int_handler)(number, frame)

    usual = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for number in usual:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in usual:
            signal.signal(number, signal.SIG_DFL)
        for each in received[:1]:
            signal.raise_signal(each)


def _say(arguments: argparse.Namespace) -> int:
    from audio_api.services.one_liner import say

    config = AudioConfig(tts_engine="offline") if arguments.offline else AudioConfig()
    _log(config)
    text, language = _read_text(arguments), _language(arguments.language)
    with _ended_tidily():
        response = say(
            text,
            arguments.output,
            config=config,
            voice_config={"voice_name": arguments.voice, "speed": arguments.speed, "pitch": arguments.pitch},
            language=language,
            style=arguments.style,
            model=arguments.model,
            markup=arguments.markup or _markup_of(arguments.file, config),
            markup_keep=arguments.keep,
            overwrite=arguments.overwrite,
            output_format=arguments.format,
        )
    cost = "cost unknown" if response.cost_usd is None else f"${response.cost_usd:.4f}"
    print(f"{response.file_path or response.url}  {response.duration:.2f} s  {cost}")
    for warning in response.warnings:
        _complain(f"warning: {warning}")
    return DONE


def _book(arguments: argparse.Namespace) -> int:
    from audio_api.books.command import run

    config = AudioConfig(tts_engine="offline") if arguments.offline else AudioConfig()
    _log(config)
    if arguments.language:
        arguments.language = _language(arguments.language)
    with _ended_tidily():
        return run(arguments, config)


def _list_voices(_: argparse.Namespace) -> int:
    for voice in VoiceName:
        print(f"{voice:<15} {voice.character}")
    return DONE


def _list_languages(_: argparse.Namespace) -> int:
    for language in Language:
        print(f"{language:<7} {language.display_name}")
    return DONE


def _list_models(_: argparse.Namespace) -> int:
    print(f"{'model':<29} {'US$ per million tokens, input / audio'}")
    for model in VoiceModel:
        print(f"{model:<29} {_describe_model(model, datetime.now(UTC).date())}")
    return DONE


def _describe_model(model: VoiceModel, today: date) -> str:
    spec = model_spec(model)
    price = spec.price(today)
    notes = [f"{price.input_usd:.2f} / {price.audio_usd:.2f}" if price else "price unknown"]
    if model is DEFAULT_MODEL:
        notes.append("default")
    if spec.shutdown:
        notes.append(f"shut down after {spec.shutdown}, then {spec.successor}")
    return "; ".join(notes)


def _work(_: argparse.Namespace) -> int:
    config = get_config()
    setup_logging(config)
    config.validate_config()
    if not config.use_redis:
        raise ConfigurationError(
            "a queue in memory is seen by its own process only: set USE_REDIS=true and REDIS_URL, or use a "
            "WorkerManager inside your program"
        )
    asyncio.run(_run_workers())
    return DONE


async def _run_workers() -> None:
    """Work until SIGTERM or SIGINT, then drain; a second signal hands the tasks at hand back. SIGHUP reloads."""
    from audio_api.services.worker_service import WorkerManager

    manager = WorkerManager()
    stop = asyncio.Event()
    stopping: list[asyncio.Task[None]] = []

    def end() -> None:
        logger.info("handing the tasks at hand back" if stop.is_set() else "finishing the tasks at hand")
        stopping.append(asyncio.create_task(manager.stop_workers(grace_s=0 if stop.is_set() else None)))
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, _reload)
    await manager.start_workers()
    await stop.wait()
    await stopping[0]
    await manager.stop_workers()


def _reload() -> None:
    try:
        setup_logging(reload_config())
    except ConfigurationError as error:
        logger.error("the old settings stay: %s", error)  # noqa: TRY400 - the text says all
    else:
        logger.info("settings reloaded")


def _doctor(arguments: argparse.Namespace) -> int:
    return _check_live(ask=not arguments.yes) if arguments.live else asyncio.run(_check_installation())


async def _check_installation() -> int:
    from audio_api.doctor.installation import check_installation

    levels = set()
    async for check in check_installation():
        levels.add(check.level)
        print(f"{check.level:<5} {check.title}: {check.text}", flush=True)
    return FAILED if "fail" in levels else DONE


def _check_live(*, ask: bool) -> int:
    from audio_api.doctor.live_calls import CALLS, estimated_cost_usd
    from audio_api.doctor.live_facts import check_live

    config = AudioConfig()
    config.require_api_key()
    _log(config)
    print(f"{len(CALLS)} short calls, at most ${estimated_cost_usd(datetime.now(UTC).date()):.3f} at list prices")
    if ask and sys.stdin.isatty() and input("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
        return FAILED
    report = asyncio.run(check_live(config, on_call=lambda name: print(f"asking: {name}", file=sys.stderr)))
    for finding in report.findings:
        print(
            f"{finding.number:>2} {finding.verdict:<14} {finding.title}: "
            f"assumed {finding.assumed}; observed {finding.observed}"
        )
    print(f"{report.calls} calls, ${report.cost_usd:.4f} by the tokens they were billed")
    verdicts = {finding.verdict for finding in report.findings}
    return DONE if "holds" in verdicts and "differs" not in verdicts else FAILED
