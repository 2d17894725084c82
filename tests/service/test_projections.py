"""Projections on real SQLite and PostgreSQL: exactly once, in one transaction, refilled when emptied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, select

from tapeline import names
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.names import NameClaimed, NameReleased
from tapeline.database import Engine, make_engine, sqlite_url
from tapeline.decider import Deciders, origin_of
from tapeline.errors import TapelineError
from tapeline.log import StoredEvent
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.names import ClaimName, ReleaseName, name_ref
from tapeline.projections import LogSource, Projector, Reader, Row, Rows, positions, reset

METADATA = MetaData()
holders = Table(
    "holders",
    METADATA,
    Column("name", String, primary_key=True),
    Column("holder", String),
    Column("changes", Integer, default=0),
)


class Holders:
    """Who holds which name, and how often that changed."""

    name = "holders"
    version = 1
    kinds = frozenset({"run"})
    tables = (holders,)

    def keys(self, event: StoredEvent) -> Iterable[tuple[Table, tuple[Any, ...]]]:
        yield holders, (event.data.name,)

    def apply(self, rows: Rows, event: StoredEvent) -> None:
        row: Row = rows.get(holders, event.data.name) or {"name": event.data.name, "changes": 0}
        match event.data:
            case NameClaimed(holder=holder):
                rows.put(holders, row | {"holder": holder, "changes": row["changes"] + 1})
            case NameReleased(name="gone"):
                rows.delete(holders, "gone")
            case NameReleased():
                rows.put(holders, row | {"holder": None, "changes": row["changes"] + 1})


CODEC = Codec(EVENTS, UPCASTERS)


@pytest.fixture
def log() -> InMemoryLog:
    return InMemoryLog(CODEC)


@pytest.fixture
def deciders(log: InMemoryLog) -> Deciders:
    return Deciders(log, CODEC, FakeClock())


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    await engine.dispose()


def make_projector(log: InMemoryLog, engine: Engine) -> Projector:
    return Projector(LogSource(log, CODEC, Holders.kinds), Holders(), engine)


@pytest.fixture
async def projector(log: InMemoryLog, engine: Engine) -> AsyncIterator[Projector]:
    projector = make_projector(log, engine)
    await projector.open()
    task = asyncio.create_task(projector.run())
    yield projector
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def churn(deciders: Deciders, turns: int, *, names_of: int = 5) -> int:
    position = 0
    for turn in range(turns):
        name = "gone" if turn % 7 == 3 else f"n{turn % names_of}"
        ref = name_ref("main", "run", name)
        held = (await deciders.state(names, ref)).holder is not None
        command = ReleaseName(name=name, holder="a") if held else ClaimName(name=name, holder="a", what="run")
        position = (await deciders.handle(names, ref, command, origin_of("user:ann", None))).position
    return position


async def rows(engine: Engine) -> list[tuple[Any, ...]]:
    everything = select(holders).order_by(holders.c.name)
    return await engine.read(lambda connection: [tuple(row) for row in connection.execute(everything)])


async def test_a_reply_can_be_read_back_at_its_position(
    deciders: Deciders, projector: Projector, engine: Engine
) -> None:
    position = await churn(deciders, 1)
    assert await Reader(engine, projector).at(position, Connection.scalar, select(holders.c.holder)) == "a"


async def test_an_answer_is_remembered_until_a_row_of_its_table_changes(
    deciders: Deciders, projector: Projector, engine: Engine
) -> None:
    reader, asked = Reader(engine, projector), []

    def holder(connection: Connection, name: str) -> str | None:
        asked.append(name)
        return connection.scalar(select(holders.c.holder).where(holders.c.name == name))

    async def kept(position: int) -> str | None:
        return await reader.kept(position, "holders", holder, "n0")

    position = await churn(deciders, 1)
    assert [await kept(position) for _ in range(3)] == ["a"] * 3
    # The first of them waited for the change of the table, so that its answer might have been one from before it.
    many = len(asked)
    assert many <= 2
    assert await reader.kept(position, "holders", holder, "n1") is None, "another question has an answer of its own"
    position = await churn(deciders, 1)
    assert [await kept(position) for _ in range(3)] == [None] * 3
    assert asked.count("n0") <= many + 2

    await engine.write(lambda connection: reset(connection, "holders"))
    async with asyncio.timeout(10):
        while await kept(0) == "a" or projector.position < position:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await kept(position) is None


async def test_what_another_copy_may_change_is_not_remembered(
    log: InMemoryLog, deciders: Deciders, engine: Engine
) -> None:
    class Free:
        """A lease that nobody else wants."""

        holder = "me"

        async def take(self) -> bool:
            return True

        async def keep(self) -> None:
            await asyncio.Event().wait()

        async def give_back(self) -> None:
            pass

    projector = make_projector(log, engine)
    projector.stand_by(Free())
    await projector.open()
    task = asyncio.create_task(projector.run())
    position = await churn(deciders, 1)
    reader, asked = Reader(engine, projector), []

    def count(_connection: Connection) -> int:
        asked.append(1)
        return len(asked)

    assert [await reader.kept(position, "holders", count) for _ in range(3)] == [1, 2, 3]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_position_past_the_end_of_the_log_is_refused(projector: Projector) -> None:
    with pytest.raises(TapelineError, match="past the end") as refused:
        await projector.wait_for(99, timeout_s=0.05)
    assert refused.value.code == "invalid"


async def test_tables_that_are_not_there_yet_answer_behind(
    log: InMemoryLog, deciders: Deciders, engine: Engine
) -> None:
    projector = make_projector(log, engine)
    await projector.open()
    position = await churn(deciders, 2)
    with pytest.raises(TapelineError) as refused:
        await projector.wait_for(position, timeout_s=0.05)
    assert refused.value.code == "behind"


async def test_an_emptied_table_is_refilled_to_the_same_rows(
    deciders: Deciders, projector: Projector, engine: Engine
) -> None:
    position = await churn(deciders, 60)
    await projector.wait_for(position)
    before = await rows(engine)

    await engine.write(lambda connection: reset(connection, "holders"))
    assert await rows(engine) == []
    async with asyncio.timeout(10):
        while await rows(engine) != before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_two_projectors_on_one_table_count_each_commit_once(
    log: InMemoryLog, deciders: Deciders, projector: Projector, engine: Engine
) -> None:
    second = make_projector(log, engine)
    await second.open()
    task = asyncio.create_task(second.run())
    position = await churn(deciders, 100)
    await asyncio.gather(projector.wait_for(position, 10), second.wait_for(position, 10))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    counted = {name: changes for name, _, changes in await rows(engine)}
    expected: dict[str, int] = {}
    async for commits in log.read():
        for commit in commits:
            for event in CODEC.decode(commit):
                if isinstance(event.data, NameReleased) and event.data.name == "gone":
                    expected.pop("gone", None)
                else:
                    expected[event.data.name] = expected.get(event.data.name, 0) + 1
    assert counted == expected


async def test_a_restart_goes_on_where_the_transaction_ended(
    log: InMemoryLog, deciders: Deciders, engine: Engine, tmp_path: Path
) -> None:
    for _ in range(3):
        projector = make_projector(log, engine)
        await projector.open()
        task = asyncio.create_task(projector.run())
        position = await churn(deciders, 20)
        await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    projector = make_projector(log, engine)
    await projector.open()
    task = asyncio.create_task(projector.run())
    await projector.wait_for(position, 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    live = await rows(engine)
    assert await engine.read(lambda connection: connection.scalar(select(positions.c.position))) == position

    # A rebuild on the other kind of database gives the same rows.
    fresh = make_engine(sqlite_url(tmp_path / "fresh.db"))
    rebuilt = make_projector(log, fresh)
    await rebuilt.open()
    task = asyncio.create_task(rebuilt.run())
    await rebuilt.wait_for(position, 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await rows(fresh) == live
    await fresh.dispose()


async def test_tables_of_another_log_are_refused(deciders: Deciders, projector: Projector, engine: Engine) -> None:
    await churn(deciders, 1)
    foreign = make_projector(InMemoryLog(CODEC), engine)
    with pytest.raises(TapelineError) as refused:
        await foreign.open()
    assert refused.value.code == "log_mismatch"
