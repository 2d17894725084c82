"""The process behind `tapeline up`: it starts the server, the services and an agent, and keeps them running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tapeline import teams
from tapeline.embedded.child import Child, ChildSpec
from tapeline.embedded.server import EmbeddedServer
from tapeline.home import Home, HomeLock, Instance, hold, write_instance, write_json
from tapeline.logs import get_logger, logging_setup_now
from tapeline.security.keys import read_credentials

if TYPE_CHECKING:
    from tapeline.connection import BusClient

TEAM = "main"
AGENT = teams.AGENT
START_SECONDS = 30.0
START_TRIES = 3
_OWN_VARIABLES = ("TAPELINE_URL", "TAPELINE_TEAM", "TAPELINE_CREDS", "TAPELINE_PROFILE", "TAPELINE_READY_FD")
log = get_logger()

Children = Callable[[Home], Sequence[ChildSpec]]
Topology = Callable[["BusClient", int], Awaitable[None]]


def environment(home: Home, **more: str) -> dict[str, str]:
    """The environment of a child: ours, without what names another instance, with the home of this one.

    Where the server listens is not known yet when a child starts: it finds that in the home.
    """
    ours = {name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES}
    return {**ours, "TAPELINE_HOME": str(home.root), **more}


def default_children(home: Home) -> Sequence[ChildSpec]:
    """The children besides the server, in the order in which they start; they stop in the opposite order."""
    # -P: nothing is imported from the current folder, -u: a log line is there before a kill.
    python = (sys.executable, "-P", "-u", "-m")
    return (
        ChildSpec(
            name="host",
            argv=(*python, "tapeline.host"),
            env=environment(home),
            stop_grace_s=10.0,
        ),
        ChildSpec(
            name=f"agent-{AGENT}",
            argv=(*python, "tapeline.trainer", "--agent", AGENT),
            env=environment(home, TAPELINE_CREDS=str(home.credential(f"agent-{AGENT}"))),
            stop_grace_s=30.0,
        ),
    )


async def apply_topology(client: BusClient, max_file_bytes: int) -> None:
    """Make the streams and buckets of a single server, or check that they are as they must be."""
    from tapeline import topology

    await topology.apply(client, topology.topology(topology.embedded_sizes(max_file_bytes)))


class Supervisor:
    """One running embedded instance."""

    def __init__(self, home: Home, *, port: int, children: Children, make_topology: Topology) -> None:
        self._home = home
        self._make_children = children
        self._make_topology = make_topology
        self._server = EmbeddedServer(home, port=port)
        self._children: list[Child] = []
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._started_at = datetime.now(UTC)
        self._signals = 0

    async def run(self, on_ready: Callable[[Instance], None]) -> None:
        """Start everything, report, and serve until a signal; then end everything.

        Raises
        ------
        TapelineError
            What kept a part from starting; all that had started is ended first.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._hear)
        try:
            starting = asyncio.ensure_future(self._start())
            stopped = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not starting.done():
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                return
            instance = starting.result()
            write_instance(self._home, instance)
            log.info("ready", url=instance.url, after_s=round(self._age_s(), 3))
            on_ready(instance)
            logging_setup_now()
            await self._serve()
        finally:
            await self._end()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def _start(self) -> Instance:
        # What a supervisor that was killed has left would send the children to a server that is gone.
        self._home.server_file.unlink(missing_ok=True)
        server = self._add(self._server.spec())
        # The services spend their first second on imports: the server and the streams are made meanwhile.
        added = [self._add(spec) for spec in self._make_children(self._home)]

        async def serving() -> None:
            await server.wait_ready(START_SECONDS, START_TRIES)
            await self._apply_topology()

        await _all_or_first_error(serving(), *(child.wait_ready(START_SECONDS, START_TRIES) for child in added))
        from importlib.metadata import version

        return Instance(
            pid=os.getpid(),
            started_at=self._started_at.isoformat(),
            url=self._server.url,
            web_url=None,
            team=TEAM,
            creds=str(self._home.credential("me")),
            version=version("tapeline"),
        )

    async def _apply_topology(self) -> None:
        """Make the streams as admin; the services wait for them, and the connection is dropped."""
        from tapeline.connection import connect

        admin = read_credentials(self._home.credential("admin"))
        client = await connect(admin, self._server.url, name="topology")
        try:
            await self._make_topology(client, self._server.settings.max_file_bytes)
        finally:
            await client.close()

    def _add(self, spec: ChildSpec) -> Child:
        child = Child(spec, self._home.logs, self._record)
        self._children.append(child)
        child.start()
        return child

    async def _serve(self) -> None:
        """Wait for a signal. A child that was given up stays down; a defect in our own loop ends us."""
        stopped = asyncio.ensure_future(self._stop.wait())
        kept = {child.kept for child in self._children if child.kept is not None}
        try:
            while not stopped.done():
                awaited: set[asyncio.Future[object]] = {stopped, *kept}  # type: ignore[arg-type]
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in kept if task.done()]:
                    kept.discard(task)
                    task.result()
        finally:
            stopped.cancel()

    async def _end(self) -> None:
        """Agents first, so that they can still report; then the services; the server last."""
        with contextlib.suppress(FileNotFoundError):
            self._home.instance_file.unlink()
        for child in reversed(self._children):
            ending = asyncio.ensure_future(child.stop())
            hurried = asyncio.ensure_future(self._hurry.wait())
            await asyncio.wait({ending, hurried}, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            if not ending.done():
                await child.stop(0)
            await ending
        for left in (self._home.processes_file, self._home.server_file):
            left.unlink(missing_ok=True)
        log.info("stopped", after_s=round(self._age_s(), 3))

    def _hear(self) -> None:
        """The first signal asks everything to end in order, the second ends it at once."""
        self._signals += 1
        self._stop.set()
        if self._signals > 1:
            self._hurry.set()

    def _record(self) -> None:
        """Keep the state of all children where `tapeline status` finds it."""
        rows: list[Mapping[str, object]] = [
            {
                "name": child.spec.name,
                "pid": child.pid,
                "created": child.created,
                "state": child.state,
                "starts": child.starts,
                "reason": child.reason,
                "log": str(child.log_file),
            }
            for child in self._children
        ]
        write_json(self._home.processes_file, {"pid": os.getpid(), "url": self._server.url, "processes": rows})

    def _age_s(self) -> float:
        return time.time() - self._started_at.timestamp()


async def _all_or_first_error(*works: Coroutine[object, object, None]) -> None:
    """Wait for all works; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run_foreground(
    home: Home,
    *,
    port: int = -1,
    children: Children = default_children,
    make_topology: Topology = apply_topology,
    on_ready: Callable[[Instance], None] = lambda _instance: None,
) -> None:
    """Run an embedded instance in this process until SIGTERM or SIGINT.

    Parameters
    ----------
    home : Home
        Where it lives; made when missing.
    port : int
        Where the server listens on 127.0.0.1; -1 for a free port.
    children, make_topology : callables
        The table of children besides the server, and what makes the streams.
    on_ready : callable
        Called once, when everything serves.

    Raises
    ------
    TapelineError
        `already_running` when the home is held, `insufficient_storage` below 1 GiB free,
        `dependency_missing` without a nats-server, `unavailable` when a part does not start.
    """
    home.make()
    held: HomeLock = hold(home)
    try:
        home.instance_file.unlink(missing_ok=True)
        teams.make_identities(home, team=TEAM, agent=AGENT)

        async def run() -> None:
            await Supervisor(home, port=port, children=children, make_topology=make_topology).run(on_ready)

        asyncio.run(run())
    finally:
        held.release()
