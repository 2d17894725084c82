"""The composition root of service processes: one process, any number of services, each as if alone.

Every service signs in as itself, on connections of its own, and speaks to the others over the bus only;
so `tapeline up` hosts three in one process and a cluster runs each in its own, with the same code.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from typing import Any

import msgspec
from faststream.nats import NatsBroker
from faststream.nats.security import NatsNKey
from nats.aio.client import Client
from pydantic import BaseModel, Field, ValidationError

from tapeline import subjects, topology
from tapeline.address import find_url
from tapeline.bus import router, served
from tapeline.clock import Clock, SystemClock
from tapeline.connection import connect_as, connect_options
from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.database import make_engine, sqlite_url
from tapeline.decider import Deciders
from tapeline.errors import TapelineError
from tapeline.home import Home, find_home, read_json, write_json
from tapeline.ids import new_id
from tapeline.lane import Lane
from tapeline.log import Appended, NewCommit
from tapeline.log.codec import Codec
from tapeline.log.intake import publish
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.lease import KvLease, while_held
from tapeline.log.metrics import MetricsStream
from tapeline.log.work import BuildQueue
from tapeline.logs import get_logger, logging_setup_later, logging_setup_now
from tapeline.projections import CANCEL_AGAIN_S
from tapeline.readiness import tell_ready
from tapeline.replay.archivist import Archivist
from tapeline.replay.backups import EVERY, Backups
from tapeline.replay.seals import Shelf, check_seals, shelf
from tapeline.security.accounts import AccountsFile
from tapeline.security.keys import read_credentials
from tapeline.service import (
    ARCHIVES,
    BUILDS,
    AgentTeams,
    Build,
    Lead,
    Platform,
    Service,
    Task,
    by_itself,
    own_team_only,
)
from tapeline.store import LocalStore

log = get_logger()

TOPOLOGY_WAIT_S = 30.0
STUCK_ASKED_EVERY_S = 1.0
MEANWHILE = ("unavailable", "not_found", "timeout", "topology_mismatch")
"""What a service hears while the streams are still being made."""
GRACEFUL_S = 5.0
ARCHIVE_DAYS = 90.0
"""Who looks at a run again does so in its first weeks."""
DAY_S = 86_400.0
COLLECT_EVERY = (10_000, 20, 20)
"""So much rarer than usual: most of what a request makes has no cycles."""


class HostSettings(BaseModel):
    """Settings of a service process, from `TAPELINE_*` variables.

    `database_url` may hold `{service}`; without it each service has a SQLite file in the home.
    `archive_every` is after how many commits the log is backed up, if the night has not come before;
    `metrics_archive_days` after how many days since its end a run's points go to the artifact store, 0 for never.
    """

    home: Path | None = None
    url: str | None = None
    database_url: str | None = None
    log_level: str = "INFO"
    archive_every: int = EVERY
    metrics_archive_days: float = Field(default=ARCHIVE_DAYS, ge=0, le=36_500, allow_inf_nan=False)

    @classmethod
    def from_environment(cls) -> HostSettings:
        """The settings that the environment has; `invalid` names the variable that cannot be right."""
        variables = {name: f"TAPELINE_{name.upper()}" for name in cls.model_fields}
        try:
            return cls.model_validate(
                {name: os.environ[variable] for name, variable in variables.items() if variable in os.environ}
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise TapelineError(
                f"{variables[str(first['loc'][0])]}: {first['msg']}", code="invalid", hint="mend or unset it"
            ) from error


def run(builds: Mapping[str, Build]) -> None:
    """Serve until SIGTERM or SIGINT; the process ends with 0 then, and with 1 after a service failed."""
    settings = HostSettings.from_environment()
    logging_setup_later("host" if len(builds) > 1 else next(iter(builds)), level=settings.log_level)
    asyncio.run(_run(builds, settings))


async def _run(builds: Mapping[str, Build], settings: HostSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        tasks = asyncio.TaskGroup()
        try:
            async with tasks:
                ends = tasks.create_task(stop.wait(), name="until told to stop")
                opened = await asyncio.gather(
                    *(stack.enter_async_context(_hosted(name, build, settings)) for name, build in builds.items())
                )
                running = [
                    tasks.create_task(work, name=f"{name} work")
                    for name, service in zip(builds, opened, strict=True)
                    for work in (
                        *(projector.run() for projector in service.projectors),
                        *(task() for task in service.tasks),
                    )
                ]
                # Until here a signal ends the process as it stands: nothing has begun that would need an end.
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, stop.set)
                # What was loaded until here stays: looking through it for cycles again and again would hold up whoever
                # asks just then for a tenth of a second.
                gc.freeze()
                gc.set_threshold(*COLLECT_EVERY)
                tell_ready()
                # The agent waits for an answer meanwhile.
                await asyncio.to_thread(logging_setup_now)
                log.info("services_ready", services=sorted(builds))
                await ends
                left = set(running)
                while left:
                    for task in left:
                        task.cancel()
                    # The client library may swallow a cancellation that meets its request: say it again, but let
                    # the projectors end what they run themselves before.
                    _, left = await asyncio.wait(left, timeout=10 * CANCEL_AGAIN_S)
        finally:
            log.info("services_stop", services=sorted(builds))


def enrolled(home: Home) -> AgentTeams:
    """The teams of an agent as `teams.toml` has them now; without such a file the one team that there is."""
    accounts = AccountsFile(home.teams_file)

    def teams_of(agent: str) -> Sequence[str]:
        if not home.teams_file.exists():
            return own_team_only(agent)
        found = accounts().agents.get(agent)
        return found.teams if found is not None else ()

    return teams_of


@asynccontextmanager
async def _hosted(name: str, build: Build, settings: HostSettings) -> AsyncIterator[Service]:
    home = find_home(settings.home)
    url = await find_url(home, settings.url)
    credentials = read_credentials(home.credential(f"svc-{name}"))
    clock = SystemClock()
    codec = Codec(EVENTS, UPCASTERS, TOMBSTONES)
    options = dict(connect_options(credentials, name=name))
    seed = str(options.pop("nkeys_seed_str"))
    lost = asyncio.Event()

    async def closed() -> None:
        # The client does not come back from some errors, a revoked key among them: end, and be started anew.
        lost.set()

    broker = NatsBroker(
        url,
        security=NatsNKey.from_seed(seed),
        closed_cb=closed,
        logger=None,
        apply_types=False,
        graceful_timeout=GRACEFUL_S,
        **options,  # type: ignore[arg-type]
    )
    async with AsyncExitStack() as stack:
        client = await broker.connect()
        stack.push_async_callback(broker.stop)

        async def reading(reader: Client, /, **more: Any) -> None:
            await connect_as(reader, credentials, url, name=f"{name}-read", **more)

        log_id = await _await_topology(client)
        event_log = JetStreamLog(client, codec, connect=reading, role=name)
        seals = shelf(home)
        await check_seals(event_log, seals)
        engine = make_engine((settings.database_url or sqlite_url(home.db / f"{name}.db")).format(service=name))
        stack.push_async_callback(engine.dispose)
        # A SQLite file is its home's alone; a server's database may have several copies of a service.
        has_copies = engine.dialect.name != "sqlite"
        work = home.run / name
        work.mkdir(mode=0o700, exist_ok=True)

        async def wake(ref: subjects.Ref, place: Appended, commit: NewCommit) -> None:
            # A hint: state is read by query, so a lost or doubled one does no harm.
            hint = {
                "position": place.position,
                "sequence": place.sequence,
                "types": [type(event).__name__ for event in commit.events],
            }
            await publish(client, subjects.feed(ref), msgspec.json.encode(hint))

        service = build(
            Platform(
                log=event_log,
                log_id=log_id,
                codec=codec,
                metrics=MetricsStream(client, connect=reading, role=name),
                deciders=Deciders(event_log, codec, clock, wake),
                engine=engine,
                store=LocalStore(home.store),
                clock=clock,
                publish=client.publish,
                home=work,
                agent_teams=enrolled(home),
                archivist=(
                    _archivist(home, event_log, seals, clock, settings.archive_every) if name == ARCHIVES else None
                ),
                standard=name == ARCHIVES,
                archive_metrics_after_s=settings.metrics_archive_days * DAY_S or None,
                lead=_leading(client, name) if has_copies else by_itself,
                builds=BuildQueue(client) if name == BUILDS else None,
            )
        )
        for projector in service.projectors:
            if has_copies:
                projector.stand_by(
                    KvLease(client, f"projection.{projector.name}", f"{name}@{gethostname()}:{new_id()}")
                )
            await projector.open()
        if service.start is not None:
            await service.start()
        broker.include_router(router(service.verbs, clock))
        await broker.start()
        lane = Lane(client, clock)
        taken = [getattr(each, "subscription", None) for each in broker.subscribers]
        if not lane.open(served(service.verbs), {each.subject: each for each in taken if each is not None}):
            log.warning("slow_lane", service=name)
        stack.push_async_callback(lane.close)
        own = (lambda: _until_lost(name, lost), lambda: tell_stuck(home, event_log, client))
        yield replace(service, tasks=(*service.tasks, *own))


def _leading(client: Client, name: str) -> Lead:
    """Tasks that only one copy of a service does at a time, whoever holds the lease."""

    def lead(what: str, task: Task) -> Task:
        return lambda: while_held(KvLease(client, what, f"{name}@{gethostname()}:{new_id()}"), task)

    return lead


def _archivist(home: Home, event_log: JetStreamLog, seals: Shelf, clock: Clock, archive_every: int) -> Task | None:
    """What seals the log and backs it up; none where the seal key is not."""
    key = home.credential("seal")
    if not key.exists():
        return None
    credentials = read_credentials(key)
    store = LocalStore(home.store)
    archivist = Archivist(log=event_log, store=store, shelf=seals, credentials=credentials, clock=clock)
    backups = Backups(event_log, home, seals, clock, archive_every)

    async def archive() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(archivist.run(), name="seals")
            tasks.create_task(backups.run(), name="backups")

    return archive


async def _until_lost(name: str, lost: asyncio.Event) -> None:
    await lost.wait()
    raise TapelineError(f"the bus has ended the connection of {name} for good", code="unavailable")


async def tell_stuck(home: Home, event_log: JetStreamLog, client: Client) -> None:
    """Tell the supervisor of a server that stores nothing more, with its pid: it starts it again."""
    while True:
        await asyncio.sleep(STUCK_ASKED_EVERY_S)
        server = read_json(home.server_file)
        if event_log.is_stuck and client.is_connected and server is not None and not home.stuck_file.exists():
            log.error("log_stuck", server_pid=server.get("pid"), hint="nats-server is started again")
            write_json(home.stuck_file, {"pid": server.get("pid")})


async def _await_topology(client: Client) -> str:
    """The id of the log, once the streams are there: whoever starts the system makes them meanwhile."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + TOPOLOGY_WAIT_S
    while True:
        try:
            return await topology.check(client)
        except TapelineError as error:
            if error.code not in MEANWHILE or loop.time() > deadline:
                raise
        await asyncio.sleep(0.05)
