"""Figures of the log against the eventsourcing library and the client library, in one run.

    python tests/bench/log.py [--events 30000] [--imported 150000] [--appends 500] [--rounds 3]

Prints one JSON object; `_1` and `_3` mean one event a commit and three. All sync to disk: nats-server with
`sync_interval: always`, SQLite in WAL with `synchronous=FULL`, PostgreSQL with `fsync=on`. The sides of each figure
take turns; ratios of medians are what counts. The library is given its own way: events through its mapper with its
JSON transcoder, many per transaction. `fsync` is what writing 500 bytes to a file and syncing it takes: no durable
append can be faster.

`store` is what an import writes, until it is on disk: plain publishes to a server of its own, the end of that server,
and a sync of its files; an insert of the library is held against it. `import` is all of `tapeline log import`: the
export is checked, the server started, commits stored and synced, the server started again. `batches` are atomic
batches to a running server that syncs always.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eventsourcing.domain import DomainEvent
from eventsourcing.persistence import ApplicationRecorder, DatetimeAsISO, EventStore, JSONTranscoder, Mapper, UUIDAsHex
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from sqlalchemy import make_url

from tapeline import replay, topology
from tapeline.home import Home
from tapeline.log import Appended, StoredCommit
from tapeline.log.bulk import BulkAppender, BulkClient
from tapeline.log.jetstream import JetStreamLog
from tapeline.replay.restore import sync_all
from tapeline.replay.still import StillLog
from tapeline.server_config import IMPORT_SYNC
from tapeline.testing.commits import Opened, codec, commit, till
from tapeline.testing.postgres import PostgresServer
from tapeline.testing.server import NatsServer, connect, connector
from tapeline.testing.stored import CODEC, stored_commits

WRITERS = 8
TEXT = "x" * 120  # brings the body of an append to about 300 bytes
PAGE = 1000


@dataclass(frozen=True)
class Taken(DomainEvent):
    """What the library stores: the fields of our `NumberTaken`, and the time that our envelope has."""

    number: int
    holder: str


class Given(StillLog):
    """Commits that are there, as a log to export."""

    def __init__(self, commits: list[StoredCommit]) -> None:
        super().__init__("0193-bench", len(commits))
        self._commits = commits

    async def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[StoredCommit], None]:
        for start in range(after, len(self._commits), PAGE):
            yield self._commits[start : start + PAGE]


class Peer:
    """The eventsourcing library on one database."""

    def __init__(self, name: str, recorder: ApplicationRecorder) -> None:
        transcoder = JSONTranscoder()
        transcoder.register(UUIDAsHex())
        transcoder.register(DatetimeAsISO())
        self.name = name
        self.recorder = recorder
        self.mapper: Mapper[uuid.UUID] = Mapper(transcoder)
        self.store: EventStore[uuid.UUID] = EventStore(self.mapper, recorder)
        self._id = uuid.uuid4()
        self._version = 0

    def event(self, id: uuid.UUID, version: int, text: str) -> Taken:
        return Taken(
            originator_id=id, originator_version=version, timestamp=datetime.now(UTC), number=version, holder=text
        )

    def append(self) -> None:
        self._version += 1
        self.store.put([self.event(self._id, self._version, TEXT)])

    def write(self, n: int) -> None:
        """Single appends by several threads at once, each on an aggregate of its own."""

        def writer(id: uuid.UUID) -> None:
            for version in range(1, n // WRITERS + 1):
                self.store.put([self.event(id, version, TEXT)])

        with ThreadPoolExecutor(WRITERS) as threads:
            list(threads.map(writer, [uuid.uuid4() for _ in range(WRITERS)]))

    def bulk(self, n: int) -> None:
        """Events of a thousand aggregates, a thousand in a transaction."""
        ids = [uuid.uuid4() for _ in range(PAGE)]
        for version in range(1, n // PAGE + 1):
            self.store.put([self.event(id, version, "h" * 36) for id in ids])

    def select(self) -> int:
        """Every event as bytes, a thousand in a SELECT."""
        n, start = 0, 1
        while page := self.recorder.select_notifications(start, PAGE):
            n, start = n + len(page), page[-1].id + 1
        return n

    def replay(self) -> int:
        """Every event, decoded."""
        n, start = 0, 1
        while page := self.recorder.select_notifications(start, PAGE):
            n, start = n + len([self.mapper.to_domain_event(one) for one in page]), page[-1].id + 1
        return n


@contextmanager
def peers(folder: Path) -> Iterator[list[Peer]]:
    """The library on SQLite and on PostgreSQL, both durable."""
    with ExitStack() as stack:
        lite = SQLiteDatastore(str(folder / "events.db"))
        stack.callback(lite.close)
        with lite.transaction(commit=False) as cursor:
            cursor.execute("PRAGMA synchronous")
            assert cursor.fetchone()[0] == 2, "SQLite must sync each transaction, as the log does"
        server = stack.enter_context(PostgresServer(durable=True))
        url = make_url(server.make_database())
        grown = PostgresDatastore(
            str(url.database), str(url.host), int(url.port or 0), str(url.username), str(url.password), pool_size=2
        )
        stack.callback(grown.close)
        recorders: list[SQLiteApplicationRecorder | PostgresApplicationRecorder] = [
            SQLiteApplicationRecorder(lite),
            PostgresApplicationRecorder(grown),
        ]
        for recorder in recorders:
            recorder.create_table()
        yield [Peer(name, recorder) for name, recorder in zip(("sqlite", "postgresql"), recorders, strict=True)]


@dataclass
class Figures:
    """Seconds that each thing took, in the order in which it was done."""

    took: dict[str, list[float]] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)

    async def time(self, name: str, work: Callable[[], Any], count: int = 1) -> Any:
        """Do something that is blocking or not, and note how long it took for how many."""
        gc.collect()
        began = time.perf_counter()
        done = work()
        if isinstance(done, Awaitable):
            done = await done
        self.took.setdefault(name, []).append(time.perf_counter() - began)
        self.count[name] = count
        return done

    def rate(self, name: str) -> float:
        return self.count[name] / statistics.median(self.took[name])


async def appends(server: NatsServer, many: list[Peer], n: int) -> dict[str, Any]:
    """One durable append after another, each side in turn, so that all see the same machine."""
    client, raw = await server.connect(), await server.connect()
    await topology.apply(client, topology.topology())
    log = JetStreamLog(client, codec(), connect=connector(server.url), role="bench")
    await raw.jetstream().add_stream(name="RAW", subjects=["raw.*"])
    _, body = codec().encode(commit("c", Opened(name=TEXT)))
    took: dict[str, list[float]] = {
        name: [] for name in ("fsync", "raw_publish", "tapeline", *(one.name for one in many))
    }
    last: Appended | None = None
    synced = os.open(server.folder / "synced", os.O_CREAT | os.O_WRONLY)
    for i in range(n):
        began = time.perf_counter()
        os.write(synced, bytes(500))
        os.fsync(synced)
        took["fsync"].append(time.perf_counter() - began)
        began = time.perf_counter()
        await raw.request("raw.x", body, timeout=5)
        took["raw_publish"].append(time.perf_counter() - began)
        began = time.perf_counter()
        new = commit(f"c{i}", Opened(name=TEXT), ref=till("bench"), after=last)
        last = await log.append(new, expected=last.position if last else 0)
        took["tapeline"].append(time.perf_counter() - began)
        for one in many:
            began = time.perf_counter()
            one.append()
            took[one.name].append(time.perf_counter() - began)
    os.close(synced)
    at_once = Figures()
    for _ in range(3):
        await at_once.time("tapeline", lambda: write(log, n), n)
        for one in many:
            await at_once.time(one.name, lambda one=one: one.write(n), n)  # type: ignore[misc]
    for one_client in (client, raw):
        await one_client.close()
    p50 = {name: statistics.median(each) for name, each in took.items()}
    ours = p50["tapeline"]
    return {
        "p50_ms": {name: round(each * 1e3, 3) for name, each in p50.items()},
        "p99_ms": {name: round(statistics.quantiles(each, n=100)[98] * 1e3, 2) for name, each in took.items()},
        "to_raw_publish": round(ours / p50["raw_publish"], 2),
        **{f"times_faster_than_{one.name}": round(p50[one.name] / ours, 2) for one in many},
        f"{WRITERS}_writers_per_s": {name: round(at_once.rate(name)) for name in at_once.took},
    }


async def write(log: JetStreamLog, n: int) -> None:
    """Single appends by several writers at once, each on an aggregate of its own."""

    async def writer(id: str) -> None:
        last: Appended | None = None
        for i in range(n // WRITERS):
            new = commit(f"c{i}", Opened(name=TEXT), ref=till(id), after=last)
            last = await log.append(new, expected=last.position if last else 0)

    await asyncio.gather(*(writer(uuid.uuid4().hex) for _ in range(WRITERS)))


async def published(client: BulkClient, commits: list[StoredCommit], *, atomic: bool = True) -> None:
    bulk = BulkAppender(client, position=0, atomic=atomic)
    for start in range(0, len(commits), PAGE):
        await bulk.add(commits[start : start + PAGE])
    await bulk.finish()


async def stored(server: NatsServer, client: BulkClient, commits: list[StoredCommit]) -> None:
    await published(client, commits, atomic=False)
    await client.close()
    await asyncio.to_thread(server.stop)
    sync_all(server.folder)


async def read(log: JetStreamLog) -> int:
    return sum([len(many) async for many in log.read()])


async def decoded(log: JetStreamLog) -> int:
    n = 0
    async for many in log.read():
        for one in many:
            n += len(CODEC.decode(one))
    return n


async def fetched(client: Client, n: int) -> int:
    """The client library's own way of reading a stream: `fetch`, to bytes."""
    js, name = client.jetstream(), f"fetch-{uuid.uuid4().hex}"
    config = ConsumerConfig(
        name=name, deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=9
    )
    await js.add_consumer("EVENTS", config)
    pull, got = await js.pull_subscribe_bind(name, "EVENTS"), 0
    while got < n:
        got += len(await pull.fetch(min(PAGE, n - got), timeout=5))
    return got


async def bulk(many: list[Peer], n: int, imported: int, rounds: int) -> dict[str, Any]:
    """Bulk import and replay; one event a commit, and three."""
    found = Figures()
    made = {each: stored_commits(imported // each, events=each) for each in (1, 3)}
    for _ in range(rounds):
        for one in many:
            await found.time(f"{one.name}_insert", lambda one=one: one.bulk(n), n)  # type: ignore[misc]
        for each, commits in made.items():
            await _round(found, commits, each, n // each)
        for one in many:
            total = one.select()
            await found.time(f"{one.name}_select", one.select, total)
            await found.time(f"{one.name}_select_and_decode", one.replay, total)
    inserts = [f"{one.name}_insert" for one in many]
    selects = [f"{one.name}_{how}" for one in many for how in ("select", "select_and_decode")]

    def times(ours: str, others: list[str]) -> dict[str, float]:
        return {f"{ours}_times_{name}": round(found.rate(ours) / found.rate(name), 2) for name in others}

    ratios: dict[str, float] = {}
    for each in made:
        for ours in ("store", "import", "batches"):
            ratios |= times(f"{ours}_{each}", inserts)
        ratios |= times(f"decode_{each}", [f"fetch_{each}", *selects])
    return {
        "events_per_s": {name: round(found.rate(name)) for name in found.took},
        "verify_commits_per_s": {f"verify_{each}": round(found.rate(f"verify_{each}") / each) for each in made},
        "ratios": ratios,
    }


async def _round(found: Figures, whole: list[StoredCommit], each: int, n: int) -> None:
    all_events, commits = len(whole) * each, whole[:n]
    events = len(commits) * each
    with tempfile.TemporaryDirectory() as folder, NatsServer() as source, NatsServer(sync=IMPORT_SYNC) as target:
        first, second = BulkClient(), BulkClient()
        for client, server in ((first, source), (second, target)):
            await connect(server.url, client)
            await topology.apply(client, topology.topology())
        await replay.export(Given(whole), Path(folder) / "export")
        home = Home(Path(folder) / "home")
        await found.time(f"store_{each}", lambda: stored(target, second, whole), all_events)
        await found.time(f"import_{each}", lambda: replay.restore(home, Path(folder) / "export"), all_events)
        log = JetStreamLog(first, CODEC, connect=connector(source.url), role="bench")
        await found.time(f"batches_{each}", lambda: published(first, commits), events)
        plain = await source.connect()
        fewer = min(len(commits), 10_000)
        await found.time(f"fetch_{each}", lambda: fetched(plain, fewer), fewer * each)
        await found.time(f"read_{each}", lambda: read(log), events)
        await found.time(f"decode_{each}", lambda: decoded(log), events)
        report = await found.time(f"verify_{each}", lambda: replay.verify(log), events)
        assert report.ok
        assert report.events == events
        for each_client in (first, plain):
            await each_client.close()


async def measured(many: list[Peer], events: int, imported: int, n: int, rounds: int) -> dict[str, Any]:
    async with NatsServer() as server:
        single = await appends(server, many, n)
    return {"append": single, **await bulk(many, events, imported, rounds)}


def main(events: int, imported: int, n: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder, peers(Path(folder)) as many:
        found = asyncio.run(measured(many, events, imported, n, rounds))
    machine = f"{platform.machine()} {os.cpu_count()} cores, Python {platform.python_version()}"
    found["goals"] = goals(found)
    print(json.dumps({"machine": machine, "load": round(os.getloadavg()[0], 1), **found}, indent=1))


def goals(found: dict[str, Any]) -> dict[str, Any]:
    """What is aimed at, what was measured, and whether that is reached."""
    per_s, ratios = found["events_per_s"], found["ratios"]
    aims = {
        "single append, times faster than the library on SQLite": (found["append"]["times_faster_than_sqlite"], 4),
        "single append, times faster than the library on PostgreSQL": (
            found["append"]["times_faster_than_postgresql"], 4
        ),
        "bulk import without checks, events/s": (per_s["store_3"], 100_000),
        "bulk import with all checks, events/s": (per_s["import_3"], 100_000),
        "bulk import with all checks, times the library's insert into SQLite": (
            ratios["import_3_times_sqlite_insert"], 1
        ),
        "replay to decoded events, times the client's fetch": (ratios["decode_1_times_fetch_1"], 3.5),
        "replay to decoded events, times the library's select from SQLite, decoded": (
            ratios["decode_1_times_sqlite_select_and_decode"], 1
        ),
        "verify, commits/s": (found["verify_commits_per_s"]["verify_1"], 100_000),
    }  # fmt: skip
    return {what: {"aim": aim, "found": value, "reached": value >= aim} for what, (value, aim) in aims.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--imported", type=int, default=150_000)
    parser.add_argument("--appends", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    main(given.events, given.imported, given.appends, given.rounds)
