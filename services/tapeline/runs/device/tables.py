"""The table of agents and what they have announced."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, MetaData, String, Table

METADATA = MetaData()

agents = Table(
    "agents",
    METADATA,
    Column("agent", String(63), primary_key=True),
    Column("boot", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("host", String(255), nullable=False),
    Column("teams", JSON, nullable=False),
    Column("devices", JSON, nullable=False),
    Column("backends", JSON, nullable=False),
    Column("blueprints", JSON, nullable=False),
    Column("disk_free_bytes", BigInteger),
    Column("is_gone", Boolean, nullable=False, default=False),
    Column("announced_us", BigInteger, nullable=False),
)

TABLES = (agents,)
