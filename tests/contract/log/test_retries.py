"""A command that comes again, however late: one effect, on the log in memory and on a real one.

Three layers hold that: the broker's window of known message ids, the last 64 commands of an aggregate, and a
decision that finds the wish already true.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tapeline import topology
from tapeline.clock import FakeClock
from tapeline.decider import REMEMBERED_COMMANDS, Decider, Deciders, Origin
from tapeline.log import EventLog
from tapeline.log.codec import read_brief
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.memory import InMemoryLog
from tapeline.testing.commits import Counted, Opened, codec, till
from tapeline.testing.log import everything
from tapeline.testing.server import NatsServer, connector

REF = till()


@dataclass(frozen=True)
class Open:
    """Have the till open."""


@dataclass(frozen=True)
class Count:
    """Add to the till."""

    amount: float


class Tills:
    """What a till is: open or not, and what was counted."""

    def initial(self) -> tuple[bool, float]:
        return False, 0.0

    def decide(self, state: tuple[bool, float], command: Open | Count, /) -> list[Opened | Counted]:
        if isinstance(command, Open):
            return [] if state[0] else [Opened(name="t")]
        return [Counted(amount=command.amount)]

    def evolve(self, state: tuple[bool, float], event: Opened | Counted, /) -> tuple[bool, float]:
        return (True, state[1]) if isinstance(event, Opened) else (state[0], state[1] + event.amount)


TILLS: Decider[tuple[bool, float], Any, Any] = Tills()


@dataclass
class Bench:
    log: EventLog
    clock: FakeClock

    async def forget_window(self) -> None:
        """Let the broker's memory of message ids run out: three minutes of the clock in memory, and a window of
        a tenth of a second on the real one."""
        self.clock.advance(180)
        if isinstance(self.log, JetStreamLog):
            await asyncio.sleep(0.25)


@pytest.fixture(params=["memory", "server"])
async def bench(request: pytest.FixtureRequest, server: NatsServer) -> AsyncIterator[Bench]:
    clock = FakeClock()
    if request.param == "memory":
        yield Bench(InMemoryLog(codec(), clock=clock), clock)
        return
    client = await server.connect()
    await topology.apply(client, topology.topology())
    config = json.loads((await client.request("$JS.API.STREAM.INFO.EVENTS", b"", timeout=5)).data)["config"]
    short = msgspec.json.encode(config | {"duplicate_window": 100_000_000})
    answer = json.loads((await client.request("$JS.API.STREAM.UPDATE.EVENTS", short, timeout=5)).data)
    assert answer["config"]["duplicate_window"] == 100_000_000
    yield Bench(JetStreamLog(client, codec(), connect=connector(server.url), role="test"), clock)
    await client.close()


def origin(command_id: str) -> Origin:
    return Origin(actor="user:ann", command_id=command_id)


@pytest.mark.parametrize("others", [0, REMEMBERED_COMMANDS - 1, REMEMBERED_COMMANDS + 1])
@pytest.mark.parametrize("who", ["the same", "a fresh copy", "a copy that lags"])
async def test_a_command_that_comes_again_has_one_effect(bench: Bench, others: int, who: str) -> None:
    deciders, lagging = (Deciders(bench.log, codec(), bench.clock) for _ in range(2))
    first = await deciders.handle(TILLS, REF, Open(), origin("open"))
    # It folds the first commit now, so its expectation is stale once the others have come.
    assert (await lagging.handle(TILLS, REF, Open(), origin("open"))).replayed
    for k in range(others):
        await deciders.handle(TILLS, REF, Count(1.0), origin(f"count-{k}"))
    await bench.forget_window()
    asked = {"the same": deciders, "a fresh copy": Deciders(bench.log, codec(), bench.clock)}.get(who, lagging)
    again = await asked.handle(TILLS, REF, Open(), origin("open"))
    if who != "a copy that lags" and others > REMEMBERED_COMMANDS:
        assert (again.replayed, again.events) == (False, []), "it is forgotten, but the wish is already true"
    else:
        assert (again.replayed, again.position) == (True, first.position), "the same answer"
    commits = await everything(bench.log)
    assert [read_brief(one.header, one.position).cmd for one in commits].count("open") == 1
    assert len(commits) == others + 1


@pytest.mark.parametrize("others", [0, 5])
async def test_a_command_that_adds_comes_again_and_adds_once(bench: Bench, others: int) -> None:
    """Its decision would add each time: what holds it back is its id, found with a stale expectation too."""
    deciders, lagging = (Deciders(bench.log, codec(), bench.clock) for _ in range(2))
    await deciders.handle(TILLS, REF, Open(), origin("open"))
    assert (await lagging.handle(TILLS, REF, Open(), origin("open"))).replayed
    first = await deciders.handle(TILLS, REF, Count(5.0), origin("add"))
    for k in range(others):
        await deciders.handle(TILLS, REF, Count(1.0), origin(f"count-{k}"))
    await bench.forget_window()
    for asked in (lagging, deciders, Deciders(bench.log, codec(), bench.clock)):
        again = await asked.handle(TILLS, REF, Count(5.0), origin("add"))
        assert (again.replayed, again.position) == (True, first.position)
        assert again.state == (True, 5.0 + others)
    assert len(await everything(bench.log)) == others + 2
