"""The registry: every component of features and labels, and the specs that have a name already.

An explicit list, nothing is scanned. A changed formula is a new version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tapeline.assets.component import Component
from tapeline.assets.features.bars import BARS
from tapeline.assets.features.clock import SESSION_FRACTION
from tapeline.assets.features.momentum import RSI
from tapeline.assets.features.returns import LOG_RETURN, REALISED_VOL
from tapeline.assets.features.volume import TRADE_SIZE, VOLUME_RATIO
from tapeline.assets.labels.direction import UPDOWN

Registry = Mapping[str, Component]

FEATURES = (BARS, LOG_RETURN, REALISED_VOL, RSI, SESSION_FRACTION, TRADE_SIZE, VOLUME_RATIO)
LABELS = (UPDOWN,)


def registry(*more: Component) -> Registry:
    """The components by id; `more` are those that an operator has installed."""
    return {component.id: component for component in (*FEATURES, *LABELS, *more)}


def _named(name: str, component: str, **params: Any) -> dict[str, Any]:
    return {"name": name, "component": component, "params": params}


BUILT_IN: Mapping[str, dict[str, Any]] = {
    spec["name"]: spec
    for spec in (
        _named("bars_20_1min", "bars", unit="min", size=1, count=20, norm="last_price_pct"),
        _named("log_return_1min", "log_return", unit="min", size=1, k=1),
        _named("realised_vol_20_1min", "realised_vol", unit="min", size=1, n=20),
        _named("rsi_14_1min", "rsi", unit="min", size=1, n=14),
        _named("session_fraction", "session_fraction", unit="min", size=1),
        _named("trade_size_1min", "trade_size", unit="min", size=1, n=20),
        _named("volume_ratio_1min", "volume_ratio", unit="min", size=1, n=20),
        _named("updown_5min", "updown", unit="min", size=1, horizon="300s", entry_delay=1, eps=0.0),
    )
}
"""Specs that a build may name without spelling them."""


def described(components: Iterable[Component]) -> list[dict[str, Any]]:
    """The components as a user sees them: kind, version, formula, JSON Schema of the parameters."""
    return [
        {
            "id": component.id,
            "kind": component.kind,
            "version": component.version,
            "doc": component.doc,
            "params": component.params.model_json_schema(),
        }
        for component in sorted(components, key=lambda component: (component.kind, component.id))
    ]
