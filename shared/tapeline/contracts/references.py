"""Marks on the fields of events: which thing a field names, and which thing an event brings about.

They change nothing of what is stored or checked; `tapeline.replay.why` follows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from tapeline.contracts.artifacts import Artifact

ATTEMPT, LEASE = "attempt", "lease"
CHECKPOINT, REVISION, ARTIFACT, HOLDER = "checkpoint", "canvas_revision", "artifact", "holder"
MODEL_PART = "model_part"
TABLE = "metrics_table"


@dataclass(frozen=True, slots=True)
class Names:
    """The field names a thing that is there already: a kind of aggregate by its id, or one of the words above."""

    kind: str


@dataclass(frozen=True, slots=True)
class Makes:
    """The field identifies what this event brings about."""

    kind: str


class Mark(NamedTuple):
    """One marked field of an event class."""

    field: str
    mark: Names | Makes


@cache
def marks_of(event: type) -> tuple[Mark, ...]:
    """The marked fields of an event class, in their order."""
    hints = get_type_hints(event, include_extras=True)
    return tuple(
        Mark(field.name, mark)
        for field in fields(event)
        if get_origin(hints[field.name]) is Annotated
        for mark in get_args(hints[field.name])[1:]
        if isinstance(mark, Names | Makes)
    )


def named_in(event: Any) -> Iterator[tuple[Names | Makes, str]]:
    """Each thing that the marked fields of an event name; an artifact by its SHA-256."""
    kind: Any = type(event)
    for field, mark in marks_of(kind):
        value = getattr(event, field)
        for each in value if isinstance(value, list) else [value]:
            if each is None:
                continue
            yield mark, each.sha256 if isinstance(each, Artifact) else str(each)
