"""Windows of bars, gathered by the kernel."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tapeline.assets.component import Columns, Component, FeatureParams, Windows
from tapeline.assets.view import Market, View
from tapeline.bars import COLUMNS, gather


class BarsParams(FeatureParams):
    """`count` bars, oldest first, normalised by `norm`."""

    count: int = Field(ge=1, le=10_000)
    norm: Literal["none", "last_price_pct", "zscore_window", "max_values"] = "none"


def maxima(market: Market, params: BarsParams) -> NDArray[np.float64] | None:
    """For `max_values` the maximum of each column over all bars of a market: float64, shape (8,)."""
    if params.norm != "max_values":
        return None
    bars = market.grid(params.unit, params.size).bars
    # Rows before the first price count for nothing.
    most: NDArray[np.float64] = np.where(np.isnan(bars), -np.inf, bars).max(axis=0, initial=-np.inf)
    return most


def windows(view: View, params: BarsParams) -> Windows:
    """Where the windows lie in the grid."""
    past = view.past(params.unit, params.size) - params.shift
    return Windows(params.unit, params.size, past, params.count, params.norm)


def compute(view: View, params: BarsParams) -> NDArray[np.float32]:
    """The windows: float32, shape (n, count, 8).

    Notes
    -----
    `last_price_pct` gives prices as (p / c_t - 1) x 100, c_t the close of the window's last bar, and counts
    and volumes as v / max(v of the window). `zscore_window` takes each column's own mean and deviation.
    `max_values` divides by the column's maximum over the train sessions of the symbol.
    """
    past = view.past(params.unit, params.size) - params.shift
    scale = view.given.get("fitted")
    return gather(view.grid(params.unit, params.size).bars, np.maximum(past, 0), params.count, params.norm, scale=scale)


BARS = Component(
    id="bars",
    kind="feature",
    version=1,
    params=BarsParams,
    warmup_bars=lambda params: params.count,
    columns=lambda params: Columns((params.count, 8), COLUMNS),
    compute=compute,
    windows=windows,
    fit=maxima,
    stacks=True,
    doc="the last `count` rows of the eight bar columns, oldest first, normalised by `norm`",
)
