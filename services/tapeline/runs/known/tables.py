"""Tables of the canvases and assets that a run may name."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData()

canvases = Table(
    "known_canvases",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("content", JSON, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("is_removed", Boolean, nullable=False, default=False),
    Index("known_canvases_by_name", "team", "name"),
)

assets = Table(
    "known_assets",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("files", JSON),
    Column("rows", JSON),
    Column("datasets", JSON),
    Column("features", JSON),
    Column("labels", JSON),
    Column("stats", JSON),
    Column("data_digest", String(64)),
    Column("is_ahead", Boolean, nullable=False, default=False),
    Index("known_assets_by_name", "team", "name"),
)

TABLES = (canvases, assets)
