"""Every event of every aggregate.

`EVENTS` names every event class by its tag on the wire and its schema; `UPCASTERS` turns the data of an
older schema into the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapeline.contracts.agents import DEVICE_EVENTS, DeviceGone
from tapeline.contracts.assets import ASSET_EVENTS, FEATURE_EVENTS, AssetRemoved, FeatureRemoved
from tapeline.contracts.blueprints import BLUEPRINT_EVENTS, BlueprintRemoved
from tapeline.contracts.canvases import CANVAS_EVENTS, CanvasRemoved
from tapeline.contracts.models import MODEL_EVENTS, ModelDeleted
from tapeline.contracts.names import NAME_EVENTS, NameClaimed, NameReleased
from tapeline.contracts.runs import RUN_EVENTS, RunDeleted
from tapeline.contracts.tapes import TAPE_EVENTS, TapeRemoved
from tapeline.contracts.vault import VAULT_EVENTS, VaultItemRemoved

ALL_EVENTS: tuple[type, ...] = (
    *RUN_EVENTS,
    *BLUEPRINT_EVENTS,
    *DEVICE_EVENTS,
    *TAPE_EVENTS,
    *CANVAS_EVENTS,
    *ASSET_EVENTS,
    *FEATURE_EVENTS,
    *VAULT_EVENTS,
    *MODEL_EVENTS,
    *NAME_EVENTS,
)


def schema_of(event: type) -> int:
    """The schema number of an event class."""
    number: int = event.SCHEMA  # type: ignore[attr-defined]
    return number


EVENTS: dict[tuple[str, int], type] = {(event.__name__, schema_of(event)): event for event in ALL_EVENTS}
"""Every event class by (tag, schema)."""

TOMBSTONES: dict[str, object] = {
    event.__name__: tombstone
    for events, tombstone in (
        (RUN_EVENTS, RunDeleted()),
        (BLUEPRINT_EVENTS, BlueprintRemoved()),
        (DEVICE_EVENTS, DeviceGone(agent="", cause="erased")),
        (TAPE_EVENTS, TapeRemoved()),
        (CANVAS_EVENTS, CanvasRemoved()),
        (ASSET_EVENTS, AssetRemoved()),
        (FEATURE_EVENTS, FeatureRemoved()),
        (VAULT_EVENTS, VaultItemRemoved()),
        (MODEL_EVENTS, ModelDeleted()),
        ((NameClaimed, NameReleased), NameReleased(name="", holder="")),
    )
    for event in events
}
"""By tag: what an event is read as once its data was erased. The thing is gone and its name is free.

`NumberTaken` has none: a counter without its number would give that number out again, and it says nothing of
anybody.
"""

UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""By (tag, n): a pure function from the data of schema n to that of schema n + 1."""
