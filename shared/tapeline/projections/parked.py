"""Aggregates that a projection cannot fold: set aside with the reason, while all others go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    delete,
    insert,
    select,
    update,
)

from tapeline.errors import TapelineError
from tapeline.projections.state import SERVED, STATE, active, positions, suffix, write

MOST = 100
"""With more aggregates set aside than this, the fault is in the projection, and it stops."""
MAX_ERROR = 1000

parked_table = Table(
    "projection_parked",
    STATE,
    Column("name", String(64), primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("aggregate", String(255), primary_key=True),
    # The first commit that could not be folded; the rows tell of the aggregate before it.
    Column("position", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("since", String(32), nullable=False),
    Column("tries", Integer, nullable=False, default=0),
    # Whether somebody has asked to fold it again; the projector looks once a second.
    Column("wanted", Boolean, nullable=False, default=False),
)


@dataclass(frozen=True, slots=True)
class Parked:
    """One aggregate that is set aside: where, why, since when, and how often it was tried again."""

    name: str
    generation: int
    aggregate: str
    position: int
    error: str
    since: str
    tries: int = 0
    wanted: bool = False

    COLUMNS: ClassVar[tuple[str, ...]] = ("projection", "aggregate", "position", "since", "tries", "error")

    def cells(self) -> tuple[str, ...]:
        """The row of a table for people."""
        return (self.name, self.aggregate, str(self.position), self.since, str(self.tries), self.error)

    def to_json(self) -> dict[str, Any]:
        """The row with stable keys."""
        return asdict(self)


def listed(connection: Connection, name: str | None = None, generation: int | None = None) -> list[Parked]:
    """What is set aside, of one projection or of all that are served, in the order of the log."""
    if not connection.dialect.has_table(connection, parked_table.name):
        return []
    query = select(parked_table).order_by(parked_table.c.position, parked_table.c.name)
    if name is not None:
        query = query.where(parked_table.c.name == name)
    if generation is None:
        served = select(positions.c.generation).where(positions.c.name == parked_table.c.name)
        query = query.where(parked_table.c.generation.in_(served.where(positions.c.state.in_(SERVED))))
    else:
        query = query.where(parked_table.c.generation == generation)
    return [Parked(**dict(row)) for row in connection.execute(query).mappings()]


def set_aside(connection: Connection, new: Sequence[Parked]) -> None:
    """Write aggregates down as parked."""
    if new:
        connection.execute(insert(parked_table), [asdict(each) for each in new])


def tried(connection: Connection, one: Parked, error: str) -> None:
    """Write down that an aggregate still cannot be folded."""
    changed = {"error": error, "tries": one.tries + 1, "wanted": False}
    connection.execute(update(parked_table).where(_same(one)).values(**changed))


def released(connection: Connection, one: Parked) -> None:
    """Strike an aggregate off the list."""
    connection.execute(delete(parked_table).where(_same(one)))


def _same(one: Parked) -> ColumnElement[bool]:
    return and_(
        parked_table.c.name == one.name,
        parked_table.c.generation == one.generation,
        parked_table.c.aggregate == one.aggregate,
    )


def wish(connection: Connection, name: str, aggregate: str | None = None) -> list[Parked]:
    """Ask a projection's projector to fold what it has set aside again; gives what that is.

    Raises
    ------
    TapelineError
        `not_found` for an aggregate that is not set aside.
    """
    chosen = [one for one in listed(connection, name) if aggregate in (None, one.aggregate)]
    if aggregate is not None and not chosen:
        raise TapelineError(
            f"{aggregate} is not parked in {name}", code="not_found", hint="tapeline parked list"
        )  # fmt: skip
    for one in chosen:
        connection.execute(update(parked_table).where(_same(one)).values(wanted=True))
    return chosen


def reset(connection: Connection, name: str) -> None:
    """Empty the tables of the active generation, and its position: its projector refills them."""
    found = active(connection, name)
    if found is None:
        raise TapelineError(f"no projection is named {name!r} here", code="not_found")
    for table in found.tables:
        connection.execute(delete(Table(f"{table}{suffix(found.generation)}", MetaData())))
    of_it = and_(parked_table.c.name == name, parked_table.c.generation == found.generation)
    connection.execute(delete(parked_table).where(of_it))
    write(connection, found, position=0, parked=found.parked + 1)
