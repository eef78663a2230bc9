"""Large sounds: one thread for all of them, and a few in memory at a time."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from audio_api.audio.large_sounds import SoundBudget, in_sound_thread


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
            os._exit(asyncio.run(asyncio.wait_for(in_sound_thread(max, 3, 4), 60)))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4


async def test_no_more_tasks_than_permits_have_a_sound() -> None:
    """Each may take its permit again while it has it, and gives it back at the end, however it ends."""
    budget = SoundBudget(2)
    held, most = 0, 0

    async def work(number: int) -> None:
        nonlocal held, most
        with budget.permit() as permit:
            await permit.take()
            await permit.take()
            held += 1
            most = max(most, held)
            await asyncio.sleep(0)
            held -= 1
            if number % 2:
                raise ZeroDivisionError

    results = await asyncio.gather(*(work(number) for number in range(10)), return_exceptions=True)
    assert (most, sum(isinstance(result, ZeroDivisionError) for result in results)) == (2, 5)
    with budget.permit() as one, budget.permit() as other:
        await asyncio.gather(one.take(), other.take())


async def test_a_permit_that_was_given_back_is_anothers() -> None:
    """Before the end of the task, and only once."""
    budget = SoundBudget(1)
    with budget.permit() as permit, budget.permit() as other, budget.permit() as third:
        await permit.take()
        permit.give_back()
        permit.give_back()
        await other.take()
        waiting = asyncio.create_task(third.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        other.give_back()
        await waiting


async def test_a_permit_that_was_closed_is_never_waited_for() -> None:
    """Work that outlives its request goes on without one, and leaves the permits to others."""
    budget = SoundBudget(1)
    with budget.permit() as closed:
        await closed.take()
    with budget.permit() as other:
        await other.take()
        await closed.take()
        closed.give_back()
        with budget.permit() as third:
            waiting = asyncio.create_task(third.take())
            await asyncio.sleep(0)
            assert not waiting.done()
            other.give_back()
            await waiting
