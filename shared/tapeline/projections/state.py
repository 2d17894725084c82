"""Where each projection is: tables beside those that it fills, moved in the same transaction."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    inspect,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from tapeline.database import physical
from tapeline.errors import TapelineError

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
)


async def make(connection: AsyncConnection) -> None:
    """Make the tables of positions. One of an older layout is replaced, and with it all that it tells of."""

    def work(sync: Connection) -> None:
        if sync.dialect.has_table(sync, positions.name):
            known = {column["name"] for column in inspect(sync).get_columns(positions.name)}
            if known != {column.name for column in positions.columns}:
                positions.drop(sync)
        physical(positions).create(sync, checkfirst=True)

    await connection.run_sync(work)


async def reset(connection: AsyncConnection, name: str) -> None:
    """Empty a projection's tables and its position, in the caller's transaction: its projector refills them."""
    row = (await connection.execute(select(positions).where(positions.c.name == name))).mappings().first()
    if row is None:
        raise TapelineError(f"no projection is named {name!r} here", code="not_found")
    metadata = MetaData()
    for table in row["tables"]:
        await connection.execute(delete(Table(table, metadata)))
    await connection.execute(update(positions).where(positions.c.name == name).values(position=0))
