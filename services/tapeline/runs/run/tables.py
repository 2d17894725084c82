"""Tables of runs, their events, attempts and checkpoints. Times are whole microseconds since 1970."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData()

runs = Table(
    "runs",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    # Patterns are matched against this: lower-cased by Python, so that every database agrees.
    Column("name_lower", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("project_id", String(63), nullable=False),
    Column("blueprint_id", String(255), nullable=False),
    Column("task_type", Text, nullable=False),
    Column("user_id", String(63), nullable=False),
    Column("resources", JSON, nullable=False),
    Column("config", JSON, nullable=False),
    Column("notes", Text),
    Column("created_us", BigInteger, nullable=False),
    Column("status", String(32), nullable=False),
    Column("status_updated_us", BigInteger, nullable=False),
    # The event that led to the status: commands that follow from it take their ids from it.
    Column("status_event", String(64), nullable=False),
    Column("priority", Integer, nullable=False, default=0),
    Column("wanted_device", String(127), nullable=False),
    Column("device", String(127)),
    # An agent, or `user:<name>` of who trains it by hand.
    Column("agent", String(80)),
    Column("attempt", Integer, nullable=False),
    Column("session_name", String(64)),
    Column("reason", String(64)),
    Column("message", Text),
    Column("hint", Text),
    Column("exit_code", Integer),
    Column("last_step", BigInteger),
    Column("epoch", Integer, nullable=False, default=0),
    Column("lease_ttl_s", Float),
    Column("lost_cause", String(32)),
    Column("submitted_us", BigInteger),
    Column("due_us", BigInteger),
    Column("deadline_us", BigInteger),
    Column("stop_reason", String(16)),
    Column("is_deleted", Boolean, nullable=False, default=False),
    Index("runs_by_number", "team", "number"),
    # The columns that most lists filter by stand in it, so that a row that is passed over is not looked up.
    Index("runs_by_created", "team", "created_us", "id", "is_deleted", "project_id", "status", "user_id"),
    Index("runs_by_status", "status"),
    Index("runs_by_name", "team", "project_id", "name"),
    Index("runs_by_name_lower", "team", "name_lower", "created_us", "id"),
)

run_events = Table(
    "run_events",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("id", String(64), nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("status", String(32), nullable=False),
    Column("type", String(64), nullable=False),
    Column("details", JSON, nullable=False),
    Column("position", BigInteger, nullable=False),
)

attempts = Table(
    "attempts",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    # Points of earlier attempts beyond this step are superseded; -1 for all, NULL until it has started.
    Column("from_step", BigInteger),
)

checkpoints = Table(
    "checkpoints",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("run_id", String(64), nullable=False),
    Column("project_id", String(63), nullable=False),
    Column("global_step", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("training_epoch", Integer),
    Column("created_us", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("status_updated_us", BigInteger, nullable=False),
    Column("monitored", JSON),
    Column("files", JSON),
    Column("pinned", Boolean, nullable=False, default=False),
    Index("checkpoints_by_run", "team", "run_id"),
    Index("checkpoints_by_created", "team", "created_us", "id"),
)

artifacts = Table(
    "run_artifacts",
    METADATA,
    # Which files a team may read: those of its checkpoints.
    Column("team", String(63), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
)

run_records = Table(
    "run_records",
    METADATA,
    # Apart from the runs themselves: lists of runs do not read it.
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("inputs", JSON, nullable=False),
    Column("outputs", JSON, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("source", String(64)),
)

run_tables = Table(
    "run_tables",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("table_id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("columns", JSON, nullable=False),
    Column("file", JSON, nullable=False),
    Column("stream_name", Text, nullable=False),
    Column("foreign_table_url", Text),
    Column("foreign_table_display_name", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index("run_tables_by_id", "team", "table_id"),
)

TABLES = (runs, run_events, attempts, checkpoints, artifacts, run_records, run_tables)
