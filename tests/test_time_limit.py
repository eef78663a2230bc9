"""The clock of a job stands still while the job waits for others, and goes on with what was left."""

from __future__ import annotations

import asyncio

import pytest

from audio_api.services.time_limit import TimeLimit, time_limit, uncounted


def left_s(limit: asyncio.Timeout) -> float | None:
    """Seconds until it ends the block; ``None``: it stands still."""
    end = limit.when()
    return None if end is None else end - asyncio.get_running_loop().time()


async def test_it_stands_still_until_the_last_part_has_waited() -> None:
    """Two parts of a job wait at the same time; then all that was left before is left."""
    async with asyncio.timeout(100) as limit:
        clock = TimeLimit(limit)
        with clock.paused():
            with clock.paused():
                assert left_s(limit) is None
            assert left_s(limit) is None
        await asyncio.sleep(0)
        assert left_s(limit) == pytest.approx(100, abs=1)


async def test_a_new_count_begins_after_the_wait() -> None:
    """What is told anew while a part of the job waits holds from the end of the wait on; else at once."""
    async with asyncio.timeout(100) as limit:
        clock = TimeLimit(limit)
        with clock.paused():
            clock.restart(50)
            assert left_s(limit) is None
        await asyncio.sleep(0)
        assert left_s(limit) == pytest.approx(50, abs=1)
        clock.restart(70)
        assert left_s(limit) == pytest.approx(70, abs=1)


async def test_who_waits_for_anothers_work_waits_with_it() -> None:
    """Whoever joins, before or during the wait, stands still until it ends; whoever leaves goes on at once."""
    async with asyncio.timeout(100) as early, asyncio.timeout(100) as late, asyncio.timeout(100) as gone:
        maker, others = TimeLimit(), [TimeLimit(each) for each in (early, late, gone)]
        with maker.followed_by(others[0]):
            assert left_s(early)
            with maker.paused(), maker.followed_by(others[1]):
                with maker.followed_by(others[2]):
                    assert [left_s(each) for each in (early, late, gone)] == [None] * 3
                assert left_s(gone) == pytest.approx(100, abs=1)
                assert [left_s(each) for each in (early, late)] == [None] * 2
            await asyncio.sleep(0)
            assert left_s(late) == pytest.approx(100, abs=1)
            assert left_s(early) == pytest.approx(100, abs=1)


async def test_an_expired_one_stays_so() -> None:
    """What still waits while its job is ended can neither stop nor prolong it."""

    async def wait() -> None:
        async with asyncio.timeout(0) as limit:
            clock = TimeLimit(limit)
            try:
                await asyncio.sleep(10)
            finally:
                clock.restart(100)
                with clock.paused():
                    pass

    with pytest.raises(TimeoutError):
        await wait()


async def test_a_part_may_wait_longer_than_its_job() -> None:
    """A job that was handed back leaves a thread behind for a moment, which waits for the queue."""
    async with asyncio.timeout(100) as limit:
        clock = TimeLimit(limit)
        waiting = clock.paused()
        waiting.__enter__()
        await asyncio.sleep(0)
        clock.end()
    waiting.__exit__(None, None, None)


async def test_a_job_without_a_limit_may_wait() -> None:
    """Outside of a worker nothing is counted."""
    assert time_limit.get() is None
    with uncounted():
        await asyncio.sleep(0)
