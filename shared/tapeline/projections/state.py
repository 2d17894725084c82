"""Where each projection is: rows beside the tables that they tell of, moved in the same transaction.

A projection has generations of its tables, `<table>__g<n>`. One is active: views with the plain names show
it, and only its projector moves it. Others are being built, or kept to go back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    inspect,
    select,
    text,
    update,
)

from tapeline.database import physical
from tapeline.projections.statements import fetched, run, upsert

ACTIVE, HANDED, BUILDING, KEPT = "active", "handed", "building", "kept"
"""Handed: still shown, but at rest, because another generation is about to take its place."""
SERVED = (ACTIVE, HANDED)
STATE = MetaData()
positions = Table(
    "projection_positions",
    STATE,
    Column("name", String(64), primary_key=True),
    Column("generation", Integer, primary_key=True),
    # Active, handed, building or kept.
    Column("state", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("log_id", String(64), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("tables", JSON, nullable=False),
    # The stream that positions belong to: EVENTS, or METRICS.
    Column("stream", String(16), nullable=False),
    # Who moves the position now, where several may; and when a builder was last heard of, in seconds since 1970.
    Column("writer", String),
    Column("beat", Float),
    # Counts the changes of what is parked: a projector that knows an older state must look again.
    Column("parked", Integer, nullable=False),
)
_HERE = (positions.c.name == bindparam("n")) & (positions.c.generation == bindparam("g"))
_LOOK = select(positions.c.position, positions.c.parked, positions.c.state).where(_HERE)
_MOVE = (
    update(positions)
    .where(
        _HERE,
        positions.c.log_id == bindparam("l"),
        positions.c.position == bindparam("old"),
        positions.c.parked == bindparam("old_parked"),
        positions.c.state == bindparam("s"),
    )
    .values(position=bindparam("new"), parked=bindparam("new_parked"))
)
_LOOK_SQLITE = "SELECT position, parked, state FROM projection_positions WHERE name = ? AND generation = ?"
_MOVE_SQLITE = (
    "UPDATE projection_positions SET position = ?, parked = ? WHERE name = ? AND generation = ?"
    " AND log_id = ? AND position = ? AND parked = ? AND state = ?"
)


class Moved(Exception):
    """The position in the database is not the one that this projector left."""


class Place(NamedTuple):
    """What a projector must find as it left it: the position, and how often the list of what is parked changed."""

    position: int
    parked: int


@dataclass(frozen=True, slots=True)
class Known:
    """One generation of a projection, as the database has it."""

    name: str
    generation: int
    state: str
    version: int
    log_id: str
    position: int
    tables: list[str]
    stream: str
    writer: str | None
    beat: float | None
    parked: int

    @property
    def place(self) -> Place:
        return Place(self.position, self.parked)


def suffix(generation: int) -> str:
    """What the names of a generation's tables end in."""
    return f"__g{generation}"


def known(connection: Connection, name: str | None = None) -> list[Known]:
    """The generations of one projection or of all, in order."""
    if not connection.dialect.has_table(connection, positions.name):
        return []
    query = select(positions).order_by(positions.c.name, positions.c.generation)
    if name is not None:
        query = query.where(positions.c.name == name)
    return [Known(**dict(row)) for row in connection.execute(query).mappings()]


def active(connection: Connection, name: str) -> Known | None:
    """The generation that is served."""
    return next((each for each in known(connection, name) if each.state in SERVED), None)


def place_of(connection: Connection, name: str, generation: int, state: str) -> Place | None:
    """Where a generation is; None when it is not there, or not in this state any more."""
    if connection.dialect.name == "sqlite":
        found = next(iter(fetched(connection, _LOOK_SQLITE, (name, generation))), None)
    else:
        found = connection.execute(_LOOK, {"n": name, "g": generation}).first()
    return None if found is None or found[2] != state else Place(found[0], found[1])


def move(connection: Connection, of: Known, old: Place, new: Place) -> None:
    """Move a generation from where its writer left it, in the transaction of the rows; raises `Moved`."""
    if connection.dialect.name == "sqlite":
        values = (*new, of.name, of.generation, of.log_id, *old, of.state)
        moved = run(connection, _MOVE_SQLITE, values)
    else:
        named = {
            "n": of.name, "g": of.generation, "l": of.log_id, "s": of.state, "old": old[0], "old_parked": old[1],
            "new": new[0], "new_parked": new[1],
        }  # fmt: skip
        moved = connection.execute(_MOVE, named)
    if moved.rowcount != 1:
        raise Moved


def write(connection: Connection, of: Known, **changed: Any) -> None:
    """Change what is known of a generation."""
    here = (positions.c.name == of.name) & (positions.c.generation == of.generation)
    connection.execute(update(positions).where(here).values(**changed))


def begin(connection: Connection, new: Known, tables: Sequence[Table]) -> None:
    """Make the empty tables of a new generation, and the views of one that is active."""
    for table in tables:
        made = physical(table, suffix(new.generation))
        made.drop(connection, checkfirst=True)
        made.create(connection)
    columns = [column.name for column in positions.columns]
    upsert(connection, positions, [{name: getattr(new, name) for name in columns}])
    if new.state == ACTIVE:
        _show(connection, new, None)


def hand(connection: Connection, name: str, beat: float) -> Known | None:
    """Bring the generation that is served to rest, so that another can catch up with it; None when there is none."""
    found = active(connection, name)
    if found is not None:
        # Whoever moves it finds it in another state, and waits.
        write(connection, found, state=HANDED, beat=beat)
        found = active(connection, name)
    return found


def take_back(connection: Connection, name: str) -> None:
    """Let the generation that was handed move again."""
    of = (positions.c.name == name) & (positions.c.state == HANDED)
    connection.execute(update(positions).where(of).values(state=ACTIVE, beat=None))


def switch(connection: Connection, to: Known) -> None:
    """Show another generation under the plain names, which has all that the one before it has.

    Everything in one transaction, and no row is folded in it: whoever read before it sees the old tables to
    the end, whoever reads after it sees the new ones, and these tell of the same position or a later one.
    Raises `Moved` when another has begun to build it, or the one before it is not at rest.
    """
    rows = known(connection, to.name)
    now = next((each for each in rows if each.generation == to.generation), None)
    before = next((each for each in rows if each.state in SERVED), None)
    if now is None or now.writer != to.writer:
        raise Moved
    if before is not None:
        if before.state != HANDED or before.position > now.position:
            raise Moved
        write(connection, before, state=KEPT, writer=None, beat=None)
    write(connection, now, state=ACTIVE, writer=None, beat=None)
    _show(connection, now, before)


def _show(connection: Connection, to: Known, before: Known | None) -> None:
    quote = connection.dialect.identifier_preparer.quote
    for name in sorted({*to.tables, *(before.tables if before else ())}):
        connection.execute(text(f"DROP VIEW IF EXISTS {quote(name)}"))
    for name in sorted(to.tables):
        shown = quote(f"{name}{suffix(to.generation)}")
        found = inspect(connection).get_columns(f"{name}{suffix(to.generation)}")
        columns = ", ".join(quote(each["name"]) for each in found)
        connection.execute(text(f"CREATE VIEW {quote(name)} AS SELECT {columns} FROM {shown}"))


def discard(connection: Connection, of: Known) -> None:
    """Remove a generation that is not served."""
    quote = connection.dialect.identifier_preparer.quote
    for name in of.tables:
        connection.execute(text(f"DROP TABLE IF EXISTS {quote(f'{name}{suffix(of.generation)}')}"))
    for table in STATE.sorted_tables:
        connection.execute(delete(table).where(table.c.name == of.name, table.c.generation == of.generation))


def make(connection: Connection) -> None:
    """Make the tables of positions. Those of an older layout are replaced, and with them all that they tell of."""
    if connection.dialect.has_table(connection, positions.name):
        columns = {column["name"] for column in inspect(connection).get_columns(positions.name)}
        if columns != {column.name for column in positions.columns}:
            _clear(connection)
    for table in STATE.sorted_tables:
        physical(table).create(connection, checkfirst=True)


def _clear(connection: Connection) -> None:
    quote = connection.dialect.identifier_preparer.quote
    named = [name for row in connection.execute(select(positions.c.tables)) for name in row.tables]
    views = set(inspect(connection).get_view_names())
    for name in sorted(set(named) - views):
        connection.execute(text(f"DROP TABLE IF EXISTS {quote(name)}"))
    for table in reversed(STATE.sorted_tables):
        table.drop(connection, checkfirst=True)
