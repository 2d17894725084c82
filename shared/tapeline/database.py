"""Engines for the tables: SQLite in a file of each service, or PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tapeline.errors import TapelineError

BUSY_TIMEOUT_S = 5.0
# SQLite takes at most 32,766 bound values in a statement.
MAX_BOUND = 30_000


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite+aiosqlite:///{path}"


def make_engine(url: str) -> AsyncEngine:
    """An engine for `sqlite+aiosqlite:///...` or `postgresql+asyncpg://...`.

    SQLite runs in WAL mode with `synchronous=NORMAL`: a power cut may take back the last transactions,
    rows and position together, and the log refills them.
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
    if url.startswith("postgresql"):
        return create_async_engine(url, pool_size=8, max_overflow=8)
    raise TapelineError(
        f"{url.split(':', 1)[0]!r} is not a database that is served",
        code="unsupported",
        hint="use sqlite+aiosqlite or postgresql+asyncpg",
    )


async def upsert(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or overwrite those whose primary key is there. Every row has every column."""
    if not rows:
        return
    dialect = connection.dialect.name
    insert = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    keys = [column.name for column in table.primary_key.columns]
    others = {column.name: insert.excluded[column.name] for column in table.columns if column.name not in keys}
    if others:
        statement = insert.on_conflict_do_update(index_elements=keys, set_=others)
    else:
        statement = insert.on_conflict_do_nothing(index_elements=keys)
    await connection.execute(statement, list(rows))
