"""Aggregates that a projection cannot fold: set aside with the reason, while all others go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)

from tapeline.errors import TapelineError
from tapeline.projections.state import STATE, positions

MOST = 100
"""With more aggregates set aside than this, the fault is in the projection, and it stops."""
MAX_ERROR = 1000

parked_table = Table(
    "projection_parked",
    STATE,
    Column("name", String(64), primary_key=True),
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


def listed(connection: Connection, name: str | None = None) -> list[Parked]:
    """What is set aside, of one projection or of all, in the order of the log."""
    if not connection.dialect.has_table(connection, parked_table.name):
        return []
    query = select(parked_table).order_by(parked_table.c.position, parked_table.c.name)
    if name is not None:
        query = query.where(parked_table.c.name == name)
    return [Parked(**dict(row)) for row in connection.execute(query).mappings()]


def set_aside(connection: Connection, new: Sequence[Parked]) -> None:
    """Write aggregates down as parked."""
    if new:
        connection.execute(insert(parked_table), [asdict(each) for each in new])


def tried(connection: Connection, one: Parked, error: str) -> None:
    """Write down that an aggregate still cannot be folded."""
    of_it = (parked_table.c.name == one.name) & (parked_table.c.aggregate == one.aggregate)
    changed = {"error": error, "tries": one.tries + 1, "wanted": False}
    connection.execute(update(parked_table).where(of_it).values(**changed))


def released(connection: Connection, name: str, aggregate: str | None = None) -> None:
    """Strike an aggregate, or all of a projection, off the list."""
    query = delete(parked_table).where(parked_table.c.name == name)
    connection.execute(query if aggregate is None else query.where(parked_table.c.aggregate == aggregate))


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
        of_it = (parked_table.c.name == name) & (parked_table.c.aggregate == one.aggregate)
        connection.execute(update(parked_table).where(of_it).values(wanted=True))
    return chosen


def reset(connection: Connection, name: str) -> None:
    """Empty a projection's tables and its position, in the caller's transaction: its projector refills them."""
    row = connection.execute(select(positions).where(positions.c.name == name)).mappings().first()
    if row is None:
        raise TapelineError(f"no projection is named {name!r} here", code="not_found")
    metadata = MetaData()
    for table in row["tables"]:
        connection.execute(delete(Table(table, metadata)))
    released(connection, name)
    of_it = update(positions).where(positions.c.name == name)
    connection.execute(of_it.values(position=0, parked=positions.c.parked + 1))
