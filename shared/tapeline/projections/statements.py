"""Rows out of tables by key, and into them in bulk, in the driver's own terms.

Compiling parameters row by row costs more than the database does, so SQLite gets the texts of statements
that it has prepared before, and PostgreSQL whole columns at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Boolean, Connection, Select, Table, bindparam, func, select, text
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError

Row = dict[str, Any]
Key = tuple[Any, ...]
Made = list[tuple[int, Callable[[Any], Any]]]

BOUND = 4_000
"""Values in one statement; SQLite takes 32,766, and longer statements gain nothing."""
LOTS = (1, 16, 256)
"""Keys in one statement: few sizes, so that each text is prepared once."""
COPY_ROWS = 40
"""From so many rows on, a temporary table costs PostgreSQL less than the single statements."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of a table again and again: its columns and keys, and what its values must be made into."""

    table: Table
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    values: Callable[[Row], tuple[Any, ...]]
    """The values of a row in the order of the columns, as the driver takes them."""
    found: Callable[[Sequence[Any]], Row]
    """A row of what the driver gives."""
    one: Select[Any]
    """The statement that finds the row with the key `k0`, `k1` and so on."""
    head: str
    group: str
    end: str
    by_key: str

    def insert(self, count: int) -> str:
        """The statement that writes so many rows, over those that are there."""
        return self.head + ", ".join([self.group] * count) + self.end

    def select(self, count: int) -> str:
        """The statement that reads the rows with so many keys."""
        if count == 1:
            return self.by_key + " AND ".join([f'"{key}" = ?' for key in self.keys])
        names = ", ".join([f'"{key}"' for key in self.keys])
        group = f"({', '.join('?' * len(self.keys))})"
        return f"{self.by_key}({names}) IN (VALUES {', '.join([group] * count)})"


def plan_of(table: Table, dialect: Dialect) -> Plan:
    """The plan of a table as it is in the database; remembered with the table."""
    known: Plan | None = table.info.get(dialect.name)
    if known is None:
        known = table.info[dialect.name] = _plan(table, dialect)
    return known


def _plan(table: Table, dialect: Dialect) -> Plan:
    quote = dialect.identifier_preparer.quote
    columns = tuple(column.name for column in table.columns)
    keys = tuple(column.name for column in table.primary_key.columns)
    kinds = [column.type.dialect_impl(dialect) for column in table.columns]
    # The drivers take a bool as it is.
    into: Made = [
        (i, make)
        for i, kind in enumerate(kinds)
        if not isinstance(kind, Boolean) and (make := kind.bind_processor(dialect)) is not None
    ]
    # Rows of PostgreSQL are found by SQLAlchemy, which makes the values itself.
    made = [(i, kind.result_processor(dialect, None)) for i, kind in enumerate(kinds) if dialect.name == "sqlite"]
    out: Made = [(i, make) for i, make in made if make is not None]
    others = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in columns if name not in keys)
    return Plan(
        table=table,
        columns=columns,
        keys=keys,
        values=_values(columns, into),
        found=_found(columns, out),
        one=select(table).where(*(column == bindparam(f"k{i}") for i, column in enumerate(table.primary_key.columns))),
        head=f"INSERT INTO {quote(table.name)} ({', '.join(map(quote, columns))}) VALUES ",
        group=f"({', '.join('?' * len(columns))})",
        end=f" ON CONFLICT ({', '.join(map(quote, keys))}) DO {f'UPDATE SET {others}' if others else 'NOTHING'}",
        by_key=f"SELECT {', '.join(map(quote, columns))} FROM {quote(table.name)} WHERE ",
    )


def _values(columns: tuple[str, ...], into: Made) -> Callable[[Row], tuple[Any, ...]]:
    if len(columns) == 1:
        (name,) = columns

        def one(row: Row) -> tuple[Any, ...]:
            return (row[name],)

        return one
    plain = itemgetter(*columns)
    if not into:
        return plain

    def made(row: Row) -> tuple[Any, ...]:
        values = list(plain(row))
        for i, make in into:
            values[i] = make(values[i])
        return tuple(values)

    return made


def _found(columns: tuple[str, ...], out: Made) -> Callable[[Sequence[Any]], Row]:
    def found(values: Sequence[Any]) -> Row:
        row = dict(zip(columns, values, strict=True))
        for i, make in out:
            row[columns[i]] = make(values[i])
        return row

    return found


def run(connection: Connection, statement: str, values: Sequence[Any] = (), *, many: bool = False) -> Any:
    """Run a statement of SQLite's own and give its cursor; an error is one of SQLAlchemy."""
    raw: Any = connection.connection.driver_connection
    try:
        return raw.executemany(statement, values) if many else raw.execute(statement, values)
    except sqlite3.Error as error:
        raise DBAPIError.instance(statement, None, error, sqlite3.Error) from error


def fetched(connection: Connection, statement: str, values: Sequence[Any] = ()) -> list[Sequence[Any]]:
    """All rows of a statement of SQLite's own; what comes late may fail as well, as an error of SQLAlchemy."""
    raw: Any = connection.connection.driver_connection
    try:
        found: list[Sequence[Any]] = raw.execute(statement, values).fetchall()
    except sqlite3.Error as error:
        raise DBAPIError.instance(statement, None, error, sqlite3.Error) from error
    return found


def rows_of(connection: Connection, table: Table, keys: Sequence[Key]) -> list[Row]:
    """The rows with these primary keys, in any order."""
    if not keys:
        return []
    if connection.dialect.name == "postgresql":
        return _joined(connection, table, keys)
    plan = plan_of(table, connection.dialect)
    found: list[Row] = []
    start = 0
    while start < len(keys):
        left = len(keys) - start
        lot = next((size for size in reversed(LOTS) if size <= left), 1)
        values = [value for key in keys[start : start + lot] for value in key]
        found += [plan.found(row) for row in fetched(connection, plan.select(lot), values)]
        start += lot
    return found


def row_of(connection: Connection, table: Table, *key: Any) -> Row | None:
    """The row with this primary key: the question that is asked most, without a statement made for it each time."""
    plan = plan_of(table, connection.dialect)
    if connection.dialect.name == "sqlite":
        found = fetched(connection, plan.select(1), key)
        return plan.found(found[0]) if found else None
    row = connection.execute(plan.one, {f"k{i}": value for i, value in enumerate(key)}).mappings().first()
    return None if row is None else dict(row)


def _joined(connection: Connection, table: Table, keys: Sequence[Key]) -> list[Row]:
    from sqlalchemy.dialects import postgresql

    # One statement text however many keys: a list of pairs would be parsed and planned anew each time.
    columns = list(table.primary_key.columns)
    lists = [
        bindparam(f"k{i}", [key[i] for key in keys], type_=postgresql.ARRAY(column.type))
        for i, column in enumerate(columns)
    ]
    given = func.unnest(*lists).table_valued(*(column.name for column in columns)).render_derived(name="given")
    same = columns[0] == given.c[columns[0].name]
    for column in columns[1:]:
        same = same & (column == given.c[column.name])
    statement = select(table).join(given, onclause=same)
    return [dict(row) for row in connection.execute(statement).mappings()]


def upsert(connection: Connection, table: Table, rows: Iterable[Row]) -> None:
    """Insert rows, or overwrite those whose primary key is there. Every row has every column."""
    rows = list(rows)
    if not rows:
        return
    plan = plan_of(table, connection.dialect)
    if connection.dialect.name == "sqlite":
        lot = max(1, BOUND // len(plan.columns))
        whole = len(rows) - len(rows) % lot
        # One step of SQLite for many rows; a step for each costs more than the row.
        for start in range(0, whole, lot):
            values = [value for row in rows[start : start + lot] for value in plan.values(row)]
            run(connection, plan.insert(lot), values)
        if whole < len(rows):
            run(connection, plan.insert(1), [plan.values(row) for row in rows[whole:]], many=True)
        return
    if len(rows) >= COPY_ROWS:
        _copied(connection, plan, rows)
        return
    from sqlalchemy.dialects import postgresql

    insert = postgresql.insert(table)
    others = {name: insert.excluded[name] for name in plan.columns if name not in plan.keys}
    if others:
        written = insert.on_conflict_do_update(index_elements=plan.keys, set_=others)
    else:
        written = insert.on_conflict_do_nothing(index_elements=plan.keys)
    connection.execute(written, rows)


def delete(connection: Connection, table: Table, keys: Sequence[Key]) -> None:
    """Remove the rows with these primary keys."""
    if not keys:
        return
    if connection.dialect.name == "sqlite":
        plan = plan_of(table, connection.dialect)
        same = " AND ".join(f'"{key}" = ?' for key in plan.keys)
        quote = connection.dialect.identifier_preparer.quote
        run(connection, f"DELETE FROM {quote(table.name)} WHERE {same}", keys, many=True)
        return
    columns = list(table.primary_key.columns)
    condition = columns[0] == bindparam("k0")
    for i, column in enumerate(columns[1:], 1):
        condition = condition & (column == bindparam(f"k{i}"))
    values = [{f"k{i}": value for i, value in enumerate(key)} for key in keys]
    connection.execute(table.delete().where(condition), values)


def _copied(connection: Connection, plan: Plan, rows: Sequence[Row]) -> None:
    import asyncpg
    from sqlalchemy.util import await_only

    quote = connection.dialect.identifier_preparer.quote
    name = f"new_{plan.table.name}"[:63]
    connection.execute(
        text(f"CREATE TEMPORARY TABLE {quote(name)} (LIKE {quote(plan.table.name)} INCLUDING DEFAULTS) ON COMMIT DROP")
    )
    driver: Any = connection.connection.driver_connection
    records = [plan.values(row) for row in rows]
    try:
        await_only(driver.copy_records_to_table(name, records=records, columns=plan.columns))
    except asyncpg.PostgresError as error:
        raise DBAPIError(f"COPY {name}", None, error) from error
    except asyncpg.InterfaceError as error:
        if isinstance(error, ValueError):
            # How asyncpg calls a value that no column takes.
            raise DataError(f"COPY {name}", None, error) from error
        raise InterfaceError(f"COPY {name}", None, error) from error
    listed = ", ".join(map(quote, plan.columns))
    connection.execute(
        text(f"INSERT INTO {quote(plan.table.name)} ({listed}) SELECT {listed} FROM {quote(name)}{plan.end}")
    )
    connection.execute(text(f"DROP TABLE {quote(name)}"))
