"""How the databases find runs by their names: an index where a pattern names one, and the same runs as by hand."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert, text

from tapeline.contracts.runs import CountRuns, ListRuns
from tapeline.database import Engine, make_engine, sqlite_url
from tapeline.runs import patterns
from tapeline.runs.metrics.tables import METADATA as MEASURED
from tapeline.runs.run import queries
from tapeline.runs.run.tables import METADATA, runs

NAMES = ["Test-Run", "test_run", "test9run", "ÄRGER", "back\\slash", "100%", "100", "a'b", ""]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "runs.db")
        return
    postgres = request.getfixturevalue("postgres")
    made = postgres.make_database()
    yield made
    postgres.drop_database(made)


@pytest.fixture
async def engine(url: str) -> AsyncIterator[Engine]:
    """Tables of 3,000 runs, a few of them with names of their own."""
    made = make_engine(url)
    await made.write(_fill)
    yield made
    await made.dispose()


def _fill(connection: Connection) -> None:
    METADATA.create_all(connection)
    MEASURED.create_all(connection)
    rows = []
    for i in range(3000):
        name = NAMES[i % len(NAMES)] if i % 300 == 0 else f"run {i % 1000}"
        rows.append(
            {
                "team": "contoso", "id": f"{i:032x}", "number": i, "name": name, "name_lower": name.lower(),
                "version": "1", "project_id": f"p{i % 3}", "blueprint_id": "b", "task_type": "t", "user_id": "ann",
                "resources": {"cpu": "1"}, "config": {"i": i}, "created_us": 10**15 + i, "status": "job_completed",
                "status_updated_us": 10**15 + i, "status_event": "e", "wanted_device": "any", "attempt": 1,
                "is_deleted": i % 50 == 7,
            }
        )  # fmt: skip
    connection.execute(insert(runs), rows)
    connection.execute(text("ANALYZE"))


def _plan(connection: Connection, query: ListRuns) -> list[str]:
    """How the database carries out a list of runs."""
    explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    told: list[str] = []

    def explained(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> Any:
        # Of a page, the question for its runs comes first.
        if not told:
            told.append(statement)
            return explain + statement, parameters
        return statement, parameters

    event.listen(connection, "before_cursor_execute", explained, retval=True)
    shape, values = queries._filters("contoso", query) or (None, None)
    assert shape is not None
    statement = queries._page_of(("id", "name"), shape, ("created_at:desc",))
    lines = connection.execute(statement, values | {"most": query.limit, "passed": 0}).cursor.fetchall()  # type: ignore[operator]
    event.remove(connection, "before_cursor_execute", explained)
    return [str(line[-1]) for line in lines]


async def test_a_name_without_wildcards_is_looked_up(engine: Engine) -> None:
    for pattern in ("Run 5", "test\\_run", "100\\%"):
        plan = await engine.read(lambda c, each=pattern: _plan(c, ListRuns(name_ilikes=[each])))  # type: ignore[misc]
        assert any("runs_by_name_lower" in line for line in plan)
        assert not any(line.startswith("SCAN") or "Seq Scan" in line for line in plan)


async def test_names_and_patterns_find_what_they_match_by_hand(engine: Engine) -> None:
    def by_hand(connection: Connection, asked: list[str]) -> list[str]:
        rows = connection.execute(runs.select().where(runs.c.is_deleted.is_(False))).mappings()
        found = [row for row in rows if any(patterns.matches(each, row["name"]) for each in asked)]
        return [row["id"] for row in sorted(found, key=lambda row: (-row["created_us"], row["id"]))]

    def compare(connection: Connection) -> None:
        dice = random.Random(8)
        some = [
            "run 5",
            "RUN 5",
            "run _",
            "%run 99%",
            "ärger",
            "back\\\\slash",
            "back\\slash",
            "100\\%",
            "100%",
            "",
            "%",
        ]
        for _ in range(6):
            asked = dice.sample(some, dice.randrange(1, 4))
            listed = queries.listed(connection, "contoso", ListRuns(name_ilikes=asked, limit=1000))
            wanted = by_hand(connection, asked)
            assert [run.id for run in listed] == wanted[:1000]
            assert queries.counted(connection, "contoso", CountRuns(name_ilikes=asked)) == len(wanted)

    await engine.read(compare)
