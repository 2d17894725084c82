"""The registry: every component of features and labels, and the specs that have a name already.

An explicit list, nothing is scanned. A changed formula is a new version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from tapeline.assets.component import Component
from tapeline.assets.features.averages import BB, EMA_RATIO, MACD, SMA_RATIO
from tapeline.assets.features.bars import BARS
from tapeline.assets.features.candles import KBAR
from tapeline.assets.features.clock import DAY_OF_WEEK, SESSION_FRACTION
from tapeline.assets.features.flow import AMIHUD, MFI, OBV_SLOPE, TICK_IMBALANCE
from tapeline.assets.features.momentum import AROONOSC, CCI, RSI, STOCH, WILLR
from tapeline.assets.features.ranges import GARMAN_KLASS, NATR, PARKINSON, RANK, RSV
from tapeline.assets.features.returns import FRAC_DIFF, GAP, LOG_RETURN, REALISED_VOL, ROC
from tapeline.assets.features.trend import ADX, LINREG
from tapeline.assets.features.volume import RVOL, TRADE_SIZE, VOLUME_RATIO, VWAP_RATIO
from tapeline.assets.labels.barriers import META_LABEL, RR_ATR, TRIPLE_BARRIER
from tapeline.assets.labels.direction import FWD_RETURN, THREE_CLASS, UPDOWN
from tapeline.assets.labels.trend import TREND_SCAN
from tapeline.assets.labels.volatility import FWD_VOL
from tapeline.errors import TapelineError

Registry = Mapping[str, Component]

FEATURES = (
    BARS, LOG_RETURN, ROC, GAP, KBAR, SMA_RATIO, EMA_RATIO, MACD, BB, RSI, STOCH, WILLR, CCI, AROONOSC, ADX, NATR,
    REALISED_VOL, PARKINSON, GARMAN_KLASS, LINREG, RANK, RSV, VWAP_RATIO, VOLUME_RATIO, RVOL, OBV_SLOPE, MFI,
    TRADE_SIZE, TICK_IMBALANCE, AMIHUD, SESSION_FRACTION, DAY_OF_WEEK, FRAC_DIFF,
)  # fmt: skip
LABELS = (FWD_RETURN, UPDOWN, THREE_CLASS, TRIPLE_BARRIER, RR_ATR, META_LABEL, FWD_VOL, TREND_SCAN)
ENTRY_POINTS = "tapeline.components"


@cache
def installed() -> tuple[Component, ...]:
    """The components that the operator has installed beside ours, by the entry-point group `tapeline.components`.

    Raises
    ------
    TapelineError
        `invalid` for what is no component, or has the id of one of ours.
    """
    made = []
    own = {component.id for component in (*FEATURES, *LABELS)}
    for found in sorted(entry_points(group=ENTRY_POINTS), key=lambda each: each.name):
        component = found.load()
        if not isinstance(component, Component) or component.id in own:
            raise TapelineError(
                f"entry point {found.name!r} of {ENTRY_POINTS} gives "
                + (
                    f"a second {component.id!r}" if isinstance(component, Component) else f"no component: {component!r}"
                ),
                code="invalid",
                hint="give a tapeline.assets.component.Component with an id of its own",
            )
        own.add(component.id)
        made.append(component)
    return tuple(made)


def registry(*more: Component) -> Registry:
    """The components by id: ours, those that an operator has installed, and `more`.

    The newest version of each has its id for a key; one that is older is kept as `id/version`, for the recipes that
    name it.
    """
    found: dict[str, Component] = {}
    for component in (*FEATURES, *LABELS, *installed(), *more):
        known = found.get(component.id)
        if known is not None and known.version != component.version:
            older = min(known, component, key=lambda each: each.version)
            found[f"{older.id}/{older.version}"] = older
        found[component.id] = component if known is None or component.version >= known.version else known
    return found


def of_version(components: Registry, id: str, version: int | None) -> Component | None:
    """A component by id and version, the newest without; None when there is none."""
    found = components.get(id)
    if found is None or version in (None, found.version):
        return found
    return components.get(f"{id}/{version}")


def newest(components: Registry) -> list[Component]:
    """The components in their newest versions."""
    return [component for key, component in components.items() if key == component.id]


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
