"""Blue and green tables: built beside what is served, shown in one transaction, without a failed or wrong query."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table, func, select

from tapeline import names, replay
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.database import Engine, make_engine
from tapeline.decider import Deciders, origin_of
from tapeline.errors import TapelineError
from tapeline.log import StoredEvent
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.names import ClaimName, name_ref
from tapeline.projections import LogSource, Projector, Reader, Rows
from tapeline.projections.building import Builder
from tapeline.projections.state import ACTIVE, BUILDING, KEPT, known
from tapeline.replay import Options

CODEC = Codec(EVENTS, UPCASTERS)
tallies = Table("tallies", MetaData(), Column("name", String, primary_key=True), Column("events", BigInteger))
wide = Table("tallies", MetaData(), Column("name", String, primary_key=True), Column("double", BigInteger))


class Tallies:
    """How many events each name has."""

    name = "tallies"
    version = 1
    kinds = frozenset({"run"})
    tables: Sequence[Table] = (tallies,)

    def keys(self, event: StoredEvent, /) -> Iterable[tuple[Table, tuple[Any, ...]]]:
        yield tallies, (event.data.name,)

    def apply(self, rows: Rows, event: StoredEvent, /) -> None:
        row = rows.get(tallies, event.data.name)
        rows.put(tallies, {"name": event.data.name, "events": (row["events"] if row else 0) + 1})


class Doubled(Tallies):
    """The same in another column: another version."""

    version = 2
    tables = (wide,)

    def keys(self, event: StoredEvent, /) -> Iterable[tuple[Table, tuple[Any, ...]]]:
        yield wide, (event.data.name,)

    def apply(self, rows: Rows, event: StoredEvent, /) -> None:
        row = rows.get(wide, event.data.name)
        rows.put(wide, {"name": event.data.name, "double": (row["double"] if row else 0) + 2})


class World:
    """A log that grows, a projector that follows it, and one that only builds."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.log = InMemoryLog(CODEC)
        self.deciders = Deciders(self.log, CODEC, FakeClock())
        self.tasks: list[asyncio.Task[None]] = []
        self.position = 0

    def projector(self, fold: Tallies | None = None) -> Projector:
        return Projector(LogSource(self.log, CODEC, Tallies.kinds), fold or Tallies(), self.engine)

    async def live(self, fold: Tallies | None = None) -> Projector:
        projector = self.projector(fold)
        await projector.open()
        self.tasks.append(asyncio.create_task(projector.run()))
        return projector

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()

    async def grow(self, count: int) -> None:
        for _ in range(count):
            name = f"n{self.position}"
            command = ClaimName(name=name, holder="x", what="run")
            ref = name_ref("main", "run", name)
            self.position = (await self.deciders.handle(names, ref, command, origin_of("user:ann", None))).position

    async def rebuilt(self, fold: Tallies | None = None, **options: Any) -> replay.Rebuilt:
        (report,) = await replay.rebuild_projectors({"s": [self.projector(fold)]}, options=Options(**options))
        return report

    async def states(self) -> dict[int, str]:
        return {each.generation: each.state for each in await self.engine.read(known)}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    engine = make_engine(database_url)
    world = World(engine)
    yield world
    await world.stop()
    await engine.dispose()


def total(connection: Connection) -> int:
    return int(connection.scalar(select(func.sum(tallies.c.events))) or 0)


async def test_no_query_fails_or_is_wrong_while_generations_are_switched(world: World) -> None:
    await world.grow(300)
    projector = await world.live()
    reader = Reader(world.engine, projector)
    over = asyncio.Event()
    asked = 0

    async def ask() -> None:
        nonlocal asked
        while not over.is_set():
            at = world.position
            found = await reader.at(at, total)
            # Each commit has one event: the rows tell exactly how far they are.
            assert found >= at
            asked += 1
            await asyncio.sleep(0)

    async def write() -> None:
        while not over.is_set():
            await world.grow(1)
            await asyncio.sleep(0.002)

    work = [asyncio.create_task(one) for one in (ask(), ask(), write())]
    try:
        for turn in range(4):
            report = await world.rebuilt(compare=True)
            assert report.equal
            assert report.generation == turn + 2
    finally:
        over.set()
        await asyncio.gather(*work)
    assert asked > 20
    assert await reader.at(world.position, total) == world.position
    assert await world.states() == {4: KEPT, 5: ACTIVE}
    assert projector.fault is None


async def test_a_build_that_was_killed_goes_on_where_it_was(world: World) -> None:
    await world.grow(30)
    await world.live()
    first = Builder(world.projector())
    await first.build(20)
    # Killed: nobody lets go of it, and its process is not there any more.
    world_name = first.generation.known
    assert world_name.state == BUILDING
    with pytest.raises(TapelineError, match="is being rebuilt") as refused:
        await world.rebuilt()
    assert refused.value.code == "conflict"
    first._generation = None
    await world.engine.write(lambda connection: _dead(connection))
    seen: list[int] = []
    second = Builder(world.projector(), lambda position, end: seen.append(position))
    await second.build()
    assert second.generation.known.generation == 2
    assert second.generation.position == 30
    assert seen == [30]
    await second.switch()
    assert await world.states() == {1: KEPT, 2: ACTIVE}
    assert await world.engine.read(total) == 30


def _dead(connection: Connection) -> None:
    from tapeline.projections.state import write

    for each in known(connection):
        if each.state == BUILDING:
            write(connection, each, beat=0.0)


async def test_one_goes_back_to_the_generation_before_with_all_that_came_since(world: World) -> None:
    await world.grow(10)
    projector = await world.live()
    await projector.wait_for(10)
    assert (await world.rebuilt()).generation == 2
    await world.grow(5)
    await projector.wait_for(15, 10)
    back = await world.rebuilt(back=True)
    assert (back.generation, back.rows) == (1, 15)
    assert await world.states() == {1: ACTIVE, 2: KEPT}
    await world.grow(1)
    assert await Reader(world.engine, projector).at(16, total) == 16


async def test_what_was_built_waits_to_be_shown(world: World) -> None:
    await world.grow(10)
    await world.live()
    report = await world.rebuilt(switch=False)
    assert (report.generation, report.shown) == (2, False)
    assert await world.states() == {1: ACTIVE, 2: BUILDING}
    await world.grow(3)
    shown = await world.rebuilt(keep=0)
    assert (shown.generation, shown.rows) == (2, 13)
    assert await world.states() == {2: ACTIVE}


async def test_no_generation_before_is_there_to_go_back_to(world: World) -> None:
    await world.live()
    with pytest.raises(TapelineError) as refused:
        await world.rebuilt(back=True)
    assert refused.value.code == "not_found"


async def test_newer_code_builds_its_own_tables_before_it_serves(world: World) -> None:
    await world.grow(10)
    old = await world.live()
    await old.wait_for(10)
    await world.stop()
    await world.grow(5)
    new = world.projector(Doubled())
    await new.open()
    assert new.position == 15
    doubled = select(func.sum(wide.c.double))
    assert await world.engine.read(lambda connection: connection.scalar(doubled)) == 30
    assert await world.states() == {1: KEPT, 2: ACTIVE}
    with pytest.raises(TapelineError, match="version 1") as refused:
        await world.rebuilt(Doubled(), back=True)
    assert refused.value.code == "conflict"
    # Code of the old version goes back to what was kept of it, and to nothing else.
    (back,) = await replay.rebuild_projectors({"s": [world.projector()]}, options=Options(back=True))
    assert (back.generation, await world.engine.read(total)) == (1, 15)


async def test_a_live_projector_does_not_serve_tables_of_another_version(world: World) -> None:
    await world.grow(10)
    old = await world.live()
    await old.wait_for(10)
    await world.rebuilt(Doubled())
    with pytest.raises(TapelineError, match="version 2 now") as stopped:
        await asyncio.wait_for(asyncio.shield(world.tasks[0]), 10)
    assert stopped.value.code == "conflict"
    with pytest.raises(TapelineError, match="stopped") as refused:
        await Reader(world.engine, old).at(None, total)
    assert refused.value.code == "unavailable"


async def test_only_the_version_that_is_meant_is_built(world: World) -> None:
    await world.live()
    with pytest.raises(TapelineError, match="folds version 1 of tallies, not 7") as refused:
        await world.rebuilt(version=7)
    assert refused.value.code == "invalid"
