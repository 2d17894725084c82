"""Rows of namespaces, models and their parts to views."""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, func, select

from tapeline.contracts.models import (
    ListModelParts,
    ListModels,
    ListNamespaces,
    ModelPartView,
    ModelView,
    NamespaceView,
)
from tapeline.errors import TapelineError
from tapeline.runs.model.tables import cleared_key, models, namespaces, parts
from tapeline.runs.moments import moment


def listed_namespaces(connection: Connection, team: str, query: ListNamespaces) -> list[NamespaceView]:
    """The namespaces of a team by name, each with how many models it holds."""
    of_it = (models.c.team == namespaces.c.team) & (models.c.namespace_id == namespaces.c.id)
    held = select(func.count()).select_from(models).where(of_it).scalar_subquery()
    statement = select(namespaces, held.label("models")).where(namespaces.c.team == team)
    if query.name is not None:
        statement = statement.where(namespaces.c.name == query.name)
    statement = statement.order_by(namespaces.c.name, namespaces.c.id).limit(query.limit).offset(query.offset)
    return [
        NamespaceView(id=row["id"], name=row["name"], created_at=moment(row["created_us"]), models=row["models"])
        for row in connection.execute(statement).mappings()
    ]


def holds_models(connection: Connection, team: str, namespace_id: str) -> bool:
    """Whether a namespace holds any model."""
    of_it = (models.c.team == team) & (models.c.namespace_id == namespace_id)
    return connection.scalar(select(models.c.id).where(of_it).limit(1)) is not None


def listed(connection: Connection, team: str, query: ListModels) -> list[ModelView]:
    """The models of a namespace in the order in which they were made; none for an unknown namespace."""
    named = (namespaces.c.team == team) & (namespaces.c.name == query.namespace)
    inside = models.c.namespace_id.in_(select(namespaces.c.id).where(named))
    statement = select(models).where(models.c.team == team, inside)
    if query.hash is not None:
        statement = statement.where(models.c.hash == query.hash)
    statement = statement.order_by(models.c.created_us, models.c.id).limit(query.limit).offset(query.offset)
    return [_view(row) for row in connection.execute(statement).mappings()]


def one(connection: Connection, team: str, id: str) -> ModelView:
    """A model by its id."""
    return _view(_row(connection, team, id))


def _row(connection: Connection, team: str, id: str) -> RowMapping:
    row = connection.execute(select(models).where(models.c.team == team, models.c.id == id)).mappings().first()
    if row is None:
        raise TapelineError(f"there is no model {id!r}", code="not_found", hint="tapeline model ls")
    return row


def _view(row: RowMapping) -> ModelView:
    return ModelView(
        id=row["id"],
        namespace_id=row["namespace_id"],
        hash=row["hash"],
        name=row["name"],
        description=row["description"],
        step=row["step"],
        created_at=moment(row["created_us"]),
    )


def parts_of(connection: Connection, team: str, query: ListModelParts) -> list[ModelPartView]:
    """The parts of a kind of a model, as they came; of modules those of the iteration, or of the model itself."""
    cleared = _row(connection, team, query.id)["cleared"]
    after = cleared.get(cleared_key(query.part, query.iteration_id), 0)
    statement = select(parts).where(
        parts.c.team == team, parts.c.model_id == query.id, parts.c.part == query.part, parts.c.sequence > after
    )
    if query.part == "modules":
        statement = statement.where(parts.c.iteration_id.is_not_distinct_from(query.iteration_id))
    if query.name is not None:
        statement = statement.where(parts.c.name == query.name)
    statement = statement.order_by(parts.c.sequence).limit(query.limit).offset(query.offset)
    return [
        ModelPartView(
            id=row["id"],
            created_at=moment(row["created_us"]),
            name=row["name"],
            value=row["value"],
            step=row["step"],
            phase=row["phase"],
            iteration_id=row["iteration_id"],
        )
        for row in connection.execute(statement).mappings()
    ]
