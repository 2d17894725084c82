"""A disk that is full, and one whose power is cut: what was acknowledged stays, and the log goes on."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from sqlalchemy import Connection, func, select

from tapeline import teams, topology
from tapeline.connection import connect, connect_as
from tapeline.database import make_engine, sqlite_url
from tapeline.embedded import server as embedded
from tapeline.embedded.child import Child
from tapeline.embedded.supervisor import AGENT, TEAM
from tapeline.errors import TapelineError
from tapeline.home import Home
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.memory import InMemoryLog
from tapeline.projections import LogSource, Projector, positions
from tapeline.security.keys import read_credentials
from tapeline.testing.disks import MIB, NotPermitted, cut_power, image_disk, small_disk
from tapeline.testing.history import Entry, History, check_history, read_history
from tapeline.testing.log import everything
from tapeline.testing.server import NatsServer, connector

from ..mortal import Counting, counts
from .conftest import CODEC, Till, open_till, or_skip

WRITERS = 8
AGAIN = ("unavailable", "unknown_outcome", "insufficient_storage", "conflict")
WAIT_S = 60.0


class Writers:
    """Callers that claim and release names, each under its ids until it is answered, and write that down."""

    def __init__(self, till: Till, history: History, *, filler_bytes: int = 0) -> None:
        self.heard: Counter[tuple[str, str]] = Counter()
        self.enough = asyncio.Event()
        self._till = till
        self._history = history
        self._filler_bytes = filler_bytes

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write while the context is open; at its end each hears the answer that it waits for."""
        writers = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]
        try:
            yield
            self.enough.set()
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(*writers)
        finally:
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)

    async def until_answered(self, count: int) -> None:
        """Wait until so many more commands have been acknowledged."""
        wanted = self._history.count("ok") + count
        async with asyncio.timeout(WAIT_S):
            while self._history.count("ok") < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def _write(self, number: int) -> None:
        chance, turn = random.Random(number), 0
        while not self.enough.is_set():
            turn += 1
            id, proc = f"w{number}-{turn}", f"w{number}"
            filler = chance.randbytes(self._filler_bytes // 2).hex()
            while True:
                self._history.add("invoke", "turn", id, proc=proc)
                try:
                    position, sequence = await self._till.turn(id, f"n{number}", filler)
                except TapelineError as error:
                    self.heard[str(error.code), error.message] += 1
                    again = error.code in AGAIN
                    self._history.add("info" if again else "fail", "turn", id, proc=proc, value=error.code)
                    if not again:
                        raise
                    await asyncio.sleep(0.05)
                    continue
                self._history.add("ok", "turn", id, proc=proc, value={"position": position, "sequence": sequence})
                break


@asynccontextmanager
async def supervised(home: Home, reasons: list[str]) -> AsyncIterator[tuple[Child, Till]]:
    """The server of a home, kept running by its supervisor's own loop, and a log on it."""
    home.make()
    teams.make_identities(home, team=TEAM, agent=AGENT)
    server = embedded.EmbeddedServer(home)
    child = Child(server.spec(), home.logs, lambda: reasons.append(child.reason or ""))
    child.start()
    try:
        await child.wait_ready(30, 3)
        admin = await connect(read_credentials(home.credential("admin")), server.url, name="topology")
        sizes = topology.Sizes(events=256 * MIB, metrics=MIB, builds=MIB, leases=MIB)
        await topology.apply(admin, topology.topology(sizes))
        await admin.close()
        runs = read_credentials(home.credential("svc-runs"))
        client = await connect(runs, server.url, name="runs")

        async def reading(reader: Client, /, **more: Any) -> None:
            await connect_as(reader, runs, server.url, name="runs-read", **more)

        log = JetStreamLog(client, CODEC, connect=reading, role="runs", timeout_s=0.3, deadline_s=1.0)
        yield child, Till(log, client.close)
        await client.close()
    finally:
        await child.stop()


async def test_a_full_disk_acknowledges_nothing_falsely_and_heals_by_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "UNWELL_SECONDS", 2.0)
    monkeypatch.setattr(embedded, "_ASKED_EVERY_S", 0.1)
    home = Home(tmp_path / "home")
    home.make()
    reasons: list[str] = []
    with or_skip(), small_disk(home.log) as disk, History(tmp_path / "history.jsonl") as history:
        async with supervised(home, reasons) as (child, till):
            writers = Writers(till, history, filler_bytes=20_000)
            async with writers.writing():
                await writers.until_answered(20)
                disk.fill(leave_bytes=MIB // 2)
                async with asyncio.timeout(WAIT_S):
                    while child.starts < 2:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                disk.free()
                await writers.until_answered(100)
            commits = await everything(till.log)
        assert any("no space left on device" in reason for reason in reasons), reasons
        named = {code for code, _ in writers.heard}
        assert named <= {"unavailable", "unknown_outcome"}
        assert ("unavailable", "the log does not accept writes") in writers.heard
        checked = check_history(read_history(history.path), commits)
        assert [str(finding) for finding in checked.findings] == []
        assert checked.acknowledged > 120
        assert checked.unknown == 0


@asynccontextmanager
async def on_disk(image: Path, at: Path, sync: str) -> AsyncIterator[NatsServer]:
    """A server whose log lies on a disk of its own."""
    with or_skip(), image_disk(image, at):
        async with NatsServer(at / "nats", sync=sync) as server:
            yield server


async def cut_once(folder: Path, seed: int, *, sync: str = "always") -> tuple[list[Entry], int]:
    """Cut the power under load; what callers had seen by then, and how much of it is lost."""
    chance = random.Random(seed)
    image, copy = folder / f"disk{seed}", folder / f"copy{seed}"
    with History(folder / f"history{seed}.jsonl") as history:
        async with on_disk(image, folder / f"at{seed}", sync) as server:
            till = await open_till(server)
            writers = Writers(till, history)
            async with writers.writing():
                await writers.until_answered(chance.randint(50, 400))
                is_still = chance.random() < 0.3
                if is_still:
                    server.pause()
                seen = read_history(history.path)
                await asyncio.to_thread(cut_power, image, copy)
                if is_still:
                    server.go_on()
            await till.close()
    async with on_disk(copy, folder / f"copy-at{seed}", sync) as server:
        client = await server.connect()
        try:
            log = JetStreamLog(client, CODEC, connect=connector(server.url), role="test", timeout_s=2.0)
            commits = await everything(log)
        except TapelineError as error:
            if error.code != "topology_mismatch":
                raise
            commits = []  # the stream itself is gone
        finally:
            await client.close()
    checked = check_history(seen, commits)
    # What was stored between the last look at the history and the cut is nobody's in it.
    others = [str(one) for one in checked.findings if one.kind not in ("lost", "foreign")]
    assert others == []
    image.unlink()
    copy.unlink()
    return seen, checked.lost


async def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    cuts = [await cut_once(tmp_path, seed) for seed in range(4)]
    assert [lost for _, lost in cuts] == [0] * 4
    assert sum(entry.phase == "ok" for seen, _ in cuts for entry in seen) > 200


async def test_without_a_sync_of_each_commit_the_same_cut_takes_some(tmp_path: Path) -> None:
    # The harness is blind if this loses nothing.
    _, lost = await cut_once(tmp_path, 1, sync="2m")
    assert lost > 0


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_two_hundred_power_cuts_take_nothing(tmp_path: Path) -> None:
    assert [seed for seed in range(100, 300) if (await cut_once(tmp_path, seed))[1]] == []


def counted(connection: Connection) -> tuple[int, int]:
    """The position of the counts, and how many events their rows tell of."""
    position = connection.scalar(select(positions.c.position).where(positions.c.name == Counting.name))
    return position or 0, connection.scalar(select(func.sum(counts.c.events))) or 0


@asynccontextmanager
async def counting(till: Till, database: Path) -> AsyncIterator[Projector]:
    """A projector that counts the events of a log into a SQLite file."""
    engine = make_engine(sqlite_url(database))
    projector = Projector(LogSource(till.log, CODEC, Counting.kinds), Counting(), engine)
    await projector.open()
    task = asyncio.create_task(projector.run())
    try:
        yield projector
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.dispose()


@pytest.mark.parametrize("seed", range(2))
async def test_a_power_cut_leaves_sqlite_whole_with_its_rows_at_its_position(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    till = Till(InMemoryLog(CODEC), asyncio.Event().wait)
    image, copy, written = tmp_path / "disk", tmp_path / "copy", 0

    async def write(count: int) -> None:
        nonlocal written
        for _ in range(count):
            written += 1
            await till.turn(f"c{written}", f"n{written % 20}")
            if written % 7 == 0:
                await asyncio.sleep(0)

    with or_skip(), image_disk(image, tmp_path / "at") as disk:
        async with counting(till, disk / "counts.db") as projector:
            await write(chance.randint(300, 600))
            await projector.wait_for(written, 30)
            # As every file is after its first half minute.
            await asyncio.to_thread(os.sync)
            await write(chance.randint(300, 600))
            cutting = asyncio.create_task(asyncio.to_thread(cut_power, image, copy))
            while not cutting.done():
                await write(5)
            await cutting
            await projector.wait_for(written, 30)
    with or_skip(), image_disk(copy, tmp_path / "copy-at") as disk:
        with closing(sqlite3.connect(disk / "counts.db")) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        engine = make_engine(sqlite_url(disk / "counts.db"))
        position, events = await engine.read(counted)
        assert 300 <= position == events <= written
        # What the power took back, the log gives again.
        async with counting(till, disk / "counts.db") as projector:
            await projector.wait_for(written, 30)
        assert await engine.read(counted) == (written, written)
        await engine.dispose()


@pytest.mark.parametrize("disk", [small_disk, image_disk])
def test_where_nothing_may_be_mounted_the_reason_is_said(
    disk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    arguments = (tmp_path / "at",) if disk is small_disk else (tmp_path / "image", tmp_path / "at")
    with pytest.raises(NotPermitted, match="needs root"), disk(*arguments):
        pass
