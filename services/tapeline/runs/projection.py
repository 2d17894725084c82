"""The runs service's fold of the log: its own runs and agents, and what it knows of canvases and assets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from sqlalchemy import Table

from tapeline.log import StoredEvent
from tapeline.projections import Key, Rows
from tapeline.runs.blueprint import projection as blueprint_projection
from tapeline.runs.blueprint import tables as blueprint_tables
from tapeline.runs.device import projection as device_projection
from tapeline.runs.device import tables as device_tables
from tapeline.runs.known import projection as known_projection
from tapeline.runs.known import tables as known_tables
from tapeline.runs.run import projection as run_projection
from tapeline.runs.run import tables as run_tables


class Part(Protocol):
    """The fold of one kind."""

    def keys(self, event: StoredEvent, /) -> Iterable[tuple[Table, Key]]: ...

    def apply(self, rows: Rows, event: StoredEvent, /) -> None: ...


name = "runs"
version = 4
kinds = frozenset({"run", "blueprint", "device", "canvas", "asset"})
tables: Sequence[Table] = (
    *run_tables.TABLES,
    *blueprint_tables.TABLES,
    *device_tables.TABLES,
    *known_tables.TABLES,
)

_PARTS: dict[str, Part] = {
    "run": run_projection,
    "blueprint": blueprint_projection,
    "device": device_projection,
    "canvas": known_projection,
    "asset": known_projection,
}


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    """The rows that an event touches."""
    return _PARTS[event.ref.kind].keys(event)


def apply(rows: Rows, event: StoredEvent) -> None:
    """Fold one event into its rows."""
    _PARTS[event.ref.kind].apply(rows, event)
