"""The published language: events, commands, queries, replies and views, one module per aggregate.

`registry.py` holds all events of all aggregates; its names are here too, and load every module when they are
touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapeline.contracts.registry import ALL_EVENTS, EVENTS, TOMBSTONES, UPCASTERS, schema_of

__all__ = ["ALL_EVENTS", "EVENTS", "TOMBSTONES", "UPCASTERS", "schema_of"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tapeline.contracts import registry

    return getattr(registry, name)
