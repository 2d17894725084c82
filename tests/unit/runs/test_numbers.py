"""Numbers of runs: one for each, in order, whichever copies of the service give them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline import names
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.decider import Deciders
from tapeline.errors import TapelineError
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.names import counter_ref
from tapeline.runs.run.numbers import AHEAD, MOST, QUICK_S, Numbers

CODEC = Codec(EVENTS, UPCASTERS)


class Copies:
    """Copies of the service on one log."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = InMemoryLog(CODEC)

    def copy(self) -> Numbers:
        return Numbers(Deciders(self.log, CODEC, self.clock), self.clock)

    async def commits(self) -> int:
        return (await self.log.head()).position

    async def counter(self) -> int:
        return (await Deciders(self.log, CODEC, self.clock).state(names, counter_ref("main", "run"))).number


async def rest(clock: FakeClock) -> None:
    """What was begun in the background is over, and a while passes."""
    for _ in range(50):
        await asyncio.sleep(0)
    clock.advance(2 * QUICK_S)


async def test_who_asks_now_and_then_gets_the_next_number_and_leaves_none_over() -> None:
    copies = Copies()
    numbers = copies.copy()
    for expected in (1, 2, 3):
        assert await numbers.take("main", f"r{expected}") == expected
        await rest(copies.clock)
    assert (await copies.counter(), await copies.commits()) == (3, 3)
    assert await copies.copy().take("main", "r4") == 4


async def test_who_asks_again_and_again_finds_numbers_that_were_taken_in_advance() -> None:
    copies = Copies()
    numbers = copies.copy()
    given = [await numbers.take("main", f"r{i}") for i in range(40)]
    assert given == list(range(1, 41))
    await rest(copies.clock)
    assert await copies.commits() < 20, "most births waited for no write of their own"
    assert 40 <= await copies.counter() <= 40 + AHEAD
    assert await copies.copy().take("main", "r41") == await copies.counter(), "a later copy leaves what was taken"


async def test_those_who_ask_at_once_share_a_commit() -> None:
    copies = Copies()
    numbers = copies.copy()
    found = await asyncio.gather(*(numbers.take("main", f"r{i}") for i in range(60)))
    assert sorted(found) == list(range(1, 61))
    assert await copies.commits() <= 3
    assert MOST + AHEAD <= 100, "events of one commit"


async def test_a_number_that_was_not_needed_is_the_next_one() -> None:
    copies = Copies()
    numbers = copies.copy()
    assert await numbers.take("main", "r1") == 1
    assert await numbers.take("main", "r1") == 2
    numbers.give_back("main", 2)
    await rest(copies.clock)
    assert await numbers.take("main", "r2") == 2


async def test_teams_count_by_themselves() -> None:
    numbers = Copies().copy()
    assert [await numbers.take(team, "r") for team in ("main", "other", "main")] == [1, 1, 2]


async def test_a_log_that_is_out_of_reach_is_told_to_who_asks_and_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = Copies()
    numbers = copies.copy()

    async def gone(*_: Any, **__: Any) -> Any:
        raise TapelineError("the log is not reachable", code="unavailable")

    with monkeypatch.context() as cut:
        cut.setattr(copies.log, "append", gone)
        refused = await asyncio.gather(*(numbers.take("main", f"r{i}") for i in range(3)), return_exceptions=True)
    assert [error.code for error in refused if isinstance(error, TapelineError)] == ["unavailable"] * 3
    assert await numbers.take("main", "r9") == 1


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.booleans()), max_size=25))
def test_no_number_is_given_twice(asked: list[tuple[int, int, bool]]) -> None:
    async def story() -> None:
        copies = Copies()
        several = [copies.copy() for _ in range(3)]
        given: list[int] = []
        for which, many, pause in asked:
            given += await asyncio.gather(*(several[which].take("main", f"r{len(given)}-{i}") for i in range(many)))
            if pause:
                await rest(copies.clock)
        assert len(set(given)) == len(given)
        assert max(given, default=0) <= await copies.counter()

    asyncio.run(story())
