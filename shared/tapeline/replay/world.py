"""A whole team as of a position: the queries of all services, answered from tables that stand still.

How the tables are made and kept is in `worlds.py`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline import subjects
from tapeline.bus import Verb, answer
from tapeline.clock import SystemClock
from tapeline.contracts.message import Query
from tapeline.database import make_engine, sqlite_url
from tapeline.decider import Deciders
from tapeline.errors import TapelineError, fault
from tapeline.replay.reading import codec
from tapeline.replay.still import StillLog, StillMetrics, refuse
from tapeline.service import Build, Platform, Service
from tapeline.store import ArtifactStore

if TYPE_CHECKING:
    from tapeline.sdk.past import PastClient

SERVICES = "tapeline.services"
"""Group of entry points: by name of a service, its `build`. Shared code does not know services."""
LISTS = (
    ("tape", "assets", "list_tapes"),
    ("asset", "assets", "list"),
    ("canvas", "assets", "list_canvases"),
    ("run", "runs", "list"),
    ("vault", "vault", "list"),
)
"""The queries that list what a team has: the kind of things, the service and the verb."""
PAGE = 500


def builds() -> Mapping[str, Build]:
    """Every installed service by its name."""
    found = {each.name: each.load() for each in entry_points(group=SERVICES)}
    if not found:
        raise TapelineError(
            "no service is installed", code="not_found", hint="make install, after the entry points have changed"
        )
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where a world stands: in which log, at which position and time, and how far its measurements go."""

    log_id: str
    position: int
    time: datetime
    metrics: int
    folder: Path
    store: ArtifactStore


class Hosted:
    """The services of a world, composed on its tables and never started: they only answer queries.

    Belongs to the event loop that opens it.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._verbs: dict[str, Verb] = {}
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Compose the services on the tables as they are."""
        log = StillLog(self._place.log_id, self._place.position)
        metrics = StillMetrics(None, self._place.time, self._place.metrics)
        for name, build in builds().items():
            service = await self._stack.enter_async_context(composed(name, build, self._place, log, metrics))
            self._verbs |= {f"{verb.service}.{verb.name}": verb for verb in service.verbs if verb.audience == "user"}

    async def close(self) -> None:
        """Let go of the tables."""
        await self._stack.aclose()

    async def answer(self, team: str, user: str, name: str, fields: Mapping[str, Any]) -> bytes:
        """The reply to `<service>.<verb>`, as the bus would give it."""
        verb = self._verbs.get(name)
        if verb is None:
            missing = TapelineError(f"there is no query {name}", code="not_found", hint="tapeline --help")
            return json.dumps({"error": fault(missing)}).encode()
        if not issubclass(verb.request, Query):
            try:
                refuse(self._place.position)
            except TapelineError as error:
                return json.dumps({"error": fault(error)}).encode()
        subject = subjects.forwarded(subjects.Principal(team, user), verb.service, verb.name)
        # Every table of a world is at its position, whatever each projection has written down of it.
        body = {key: value for key, value in fields.items() if key != "min_position"}
        raw = await answer(verb, subject, json.dumps(body).encode(), {}, SystemClock(), noted=False)
        reply: dict[str, Any] = json.loads(raw)
        if "error" not in reply:
            reply["position"] = self._place.position
        return json.dumps(reply).encode()


class World:
    """A team as of a position.

    Attributes
    ----------
    place : where it stands
    team : whose queries it answers
    """

    def __init__(self, place: Place, team: str, user: str = "operator") -> None:
        self.place = place
        self.team = team
        self._user = user

    @property
    def position(self) -> int:
        """The position of the log that it shows."""
        return self.place.position

    @cached_property
    def sdk(self) -> PastClient:
        """A read-only client with the query functions of the SDK; commands raise `ReadOnly`."""
        from tapeline.sdk.past import of_world

        return of_world(self)

    @property
    def user(self) -> str:
        """As whom it asks."""
        return self._user

    def things(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each thing that the team has, as its kind and the view that the services give of it."""
        for kind, service, verb in LISTS:
            offset = 0
            while items := self.sdk.query(service, verb, limit=PAGE, offset=offset)["items"]:
                yield from ((kind, item) for item in items)
                offset += len(items)

    def hosted(self) -> Hosted:
        """The services that answer, to be opened on the loop that will ask."""
        return Hosted(self.place)

    def close(self) -> None:
        """Let go of the client."""
        if "sdk" in self.__dict__:
            self.sdk.close()


@asynccontextmanager
async def composed(
    name: str, build: Build, place: Place, log: StillLog, metrics: StillMetrics
) -> AsyncIterator[Service]:
    """A service on the tables of a world, opened and not started."""
    clock, decoder = SystemClock(), codec()
    engine = make_engine(sqlite_url(place.folder / f"{name}.db"))
    work = place.folder / f"{name}-work"
    work.mkdir(mode=0o700, exist_ok=True)

    async def unheard(subject: str, body: bytes) -> None:
        refuse(place.position)

    try:
        service = build(
            Platform(
                log=log,
                log_id=place.log_id,
                codec=decoder,
                metrics=metrics,
                deciders=Deciders(log, decoder, clock),
                engine=engine,
                store=place.store,
                clock=clock,
                publish=unheard,
                home=work,
            )
        )
        for projector in service.projectors:
            await projector.open()
        yield service
    finally:
        await engine.dispose()
