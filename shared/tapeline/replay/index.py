"""The index of events that the services keep, asked beside them: where an event stands, without reading the log."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tapeline.home import Home, find_home
from tapeline.log import EventLog
from tapeline.logs import get_logger
from tapeline.replay.reading import opened
from tapeline.subjects import Ref, parse_ref

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tapeline.database import Engine

_log = get_logger()


class Indexed(NamedTuple):
    """Where an event stands: its position, its place in the commit, and whether it brings about what was asked for."""

    position: int
    place: int
    made: bool = False


@dataclass(frozen=True, slots=True)
class EventIndex:
    """The index as far as it had come when it was opened; what lies behind that is to be read from the log."""

    engine: Engine
    position: int

    async def event(self, id: str) -> Indexed | None:
        """The event with this id."""

        def asked(connection: Connection) -> Indexed | None:
            from sqlalchemy import select

            from tapeline.projections.standard.tables import event_index as t

            found = connection.execute(
                select(t.c["position"], t.c["index"]).where(t.c.event_id == id, t.c.position <= self.position)
            ).first()
            return None if found is None else Indexed(*found)

        return await self.engine.read(asked)

    async def naming(self, kind: str, value: str) -> list[Indexed]:
        """The events that name something, or bring it about, in order."""

        def asked(connection: Connection) -> list[Indexed]:
            from sqlalchemy import select

            from tapeline.projections.standard.tables import event_names as t

            query = (
                select(t.c["position"], t.c["index"], t.c.made)
                .where(t.c.value == value, t.c.kind == kind, t.c.position <= self.position)
                .order_by(t.c["position"], t.c["index"])
            )
            return [Indexed(position, index, bool(made)) for position, index, made in connection.execute(query)]

        return await self.engine.read(asked)

    async def refs(self, place: str) -> list[Ref]:
        """The aggregates that are written as `<kind>/<id>`, one a team."""

        def asked(connection: Connection) -> list[Ref]:
            from sqlalchemy import select

            from tapeline.projections.standard.tables import event_index as t

            query = select(t.c.team).where(t.c.aggregate == place, t.c.position <= self.position).distinct()
            return sorted(parse_ref(place, team) for (team,) in connection.execute(query))

        return await self.engine.read(asked)

    async def last(
        self,
        n: int,
        *,
        team: str | None = None,
        kind: str | None = None,
        aggregate: str | None = None,
        type: str | None = None,
    ) -> list[int]:
        """The positions of the last `n` events that are meant, in order, each once.

        `aggregate` is written as `<kind>/<id>` or `<team>/<kind>/<id>`.
        """
        if aggregate is not None and aggregate.count("/") == 2:
            of, _, aggregate = aggregate.partition("/")
            if team not in (None, of):
                return []
            team = of
        wanted = {"team": team, "kind": kind, "aggregate": aggregate, "type": type}

        def asked(connection: Connection) -> list[int]:
            from sqlalchemy import select

            from tapeline.projections.standard.tables import event_index as t

            query = select(t.c["position"]).where(t.c.position <= self.position)
            for name, value in wanted.items():
                if value is not None:
                    query = query.where(t.c[name] == value)
            query = query.order_by(t.c["position"].desc(), t.c["index"].desc()).limit(n)
            return sorted({position for (position,) in connection.execute(query)})

        return await self.engine.read(asked)


async def index_of(engines: Mapping[str, Engine], log: EventLog) -> EventIndex | None:
    """The index of a log in these databases; None when none of them has one that tells of this log, and of all of it.

    A database that cannot be asked is as one without an index: the log itself has everything.
    """
    from sqlalchemy.exc import DBAPIError

    head = await log.head()
    for name, engine in engines.items():
        try:
            position = await engine.read(lambda connection: _standing(connection, head.log_id))
        except (DBAPIError, OSError) as error:
            _log.warning("index_not_asked", database=name, why=str(error)[:200])
            continue
        if position is not None and position <= head.position:
            return EventIndex(engine, position)
    return None


def _standing(connection: Connection, log_id: str) -> int | None:
    """Where the index stands; None when it is not there, of another log, or has a hole."""
    from tapeline.projections.parked import listed
    from tapeline.projections.standard import event_index
    from tapeline.projections.state import active

    found = active(connection, event_index.name)
    if found is None or found.log_id != log_id or found.version != event_index.version:
        return None
    return None if listed(connection, event_index.name) else found.position


@asynccontextmanager
async def opened_with_index(home: Home | None = None) -> AsyncIterator[tuple[EventLog, EventIndex | None]]:
    """The log of an instance, and the index that its services keep of it, if they do; see `opened`."""
    from tapeline.replay.databases import databases

    home = home or find_home()
    async with opened(home) as log, databases(home, os.environ.get("TAPELINE_DATABASE_URL")) as engines:
        yield log, await index_of(engines, log)
