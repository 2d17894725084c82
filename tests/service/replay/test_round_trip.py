"""Out of one system and into another: the same log, the same tables, from wherever it was cut off."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tapeline import replay, topology
from tapeline.assets.asset import projection as assets
from tapeline.assets.asset import users
from tapeline.assets.canvas import projection as canvases
from tapeline.assets.tape import projection as tapes
from tapeline.cli.app import run
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.tapes import TapeImported
from tapeline.database import make_engine, sqlite_url
from tapeline.errors import TapelineError
from tapeline.home import Home
from tapeline.log import GENESIS, NewCommit, StoredCommit, bulk, wire
from tapeline.log.bulk import BulkClient
from tapeline.log.codec import Codec
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.memory import InMemoryLog
from tapeline.names import name_ref
from tapeline.projections import LogSource, Projection, Projector
from tapeline.runs import projection as runs
from tapeline.runs.model import projection as models
from tapeline.store import LocalStore
from tapeline.subjects import Ref
from tapeline.testing.log import everything
from tapeline.testing.recorded import log_of, read_log
from tapeline.testing.server import NatsServer, connect, connector
from tapeline.vault import projection as vault
from tapeline.vault import sources

MakeLog = Callable[..., Awaitable[InMemoryLog]]
CODEC = Codec(EVENTS, UPCASTERS, TOMBSTONES)
LOG = Path(__file__).parents[2] / "assets" / "logs" / "0.1.0.jsonl"
PROJECTIONS: tuple[Projection, ...] = (runs, models, assets, users, canvases, tapes, vault, sources)
BOOKKEEPING = "projection_positions"
"""How far a projection has come and who writes it; a commit that says nothing to it moves it on when it likes."""

IMPORTER = """
import asyncio, sys
from pathlib import Path
from tapeline import replay
from tapeline.log import bulk
from tapeline.log.bulk import BulkClient
from tapeline.testing.server import connect

bulk.BATCH = 11

class Loud(BulkClient):
    async def send(self, text):
        await super().send(text)
        print("sent", flush=True)

async def main():
    client = Loud()
    await connect(sys.argv[1], client)
    await replay.import_log(client, Path(sys.argv[2]))
    await client.close()

asyncio.run(main())
"""


class Torn(BulkClient):
    """Loses its connection in the middle of an atomic batch, after a number of whole ones."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    async def send(self, text: bytes) -> None:
        if self._left == 0:
            await super().send(text[: len(text) // 2])
            raise ConnectionResetError("torn")
        self._left -= 1
        await super().send(text)


@asynccontextmanager
async def imported(server: NatsServer) -> AsyncIterator[BulkClient]:
    client = BulkClient()
    await connect(server.url, client)
    await topology.apply(client, topology.topology())
    yield client
    await client.close()


def log_on(server: NatsServer, client: BulkClient) -> JetStreamLog:
    return JetStreamLog(client, CODEC, connect=connector(server.url), role="test")


async def tables(log: JetStreamLog, folder: Path) -> dict[str, dict[str, list[str]]]:
    """Every row of every projection of events, once each has followed the log to its end."""
    folder.mkdir()
    head = (await log.head()).position
    for projection in PROJECTIONS:
        engine = make_engine(sqlite_url(folder / f"{projection.name}.db"))
        projector = Projector(LogSource(log, CODEC, projection.kinds), projection, engine)
        await projector.open()
        running = asyncio.create_task(projector.run())
        await projector.wait_for(head, 30)
        while not running.done():
            running.cancel()
            await asyncio.wait({running}, timeout=0.2)
        await engine.dispose()
    return {path.name: rows_of(path) for path in sorted(folder.glob("*.db"))}


def rows_of(path: Path) -> dict[str, list[str]]:
    """All rows of a database, read by nothing of ours."""
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            name: sorted(
                json.dumps({key: str(value) for key, value in dict(row).items()}, sort_keys=True)
                for row in connection.execute(f'SELECT * FROM "{name}"')
            )
            for name in names
            if name != BOOKKEEPING
        }


async def test_the_tables_of_an_imported_system_equal_those_of_the_original(tmp_path: Path) -> None:
    """Every event type there is, through the projections of every service, before and after."""
    await replay.export(log_of(read_log(LOG), CODEC, FakeClock()), tmp_path / "recorded")
    with NatsServer(tmp_path / "one") as one, NatsServer(tmp_path / "two") as two:
        async with imported(one) as client:
            await replay.import_log(client, tmp_path / "recorded")
            original = await tables(log_on(one, client), tmp_path / "live")
            manifest = await replay.export(log_on(one, client), tmp_path / "first")
        async with imported(two) as client:
            await replay.import_log(client, tmp_path / "first")
            again = await tables(log_on(two, client), tmp_path / "restored")
            assert await replay.export(log_on(two, client), tmp_path / "second") == manifest
            assert (await log_on(two, client).head()).log_id == manifest.log_id
    assert manifest.root == replay.read_manifest(tmp_path / "recorded").root
    assert hashes(tmp_path / "first") == hashes(tmp_path / "second")
    assert again == original
    assert sum(len(rows) for service in original.values() for rows in service.values()) > 150


async def test_an_import_that_is_cut_off_at_twenty_places_ends_as_if_it_never_was(
    server: NatsServer, make_log: MakeLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost within an atomic batch, with others on their way."""
    monkeypatch.setattr(bulk, "BATCH", 7)
    dice = random.Random(20)
    source = await make_log(600)
    commits = await everything(source)
    manifest = await replay.export(source, tmp_path / "a")
    async with imported(server):
        pass
    stored = 0
    for _ in range(20):
        torn = Torn(dice.randint(1, 4))
        await connect(server.url, torn)
        with pytest.raises((ConnectionResetError, TapelineError)) as ended:
            await replay.import_log(torn, tmp_path / "a")
        # What the last one had sent may arrive only now: then this one was the second to write.
        assert isinstance(ended.value, ConnectionResetError) or ended.value.code == "not_empty"
        assert torn._transport is not None
        torn._transport._io_writer.transport.abort()  # type: ignore[attr-defined]
        await torn.close()
        async with imported_only(server) as client:
            await settled(client)
            found = [one async for many in log_on(server, client).read(after=stored) for one in many]
            assert told(found) == told(commits[stored : stored + len(found)]), "nothing but what follows"
            stored += len(found)
            assert stored < 600
            with pytest.raises(TapelineError, match=r"being imported: \d+ of 600"):
                await topology.check(client)
    assert stored > 100
    await whole(server, manifest, source, tmp_path)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
async def test_an_import_that_is_killed_goes_on(
    server: NatsServer, make_log: MakeLog, tmp_path: Path, kills: int
) -> None:
    """kill -9 of the importing process, somewhere in the middle."""
    dice = random.Random(kills)
    source = await make_log(1500)
    manifest = await replay.export(source, tmp_path / "a")
    async with imported(server):
        pass
    stored = 0
    for _ in range(kills):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", IMPORTER, server.url, str(tmp_path / "a"), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            for _ in range(dice.randint(2, 5)):
                assert await process.stdout.readline() == b"sent\n"
        finally:
            process.kill()
            await process.wait()
        async with imported_only(server) as client:
            head = await settled(client)
            assert stored <= head < 1500
            stored = head
    assert stored > 0
    await whole(server, manifest, source, tmp_path)


async def whole(server: NatsServer, manifest: replay.Manifest, source: InMemoryLog, folder: Path) -> None:
    """The rest is imported, and it is the source in all: commits, positions, root, segments."""
    async with imported_only(server) as client:
        await settled(client)
        await replay.import_log(client, folder / "a")
        log = log_on(server, client)
        assert await everything(log) == await everything(source)
        assert (await replay.verify(log)).root == manifest.root
        assert await replay.export(log, folder / "b") == manifest
        assert hashes(folder / "a") == hashes(folder / "b")
        assert await topology.check(client) == manifest.log_id


async def settled(client: BulkClient) -> int:
    """Where the log ends, once the broker has taken what was on its way when the connection was lost."""
    before, found = -1, (await wire.stream_state(client, "EVENTS")).last
    while found != before:
        await asyncio.sleep(0.03)
        before, found = found, (await wire.stream_state(client, "EVENTS")).last
    return found


def told(commits: list[StoredCommit]) -> list[tuple[int, str, bytes, bytes]]:
    return [(one.position, one.subject, one.header, one.body) for one in commits]


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@asynccontextmanager
async def imported_only(server: NatsServer) -> AsyncIterator[BulkClient]:
    """A connection as it is, without a look at the streams: they are being imported into."""
    client = BulkClient()
    await connect(server.url, client)
    yield client
    await client.close()


async def test_files_that_events_name_come_along(make_log: MakeLog, tmp_path: Path) -> None:
    """Into the export, through the check of every byte, and into the store of the new home."""
    one, two = Home(tmp_path / "one"), Home(tmp_path / "two")
    one.make()
    (tmp_path / "file").write_bytes(b"a day of trades")
    sha256, size = await LocalStore(one.store).put(tmp_path / "file")
    there = Artifact(name="2014-01-02.parquet", size_bytes=size, sha256=sha256)
    gone = Artifact(name="manifest.json", size_bytes=1, sha256="f" * 64)
    log = InMemoryLog(CODEC)
    event = TapeImported(
        name="t", content_sha256="e" * 64, manifest=gone, files=[there], symbols=["SPY"], days=["2014-01-02"], rows=1,
        calendar="24/7",
    )  # fmt: skip
    await log.append(
        NewCommit(
            ref=Ref("contoso", "tape", "t1"), events=(event,), sequence=1, prev=GENESIS, created_at=FakeClock().now(),
            actor="user:ann", command="ImportUploads", command_id="c1",
        ),
        expected=0,
    )  # fmt: skip
    made, missing = await replay.add_artifacts(
        tmp_path / "x", await replay.export(log, tmp_path / "x"), LocalStore(one.store)
    )
    assert (made.artifacts, missing) == ((sha256,), 1)
    done = await replay.restore(two, tmp_path / "x")
    assert (done.artifacts, done.missing_artifacts) == (1, 1)
    assert await LocalStore(two.store).read(sha256) == b"a day of trades"
    beside = tmp_path / "x" / "artifacts" / "sha256" / sha256[:2] / sha256[2:]
    beside.chmod(0o600)
    beside.write_bytes(b"a day of TRADES")
    with pytest.raises(TapelineError, match=f"{sha256[2:]} has the SHA-256") as refused:
        replay.verify_only(tmp_path / "x")
    assert refused.value.code == "corrupt"


async def test_a_home_is_compared_with_its_export_and_with_another_home(
    make_log: MakeLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await replay.export(await make_log(6, names=2), tmp_path / "a", upto=5)
    await replay.restore(Home(tmp_path / "home"), tmp_path / "a")
    monkeypatch.setenv("TAPELINE_HOME", str(tmp_path / "home"))
    first, second = (name_ref("contoso", "vault", f"name{i}").id for i in range(2))
    a = str(tmp_path / "a")
    assert await asyncio.to_thread(run, ["log", "diff", a, "live"]) == 0
    other = await make_log(4, names=1)
    await replay.export(other, tmp_path / "b")
    assert await asyncio.to_thread(run, ["log", "diff", "live", str(tmp_path / "b")]) == 5
    assert "the first difference is at position 2" in capsys.readouterr().out
    both = [f"vault/{first}@4", f"contoso/vault/{second}@4"]
    assert await asyncio.to_thread(run, ["log", "diff", *both]) == 5
    assert "data.name" in capsys.readouterr().out
    assert await asyncio.to_thread(run, ["log", "diff", both[0], f"vault/{first}@4"]) == 0
    assert await asyncio.to_thread(run, ["log", "diff", f"vault/{first}@1", f"vault/{first}@5"]) == 5
    assert "2: extra: NameReleased" in capsys.readouterr().out
