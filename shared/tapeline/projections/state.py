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
    inspect,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from tapeline.database import physical

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


async def make(connection: AsyncConnection) -> None:
    """Make the tables of positions. One of an older layout is replaced, and with it all that it tells of."""

    def work(sync: Connection) -> None:
        if sync.dialect.has_table(sync, positions.name):
            known = {column["name"] for column in inspect(sync).get_columns(positions.name)}
            if known != {column.name for column in positions.columns}:
                positions.drop(sync)
        for table in STATE.sorted_tables:
            physical(table).create(sync, checkfirst=True)

    await connection.run_sync(work)
