"""The table of tapes."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, MetaData, String, Table

METADATA = MetaData()

tapes = Table(
    "tapes",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("name", String(255), nullable=False, index=True),
    Column("content_sha256", String(64), nullable=False, index=True),
    Column("parent", String(63)),
    Column("symbols", JSON, nullable=False),
    Column("days", JSON, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("calendar", String(64), nullable=False),
    Column("synthetic", JSON),
    Column("report", JSON, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("files", JSON, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("user", String(63), nullable=False),
)
"""One row a tape that is there; a removed tape has none."""
