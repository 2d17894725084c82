"""The tables of assets, and of what needs them."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Integer, MetaData, String, Table, Text

METADATA = MetaData()

assets = Table(
    "assets",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("name", String(63), nullable=False, index=True),
    Column("status", String(16), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("spec_digest", String(64), nullable=False, index=True),
    Column("tapes", JSON, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("updated_at", String(32), nullable=False),
    Column("user", String(63), nullable=False),
    Column("files", JSON, nullable=False, default=[]),
    Column("rows", JSON, nullable=False, default={}),
    Column("datasets", JSON, nullable=False, default=[]),
    Column("features", JSON, nullable=False, default={}),
    Column("labels", JSON, nullable=False, default={}),
    Column("data_digest", String(64)),
    Column("stats", JSON, nullable=False, default={}),
    Column("certificate", JSON),
    Column("code", String(64)),
    Column("message", Text),
    Column("hint", Text),
    Column("shard", String(160)),
    Column("rebuilding", Boolean, nullable=False, default=False),
    Column("rebuild", JSON),
)
"""One row an asset that is there, whatever its status; a removed asset has none."""

features = Table(
    "features",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("name", String(128), nullable=False, index=True),
    Column("version", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("component", String(64), nullable=False),
    Column("component_version", Integer, nullable=False),
    Column("params", JSON, nullable=False),
    Column("saved_at", String(32), nullable=False),
    Column("user", String(63), nullable=False),
)
"""One row a feature or label that a team has named, as of its latest version."""

asset_users = Table(
    "asset_users",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("asset_id", String(63), index=True),
    Column("name", String(255), nullable=False),
    Column("needs", Boolean, nullable=False),
)
"""One row a run or vault item: the asset that it was given, and whether it needs it now."""
