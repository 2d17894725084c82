"""Every fail point, once: what a crash exactly there leaves behind is whole, and repeating it has one effect."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from tapeline import failpoints, names, replay, topology
from tapeline.clock import FakeClock, SystemClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.database import Engine, make_engine, sqlite_url
from tapeline.decider import Deciders, origin_of
from tapeline.errors import TapelineError
from tapeline.failpoints import POINTS, armed, passed
from tapeline.log import wire
from tapeline.log.bulk import BulkClient
from tapeline.log.codec import Codec
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.memory import InMemoryLog
from tapeline.names import ClaimName, name_ref
from tapeline.projections import LogSource, Projector
from tapeline.projections.building import Builder
from tapeline.projections.state import ACTIVE, known
from tapeline.replay.seals import Shelf
from tapeline.security.keys import Credentials, create_key
from tapeline.store import LocalStore
from tapeline.testing.server import NatsServer, connect, connector

from ..mortal import Counting, counts

ROOT = Path(__file__).resolve().parents[3]
CODEC = Codec(EVENTS, UPCASTERS)
APPENDS = ("log.before_publish", "log.published", "log.acked", "handler.decided", "handler.appended")
FOLDS = ("proj.before_effect", "proj.after_effect", "proj.before_commit", "proj.after_commit")
SWITCHES = ("rebuild.before_switch", "rebuild.after_switch")
STORES = ("store.staged", "store.hashed", "store.promoted")
SEALS = ("seal.signed", "seal.stored")
COPIES = ("export.segment", "export.manifest", "import.batch")
IMPORTS = ("import.synced",)
"""Tried in `tests/service/replay/test_restore.py`."""
IN_RUNS = ("lease.before_grant", "lease.granted", "lease.before_expire", "lease.expired", "lease.requeued",
           "handler.before_reply")  # fmt: skip
"""Tried in `tests/service/runs/test_failpoints.py`."""


IN_TRAINERS = ("agent.before_claim", "agent.claimed", "agent.journaled", "agent.reported", "child.started",
               "child.trained", "checkpoint.begun", "checkpoint.written", "checkpoint.staged")  # fmt: skip
"""Tried in `tests/service/trainer/test_failpoints.py`."""
IN_BUILDS = ("asset.shard", "asset.assembled", "asset.stored")
"""Tried in `tests/service/assets/test_failpoints.py`."""

IN_ARCHIVES = ("archive.packed", "archive.stored", "archive.noted", "archive.marked", "purge.compared", "purge.noted",
               "purge.done")  # fmt: skip
"""Tried in `tests/service/runs/test_archives.py`."""


def _named(tree: ast.AST) -> set[str]:
    """The points that a module passes."""
    return {
        str(node.args[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "passed"
        and isinstance(node.args[0], ast.Constant)
    }


def test_every_point_in_the_code_is_listed_and_every_listed_one_is_tried() -> None:
    sources = [path for top in ("services", "shared") for path in (ROOT / top / "tapeline").rglob("*.py")]
    texts = [text for path in sources if "passed(" in (text := path.read_text(encoding="utf-8"))]
    in_code = {point for text in texts for point in _named(ast.parse(text))}
    assert in_code == POINTS
    assert {
        *APPENDS,
        *FOLDS,
        *SWITCHES,
        *STORES,
        *SEALS,
        *COPIES,
        *IMPORTS,
        *IN_RUNS,
        *IN_TRAINERS,
        *IN_BUILDS,
        *IN_ARCHIVES,
    } == POINTS
    for points, file in (
        (IN_RUNS, "runs/test_failpoints.py"),
        (IMPORTS, "replay/test_restore.py"),
        (IN_TRAINERS, "trainer/test_failpoints.py"),
        (IN_BUILDS, "assets/test_failpoints.py"),
        (IN_ARCHIVES, "runs/test_archives.py"),
    ):
        beside = (ROOT / "tests/service" / file).read_text(encoding="utf-8")
        assert [point for point in points if f'"{point}' not in beside] == []


@pytest.mark.parametrize("text", ["log.none:1", "log.acked", "log.acked:0", "log.acked:x", "log.acked:1:often",
                                  "log.acked:1:pause=", "log.acked:1:pause=x"])  # fmt: skip
def test_what_names_no_point_is_refused(text: str) -> None:
    with pytest.raises(TapelineError) as refused, armed(text):
        pass
    assert refused.value.code == "invalid"


def test_a_point_fails_at_the_passage_that_was_named_and_at_no_other() -> None:
    with armed("log.acked:2:raise, proj.before_effect:1:pause=0.001") as left:
        passed("log.acked")
        passed("proj.before_effect")
        with pytest.raises(OSError, match=r"log\.acked"):
            passed("log.acked")
        passed("log.acked")
        assert left == {}
    passed("log.acked")


def test_a_process_dies_at_a_point_as_by_kill() -> None:
    program = "from tapeline.failpoints import passed\ntry:\n passed('log.acked')\nfinally:\n print('alive')"
    died = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {failpoints.VARIABLE: "log.acked:1"}, capture_output=True
    )
    assert (died.returncode, died.stdout) == (failpoints.DIED, b"")


async def test_a_command_that_fails_at_any_point_has_one_effect_when_it_is_repeated(server: NatsServer) -> None:
    client = await server.connect()
    await topology.apply(client, topology.topology())
    log = JetStreamLog(client, CODEC, connect=connector(server.url), role="test")

    async def claim(point: str) -> Any:
        """One command as a process that knows of nothing else."""
        ref = name_ref("main", "run", point)
        command = ClaimName(name=point, holder="x", what="run")
        origin = origin_of("user:ann", point.replace(".", "-"))
        return await Deciders(log, CODEC, SystemClock()).handle(names, ref, command, origin)

    for point in APPENDS:
        with armed(f"{point}:1:raise") as left, pytest.raises(OSError, match=point):
            await claim(point)
        assert left == {}
        done = await claim(point)
        assert done.sequence == 1
        assert len(await log.load(name_ref("main", "run", point))) == 1
    head = await log.head()
    assert head.position == len(APPENDS)
    assert (await replay.verify(log)).ok
    await client.close()


async def grown(log: InMemoryLog, count: int) -> None:
    deciders = Deciders(log, CODEC, FakeClock())
    for i in range(count):
        command = ClaimName(name=f"n{i}", holder="x", what="run")
        await deciders.handle(names, name_ref("main", "run", f"n{i}"), command, origin_of("user:ann", None))


@asynccontextmanager
async def running(log: InMemoryLog, engine: Engine) -> AsyncIterator[Projector]:
    projector = Projector(LogSource(log, CODEC, Counting.kinds), Counting(), engine)
    await projector.open()
    task = asyncio.create_task(projector.run())
    try:
        yield projector
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_fold_that_fails_at_any_point_counts_every_event_once(tmp_path: Path) -> None:
    log, engine = InMemoryLog(CODEC), make_engine(sqlite_url(tmp_path / "t.db"))
    async with running(log, engine) as projector:
        for k, point in enumerate(FOLDS, 1):
            with armed(f"{point}:1:raise") as left:
                await grown(log, 5 * k)
                await projector.wait_for((await log.head()).position, 30)
                assert left == {}
    total = select(func.sum(counts.c.events))
    assert await engine.read(lambda connection: connection.scalar(total)) == (await log.head()).position
    await engine.dispose()


async def test_a_switch_that_fails_at_any_point_leaves_one_whole_generation_shown(tmp_path: Path) -> None:
    log, engine = InMemoryLog(CODEC), make_engine(sqlite_url(tmp_path / "t.db"))
    await grown(log, 20)
    async with running(log, engine) as projector:
        await projector.wait_for(20)

    def found(connection: Connection) -> tuple[list[int], int]:
        shown = [each.generation for each in known(connection) if each.state == ACTIVE]
        return shown, connection.scalar(select(func.sum(counts.c.events))) or 0

    for point, shown in (("rebuild.before_switch", [1]), ("rebuild.after_switch", [2])):
        builder = Builder(Projector(LogSource(log, CODEC, Counting.kinds), Counting(), engine))
        await builder.build()
        with armed(f"{point}:1:raise") as left, pytest.raises(OSError, match=point):
            await builder.switch()
        assert left == {}
        assert await engine.read(found) == (shown, 20)
        await builder.leave() if shown == [1] else None
    await engine.dispose()


async def test_an_artifact_that_fails_on_its_way_is_whole_or_not_there(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    for point in STORES:
        source = tmp_path / point
        source.write_bytes(point.encode() * 100)
        with armed(f"{point}:1:raise") as left, pytest.raises(OSError, match=point):
            await store.put(source)
        assert left == {}
        sha256, size = await store.put(source)
        assert await store.read(sha256) == source.read_bytes()
        assert size == await store.size(sha256)


async def test_a_seal_that_fails_on_its_way_is_made_again(tmp_path: Path) -> None:
    log, key = InMemoryLog(CODEC), Credentials(create_key(), "seal")
    shelf = Shelf(tmp_path / "seals", frozenset({key.key.public}))

    def archivist() -> replay.Archivist:
        store = LocalStore(tmp_path / "store")
        return replay.Archivist(log=log, store=store, shelf=shelf, credentials=key, clock=FakeClock())

    for point in SEALS:
        await grown(log, 3 if point == SEALS[0] else 0)
        with armed(f"{point}:1:raise") as left, pytest.raises(OSError, match=point):
            await archivist().seal_now()
        assert left == {}
    made = await archivist().seal_now()
    assert made is not None
    assert (made.position, len(shelf.every(made.log_id))) == (3, 1)
    assert (await replay.verify(log, seals=shelf.every(made.log_id))).sealed == 3


async def test_a_copy_that_fails_on_its_way_goes_on(server: NatsServer, tmp_path: Path) -> None:
    log, folder = InMemoryLog(CODEC), tmp_path / "export"
    await grown(log, 50)
    for point in COPIES[:2]:
        await _fails(point, lambda: replay.export(log, folder))
    manifest = await replay.export(log, folder)
    assert manifest == await replay.export(log, tmp_path / "other")
    client = BulkClient()
    await connect(server.url, client)
    await topology.apply(client, topology.topology())
    await _fails(COPIES[2], lambda: replay.import_log(client, folder))
    for _ in range(1000):
        # What was on its way when it failed may still come.
        if (await wire.stream_state(client, "EVENTS")).last:
            break
        await asyncio.sleep(0.01)
    done = await replay.import_log(client, folder)
    assert (done.position, done.root) == (50, manifest.root)
    await client.close()


async def _fails(point: str, work: Callable[[], Awaitable[Any]]) -> None:
    with armed(f"{point}:1:raise") as left, pytest.raises(OSError, match=point):
        await work()
    assert left == {}
