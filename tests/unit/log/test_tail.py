"""One reading for all who follow: each commit once to each of them, whenever they join."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from tapeline import names
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.decider import Deciders, origin_of
from tapeline.errors import TapelineError
from tapeline.log import StoredCommit
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.names import ClaimName, name_ref
from tapeline.projections import Tail, tail

CODEC = Codec(EVENTS, UPCASTERS)


class Counted(InMemoryLog):
    """A log that knows how often it is being followed."""

    following = 0
    fault: TapelineError | None = None

    async def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[StoredCommit], None]:
        self.following += follow
        try:
            async with aclosing(super().read(after=after, upto=upto, follow=follow)) as lists:
                async for commits in lists:
                    if follow and self.fault is not None:
                        raise self.fault
                    yield commits
        finally:
            self.following -= follow


@pytest.fixture
def log() -> Counted:
    return Counted(CODEC)


async def grow(log: InMemoryLog, count: int) -> None:
    deciders = Deciders(log, CODEC, FakeClock())
    for _ in range(count):
        name = f"n{(await log.head()).position}"
        command = ClaimName(name=name, holder="x", what="run")
        await deciders.handle(names, name_ref("main", "run", name), command, origin_of("user:ann", None))


async def heard(followed: Tail, after: int, upto: int) -> list[int]:
    found: list[int] = []
    async with aclosing(followed.read(after=after, follow=True)) as lists:
        async for commits in lists:
            found += [commit.position for commit in commits]
            if found[-1] >= upto:
                break
    return found


async def test_followers_that_join_anywhere_hear_each_commit_once_over_one_reading(log: Counted) -> None:
    followed = Tail(log)
    await grow(log, 30)
    works = [asyncio.create_task(heard(followed, after, 60)) for after in (0, 10, 29, 30)]
    await asyncio.sleep(0.05)
    await grow(log, 15)
    works.append(asyncio.create_task(heard(followed, 5, 60)))
    await asyncio.sleep(0.05)
    assert log.following == 1
    await grow(log, 15)
    found = await asyncio.gather(*works)
    assert found == [list(range(after + 1, 61)) for after in (0, 10, 29, 30, 5)]
    assert log.following == 0


async def test_who_joins_again_after_all_have_left_misses_nothing(log: Counted) -> None:
    followed = Tail(log)
    await grow(log, 3)
    assert await heard(followed, 0, 3) == [1, 2, 3]
    await grow(log, 3)
    assert await heard(followed, 3, 6) == [4, 5, 6]


async def test_a_fault_of_the_reading_is_told_to_all(log: Counted) -> None:
    followed = Tail(log)
    works = [asyncio.create_task(heard(followed, 0, 9)) for _ in range(2)]
    await asyncio.sleep(0.02)
    log.fault = TapelineError("the log is not reachable", code="unavailable")
    await grow(log, 1)
    for found in await asyncio.gather(*works, return_exceptions=True):
        assert isinstance(found, TapelineError)
        assert found.code == "unavailable"
    log.fault = None
    assert await heard(followed, 0, 1) == [1]


async def test_a_follower_that_is_too_slow_is_told_so(log: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MOST_WAITING", 2)
    followed = Tail(log)
    lists: Any = followed.read(after=0, follow=True)
    joined = asyncio.ensure_future(anext(lists))
    await asyncio.sleep(0.02)
    await grow(log, 1)
    await joined
    other = asyncio.create_task(heard(followed, 0, 12))
    for _ in range(11):
        await grow(log, 1)
        await asyncio.sleep(0.005)
    with pytest.raises(TapelineError, match="fallen behind"):
        async for _ in lists:
            pass
    # The others go on.
    assert await other == list(range(1, 13))
