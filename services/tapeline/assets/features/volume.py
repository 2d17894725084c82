"""Volumes and sizes of trades against their own averages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tapeline.assets.component import Columns, Component, FeatureParams
from tapeline.assets.features import talib
from tapeline.assets.view import View, newest


class AverageParams(FeatureParams):
    """An average over `n` bars."""

    n: int = Field(default=20, ge=2, le=10_000)


def ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quotient; NaN where the divisor is 0."""
    out = np.full(len(over), np.nan)
    np.divide(over, under, out=out, where=under != 0)
    return out


def volume_ratio(view: View, params: AverageParams) -> NDArray[np.float64]:
    """v / SMA(v, n) - 1."""
    volume = view.grid(params.unit, params.size).bars[:, 5]
    values = ratio(volume, talib.sma(volume, params.n)) - 1.0
    return newest(values, view.past(params.unit, params.size), params.shift)[:, None]


def trade_size(view: View, params: AverageParams) -> NDArray[np.float64]:
    """vol_mean / SMA(vol_mean, n) - 1, and vol_max / vol_sum."""
    bars = view.grid(params.unit, params.size).bars
    against = ratio(bars[:, 6], talib.sma(bars[:, 6], params.n)) - 1.0
    values = np.stack([against, ratio(bars[:, 7], bars[:, 5])], axis=1)
    return newest(values, view.past(params.unit, params.size), params.shift)


VOLUME_RATIO = Component(
    id="volume_ratio",
    kind="feature",
    version=1,
    params=AverageParams,
    warmup_bars=lambda params: params.n,
    columns=lambda params: Columns((1,), ("volume_ratio",)),
    compute=volume_ratio,
    doc="v / SMA(v, n) - 1 (TA-Lib SMA)",
)

TRADE_SIZE = Component(
    id="trade_size",
    kind="feature",
    version=1,
    params=AverageParams,
    warmup_bars=lambda params: params.n,
    columns=lambda params: Columns((2,), ("mean_ratio", "max_share")),
    compute=trade_size,
    doc="vol_mean / SMA(vol_mean, n) - 1, vol_max / vol_sum (TA-Lib SMA)",
)
