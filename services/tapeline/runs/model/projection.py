"""Events of namespaces and models to rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Table

from tapeline.contracts.models import (
    IterationCreated,
    ModelCreated,
    ModelDeleted,
    ModelMetricLogged,
    ModelPartRemoved,
    ModelPartsCleared,
    ModelStepped,
    ModelUpdated,
    ModuleLogged,
    NamespaceCreated,
    NamespaceDeleted,
    NamespaceRenamed,
)
from tapeline.log import StoredEvent
from tapeline.projections import Key, Row, Rows
from tapeline.runs.model.tables import TABLES, cleared_key, models, namespaces, parts
from tapeline.runs.moments import us_of

name = "runs.models"
version = 1
kinds = frozenset({"model"})
tables: Sequence[Table] = TABLES


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    """The rows that an event touches."""
    key = (event.ref.team, event.ref.id)
    match event.data:
        case NamespaceRenamed():
            yield namespaces, key
        case ModelUpdated() | ModelStepped() | ModelPartsCleared():
            yield models, key
        case _:
            return


def apply(rows: Rows, event: StoredEvent) -> None:
    """Fold one event into its rows."""
    team, id, at = event.ref.team, event.ref.id, us_of(event.created_at)
    match event.data:
        case NamespaceCreated() as data:
            rows.put(namespaces, {"team": team, "id": id, "name": data.name, "created_us": at})
        case NamespaceRenamed() as data:
            rows.change(namespaces, team, id, name=data.name)
        case NamespaceDeleted():
            rows.delete(namespaces, team, id)
        case ModelCreated() as data:
            rows.put(
                models,
                {
                    "team": team, "id": id, "namespace_id": data.namespace_id, "hash": data.hash, "name": data.name,
                    "description": data.description, "created_us": at, "cleared": {},
                },
            )  # fmt: skip
        case ModelUpdated() as data:
            rows.change(models, team, id, name=data.name, description=data.description)
        case ModelStepped() as data:
            rows.change(models, team, id, step=data.step)
        case ModelDeleted():
            rows.delete(models, team, id)
            # What is read of an erased namespace.
            rows.delete(namespaces, team, id)
        case ModelPartsCleared() as data:
            row = rows.get(models, team, id)
            if row is not None:
                word = cleared_key(data.part, data.iteration_id)
                rows.put(models, row | {"cleared": row["cleared"] | {word: event.sequence}})
        case ModelPartRemoved() as data:
            rows.delete(parts, team, id, data.id)
        case IterationCreated() as data:
            _put(rows, event, data.iteration_id, part="iterations", step=data.step)
        case ModelMetricLogged() as data:
            _put(
                rows, event, data.metric_id,
                part="metrics", name=data.name, value=data.value, step=data.step, phase=data.phase,
            )  # fmt: skip
        case ModuleLogged() as data:
            _put(
                rows, event, data.module_id,
                part="modules", name=data.name, value=data.attributes, iteration_id=data.iteration_id,
            )  # fmt: skip
        case _:
            return


def _put(rows: Rows, event: StoredEvent, id: str, **values: Any) -> None:
    row: Row = {
        "team": event.ref.team, "model_id": event.ref.id, "id": id, "sequence": event.sequence,
        "created_us": us_of(event.created_at),
    }  # fmt: skip
    rows.put(parts, row | values)
