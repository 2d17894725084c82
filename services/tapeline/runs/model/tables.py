"""Tables of namespaces, models and what is kept of each model."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData()

namespaces = Table(
    "model_namespaces",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Index("model_namespaces_by_name", "team", "name"),
)

models = Table(
    "models",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("namespace_id", String(64), nullable=False),
    Column("hash", Text, nullable=False),
    Column("name", Text),
    Column("description", Text),
    Column("step", BigInteger),
    Column("created_us", BigInteger, nullable=False),
    # Up to which sequence the parts of a kind have been cleared: a fold reads rows by their key only.
    Column("cleared", JSON, nullable=False),
    Index("models_by_namespace", "team", "namespace_id", "created_us"),
)

parts = Table(
    "model_parts",
    METADATA,
    Column("team", String(63), primary_key=True),
    Column("model_id", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    # That of its event: parts are listed as they came.
    Column("sequence", Integer, nullable=False),
    Column("part", String(16), nullable=False),
    Column("name", Text),
    Column("value", JSON),
    Column("step", BigInteger),
    Column("phase", Text),
    Column("iteration_id", String(64)),
    Column("created_us", BigInteger, nullable=False),
    Index("model_parts_in_order", "team", "model_id", "part", "sequence"),
)

TABLES = (namespaces, models, parts)


def cleared_key(part: str, iteration_id: str | None) -> str:
    """Under which word a model's row keeps up to where the parts of a kind were cleared."""
    return part if iteration_id is None else f"{part} of {iteration_id}"
