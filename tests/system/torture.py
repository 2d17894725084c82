"""What the kill test is made of: writers that never give up, a service apart on PostgreSQL, and the killer."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from tapeline import sdk as tl
from tapeline.assets.asset import projection as assets
from tapeline.assets.asset import users
from tapeline.assets.canvas import projection as canvases
from tapeline.assets.tape import projection as tapes
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.database import make_engine, sqlite_url
from tapeline.embedded import start_detached, status
from tapeline.home import Home, read_instance
from tapeline.ids import new_id
from tapeline.log import EventLog
from tapeline.log.codec import Codec
from tapeline.projections import LogSource, Projection, Projector, positions
from tapeline.runs import projection as runs
from tapeline.runs.model import projection as models
from tapeline.sdk.client import Client
from tapeline.sdk.settings import resolve
from tapeline.testing.history import History
from tapeline.vault import projection as vault
from tapeline.vault import sources

FOLDS: dict[str, Sequence[Projection]] = {
    "runs": (runs, models),
    "assets": (tapes, canvases, assets, users),
    "vault": (vault, sources),
}
APART = "vault"
AGAIN = frozenset({"unavailable", "behind", "timeout", "unknown_outcome", "conflict"})
"""Refusals after which the same command is sent again under the same id."""
CLIENTS = 4


def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    """Wait until something is so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + timeout_s, f"it did not happen in {timeout_s:g} s"
        time.sleep(0.02)


class Writers:
    """Callers that write notes and create runs at once, each command repeated under its id until it is answered."""

    def __init__(self, count: int, seed: int, history: History) -> None:
        self.history = history
        self.enough = threading.Event()
        self.runs: list[str] = []
        self._began = time.monotonic()
        self._ordered = 0
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        settings = resolve()
        self._clients = [Client(settings, timeout_s=2.0, total_s=6.0) for _ in range(min(CLIENTS, count))]
        self._blueprint = tl.lookup_blueprint_id("selftest")
        self._threads = [
            threading.Thread(target=self._run, args=(number, random.Random(seed * 1000 + number)), daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Let them write."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let each finish the command that it has begun."""
        self.enough.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), "a writer hangs"
        for client in self._clients:
            client.close()
        assert self._failure is None, repr(self._failure)

    @property
    def answered(self) -> int:
        """How many commands have been acknowledged."""
        return self.history.count("ok")

    def _run(self, number: int, chance: random.Random) -> None:
        client = self._clients[number % len(self._clients)]
        try:
            while not self.enough.is_set():
                if self._is_run_wanted():
                    reply = self._ask(client, number, "create", None, **self._birth(chance))
                    for other in self._clients:
                        other.wait_for(reply.position)
                    self.runs.append(str(reply.view["id"]))
                elif self.runs:
                    # The newest are shared by all, so that writers meet on one aggregate.
                    run = chance.choice(self.runs[-4:])
                    self._ask(client, number, "set_notes", run, run=run, notes=f"note {chance.random()}")
                time.sleep(chance.uniform(0.0, 0.1))
        except BaseException as error:
            self._failure = error

    def _is_run_wanted(self) -> bool:
        with self._lock:
            wanted = self._ordered < 3 + (time.monotonic() - self._began) / 8
            self._ordered += wanted
            return wanted

    def _birth(self, chance: random.Random) -> dict[str, Any]:
        return {
            "name": f"run {self._ordered}", "version": "1", "task_type": "selftest", "project_id": "default",
            "blueprint_id": self._blueprint, "resources": {"cpu": "1", "memory": "64Mi"},
            "config": {"steps": chance.randint(50, 120), "step_s": 0.02, "checkpoint_every": 25},
        }  # fmt: skip

    def _ask(self, client: Client, number: int, verb: str, key: str | None, **fields: Any) -> Any:
        id, proc = new_id(), f"w{number}"
        give_up = time.monotonic() + 120
        while True:
            self.history.add("invoke", verb, id, proc=proc, key=key)
            try:
                reply = client.command("runs", verb, command_id=id, **fields)
            except tl.errors.ApiException as refusal:
                again = refusal.code in AGAIN and time.monotonic() < give_up
                self.history.add("info" if again else "fail", verb, id, proc=proc, key=key, value=refusal.code)
                if not again:
                    raise
                time.sleep(0.05)
                continue
            value = {"position": reply.position, "sequence": reply.sequence}
            self.history.add("ok", verb, id, proc=proc, key=key, value=value)
            return reply


class Apart:
    """A second copy of the vault service as a process of its own, with its tables on PostgreSQL."""

    def __init__(self, home: Home, database_url: str, log: Path) -> None:
        self.engine_url = database_url
        self._log = log
        instance = read_instance(home)
        assert instance is not None
        self._env = os.environ | {
            "TAPELINE_HOME": str(home.root), "TAPELINE_URL": instance.url, "TAPELINE_DATABASE_URL": database_url,
        }  # fmt: skip
        self._over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed_writer: str | None = None
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    @property
    def pid(self) -> int | None:
        """Its process while it is the one that writes the tables; none while it waits for the lease."""
        process, writer = self._process, asyncio.run(self.writer())
        if process is None or process.poll() is not None or writer in (None, self._killed_writer):
            return None
        self._killed_writer = writer
        return process.pid

    async def writer(self) -> str | None:
        """Who moves the position of the projection that reads runs."""
        try:
            async with reading(self.engine_url) as connection:
                found: str | None = await connection.scalar(
                    select(positions.c.writer).where(positions.c.name == sources.name)
                )
                return found
        except DBAPIError:
            return None  # it has not made its tables yet

    def _keep(self) -> None:
        """What a supervisor does: start it again when it ends."""
        while not self._over.is_set():
            with self._log.open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", f"tapeline.{APART}"], env=self._env, stdout=output, stderr=output
                )
            if self._over.is_set():
                self._process.terminate()
            self._process.wait()
            self._over.wait(0.2)

    @contextmanager
    def running(self) -> Iterator[Apart]:
        """Keep it running."""
        self._keeper.start()
        try:
            yield self
        finally:
            self._over.set()
            process = self._process
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
            self._keeper.join(30)


def victim(home: Home, target: str) -> int | None:
    """The pid of what is to be killed; the training child is a child of the agent."""
    found = {process.name: process.pid for process in status(home, positions=False).processes if process.alive}
    if target != "child":
        return found.get(target)
    agent = found.get("agent-local")
    if agent is None:
        return None
    try:
        children = psutil.Process(agent).children(recursive=True)
    except psutil.NoSuchProcess:
        return None
    return children[-1].pid if children else None


def kill(pid: int | None) -> bool:
    """kill -9; whether there was anything to kill."""
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def kill_everything(home: Home) -> None:
    """kill -9 of the supervisor, with which every process below it dies at once; and start it all again."""
    instance = read_instance(home)
    assert instance is not None
    below = psutil.Process(instance.pid).children(recursive=True)
    os.kill(instance.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(below, timeout=20)
    assert left == [], "processes outlive their supervisor"
    start_detached(home, 60, port=int(instance.url.rpartition(":")[2]))


Dump = dict[str, list[str]]


@asynccontextmanager
async def reading(database_url: str) -> AsyncIterator[AsyncConnection]:
    """A transaction on a database from outside, with nothing of ours in between."""
    engine = create_async_engine(database_url, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


async def dumped(database_url: str, folds: Sequence[Projection], upto: int) -> Dump:
    """The rows of projections, sorted, once their positions have reached that of the log."""
    names = [fold.name for fold in folds]
    async with asyncio.timeout(90):
        while True:
            async with reading(database_url) as connection:
                found = await connection.execute(select(positions.c.position).where(positions.c.name.in_(names)))
                reached = list(found.scalars())
                if len(reached) == len(folds) and min(reached) >= upto:
                    assert set(reached) == {upto}
                    return {
                        table.name: sorted(
                            repr(sorted(dict(row).items()))
                            for row in (await connection.execute(select(table))).mappings()
                        )
                        for fold in folds
                        for table in fold.tables
                    }
            await asyncio.sleep(0.1)


async def refilled(log: EventLog, folds: Sequence[Projection], file: Path, upto: int) -> Dump:
    """The rows that the log gives when it is folded from its beginning into an empty database."""
    engine = make_engine(sqlite_url(file))
    codec = Codec(EVENTS, UPCASTERS)
    projectors = [Projector(LogSource(log, codec, fold.kinds), fold, engine) for fold in folds]
    for projector in projectors:
        await projector.open()
    tasks = [asyncio.create_task(projector.run()) for projector in projectors]
    try:
        for projector in projectors:
            await projector.wait_for(upto, 120)
        return await dumped(sqlite_url(file), folds, upto)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await engine.dispose()
