"""A loop on a thread of its own leaves nothing under way when it ends."""

from __future__ import annotations

import asyncio

import pytest

from tapeline.loop_thread import LoopThread


def test_coroutines_of_other_threads_run_on_it() -> None:
    loop = LoopThread("test")

    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    assert [loop.run(double(number)) for number in range(3)] == [0, 2, 4]
    loop.end()
    assert loop.loop.is_closed()


def test_what_is_still_under_way_is_cancelled() -> None:
    loop = LoopThread("test")
    seen: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def begin() -> None:
        loop.waiting = asyncio.create_task(wait())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    async def last() -> None:
        seen.append("last")

    loop.run(begin())
    loop.end(last())
    assert seen == ["last", "cancelled"]
    assert loop.loop.is_closed()


def test_it_ends_even_when_the_last_work_fails() -> None:
    loop = LoopThread("test")

    async def last() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        loop.end(last())
    assert loop.loop.is_closed()
