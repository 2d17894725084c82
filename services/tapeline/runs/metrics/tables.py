"""Tables of measurements: batches not yet compacted, segments, archives, and a row per attempt, tag and operation.

They share no table with lists of runs.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

METADATA = MetaData()

metric_attempts = Table(
    "metric_attempts",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    # The last batch and the last record of the sender's spool: an older batch is known.
    Column("batch", Integer, nullable=False),
    Column("upto", BigInteger, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("max_step", BigInteger),
    Column("is_sealed", Boolean, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("refusal", String(400)),
)

metric_batches = Table(
    "metric_batches",
    METADATA,
    # Those of an attempt that no segment holds yet.
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("batch", Integer, primary_key=True),
    Column("first_us", BigInteger, nullable=False),
    Column("last_us", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("metric_batches_by_time", "team", "run_id", "last_us"),
)

metric_segments = Table(
    "metric_segments",
    METADATA,
    # Times of a run never come twice, so the last one names a segment of a tag.
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("tag", String(250), primary_key=True),
    Column("last_us", BigInteger, primary_key=True),
    Column("first_us", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("points", Integer, nullable=False),
    Column("min_step", BigInteger, nullable=False),
    Column("max_step", BigInteger, nullable=False),
    Column("nonfinite", Integer, nullable=False),
    # Without it the points lie in an object of the artifact store: where, and the digest that they must have.
    Column("body", LargeBinary),
    Column("object", String(64)),
    Column("place", BigInteger),
    Column("size_bytes", Integer),
    Column("digest", LargeBinary),
    # The least and the greatest of each 64 points, in the same form: what a curve from afar is drawn from.
    Column("thin", LargeBinary),
    Index("metric_segments_by_time", "team", "run_id", "last_us"),
)

metric_archives = Table(
    "metric_archives",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    # Of the marker on METRICS, and of the last message that it stands for.
    Column("position", BigInteger, nullable=False),
    Column("through", BigInteger, nullable=False),
    Column("manifest", String(64), nullable=False),
    Column("messages", BigInteger, nullable=False),
    Column("batches", BigInteger, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("objects", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("archived_us", BigInteger, nullable=False),
)

latest_metrics = Table(
    "latest_metrics",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("tag", String(250), primary_key=True),
    Column("attempt", Integer, nullable=False),
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

TABLES = (metric_attempts, metric_batches, metric_segments, metric_archives, latest_metrics, progress)
