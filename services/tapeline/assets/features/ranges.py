"""How far prices range, and where in their range the close lies."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tapeline.assets.component import FeatureParams
from tapeline.assets.features import talib
from tapeline.assets.features.averages import AverageParams
from tapeline.assets.features.candles import EPSILON
from tapeline.assets.features.per_bar import bar_feature, means, ratio
from tapeline.assets.view import Grid
from tapeline.logarithms import ln


class NatrParams(FeatureParams):
    """Wilder's average over `n` bars."""

    n: int = Field(default=14, ge=2, le=1000)


class OverBarsParams(FeatureParams):
    """A mean over `n` bars."""

    n: int = Field(default=20, ge=1, le=10_000)


def natr(grid: Grid, params: NatrParams) -> NDArray[np.float64]:
    """ATR / c x 100: Wilder's average true range as a share of the close (TA-Lib NATR)."""
    _, high, low, close = grid.bars[:, :4].T
    return talib.call("NATR", high, low, close, needs=params.n + 1, timeperiod=params.n)


def _log(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    share = ratio(over, under)
    share[share <= 0] = np.nan
    return ln(share)


def parkinson(grid: Grid, params: OverBarsParams) -> NDArray[np.float64]:
    """sqrt(mean(ln(h / l)^2) / (4 ln 2)) over n bars: Parkinson, Journal of Business 53 (1980)."""
    _, high, low, _ = grid.bars[:, :4].T
    return np.sqrt(means(np.square(_log(high, low)), params.n) / (4.0 * math.log(2.0)))


def garman_klass(grid: Grid, params: OverBarsParams) -> NDArray[np.float64]:
    """sqrt(mean(0.5 ln(h / l)^2 - (2 ln 2 - 1) ln(c / o)^2)) over n bars, negative means clipped to 0.

    Notes
    -----
    Garman and Klass, Journal of Business 53 (1980), the practical form of their estimator.
    """
    opened, high, low, close = grid.bars[:, :4].T
    each = 0.5 * np.square(_log(high, low)) - (2.0 * math.log(2.0) - 1.0) * np.square(_log(close, opened))
    return np.sqrt(np.maximum(means(each, params.n), 0.0))


def rank(grid: Grid, params: AverageParams) -> NDArray[np.float64]:
    """The share of the n closes before c that lie below it, 0 to 1 (TA-Lib PERCENTRANK)."""
    return talib.call("PERCENTRANK", grid.bars[:, 3], needs=params.n + 1, timeperiod=params.n) / 100.0


def rsv(grid: Grid, params: AverageParams) -> NDArray[np.float64]:
    """(c - min l) / (max h - min l + e) over n bars, e = 1e-12 (TA-Lib MIN, MAX)."""
    _, high, low, close = grid.bars[:, :4].T
    least = talib.call("MIN", low, needs=params.n, timeperiod=params.n)
    most = talib.call("MAX", high, needs=params.n, timeperiod=params.n)
    return ratio(close - least, most - least + EPSILON)


NATR = bar_feature(
    "natr",
    NatrParams,
    natr,
    warmup_bars=lambda params: (1 + talib.WILDER_FORGETS) * params.n + 1,
    doc="ATR / c x 100 (TA-Lib NATR)",
)
PARKINSON = bar_feature(
    "parkinson",
    OverBarsParams,
    parkinson,
    warmup_bars=lambda params: params.n,
    doc="sqrt(mean(ln(h/l)^2) / (4 ln 2))",
    by_rows=True,
)
GARMAN_KLASS = bar_feature(
    "garman_klass",
    OverBarsParams,
    garman_klass,
    warmup_bars=lambda params: params.n,
    doc="sqrt(mean(0.5 ln(h/l)^2 - (2 ln 2 - 1) ln(c/o)^2)), negative means clipped to 0",
    by_rows=True,
)
RANK = bar_feature(
    "rank",
    AverageParams,
    rank,
    warmup_bars=lambda params: params.n + 1,
    doc="share of the last n closes below c (TA-Lib PERCENTRANK)",
)
RSV = bar_feature(
    "rsv",
    AverageParams,
    rsv,
    warmup_bars=lambda params: params.n,
    doc="(c - min l) / (max h - min l + e), e = 1e-12 (TA-Lib MIN, MAX)",
)
