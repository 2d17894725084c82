"""Tables of measurements: one row per batch, one per (run, tag) for the latest, one per operation."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

METADATA = MetaData()

metric_batches = Table(
    "metric_batches",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("batch", Integer, primary_key=True),
    Column("points", Integer, nullable=False),
    Column("first_us", BigInteger),
    Column("last_us", BigInteger),
    Column("min_step", BigInteger),
    Column("max_step", BigInteger),
    Column("refused", String(400)),
    Column("body", LargeBinary, nullable=False),
    Index("metric_batches_by_time", "team", "run_id", "last_us"),
)

latest_metrics = Table(
    "latest_metrics",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("tag", String(250), primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("batch", Integer, nullable=False),
    Column("place", Integer, nullable=False),
    Column("global_step", BigInteger, nullable=False),
    Column("time_us", BigInteger, nullable=False),
    # One of the two: a float column would lose the low bits of a large int.
    Column("whole", BigInteger),
    Column("real", Float),
    # NaN and infinities have no place in a float column of SQLite.
    Column("special", String(9)),
)

progress = Table(
    "run_progress",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("operation", String(64), primary_key=True),
    Column("value", Float, nullable=False),
    Column("final_value", Float, nullable=False),
    Column("units", String(32), nullable=False),
    Column("updated_us", BigInteger, nullable=False),
)

TABLES = (metric_batches, latest_metrics, progress)
