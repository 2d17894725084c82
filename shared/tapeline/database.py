"""Engines for the tables: SQLite in a file of each service, or PostgreSQL; and how rows get there in bulk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    event,
    func,
    select,
    text,
    tuple_,
)
from sqlalchemy import TypeDecorator as _Decorated
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.types import TypeEngine

from tapeline.errors import TapelineError

Bound = list[tuple[str, Callable[[Any], Any] | None]]
BUSY_TIMEOUT_S = 5.0
# SQLite takes at most 32,766 bound values in a statement.
MAX_BOUND = 30_000
COPY_ROWS = 40
"""From so many rows on, a temporary table costs PostgreSQL less than the single statements."""
# Connection lost, rolled back for another's sake, out of resources, not ready, or asked to stop.
PASSING_STATES = ("08", "40", "53", "55", "57", "58")


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite+aiosqlite:///{path}"


def make_engine(url: str) -> AsyncEngine:
    """An engine for `sqlite+aiosqlite:///...` or `postgresql+asyncpg://...`.

    SQLite runs in WAL mode with `synchronous=NORMAL`, PostgreSQL with `synchronous_commit=off`: a power cut
    may take back the last transactions, rows and position together, and the log refills them.
    """
    if url.startswith("sqlite"):
        engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

        @event.listens_for(engine.sync_engine, "connect")
        def _configure(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=OFF"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        return engine
    if url.startswith("postgresql+asyncpg"):
        settings = {"synchronous_commit": "off", "application_name": "tapeline"}
        # A pooled connection may have been cut while it was idle: asking first costs less than a failed query.
        return create_async_engine(
            url, pool_size=8, max_overflow=8, pool_pre_ping=True, connect_args={"server_settings": settings}
        )
    raise TapelineError(
        f"{url.split(':', 1)[0]!r} is not a database that is served",
        code="unsupported",
        hint="use sqlite+aiosqlite or postgresql+asyncpg",
    )


def is_passing(error: Exception) -> bool:
    """Whether an error of a database goes away by itself: it is locked, full, restarting or out of reach."""
    if isinstance(error, InterfaceError) and isinstance(getattr(error.orig, "__cause__", None), ValueError):
        # How asyncpg calls a value that no column takes.
        return False
    if isinstance(error, OSError | PoolTimeoutError | InterfaceError | OperationalError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or (state is not None and str(state).startswith(PASSING_STATES))


def is_of_data(error: Exception) -> bool:
    """Whether a database refuses a value, which no other table or time would change."""
    if isinstance(error, ArithmeticError | ValueError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = str(getattr(error.orig, "sqlstate", None) or "")
    cause = getattr(error.orig, "__cause__", None)
    return isinstance(error, DataError | IntegrityError) or state.startswith("22") or isinstance(cause, ValueError)


def physical(table: Table, suffix: str = "") -> Table:
    """A table as it is made in the database: no text is cut, no number overflows, and text sorts by bytes.

    SQLite keeps to none of the lengths and widths that a table declares, and sorts by bytes; with this
    PostgreSQL does the same, so that one log gives the same rows in the same order in both.
    """
    made = Table(
        f"{table.name}{suffix}",
        MetaData(),
        *(
            Column(
                column.name,
                _wide(column.type),
                primary_key=column.primary_key,
                nullable=column.nullable,
                default=column.default.arg if column.default is not None else None,  # type: ignore[attr-defined]
                autoincrement=False,
            )
            for column in table.columns
        ),
    )
    for index in sorted(table.indexes, key=lambda each: str(each.name)):
        Index(f"{index.name}{suffix}", *(made.c[column.name] for column in index.columns), unique=index.unique)
    return made


def _wide(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    if isinstance(kind, _Decorated):
        return kind
    if isinstance(kind, String):
        return Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
    if isinstance(kind, Integer):
        return BigInteger()
    return kind


async def rows_of(connection: AsyncConnection, table: Table, keys: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The rows with these primary keys, in any order."""
    columns = list(table.primary_key.columns)
    found: list[dict[str, Any]] = []
    if connection.dialect.name == "postgresql":
        # One statement text however many keys: a list of pairs would be parsed and planned anew each time.
        lists = [
            bindparam(f"k{i}", [key[i] for key in keys], type_=postgresql.ARRAY(column.type))
            for i, column in enumerate(columns)
        ]
        given = func.unnest(*lists).table_valued(*(column.name for column in columns)).render_derived(name="given")
        same = [column == given.c[column.name] for column in columns]
        statement = select(table).join(given, onclause=_all(same))
        return [dict(row) for row in (await connection.execute(statement)).mappings()]
    step = max(1, MAX_BOUND // len(columns))
    for start in range(0, len(keys), step):
        part = keys[start : start + step]
        condition = columns[0].in_([key[0] for key in part]) if len(columns) == 1 else tuple_(*columns).in_(part)
        found += [dict(row) for row in (await connection.execute(select(table).where(condition))).mappings()]
    return found


def _all(conditions: Sequence[Any]) -> Any:
    whole = conditions[0]
    for each in conditions[1:]:
        whole = whole & each
    return whole


async def upsert(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or overwrite those whose primary key is there. Every row has every column."""
    if not rows:
        return
    dialect = connection.dialect.name
    keys = [column.name for column in table.primary_key.columns]
    if dialect == "postgresql" and len(rows) >= COPY_ROWS:
        await _copied(connection, table, keys, rows)
        return
    if dialect == "sqlite":
        statement, bound = _statement(connection.dialect, table, keys)
        values = [tuple([make(row[name]) if make else row[name] for name, make in bound]) for row in rows]
        await connection.exec_driver_sql(statement, values)
        return
    insert = postgresql.insert(table)
    others = {column.name: insert.excluded[column.name] for column in table.columns if column.name not in keys}
    if others:
        written = insert.on_conflict_do_update(index_elements=keys, set_=others)
    else:
        written = insert.on_conflict_do_nothing(index_elements=keys)
    await connection.execute(written, list(rows))


def _statement(dialect: Dialect, table: Table, keys: Sequence[str]) -> tuple[str, Bound]:
    """The statement of the driver itself: compiling parameters row by row costs more than SQLite does."""
    known: tuple[str, Bound] | None = table.info.get("tapeline.upsert")
    if known is None:
        quote = dialect.identifier_preparer.quote
        names = [column.name for column in table.columns]
        others = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in names if name not in keys)
        then = f"DO UPDATE SET {others}" if others else "DO NOTHING"
        statement = (
            f"INSERT INTO {quote(table.name)} ({', '.join(map(quote, names))}) VALUES ({', '.join('?' * len(names))})"
            f" ON CONFLICT ({', '.join(map(quote, keys))}) {then}"
        )
        known = table.info["tapeline.upsert"] = (statement, _bound(dialect, table))
    return known


def _bound(dialect: Dialect, table: Table) -> Bound:
    """The columns, each with what makes its values fit for the driver, if anything must."""
    return [(column.name, column.type.dialect_impl(dialect).bind_processor(dialect)) for column in table.columns]


async def _copied(
    connection: AsyncConnection, table: Table, keys: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    import asyncpg

    quote = connection.dialect.identifier_preparer.quote
    name = f"new_{table.name}"
    await connection.execute(
        text(f"CREATE TEMPORARY TABLE {quote(name)} (LIKE {quote(table.name)} INCLUDING DEFAULTS) ON COMMIT DROP")
    )
    columns = [column.name for column in table.columns]
    bound = _bound(connection.dialect, table)
    records = [tuple([make(row[name]) if make else row[name] for name, make in bound]) for row in rows]
    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    try:
        await driver.copy_records_to_table(name, records=records, columns=columns)
    except asyncpg.PostgresError as error:
        raise DBAPIError(f"COPY {name}", None, error) from error
    except asyncpg.InterfaceError as error:
        if isinstance(error, ValueError):
            # How asyncpg calls a value that no column takes.
            raise DataError(f"COPY {name}", None, error) from error
        raise InterfaceError(f"COPY {name}", None, error) from error
    listed = ", ".join(map(quote, columns))
    others = ", ".join(f"{quote(each)} = excluded.{quote(each)}" for each in columns if each not in keys)
    then = f"DO UPDATE SET {others}" if others else "DO NOTHING"
    await connection.execute(
        text(
            f"INSERT INTO {quote(table.name)} ({listed}) SELECT {listed} FROM {quote(name)}"
            f" ON CONFLICT ({', '.join(map(quote, keys))}) {then}"
        )
    )
    await connection.execute(text(f"DROP TABLE {quote(name)}"))
