"""What a projection cannot fold is set aside alone, and folded again on request; too much of it stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, String, Table, select

from tapeline import names, replay
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.names import NameClaimed
from tapeline.database import Engine, make_engine
from tapeline.decider import Deciders, origin_of
from tapeline.errors import TapelineError
from tapeline.log import StoredEvent
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.names import ClaimName, ReleaseName, name_ref
from tapeline.projections import LogSource, Projector, Rows, reset
from tapeline.projections.parked import Parked, listed

CODEC = Codec(EVENTS, UPCASTERS)
held = Table(
    "held",
    MetaData(),
    Column("name", String, primary_key=True),
    Column("holder", String),
    Column("changes", BigInteger, default=0),
)


class Held:
    """Who holds which name; `mended` says whether it knows what to make of bad ones."""

    name = "held"
    version = 1
    kinds = frozenset({"run"})
    tables = (held,)
    mended = False

    def keys(self, event: StoredEvent) -> Iterable[tuple[Table, tuple[Any, ...]]]:
        yield held, (event.data.name,)

    def apply(self, rows: Rows, event: StoredEvent) -> None:
        named = event.data.name
        row = rows.get(held, named) or {"name": named, "changes": 0}
        holder = event.data.holder if isinstance(event.data, NameClaimed) else None
        rows.put(held, row | {"holder": holder, "changes": row["changes"] + 1})
        if self.mended or holder is None:
            return
        if holder.startswith("bad"):
            raise ValueError("half of it was written by then")
        if holder.startswith("huge"):
            rows.change(held, named, changes=2**80)


class World:
    """A log that is written to, and a projector that follows it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.log = InMemoryLog(CODEC)
        self.deciders = Deciders(self.log, CODEC, FakeClock())
        self.fold = Held()
        self.position = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.projector = Projector(LogSource(self.log, CODEC, Held.kinds), self.fold, engine)

    async def start(self) -> None:
        self.projector = Projector(LogSource(self.log, CODEC, Held.kinds), self.fold, self.engine)
        await self.projector.open()
        self.tasks.append(asyncio.create_task(self.projector.run()))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def claim(self, name: str, holder: str = "x") -> None:
        await self._do(name, ClaimName(name=name, holder=holder, what="run"))

    async def release(self, name: str, holder: str = "x") -> None:
        await self._do(name, ReleaseName(name=name, holder=holder))

    async def _do(self, name: str, command: Any) -> None:
        ref = name_ref("main", "run", name)
        self.position = (await self.deciders.handle(names, ref, command, origin_of("user:ann", None))).position

    async def caught_up(self) -> None:
        await self.projector.wait_for(self.position, 10)

    async def rows(self) -> dict[str, tuple[str | None, int]]:
        found = await self.engine.read(lambda connection: connection.execute(select(held)).all())
        return {row.name: (row.holder, row.changes) for row in found}

    async def parked(self) -> list[Parked]:
        return await self.engine.read(lambda connection: listed(connection, "held"))


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    engine = make_engine(database_url)
    world = World(engine)
    yield world
    await world.stop()
    await engine.dispose()


def aggregate(name: str) -> str:
    ref = name_ref("main", "run", name)
    return f"main/{ref}"


@pytest.mark.parametrize("holder", ["bad", "huge"])
async def test_one_bad_aggregate_is_parked_and_all_others_go_on(world: World, holder: str) -> None:
    await world.claim("b", "x")
    await world.release("b")
    for i in range(5):
        await world.claim(f"n{i}")
    await world.claim("b", holder)
    await world.start()
    await world.caught_up()
    await world.release("b", holder)
    for i in range(5):
        await world.release(f"n{i}")
    await world.caught_up()
    (one,) = await world.parked()
    assert (one.aggregate, one.position) == (aggregate("b"), 8)
    assert aggregate("b") in world.projector.parked
    rows = await world.rows()
    # What came before stands; the commit that broke counts for nothing, nor what came after.
    assert rows.pop("b") == (None, 2)
    assert rows == {f"n{i}": (None, 2) for i in range(5)}


async def test_a_retry_heals_once_the_projection_is_mended(world: World) -> None:
    await world.start()
    await world.claim("b", "bad")
    await world.claim("c", "bad")
    await world.claim("d")
    await world.caught_up()
    found = await replay.retry({"one": world.engine}, "held")
    assert found == await replay.parked({"one": world.engine})
    assert [(one.tries, one.wanted) for one in found] == [(1, False), (1, False)]
    assert "half of it" in found[0].error

    world.fold.mended = True
    assert await replay.retry({"one": world.engine}, "held", aggregate("b")) == []
    (lag,) = await replay.lag(world.log, {"one": world.engine})
    assert (lag.parked, lag.lag) == (1, 0)
    (left,) = await world.parked()
    assert left.aggregate == aggregate("c")
    await world.release("b", "bad")
    await world.caught_up()
    assert await world.rows() == {"b": (None, 2), "d": ("x", 1)}


async def test_what_is_parked_stays_so_over_a_restart_and_not_over_a_rebuild(world: World) -> None:
    await world.start()
    await world.claim("b", "bad")
    await world.caught_up()
    await world.stop()
    world.fold.mended = True
    await world.start()
    await world.release("b", "bad")
    await world.caught_up()
    assert await world.rows() == {}
    await world.engine.write(lambda connection: reset(connection, "held"))
    async with asyncio.timeout(10):
        while await world.rows() != {"b": (None, 2)}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await world.parked() == []


async def test_more_than_a_hundred_parked_aggregates_stop_the_projection(world: World) -> None:
    await world.start()
    for i in range(100):
        await world.claim(f"n{i}", "bad")
    await world.caught_up()
    assert len(await world.parked()) == 100
    await world.claim("one too many", "bad")
    with pytest.raises(TapelineError, match="more than 100") as stopped:
        await asyncio.wait_for(asyncio.shield(world.tasks[0]), 10)
    assert stopped.value.code == "internal"
    assert len(await world.parked()) == 100


async def test_an_unknown_event_stops_the_projection_and_parks_nothing(world: World) -> None:
    await world.claim("a")
    old = Codec({}, {})
    projector = Projector(LogSource(world.log, old, Held.kinds), world.fold, world.engine)
    await projector.open()
    with pytest.raises(TapelineError) as stopped:
        await asyncio.wait_for(projector.run(), 10)
    assert stopped.value.code == "schema_unknown"
    assert (await world.parked(), projector.position) == ([], 0)


async def test_what_is_not_parked_cannot_be_tried_again(world: World) -> None:
    await world.projector.open()
    for name, asked in ("held", "main/run/x"), ("nothing", None):
        with pytest.raises(TapelineError) as refused:
            await replay.retry({"one": world.engine}, name, asked)
        assert refused.value.code == "not_found"


async def test_a_try_that_nobody_makes_is_said_to_be_missing(world: World) -> None:
    await world.start()
    await world.claim("b", "bad")
    await world.caught_up()
    await world.stop()
    with pytest.raises(TapelineError, match="has not tried") as refused:
        await replay.retry({"one": world.engine}, "held", timeout_s=0.2)
    assert refused.value.code == "unavailable"
