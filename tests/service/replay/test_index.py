"""The standard projections: the index of events answers as the whole log does, and the copy is exact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from tapeline import replay
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.database import Engine, make_engine, sqlite_url
from tapeline.log.codec import Codec, digest
from tapeline.log.memory import InMemoryLog
from tapeline.projections.parked import parked_table
from tapeline.projections.standard import standard
from tapeline.projections.standard.tables import event_index
from tapeline.testing.postgres import PostgresServer
from tapeline.testing.recorded import log_of, read_log

CODEC = Codec(EVENTS, UPCASTERS)
RECORDED = Path(__file__).parents[2] / "assets" / "logs" / "0.1.0.jsonl"


@pytest.fixture
def log() -> InMemoryLog:
    """The recorded log of this version, which has every type of event."""
    return log_of(read_log(RECORDED), CODEC, FakeClock())


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    made = make_engine(sqlite_url(tmp_path / "runs.db"))
    yield made
    await made.dispose()


@pytest.fixture
def copied(postgres: PostgresServer) -> str:
    """An empty database of PostgreSQL."""
    return postgres.make_database()


async def followed(log: Any, engine: Engine, upto: int) -> None:
    """Let the standard projections follow a log up to a position."""
    projectors = standard(log, engine)
    for each in projectors:
        await each.open()
    tasks = [asyncio.create_task(each.run()) for each in projectors]
    for each in projectors:
        await each.wait_for(upto, 30)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Shorter:
    """The beginning of a log, as if the rest had not happened yet."""

    def __init__(self, log: InMemoryLog, end: int) -> None:
        self._log = log
        self._end = end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def read(self, *, after: int = 0, upto: int | None = None, follow: bool = False) -> AsyncIterator[Any]:
        async for commits in self._log.read(after=after, upto=self._end):
            yield commits
        if follow:
            await asyncio.Event().wait()


@pytest.mark.parametrize("share", [0.5, 1.0])
async def test_the_index_gives_every_chain_that_the_whole_log_gives(
    log: InMemoryLog, engine: Engine, share: float
) -> None:
    head = (await log.head()).position
    await followed(Shorter(log, int(head * share)), engine, int(head * share))
    index = await replay.index_of({"runs": engine}, log)
    assert index is not None
    assert index.position == int(head * share)
    commits = read_log(RECORDED)
    events = [event for commit in commits for event in CODEC.decode(commit)]
    refs = {f"{event.ref.team}/{event.ref}" for event in events}
    digests = {file for event in events for file in _digests(event.data)}
    targets = [*sorted(refs)[::3], *sorted(digests)[::3], "vault:demo_model", *(event.id for event in events[::20])]
    assert digests
    for target in targets:
        whole, looked = await replay.why(log, target), await replay.why(log, target, index=index)
        assert looked == whole, target


def _digests(data: Any) -> set[str]:
    found = [getattr(data, "manifest", None), getattr(data, "model", None), *(getattr(data, "files", None) or ())]
    return {each.sha256 for each in found if each is not None and hasattr(each, "sha256")}


async def test_the_last_events_of_a_kind_are_found_by_the_index_as_by_reading_all(
    log: InMemoryLog, engine: Engine
) -> None:
    head = (await log.head()).position
    await followed(Shorter(log, head - 20), engine, head - 20)
    index = await replay.index_of({"runs": engine}, log)
    last = CODEC.decode(read_log(RECORDED)[-1])[-1]
    chosen: list[dict[str, Any]] = [
        {"kind": "run"},
        {"type": "NameClaimed"},
        {"team": last.ref.team, "kind": "vault"},
        {"aggregate": str(last.ref)},
        {"aggregate": f"{last.ref.team}/{last.ref}"},
        {"type": "NoSuchType"},
    ]
    for wanted in chosen:
        for n in (1, 3, 1000):
            whole = [line.event async for line in replay.tail(log, n=n, **wanted)]
            assert [line.event async for line in replay.tail(log, n=n, index=index, **wanted)] == whole, wanted
    for ref in {event.ref for commit in read_log(RECORDED) for event in CODEC.decode(commit)}:
        assert await replay.find_ref(log, str(ref)) == ref


async def test_an_index_that_does_not_tell_of_all_of_this_log_is_not_asked(log: InMemoryLog, engine: Engine) -> None:
    assert await replay.index_of({"runs": engine}, log) is None
    head = (await log.head()).position
    await followed(log, engine, head)
    assert await replay.index_of({"runs": engine}, log) is not None
    other = InMemoryLog(CODEC)
    assert await replay.index_of({"runs": engine}, other) is None
    parked = {
        "name": "event_index", "generation": 1, "aggregate": "a/run/b", "position": 3, "error": "", "since": "",
        "tries": 0, "wanted": False,
    }  # fmt: skip
    await engine.write(lambda connection: connection.execute(insert(parked_table), [parked]))
    assert await replay.index_of({"runs": engine}, log) is None


async def test_every_event_is_in_the_index_once_with_the_digest_of_its_commit(log: InMemoryLog, engine: Engine) -> None:
    await followed(log, engine, (await log.head()).position)
    commits = read_log(RECORDED)
    events = [event for commit in commits for event in CODEC.decode(commit)]
    columns = [event_index.c["position"], event_index.c["index"], event_index.c.event_id, event_index.c.digest]
    query = select(*columns).order_by(*columns[:2])
    rows = await engine.read(lambda connection: [tuple(row) for row in connection.execute(query)])
    digests = {one.position: digest(one.subject, one.header, one.body) for one in commits}
    assert rows == [(event.position, event.index, event.id, digests[event.position]) for event in events]


async def test_postgresql_keeps_an_exact_copy_that_the_log_is_verified_against(log: InMemoryLog, copied: str) -> None:
    engine = make_engine(copied)
    try:
        head = (await log.head()).position
        await followed(log, engine, head)
        copy = await replay.copy_in({"all": engine})
        assert (await copy.head()).position == head
        assert (await replay.verify(log, against=copy)).ok
        index = await replay.index_of({"all": engine}, log)
        assert await replay.why(log, "vault:demo_model", index=index) == await replay.why(log, "vault:demo_model")
        count = select(func.count()).select_from(event_index)
        assert (await engine.read(lambda connection: connection.scalar(count)) or 0) > head
    finally:
        await engine.dispose()
