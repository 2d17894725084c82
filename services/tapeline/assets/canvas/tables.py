"""The tables of canvases and of their revisions."""

from __future__ import annotations

from sqlalchemy import JSON, Column, Integer, MetaData, String, Table

METADATA = MetaData()

canvases = Table(
    "canvases",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("name", String(255), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("copied_from", String(63)),
)
"""One row a canvas that is there."""

revisions = Table(
    "canvas_revisions",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("content", JSON, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("saved_at", String(32), nullable=False),
    Column("user", String(63), nullable=False),
)
"""One row a revision, from 1."""
