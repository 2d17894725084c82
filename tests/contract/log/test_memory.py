"""The log in memory shows the behaviours of a log."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tapeline.clock import FakeClock
from tapeline.errors import TapelineError
from tapeline.log.memory import InMemoryLog
from tapeline.testing.commits import codec, commit, till
from tapeline.testing.log import EventLogContract, appended


class TestInMemoryLog(EventLogContract):
    @pytest.fixture
    def log(self) -> InMemoryLog:
        return InMemoryLog(codec())


async def test_a_full_log_stores_nothing_more() -> None:
    log = InMemoryLog(codec(), max_bytes=600)
    first = await log.append(commit("a"), expected=0)
    with pytest.raises(TapelineError) as refused:
        await log.append(commit("b", after=first), expected=first.position)
    assert refused.value.code == "insufficient_storage"
    assert (await log.head()).position == 1


async def test_a_log_that_is_nearly_full_makes_nothing_new() -> None:
    log = InMemoryLog(codec(), max_bytes=700)
    first = await log.append(commit("a"), expected=0)
    log._size_bytes = 640
    with pytest.raises(TapelineError, match="91% full and takes nothing new") as refused:
        await log.append(commit("b", ref=till("t2")), expected=0)
    assert refused.value.code == "insufficient_storage"
    log._size_bytes = 300
    await log.append(commit("b", after=first), expected=first.position)


async def test_the_window_of_known_message_ids_is_two_minutes() -> None:
    clock = FakeClock()
    log = InMemoryLog(codec(), clock=clock)
    made = await appended(log, 1)
    clock.advance(timedelta(minutes=3).total_seconds())
    again = await log.append(commit("c0", after=made[0]), expected=made[0].position)
    assert (again.position, again.replayed) == (2, False)


async def test_commits_carry_the_time_of_the_clock() -> None:
    clock = FakeClock()
    log = InMemoryLog(codec(), clock=clock)
    clock.advance(7)
    await appended(log, 1)
    [lists] = [many async for many in log.read()]
    assert lists[0].stored_at == clock.now()
