"""The last step of a request whose sound goes into a store: put it there, recognise it there, take it over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from audio_api.audio.durable import explained
from audio_api.audio.file_threads import in_file_thread
from audio_api.errors import StoreError
from audio_api.models.sound_formats import MEDIA_TYPES
from audio_api.services.report import Delivered
from audio_api.speech.assembly import Draft
from audio_api.speech.subtitle_files import subtitles_of
from audio_api.stores.base import SoundLabel, Store, taken

_SUBTITLE_TYPES = {".srt": "application/x-subrip", ".vtt": "text/vtt"}


class Delivery:
    """Brings one finished draft into a store; may be tried again until it has succeeded.

    Args:
        store: The store.
        draft: The sound.
        kinds: The kinds of subtitles that go with it.
        label: What will stand on it.
    """

    def __init__(self, store: Store, draft: Draft, kinds: Sequence[str], label: SoundLabel) -> None:
        self._store = store
        self._draft = draft
        self._kinds = kinds
        self._label = label

    @classmethod
    async def of(cls, store: Store, draft: Draft, kinds: Sequence[str], task: str) -> Delivery:
        """Make the delivery of a draft; reads its file.

        Args:
            store: The store.
            draft: The sound.
            kinds: The kinds of subtitles that go with it.
            task: The queued task that asked for it; empty: none did.
        """
        recording = draft.recording
        label = SoundLabel(
            content_type=MEDIA_TYPES[draft.output_format],
            task=task,
            key=draft.key,
            duration_s=recording.duration_s,
            model=recording.model,
            sha256=await in_file_thread(_sha256, draft.path),
        )
        return cls(store, draft, kinds, label)

    @property
    def note(self) -> dict[str, object]:
        """What tells this sound from any other; ``delivered_before`` finds it by that."""
        label = self._label
        return {
            "file": self._draft.recording.path.name,
            "sha256": label.sha256,
            "duration": label.duration_s,
            "model": label.model,
        }

    async def run(self, before: float = inf) -> Delivered:
        """Put the sound, then its subtitles.

        Args:
            before: The moment, in seconds of ``time.monotonic``, from which on the sound may not be put any more.

        Raises:
            TooLateError: That moment is over.
            TTSOutputError: Another sound has the name.
            StoreError: The store does not take it. Its ``audio`` is the whole WAV, as far as ``Draft.wav`` has it.
        """
        recording, overwrite = self._draft.recording, self._draft.overwrite
        name, file = recording.path.name, self._draft.path
        try:
            label = await self._store.put_sound(name, file, self._label, overwrite=overwrite, before=before)
            if label.deposit != self._label.deposit and self._kinds:
                # An earlier take of this task is there; the subtitles belong to this one.
                label = await self._store.put_sound(name, file, self._label, overwrite=True, before=before)
            subtitles = await in_file_thread(subtitles_of, recording, self._kinds)
            for each, content in subtitles.items():
                await self._store.put(each, content, _SUBTITLE_TYPES[Path(each).suffix])
        except StoreError as error:
            error.audio, error.model = await self._draft.wav(), recording.model
            raise
        return _delivered(self._store, name, label.duration_s, label.model, subtitles)


async def check_names(store: Store, name: str, kinds: Iterable[str], task: str, key: str) -> None:
    """Find out before anything is paid for whether a name is taken by another sound than that of this very task.

    Raises:
        TTSOutputError: It is (code ``output_exists``).
        StoreError: The store does not say.
    """
    found = await store.find(name)
    if found is None:
        for each in _subtitle_names(name, kinds):
            if await store.find(each):
                raise taken(store.url.of(each))
    elif not (task and found.label and (found.label.task, found.label.key) == (task, key)):
        raise taken(store.url.of(name))


async def delivered_before(store: Store, name: str, note: Mapping[str, Any], kinds: Sequence[str]) -> Delivered | None:
    """The sound that an earlier worker put for this very task, before it died; ``None``: it is not there.

    Args:
        store: The store.
        name: The name of the sound.
        note: What the earlier worker noted with the task; a stranger may have written it.
        kinds: The kinds of subtitles that were asked for.

    Raises:
        StoreError: The store does not say.
    """
    digest, duration_s, model = note.get("sha256"), note.get("duration"), note.get("model")
    if not (isinstance(digest, str) and isinstance(duration_s, int | float) and isinstance(model, str)):
        return None
    found = await store.find(name)
    if found is None or found.sha256 != digest:
        return None
    subtitles = _subtitle_names(name, kinds)
    done = _delivered(store, name, float(duration_s), model, subtitles)
    for each in subtitles:
        # They are put after the sound.
        if await store.find(each) is None:
            return replace(done, subtitles=None)
    return done


def _delivered(store: Store, name: str, duration_s: float, model: str, subtitles: Iterable[str]) -> Delivered:
    path = store.path_of(name)
    paths = tuple(str(store.path_of(each) or store.url.of(each)) for each in subtitles)
    return Delivered(duration_s, model, None if path is None else str(path), store.url.of(name), paths)


def _subtitle_names(name: str, kinds: Iterable[str]) -> list[str]:
    return [str(Path(name).with_suffix(f".{kind}")) for kind in dict.fromkeys(kinds)]


def _sha256(path: Path) -> str:
    with explained(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
