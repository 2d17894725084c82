"""Tables of the standard projections. Times are whole microseconds since 1970."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

METADATA = MetaData()

event_index = Table(
    "event_index",
    METADATA,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    # The place of the event in its commit, from 0.
    Column("index", Integer, primary_key=True),
    Column("team", String(63), nullable=False),
    # `<kind>/<id>`
    Column("aggregate", Text, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("event_id", String(36), nullable=False),
    Column("type", String(64), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("command_id", String(64), nullable=False),
    Column("cause", Text),
    # Of the whole commit.
    Column("digest", String(64), nullable=False),
    Index("event_index_by_id", "event_id"),
    Index("event_index_by_aggregate", "aggregate", "team", "position"),
)

event_names = Table(
    "event_names",
    METADATA,
    # What an event names or brings about, where no subject leads to it: artifacts, checkpoints, names of vault items.
    Column("value", Text, primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True),
    Column("team", String(63), nullable=False),
    Column("made", Boolean, nullable=False),
)

commits = Table(
    "commits",
    METADATA,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("subject", Text, nullable=False),
    Column("header", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("stored_us", BigInteger, nullable=False),
)
