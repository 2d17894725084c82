"""Momentum, by TA-Lib."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tapeline.assets.component import Columns, Component, FeatureParams
from tapeline.assets.features import talib
from tapeline.assets.view import View, newest


class RsiParams(FeatureParams):
    """Wilder's average over `n` bars."""

    n: int = Field(default=14, ge=2, le=1000)


def rsi(view: View, params: RsiParams) -> NDArray[np.float64]:
    """(RSI - 50) / 50, from -1 to 1."""
    values = (talib.rsi(view.grid(params.unit, params.size).bars[:, 3], params.n) - 50.0) / 50.0
    return newest(values, view.past(params.unit, params.size), params.shift)[:, None]


RSI = Component(
    id="rsi",
    kind="feature",
    version=1,
    params=RsiParams,
    # Wilder's average forgets as (1 - 1/n)^bars: after 25 n bars what came before weighs e^-25, which
    # keeps the truncation check's 1e-9.
    warmup_bars=lambda params: 26 * params.n + 1,
    columns=lambda params: Columns((1,), ("rsi",)),
    compute=rsi,
    doc="(RSI - 50) / 50 over n bars (TA-Lib RSI)",
)
