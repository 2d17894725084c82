"""The table of the blueprints that teams have registered."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Index, MetaData, String, Table, Text

METADATA = MetaData()

blueprints = Table(
    "blueprints",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", String(64), nullable=False),
    Column("config_schema", JSON, nullable=False),
    Column("entrypoint", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("is_removed", Boolean, nullable=False, default=False),
    Index("blueprints_by_name", "team", "name", "created_us"),
)

TABLES = (blueprints,)
