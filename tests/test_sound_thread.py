"""The one thread for large sounds."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from audio_api.audio.sound_thread import in_sound_thread


async def test_all_work_is_done_in_one_thread_one_after_the_other() -> None:
    """However much is asked for at once; never in the thread of the event loop."""
    busy = threading.Lock()

    def work(number: int) -> tuple[int, int]:
        with busy:
            return number, threading.get_ident()

    results = await asyncio.gather(*(in_sound_thread(work, number) for number in range(20)))
    assert [number for number, _ in results] == list(range(20))
    assert len({thread for _, thread in results} - {threading.get_ident()}) == 1


async def test_an_error_reaches_the_caller() -> None:
    """As with any thread."""
    with pytest.raises(ZeroDivisionError):
        await in_sound_thread(divmod, 1, 0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_it_works_in_a_child_process() -> None:
    """A fork leaves the parent's thread behind; the child gets its own."""
    assert asyncio.run(in_sound_thread(max, 1, 2)) == 2
    pid = os.fork()
    if not pid:
        try:
            os._exit(asyncio.run(asyncio.wait_for(in_sound_thread(max, 3, 4), 10)))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
