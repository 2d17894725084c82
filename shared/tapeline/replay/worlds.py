"""The worlds of a home: made by replaying the projections of all services, and kept for the next who asks.

Each lies in a folder of its own under `run/worlds`; the latest four are kept, up to 1 GiB, and a later moment
continues from the nearest earlier one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tapeline.errors import TapelineError
from tapeline.home import Home, find_home, read_json, write_json
from tapeline.log import EventLog
from tapeline.log.metrics import MetricsStream
from tapeline.projections import CANCEL_AGAIN_S, Projector
from tapeline.replay.past import position_at
from tapeline.replay.reading import opened_with_metrics
from tapeline.replay.still import StillLog, StillMetrics
from tapeline.replay.world import Place, World, builds, composed
from tapeline.store import ArtifactStore, LocalStore

KEPT = 4
KEPT_BYTES = 1024**3
STEP_S = 30.0
_INFO = "world.json"


@asynccontextmanager
async def at_team(
    when: int | datetime, team: str, *, home: Home | None = None, url: str | None = None
) -> AsyncIterator[World]:
    """A team's read models as of a position or a time, open while the context is.

    Raises
    ------
    TapelineError
        `invalid` for a position past the end of the log.
    """
    home = home or find_home()
    async with opened_with_metrics(home, url) as (log, metrics), worlds_of(home).at(log, metrics, when) as place:
        world = World(place, team)
        try:
            yield world
        finally:
            await asyncio.to_thread(world.close)


def worlds_of(home: Home) -> Worlds:
    """The worlds of a home."""
    return Worlds(home.run / "worlds", LocalStore(home.store))


class Worlds:
    """The worlds in a folder; their artifacts are those of a store."""

    def __init__(self, root: Path, store: ArtifactStore, *, kept: int = KEPT, kept_bytes: int = KEPT_BYTES) -> None:
        self._root = root
        self._store = store
        self._kept = kept
        self._kept_bytes = kept_bytes

    @asynccontextmanager
    async def at(self, log: EventLog, metrics: MetricsStream | None, when: int | datetime) -> AsyncIterator[Place]:
        """The tables as of a moment, kept for as long as the context is open; made when they are not there."""
        head = await log.head()
        position = when if isinstance(when, int) else await position_at(log, when)
        if not 0 <= position <= head.position:
            raise TapelineError(
                f"position {position} is past the end of the log ({head.position})",
                code="invalid",
                hint="tapeline log tail -n 1",
            )
        folder = self._shelf(head.log_id)
        with _held(folder / f"{position:020d}.lock") as is_ours:
            if not is_ours:
                # Another process has it open or is making it: a world for one time costs less than to wait.
                with _passing(folder) as own:
                    yield await self._made(
                        log, metrics, head.log_id, position, own, start=self._before(folder, position)
                    )
                return
            place = self._known(folder / f"{position:020d}", head.log_id)
            if place is None:
                place = await self._filled(log, metrics, head.log_id, position, folder)
            else:
                os.utime(place.folder)
            self._sweep(folder, keep=place.folder)
            yield place

    def _shelf(self, log_id: str) -> Path:
        # Another version of the code may fold otherwise.
        folder = self._root / f"{log_id}-{version('tapeline')}"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _known(self, folder: Path, log_id: str) -> Place | None:
        found = read_json(folder / _INFO)
        if found is None or found.get("log_id") != log_id:
            return None
        time = datetime.fromisoformat(str(found["time"]))
        return Place(log_id, int(found["position"]), time, int(found["metrics"]), folder, self._store)

    def _before(self, folder: Path, position: int) -> Place | None:
        """The nearest earlier world."""
        names = sorted(each.name for each in folder.iterdir() if each.is_dir() and each.name.isdigit())
        earlier = [name for name in names if int(name) < position]
        for name in reversed(earlier):
            found = self._known(folder / name, folder.name.removesuffix(f"-{version('tapeline')}"))
            if found is not None:
                return found
        return None

    async def _filled(
        self, log: EventLog, metrics: MetricsStream | None, log_id: str, position: int, folder: Path
    ) -> Place:
        with _passing(folder) as made:
            done = await self._made(log, metrics, log_id, position, made, start=self._before(folder, position))
            target = folder / f"{position:020d}"
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
        return Place(log_id, position, done.time, done.metrics, target, self._store)

    async def _made(
        self, log: EventLog, metrics: MetricsStream | None, log_id: str, position: int, folder: Path,
        *, start: Place | None,
    ) -> Place:  # fmt: skip
        """Replay into a folder, from an earlier world if there is one."""
        if start is not None:
            try:
                await asyncio.to_thread(_copied, start.folder, folder)
            except (sqlite3.Error, OSError):
                # Another process has just removed it: begin at the origin.
                start = None
                for file in folder.iterdir():
                    file.unlink()
        time = (
            (await log.page(after=position - 1, limit=1))[0].stored_at if position else datetime.min.replace(tzinfo=UTC)
        )
        still = StillLog(log_id, position, log)
        measured = StillMetrics(metrics, time, start.metrics if start is not None else 0, self._store)
        place = Place(log_id, position, time, 0, folder, self._store)
        async with AsyncExitStack() as stack:
            projectors: list[Projector] = []
            for name, build in builds().items():
                service = await stack.enter_async_context(composed(name, build, place, still, measured))
                projectors += service.projectors
            await _replayed(projectors, measured)
        await asyncio.to_thread(_settled, folder, position, measured.position)
        place = Place(log_id, position, time, measured.position, folder, self._store)
        write_json(
            folder / _INFO,
            {"log_id": log_id, "position": position, "time": time.isoformat(), "metrics": place.metrics},
        )
        return place

    def _sweep(self, folder: Path, *, keep: Path) -> None:
        """Remove the oldest worlds beyond what is kept; those in use stay."""
        for each in _left_behind(folder):
            shutil.rmtree(each, ignore_errors=True)
        worlds = [each for each in folder.iterdir() if each.is_dir() and each.name.isdigit()]
        worlds.sort(key=lambda each: each.stat().st_mtime, reverse=True)
        size = 0
        for i, each in enumerate(worlds):
            size += sum(file.stat().st_size for file in each.rglob("*") if file.is_file())
            if each == keep or (i < self._kept and size <= self._kept_bytes):
                continue
            with _held(folder / f"{each.name}.lock") as is_ours:
                if is_ours:
                    shutil.rmtree(each, ignore_errors=True)


async def _replayed(projectors: list[Projector], measured: StillMetrics) -> None:
    """Run projectors until each is at the end of its source."""
    running = [asyncio.ensure_future(projector.run()) for projector in projectors]

    async def all_arrived() -> None:
        await measured.reached.wait()
        for projector in projectors:
            await _arrived(projector, await projector.head())

    arriving = asyncio.ensure_future(all_arrived())
    left: set[asyncio.Future[None]] = {arriving, *running}
    try:
        done, _ = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a projector ends only by what it cannot fold
    finally:
        while left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=10 * CANCEL_AGAIN_S)
        await asyncio.gather(arriving, *running, return_exceptions=True)


async def _arrived(projector: Projector, position: int) -> None:
    before = -1
    while True:
        try:
            return await projector.wait_for(position, timeout_s=STEP_S)
        except TapelineError as error:
            if error.code != "behind" or projector.position <= before:
                raise
            before = projector.position


def _settled(folder: Path, position: int, metrics: int) -> None:
    """Write down that every projection has seen all: one that a stretch says nothing to stores that late."""
    for file in folder.glob("*.db"):
        with closing(sqlite3.connect(file)) as connection, connection:
            for stream, last in (("EVENTS", position), ("METRICS", metrics)):
                connection.execute("UPDATE projection_positions SET position = ? WHERE stream = ?", (last, stream))


def _copied(source: Path, folder: Path) -> None:
    """Copy the tables of a world, as its database sees them."""
    for file in sorted(source.glob("*.db")):
        with (
            closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as old,
            closing(sqlite3.connect(folder / file.name)) as new,
        ):
            old.backup(new)


@contextmanager
def _held(file: Path) -> Iterator[bool]:
    """Whether a world is this process's alone while the context is open."""
    from filelock import FileLock, Timeout

    lock = FileLock(file, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def _passing(folder: Path) -> Iterator[Path]:
    """A fresh folder that is removed at the end, unless it was given another name."""
    made = folder / f".{os.getpid()}-{uuid.uuid4().hex}"
    made.mkdir(mode=0o700)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _left_behind(folder: Path) -> Iterator[Path]:
    """Folders of processes that ended before they could remove them."""
    import psutil

    for each in folder.glob(".*-*"):
        pid = each.name[1:].partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            yield each
