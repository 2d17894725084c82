"""The log is exported by itself, and the export is tried out by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from nats.aio.client import Client

from tapeline import replay, topology
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.errors import TapelineError
from tapeline.home import Home
from tapeline.log.codec import Codec
from tapeline.log.lease import KvLease, while_held
from tapeline.log.memory import InMemoryLog
from tapeline.replay.backups import Backups, folder_of, read_backup
from tapeline.replay.manifest import MANIFEST
from tapeline.testing.server import NatsServer

MakeLog = Callable[..., Awaitable[InMemoryLog]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.make()
    return made


class Drill:
    """Counts, and fails when it is told to."""

    def __init__(self) -> None:
        self.times = 0
        self.fails = False

    async def __call__(self, folder: Path) -> str:
        self.times += 1
        if self.fails:
            raise TapelineError("segment 1 is cut off", code="corrupt")
        return "all of it"


def backups(log: InMemoryLog, home: Home, clock: FakeClock, drill: Drill, every: int = 50_000) -> Backups:
    shelf = replay.Shelf(home.seals, frozenset())
    return Backups(log, home, shelf, clock, every, drill)


async def test_an_empty_log_has_no_backup(make_log: MakeLog, home: Home) -> None:
    made = await backups(await make_log(0), home, FakeClock(), Drill()).look()
    assert (made.position, made.exported_at) == (0, None)
    assert not (home.store / "backups").exists()


async def test_the_log_is_exported_once_a_night_and_after_so_many_commits(make_log: MakeLog, home: Home) -> None:
    log, clock, drill = await make_log(10), FakeClock(), Drill()
    work = backups(log, home, clock, drill, every=20)
    assert (await work.look()).position == 10
    await _grow(log, 5)
    assert (await work.look()).position == 10, "neither a night nor twenty commits have passed"
    clock.advance(timedelta(hours=25).total_seconds())
    assert (await work.look()).position == 15
    await _grow(log, 20)
    assert (await work.look()).position == 35
    folder = folder_of(home, (await log.head()).log_id)
    assert replay.verify_only(folder).position == 35
    assert drill.times == 1, "the drill is weekly"


async def test_the_restore_drill_is_weekly_and_says_what_it_found(make_log: MakeLog, home: Home) -> None:
    log, clock, drill = await make_log(10), FakeClock(), Drill()
    work = backups(log, home, clock, drill)
    made = await work.look()
    assert "the restore drill 0.0 h ago passed, all of it" in made.told(10, clock.now())
    clock.advance(timedelta(days=8).total_seconds())
    drill.fails = True
    made = await work.look()
    assert (drill.times, made.ok) == (2, False)
    assert made.told(10, clock.now()).endswith("failed: segment 1 is cut off")
    assert read_backup(home, (await log.head()).log_id) == made
    clock.advance(timedelta(days=8).total_seconds())
    drill.fails = False
    assert (await work.look()).ok


async def test_a_backup_is_not_written_over_by_a_log_that_lost_its_tail(make_log: MakeLog, home: Home) -> None:
    log, clock = await make_log(10), FakeClock()
    await backups(log, home, clock, Drill()).look()
    shorter = InMemoryLog(Codec(EVENTS, UPCASTERS, TOMBSTONES), log_id=(await log.head()).log_id)
    await make_log(4, log=shorter)
    clock.advance(timedelta(hours=25).total_seconds())
    made = await backups(shorter, home, clock, Drill()).look()
    assert made.error is None, "nothing new: nothing is exported"
    other = InMemoryLog(Codec(EVENTS, UPCASTERS, TOMBSTONES), log_id=(await log.head()).log_id)
    await make_log(12, events=2, log=other)
    made = await backups(other, home, clock, Drill()).look()
    assert made.error == "the commit at position 10 is not the one that was exported"
    assert replay.read_manifest(folder_of(home, (await log.head()).log_id)).position == 10


async def test_an_export_that_failed_is_tried_again(make_log: MakeLog, home: Home) -> None:
    log, clock = await make_log(10), FakeClock()
    work = backups(log, home, clock, Drill())
    folder = folder_of(home, (await log.head()).log_id)
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{")
    assert "is torn or no JSON" in str((await work.look()).error)
    (folder / MANIFEST).unlink()
    assert (await work.look()).ok


async def test_the_drill_is_an_import_that_writes_nothing(make_log: MakeLog, home: Home) -> None:
    log = await make_log(10)
    shelf = replay.Shelf(home.seals, frozenset())
    work = Backups(log, home, shelf, FakeClock())
    assert (await work.look()).drill == "10 events in 10 commits"
    folder = folder_of(home, (await log.head()).log_id)
    next(folder.glob("*.zst")).write_bytes(b"")
    (folder / "report.json").unlink()
    made = await work.look()
    assert "has 0 bytes, the manifest says" in str(made.drill_error)


async def test_lag_tells_of_the_backup(make_log: MakeLog, home: Home, tmp_path: Path) -> None:
    log = await make_log(12)
    await replay.export(log, tmp_path / "x")
    await replay.restore(home, tmp_path / "x")
    seen = await replay.backup_of(home)
    assert (str(seen), seen.to_json()["lag"], seen.backup.ok) == ("backup: none yet", 12, True)
    drill = Drill()
    drill.fails = True
    await backups(log, home, FakeClock(), drill).look()
    seen = await replay.backup_of(home)
    assert (seen.to_json()["lag"], seen.to_json()["position"], seen.backup.ok) == (0, 12, False)
    assert "failed: segment 1 is cut off" in str(seen)


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[Client]:
    client = await server.connect()
    await topology.apply(client, topology.topology())
    yield client
    await client.close()


async def test_one_of_two_copies_works_until_it_loses_its_lease(client: Client) -> None:
    """The other one begins only then, and the first one ends what it did."""
    at_work: list[str] = []
    begun = asyncio.Event()

    def copy(name: str) -> asyncio.Task[None]:
        async def work() -> None:
            at_work.append(name)
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                at_work.remove(name)

        return asyncio.create_task(while_held(KvLease(client, "archivist", name, renew_s=0.05), work))

    first = copy("a")
    await asyncio.wait_for(begun.wait(), 5)
    begun.clear()
    second = copy("b")
    await asyncio.sleep(0.2)
    assert at_work == ["a"]
    # What an operator would do to a holder that hangs: the lease is somebody else's.
    await client.request("$KV.LEASES.archivist", b"b")
    await asyncio.wait_for(begun.wait(), 5)
    assert at_work == ["b"]
    for task in (first, second):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert at_work == []


async def _grow(log: InMemoryLog, n: int) -> None:
    """More commits, each of an aggregate of its own."""
    from tapeline.contracts.names import NameClaimed
    from tapeline.log import GENESIS, NewCommit
    from tapeline.names import name_ref

    start = (await log.head()).position
    for i in range(start, start + n):
        await log.append(
            NewCommit(
                ref=name_ref("contoso", "run", f"more{i}"), events=(NameClaimed(name=f"more{i}", holder="h"),),
                sequence=1, prev=GENESIS, created_at=FakeClock().now(), actor="user:ann", command="Claim",
                command_id=f"more{i}",
            ),
            expected=0,
        )  # fmt: skip
