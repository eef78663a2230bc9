"""``audio-api batch``: speech at half the price, minutes or hours later."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from audio_api.cli.exit_codes import DONE, FAILED
from audio_api.cli.options import AsJson, settings_of
from audio_api.cli.terminal import complain, ended_tidily, progress_bar, run
from audio_api.cli.wording import dollars
from audio_api.errors import TTSValidationError

if TYPE_CHECKING:
    from audio_api.models.audio_request import AudioRequest
    from audio_api.services.gemini_batch import GeminiBatchStatus

batch = typer.Typer(help="Speak many texts at half the price by Gemini's Batch API.", rich_markup_mode=None)

NameOfBatch = Annotated[str, typer.Argument(metavar="NAME", help="as submit has printed it")]


@batch.command()
def submit(
    file: Annotated[str, typer.Argument(metavar="FILE.jsonl", help="a request in each line, as JSON")],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="what to call it; default: made from FILE")] = None,
    as_json: AsJson = False,
) -> int:
    """Create the jobs of a batch, and print its name."""
    from audio_api.services.tts_service import TTSService

    config = settings_of(offline=False)

    async def create() -> GeminiBatchStatus:
        async with TTSService(config) as tts:
            return (await tts.submit_batch(_requests(file), name=name)).status()

    with ended_tidily():
        return _told(run(create()), as_json=as_json)


@batch.command()
def status(name: NameOfBatch, as_json: AsJson = False) -> int:
    """Ask how far a batch is."""
    from audio_api.services.gemini_batch import GeminiBatch

    return _told(run(GeminiBatch.load(name, settings_of(offline=False)).refresh()), as_json=as_json)


@batch.command()
def collect(name: NameOfBatch, as_json: AsJson = False) -> int:
    """Wait for a batch, and make the file of every request."""
    from audio_api.services.gemini_batch import GeminiBatch

    batch = GeminiBatch.load(name, settings_of(offline=False))
    with ended_tidily(), progress_bar() as show:

        def tell(now: GeminiBatchStatus) -> None:
            show(f"batch {now.state}", now.collected, now.requests, now.problem)

        done = run(batch.collect(tell))
    if as_json:
        print(done.model_dump_json())
    for number, response in enumerate(done.results, 1):
        if not response.success:
            complain(f"request {number}: {response.error}")
        elif not as_json:
            print(f"{response.file_path or response.url}  {response.duration or 0:.2f} s  {dollars(response.cost_usd)}")
    return FAILED if done.failed else DONE


@batch.command()
def cancel(name: NameOfBatch, as_json: AsJson = False) -> int:
    """End the jobs of a batch; what they have finished is billed."""
    from audio_api.services.gemini_batch import GeminiBatch

    batch = GeminiBatch.load(name, settings_of(offline=False))
    run(batch.cancel())
    return _told(batch.status(), as_json=as_json)


def _requests(file: str) -> list[AudioRequest]:
    """The requests in a file.

    Raises:
        TTSValidationError: It cannot be read, or a line is none; the text names the line.
    """
    from audio_api.cli.texts import read_text
    from audio_api.cli.wording import problems_in_words
    from audio_api.models.audio_request import AudioRequest

    requests = []
    for number, line in enumerate(read_text([], file).splitlines(), 1):
        if line.strip():
            try:
                requests.append(AudioRequest.model_validate_json(line))
            except ValueError as error:
                raise TTSValidationError(f"line {number} of {file}: {problems_in_words(error)}") from None
    return requests


def _told(now: GeminiBatchStatus, *, as_json: bool) -> int:
    if as_json:
        fields = {name: getattr(now, name) for name in now.__slots__}
        print(json.dumps(fields))
    else:
        print(f"{now.name}  {now.state}  {now.collected} of {now.requests} collected")
        for name, state in now.jobs.items():
            print(f"  {name}  {state}")
    if now.problem:
        complain(now.problem)
    return DONE
