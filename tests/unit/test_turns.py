"""Stretches that are put together: in order, each event once, and let go of in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeline.projections.turns import gathered

Stretch = tuple[int, list[Any]]


@dataclass(frozen=True)
class Event:
    position: int


class Source:
    """Stretches, and whether who reads them has let go."""

    def __init__(self, *stretches: Stretch, ends: bool = True) -> None:
        self.stretches = stretches
        self.ends = ends
        self.is_closed = False

    async def read(self) -> AsyncGenerator[Stretch, None]:
        try:
            for stretch in self.stretches:
                yield stretch
            if not self.ends:
                await asyncio.Event().wait()
        finally:
            self.is_closed = True


def upto(position: int, *events: int) -> Stretch:
    return position, [Event(each) for each in events]


async def test_what_comes_during_a_pause_is_one_stretch() -> None:
    seen: list[int] = []

    async def pause(events: int) -> None:
        seen.append(events)
        await asyncio.sleep(0.01)

    async with aclosing(Source(upto(1, 1), upto(3, 2, 3), upto(4)).read()) as read:
        found = [stretch async for stretch in gathered(read, 100, pause)]
    assert found == [upto(4, 1, 2, 3)]
    assert len(seen) == 1


async def test_no_more_wait_than_fit() -> None:
    taken: list[int] = []

    async def slow() -> None:
        async with aclosing(Source(*(upto(i, i) for i in range(1, 51))).read()) as read:
            async for position, events in gathered(read, 5):
                taken.append(len(events))
                assert position == events[-1].position
                await asyncio.sleep(0.001)

    await slow()
    assert sum(taken) == 50
    assert max(taken) <= 5


async def test_who_stops_reading_closes_what_is_read() -> None:
    source = Source(upto(1, 1), ends=False)
    async with aclosing(source.read()) as read, aclosing(gathered(read, 10)) as stretches:
        async for _ in stretches:
            break
    assert source.is_closed


async def test_who_is_cancelled_again_and_again_closes_what_is_read() -> None:
    source = Source(upto(1, 1), ends=False)

    async def follow() -> None:
        async with aclosing(source.read()) as read, aclosing(gathered(read, 10)) as stretches:
            async for _ in stretches:
                pass

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.01)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert source.is_closed


async def test_what_a_source_raises_is_raised() -> None:
    async def broken() -> AsyncGenerator[Stretch, None]:
        yield upto(1, 1)
        raise ValueError("torn")

    found = []

    async def follow() -> None:
        async for stretch in gathered(broken(), 10):
            found.append(stretch)

    with pytest.raises(ValueError, match="torn"):
        await follow()
    assert found == [upto(1, 1)]


@given(st.lists(st.integers(1, 4), max_size=12), st.lists(st.integers(0, 5), max_size=12), st.booleans())
def test_what_is_said_again_is_left_out(sizes: list[int], back: list[int], pauses: bool) -> None:
    stretches: list[Stretch] = []
    last = 0
    for i, size in enumerate(sizes):
        again = back[i] if i < len(back) else 0
        start = max(1, last + 1 - again)
        stretches.append(upto(last + size, *range(start, last + size + 1)))
        last += size

    async def story() -> None:
        async def pause(_: int) -> None:
            await asyncio.sleep(0)

        at, folded = 0, []
        async for position, events in gathered(Source(*stretches).read(), 1000, pause if pauses else None):
            new = [event.position for event in events if event.position > at]
            assert new == sorted(set(new))
            folded += new
            at = max(at, position)
        assert folded == list(range(1, last + 1))
        assert at == last

    asyncio.run(story())
