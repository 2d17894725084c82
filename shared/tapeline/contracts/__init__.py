"""The published language: events, commands, queries, replies and views, one module per aggregate.

`EVENTS` names every event class by its tag on the wire and its schema; `UPCASTERS` turns the data of an
older schema into the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapeline.contracts.agents import DEVICE_EVENTS
from tapeline.contracts.assets import ASSET_EVENTS
from tapeline.contracts.canvases import CANVAS_EVENTS
from tapeline.contracts.names import NAME_EVENTS
from tapeline.contracts.runs import RUN_EVENTS
from tapeline.contracts.tapes import TAPE_EVENTS
from tapeline.contracts.vault import VAULT_EVENTS

ALL_EVENTS: tuple[type, ...] = (
    *RUN_EVENTS,
    *DEVICE_EVENTS,
    *TAPE_EVENTS,
    *CANVAS_EVENTS,
    *ASSET_EVENTS,
    *VAULT_EVENTS,
    *NAME_EVENTS,
)


def schema_of(event: type) -> int:
    """The schema number of an event class."""
    number: int = event.SCHEMA  # type: ignore[attr-defined]
    return number


EVENTS: dict[tuple[str, int], type] = {(event.__name__, schema_of(event)): event for event in ALL_EVENTS}
"""Every event class by (tag, schema)."""

UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By (tag, n): a pure function from the data of schema n to that of schema n + 1."""
