"""The table of vault items, and those of what items are made from."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Integer, MetaData, String, Table, Text

METADATA = MetaData()

items = Table(
    "vault_items",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("name", String(255), nullable=False, index=True),
    Column("version", String(64), nullable=False),
    Column("summary", Text, nullable=False),
    Column("model", JSON, nullable=False),
    Column("model_sha256", String(64), nullable=False, index=True),
    Column("model_file", String(255), nullable=False),
    Column("project_id", String(63), nullable=False),
    Column("user", String(63), nullable=False),
    Column("host", String(255), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("run_id", String(63)),
    Column("run_number", Integer),
    Column("checkpoint_id", String(64)),
    Column("global_step", BigInteger),
    Column("training_epoch", Integer),
    Column("canvas", JSON),
    Column("asset_id", String(63)),
    Column("asset_name", String(255)),
    Column("lookahead", Boolean, nullable=False, default=False),
    Column("features", JSON, nullable=False),
    Column("input_shapes", JSON, nullable=False),
    Column("value", Float),
)
"""One row an item that is there."""

runs = Table(
    "vault_runs",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("number", Integer, nullable=False, index=True),
    Column("project_id", String(63), nullable=False),
    Column("canvas", JSON),
    Column("asset_id", String(63)),
    Column("agent", String(63)),
)
"""One row a run: what its latest attempt trains."""

checkpoints = Table(
    "vault_checkpoints",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("run_id", String(63), nullable=False, index=True),
    Column("position", BigInteger, nullable=False),
    Column("global_step", BigInteger, nullable=False),
    Column("training_epoch", Integer, nullable=False),
    Column("files", JSON, nullable=False),
    Column("monitored", JSON, nullable=False),
    Column("canvas", JSON),
    Column("asset_id", String(63)),
    Column("agent", String(63)),
)
"""One row a complete checkpoint, with what its attempt trained."""

agents = Table(
    "vault_agents",
    METADATA,
    Column("agent", String(63), primary_key=True),
    Column("host", String(255), nullable=False),
)
"""One row an agent: the host that it said it runs on."""

trained_on = Table(
    "vault_assets",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("features", JSON, nullable=False),
    Column("lookahead", Boolean, nullable=False, default=False),
)
"""One row an asset: its name, the sample shapes of its features, and whether these may know the future."""
