"""How functions run over a connection: short ones at once, long ones beside, each in one transaction."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, text

from tapeline import database
from tapeline.database import Engine, make_engine, sqlite_url
from tapeline.errors import TapelineError
from tapeline.projections import Row, rows_of
from tapeline.projections.statements import upsert

LONG = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT count(*) FROM n")


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    engine = make_engine(database_url)
    await engine.write(lambda connection: connection.execute(text("CREATE TABLE t (a INTEGER)")))
    yield engine
    await engine.dispose()


def count(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT count(*) FROM t")) or 0)


def add(connection: Connection) -> None:
    connection.execute(text("INSERT INTO t VALUES (1)"))


@pytest.mark.parametrize("is_short", [True, False])
async def test_what_raises_leaves_nothing(engine: Engine, is_short: bool) -> None:
    def work(connection: Connection) -> None:
        add(connection)
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        await engine.write(work, is_short=is_short)
    assert await engine.read(count) == 0
    await engine.write(add, is_short=is_short)
    assert await engine.read(count) == 1


async def test_many_writers_and_readers_get_their_turns(engine: Engine) -> None:
    await asyncio.gather(*(engine.write(add, is_short=i % 2 == 0) for i in range(40)))
    assert await asyncio.gather(*(engine.read(count) for _ in range(10))) == [40] * 10


async def test_a_question_that_is_cut_off_leaves_no_transaction_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At each step there is a look at the clock, also at those of the end of a transaction.
    monkeypatch.setattr(database, "LOOK_EVERY", 1)
    engine = make_engine(sqlite_url(tmp_path / "t.db"))
    await engine.write(lambda connection: connection.execute(text("CREATE TABLE t (a INTEGER)")))

    def long(connection: Connection) -> int:
        time.sleep(2 * database.SHORT_S)
        return count(connection)

    for expected in range(3):
        assert await engine.read(long) == expected
        await engine.write(add, is_short=True)
    await engine.dispose()


async def test_a_long_question_is_answered_in_a_thread_and_holds_up_nobody(tmp_path: Path) -> None:
    engine = make_engine(sqlite_url(tmp_path / "t.db"))
    seen: list[str] = []

    def work(connection: Connection) -> int:
        seen.append(threading.current_thread().name)
        return int(connection.scalar(LONG) or 0)

    asked = asyncio.create_task(engine.read(work))
    turns = 0
    while not asked.done():
        turns += 1
        await asyncio.sleep(0)
    assert await asked == 1_000_000
    assert seen[0] == threading.main_thread().name
    assert seen[1].startswith("sqlite-reader")
    assert turns > 10
    await engine.dispose()


async def test_rows_by_key_that_are_cut_off_while_they_come_are_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SHORT_S", 0.0)
    # Late enough for the first row to be there, and early enough for the last one not to be.
    monkeypatch.setattr(database, "LOOK_EVERY", 500)
    engine = make_engine(sqlite_url(tmp_path / "t.db"))
    table = Table("t", MetaData(), Column("a", Integer, primary_key=True), Column("b", String(8)))
    await engine.write(table.create)
    await engine.write(lambda connection: upsert(connection, table, [{"a": i, "b": str(i)} for i in range(300)]))
    seen: list[str] = []

    def work(connection: Connection) -> list[Row]:
        seen.append(threading.current_thread().name)
        return rows_of(connection, table, [(i,) for i in range(300)])

    assert sorted(row["a"] for row in await engine.read(work)) == list(range(300))
    assert [name.startswith("sqlite-reader") for name in seen] == [False, True]
    await engine.dispose()


async def test_a_short_write_waits_in_a_thread_for_another_process(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    engine = make_engine(sqlite_url(path))
    await engine.write(lambda connection: connection.execute(text("CREATE TABLE t (a INTEGER)")))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    written = asyncio.create_task(engine.write(add, is_short=True))
    await asyncio.sleep(0.1)
    assert not written.done()
    assert await engine.read(count) == 0
    other.execute("COMMIT")
    await written
    assert await engine.read(count) == 1
    other.close()
    await engine.dispose()


async def test_all_of_a_question_is_of_one_moment(engine: Engine) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def twice(connection: Connection) -> tuple[int, int]:
        first = count(connection)
        if threading.current_thread() is not threading.main_thread():
            reading.set()
            go_on.wait(5)
        return first, count(connection)

    if engine.dialect.name == "sqlite":
        asked = asyncio.get_running_loop().run_in_executor(None, engine._read_beside, twice)  # type: ignore[attr-defined]
        await asyncio.to_thread(reading.wait, 5)
        await engine.write(add)
        go_on.set()
        assert await asked == (0, 0)
    else:

        def slow(connection: Connection) -> tuple[int, int]:
            first = count(connection)
            connection.execute(text("SELECT pg_sleep(0.3)"))
            return first, count(connection)

        asked = asyncio.ensure_future(engine.read(slow))
        await asyncio.sleep(0.1)
        await engine.write(add)
        assert await asked == (0, 0)
    assert await engine.read(count) == 1


def test_an_unknown_database_is_refused() -> None:
    with pytest.raises(TapelineError) as refused:
        make_engine("mysql://x")
    assert refused.value.code == "unsupported"
