"""One service on a real log, for tests: requests go through `tapeline.bus.answer` as if from the broker."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tapeline import topology
from tapeline.bus import Verb, answer
from tapeline.clock import Clock, SystemClock
from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.contracts.artifacts import PART_BYTES
from tapeline.database import make_engine, sqlite_url
from tapeline.decider import Deciders
from tapeline.errors import TapelineError, from_fault
from tapeline.log.codec import Codec
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.metrics import MetricsStream
from tapeline.log.work import BuildQueue
from tapeline.projections import CANCEL_AGAIN_S, Parked
from tapeline.service import Build, Platform, Service
from tapeline.store import LocalStore
from tapeline.testing.server import NatsServer, connector


class Hosted:
    """A composed service with its projectors and tasks running.

    Attributes
    ----------
    position : the highest position that a reply has carried; the next request waits for it
    """

    def __init__(self, service: Service, platform: Platform, clock: Clock) -> None:
        self.service = service
        self.platform = platform
        self.position = 0
        self._clock = clock
        self._verbs: dict[str, Verb] = {verb.name: verb for verb in service.verbs}

    async def ask(self, verb: str, *, team: str = "contoso", user: str = "ann", **fields: Any) -> dict[str, Any]:
        """The reply to a request; raises the error that a refusal stands for.

        Raises
        ------
        TapelineError
            What the service answered.
        """
        known = self._verbs[verb]
        if "min_position" in known.request.model_fields:
            fields = {"min_position": self.position or None} | fields
        # As the broker rewrites it at the border of the team's account.
        subject = known.subject.replace("*", team, 1).replace("*", user, 1)
        body = await answer(known, subject, json.dumps(fields).encode(), {}, self._clock)
        reply: dict[str, Any] = json.loads(body)
        if "error" in reply:
            raise from_fault(reply["error"], body.decode())
        self.position = max(self.position, int(reply["position"]))
        return reply

    async def view(self, verb: str, **fields: Any) -> Any:
        """The view of a reply."""
        return (await self.ask(verb, **fields))["view"]

    async def code(self, asked: Awaitable[Any]) -> str:
        """The code of the refusal of a request; fails the test when it is accepted."""
        try:
            await asked
        except TapelineError as error:
            return str(error.code)
        raise AssertionError("the request was accepted")

    def set_aside(self, projection: str, aggregate: str) -> None:
        """Park an aggregate `<team>/<kind>/<id>` in a running projection, as a commit that it cannot fold would."""
        (projector,) = [one for one in self.service.projectors if one.name == projection]
        parked = Parked(projection, 1, aggregate, projector.position, "set aside by a test", "")
        dict.update(projector.parked, {aggregate: parked})

    async def upload(self, path: Path, **who: str) -> str:
        """Upload a file in parts; gives its digest."""
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        begun = await self.view("begin_upload", size_bytes=len(data), sha256=sha256, **who)
        while not begun["complete"]:
            start = begun["received_bytes"]
            part = base64.b64encode(data[start : start + PART_BYTES]).decode()
            begun = await self.view("upload_part", upload_id=begun["upload_id"], offset=start, data=part, **who)
        return sha256


@asynccontextmanager
async def hosted(
    server: NatsServer, build: Build, folder: Path, name: str, *, database_url: str | None = None
) -> AsyncIterator[Hosted]:
    """A service on a real server, with its store and its tables in `folder`; may be opened again on the same.

    With `database_url` its tables are there.
    """
    client = await server.connect()
    await topology.apply(client, topology.topology())
    codec, clock = Codec(EVENTS, UPCASTERS, TOMBSTONES), SystemClock()
    connect = connector(server.url)
    log = JetStreamLog(client, codec, connect=connect, role=name)
    home = folder / f"{name}-work"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = make_engine(database_url or sqlite_url(folder / f"{name}.db"))
    platform = Platform(
        log=log,
        log_id=(await log.head()).log_id,
        codec=codec,
        metrics=MetricsStream(client, connect=connect, role=name),
        deciders=Deciders(log, codec, clock),
        engine=engine,
        store=LocalStore(folder / "store"),
        clock=clock,
        publish=client.publish,
        home=home,
        builds=BuildQueue(client),
    )
    service = build(platform)
    for projector in service.projectors:
        await projector.open()
    if service.start is not None:
        await service.start()
    running = [
        asyncio.ensure_future(work)
        for work in (*(projector.run() for projector in service.projectors), *(task() for task in service.tasks))
    ]
    try:
        yield Hosted(service, platform, clock)
    finally:
        left = set(running)
        while left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=10 * CANCEL_AGAIN_S)
        await asyncio.gather(*running, return_exceptions=True)
        await engine.dispose()
        # A cancelled request may have broken the connection already.
        with contextlib.suppress(OSError):
            await client.close()
