"""The replay tools: a whole log is complete, a damaged one says where; rebuilt tables equal the live ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table, text

from tapeline import names, replay
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.database import make_engine, sqlite_url
from tapeline.decider import Deciders, origin_of
from tapeline.errors import TapelineError
from tapeline.log import StoredCommit, StoredEvent
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.names import ClaimName, ReleaseName, name_ref
from tapeline.projections import LogSource, Projector, Rows

CODEC = Codec(EVENTS, UPCASTERS)
METADATA = MetaData()
claims = Table(
    "claims",
    METADATA,
    Column("name", String, primary_key=True),
    Column("holder", String),
    Column("events", Integer),
    Column("digest", LargeBinary),
)


class Claims:
    """Who claimed which name last."""

    name = "claims"
    version = 1
    kinds = frozenset({"vault"})
    tables = (claims,)

    def keys(self, event: StoredEvent) -> Iterable[tuple[Table, tuple[Any, ...]]]:
        yield claims, (event.data.name,)

    def apply(self, rows: Rows, event: StoredEvent) -> None:
        row = rows.get(claims, event.data.name) or {"events": 0}
        more = {"name": event.data.name, "holder": event.data.holder, "digest": event.id.encode()}
        rows.put(claims, row | more | {"events": row["events"] + 1})


@pytest.fixture
async def log() -> InMemoryLog:
    """Twelve commits of four names."""
    made = InMemoryLog(CODEC)
    deciders = Deciders(made, CODEC, FakeClock())
    for i in range(12):
        name = f"name{i % 4}"
        wish = (
            ReleaseName(name=name, holder=f"h{i % 4}")
            if i // 4 == 1
            else ClaimName(name=name, holder=f"h{i % 4}", what="item")
        )
        ref = name_ref("contoso", "vault", name)
        await deciders.handle(names, ref, wish, origin_of("user:ann", f"c{i}"))
    return made


class Damaged:
    """A log whose commits a test has changed."""

    def __init__(self, log: InMemoryLog, commits: list[StoredCommit]) -> None:
        self._log = log
        self._commits = commits

    async def head(self) -> Any:
        return await self._log.head()

    async def read(self, **_: Any) -> AsyncIterator[list[StoredCommit]]:
        yield self._commits


async def _commits(log: InMemoryLog) -> list[StoredCommit]:
    return [commit async for part in log.read() for commit in part]


async def test_a_whole_log_is_complete(log: InMemoryLog) -> None:
    report = await replay.verify(log)
    assert report.ok
    assert str(report) == "complete: 12 events in 12 commits, not sealed"


@pytest.mark.parametrize("field", ["header", "body"])
async def test_every_changed_byte_is_found(log: InMemoryLog, field: str) -> None:
    commits = await _commits(log)
    whole = getattr(commits[2], field)
    for i in range(len(whole)):
        changed = whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :]
        damaged = [*commits]
        damaged[2] = replace(commits[2], **{field: changed})
        report = await replay.verify(Damaged(log, damaged))  # type: ignore[arg-type]
        assert not report.ok, f"byte {i} of the {field} changed unnoticed"


async def test_a_hole_is_named_with_its_position(log: InMemoryLog) -> None:
    commits = await _commits(log)
    report = await replay.verify(Damaged(log, commits[:5] + commits[6:]))  # type: ignore[arg-type]
    assert ("hole", 7) in {(fault.kind, fault.position) for fault in report.faults}


async def test_the_tail_is_the_last_events(log: InMemoryLog) -> None:
    lines = [line async for line in replay.tail(log, n=3)]
    assert [line.event.position for line in lines] == [10, 11, 12]
    assert lines[0].to_json()["type"] == "NameClaimed"
    assert [line async for line in replay.tail(log, after=11, kind="run")] == []


async def test_an_aggregate_is_shown_whole(log: InMemoryLog) -> None:
    ref = name_ref("contoso", "vault", "name1")
    assert [line.event.sequence for line in await replay.show(log, f"contoso/{ref}")] == [1, 2, 3]
    assert [line.event.sequence for line in await replay.show(log, str(ref))] == [1, 2, 3]
    assert [line.event.position for line in await replay.show(log, "5")] == [5]
    with pytest.raises(TapelineError, match="no position 99 in the log, which ends at 12"):
        await replay.show(log, "99")


@pytest.fixture
async def projector(log: InMemoryLog, tmp_path: Path) -> AsyncIterator[Projector]:
    """A running projector that keeps its tables at the end of the log."""
    engine = make_engine(sqlite_url(tmp_path / "vault.db"))
    projector = Projector(LogSource(log, CODEC, Claims.kinds), Claims(), engine)
    await projector.open()
    task = asyncio.create_task(projector.run())
    await projector.wait_for(12)
    yield projector
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await engine.dispose()


COMPARED = replay.Options(compare=True)


async def test_rebuilt_tables_equal_the_live_ones(projector: Projector) -> None:
    (report,) = await replay.rebuild_projectors({"vault": [projector]}, options=COMPARED)
    assert (report.name, report.position, report.before, report.rows, report.equal) == ("claims", 12, 4, 4, True)


async def test_a_row_that_the_log_does_not_know_is_told(projector: Projector) -> None:
    changed = text("UPDATE claims__g1 SET holder = 'nobody' WHERE name = 'name1'")
    await projector.engine.write(lambda connection: connection.execute(changed))
    (report,) = await replay.rebuild_projectors({"vault": [projector]}, "claims", COMPARED)
    assert not report.equal
    assert len(report.differences) == 2
    assert '"holder":"nobody"' in report.differences[0]
    (again,) = await replay.rebuild_projectors({"vault": [projector]}, "claims", COMPARED)
    assert again.equal


async def test_an_unknown_projection_is_named_with_those_that_are_there(projector: Projector) -> None:
    with pytest.raises(TapelineError, match="'nothing'") as refused:
        await replay.rebuild_projectors({"vault": [projector]}, "nothing")
    assert refused.value.hint == "projections are: claims"
