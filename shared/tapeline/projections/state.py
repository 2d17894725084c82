"""Where each projection is: tables beside those that it fills, moved in the same transaction."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    inspect,
    select,
    update,
)

from tapeline.database import physical
from tapeline.projections.statements import run

STATE = MetaData()
positions = Table(
    "projection_positions",
    STATE,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("log_id", String(64), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("tables", JSON, nullable=False),
    # The stream that positions belong to: EVENTS, or METRICS.
    Column("stream", String(16), nullable=False),
    # Who moves the position now, where several may.
    Column("writer", String),
    # Counts the changes of what is parked: a projector that knows an older state must look again.
    Column("parked", Integer, nullable=False),
)

_LOOK = select(positions.c.position, positions.c.parked).where(positions.c.name == bindparam("n"))
_MOVE = (
    update(positions)
    .where(
        positions.c.name == bindparam("n"),
        positions.c.log_id == bindparam("l"),
        positions.c.position == bindparam("old"),
        positions.c.parked == bindparam("old_parked"),
    )
    .values(position=bindparam("new"), parked=bindparam("new_parked"))
)
_LOOK_SQLITE = "SELECT position, parked FROM projection_positions WHERE name = ?"
_MOVE_SQLITE = (
    "UPDATE projection_positions SET position = ?, parked = ?"
    " WHERE name = ? AND log_id = ? AND position = ? AND parked = ?"
)


class Moved(Exception):
    """The position in the database is not the one that this projector left."""


class Place(NamedTuple):
    """What a projector must find as it left it: the position, and how often the list of what is parked changed."""

    position: int
    parked: int


def place_of(connection: Connection, name: str) -> Place | None:
    """Where a projection is; None when nobody has begun it."""
    if connection.dialect.name == "sqlite":
        found = run(connection, _LOOK_SQLITE, (name,)).fetchone()
    else:
        found = connection.execute(_LOOK, {"n": name}).first()
    return None if found is None else Place(*found)


def move(connection: Connection, name: str, log_id: str, old: Place, new: Place) -> None:
    """Move a projection from where its projector left it, in the transaction of the rows; raises `Moved`."""
    if connection.dialect.name == "sqlite":
        moved = run(connection, _MOVE_SQLITE, (*new, name, log_id, *old))
    else:
        values = {"n": name, "l": log_id, "old": old[0], "old_parked": old[1], "new": new[0], "new_parked": new[1]}
        moved = connection.execute(_MOVE, values)
    if moved.rowcount != 1:
        raise Moved


def make(connection: Connection) -> None:
    """Make the tables of positions. One of an older layout is replaced, and with it all that it tells of."""
    if connection.dialect.has_table(connection, positions.name):
        known = {column["name"] for column in inspect(connection).get_columns(positions.name)}
        if known != {column.name for column in positions.columns}:
            positions.drop(connection)
    for table in STATE.sorted_tables:
        physical(table).create(connection, checkfirst=True)
