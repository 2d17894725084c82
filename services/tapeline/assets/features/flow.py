"""Volume with a direction, and what it costs to trade."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tapeline.assets.component import FeatureParams
from tapeline.assets.features import talib
from tapeline.assets.features.averages import AverageParams
from tapeline.assets.features.per_bar import bar_feature, in_blocks, ratio, sums
from tapeline.assets.features.ranges import OverBarsParams
from tapeline.assets.features.returns import log_returns
from tapeline.assets.view import Grid, Unit
from tapeline.logarithms import ln1p

# TA-Lib takes a money flow below 1 for none, whatever the currency: volumes are counted in 2^-40.
FINER = 2.0**40


class MfiParams(FeatureParams):
    """Money flow over `n` bars."""

    n: int = Field(default=14, ge=2, le=1000)


class ImbalanceParams(FeatureParams):
    """The last `n` bars; single trades unless said otherwise."""

    unit: Unit = "tick"
    n: int = Field(default=100, ge=1, le=10_000)


def obv_slope(grid: Grid, params: AverageParams) -> NDArray[np.float64]:
    """Slope of the on-balance volume over n bars / sum v of the same (TA-Lib OBV, LINEARREG_SLOPE).

    Notes
    -----
    OBV itself is cumulative from the first bar and never used: a slope does not depend on where it begins.
    """

    def stretch(close: NDArray[np.float64], volume: NDArray[np.float64]) -> NDArray[np.float64]:
        known = ~np.isnan(close)
        balance = talib.call("OBV", close[known], volume[known], needs=1)
        slope = talib.call("LINEARREG_SLOPE", balance, needs=params.n, timeperiod=params.n)
        out = np.full(len(close), np.nan)
        out[known] = slope
        return ratio(out, sums(volume, params.n))

    return in_blocks(stretch, params.n - 1, grid.bars[:, 3], grid.bars[:, 5])


def mfi(grid: Grid, params: MfiParams) -> NDArray[np.float64]:
    """(MFI - 50) / 50, from -1 to 1: an RSI of typical price times volume (TA-Lib MFI).

    Notes
    -----
    NaN where no money flowed either way in n bars.
    """

    def stretch(*columns: NDArray[np.float64]) -> NDArray[np.float64]:
        high, low, close, volume = columns
        found = talib.call("MFI", high, low, close, volume * FINER, needs=params.n + 1, timeperiod=params.n)
        typical = (high + low + close) / 3.0
        flows = np.zeros(len(close))
        # TA-Lib takes steps of rounding for none.
        flows[1:] = (np.abs(np.diff(typical)) > 1e-9 * typical[1:]) & (volume[1:] > 0)
        found[sums(flows, params.n) == 0] = np.nan
        return (found - 50.0) / 50.0

    _, high, low, close = grid.bars[:, :4].T
    return in_blocks(stretch, params.n, high, low, close, grid.bars[:, 5])


def tick_signs(close: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """The tick rule: the sign of each change, or of the last one that was none, up to n bars back; else 0."""
    change = np.zeros(len(close))
    np.sign(np.diff(close), out=change[1:])
    change[np.isnan(change)] = 0.0
    rows = np.arange(len(close))
    moved = np.maximum.accumulate(np.where(change != 0, rows, -1))
    return np.where((moved >= 0) & (rows - moved < n), change[np.maximum(moved, 0)], 0.0)


def tick_imbalance(grid: Grid, params: ImbalanceParams) -> NDArray[np.float64]:
    """sum(sign(dp) v) / sum v over n bars, signs by the tick rule, from -1 to 1.

    Notes
    -----
    López de Prado, Advances in Financial Machine Learning, section 2.3.2. A sign is carried over bars without a
    change for n bars at most, so that a window of history is enough to know it.
    """
    volume = grid.bars[:, 5]
    return ratio(sums(tick_signs(grid.bars[:, 3], params.n) * volume, params.n), sums(volume, params.n))


def amihud(grid: Grid, params: OverBarsParams) -> NDArray[np.float64]:
    """log1p(mean(abs(r) / (p v))) over those of n bars that have volume; r the log return, p the close.

    Notes
    -----
    Amihud, Journal of Financial Markets 5 (2002): the price's answer to money. NaN where none of the bars traded.
    """
    close, volume = grid.bars[:, 3], grid.bars[:, 5]
    answer = ratio(np.abs(log_returns(close, 1)), close * volume)
    traded = volume > 0
    # The first bar has no return: its window has no value, as others whose history is short.
    each = np.where(traded, answer, 0.0)
    return ln1p(ratio(sums(each, params.n), sums(traded.astype(np.float64), params.n)))


OBV_SLOPE = bar_feature(
    "obv_slope",
    AverageParams,
    obv_slope,
    warmup_bars=lambda params: params.n,
    doc="slope of OBV over n / sum v (TA-Lib OBV, LINEARREG_SLOPE)",
)
MFI = bar_feature(
    "mfi", MfiParams, mfi, warmup_bars=lambda params: params.n + 1, doc="(MFI - 50) / 50 over n bars (TA-Lib MFI)"
)
TICK_IMBALANCE = bar_feature(
    "tick_imbalance",
    ImbalanceParams,
    tick_imbalance,
    warmup_bars=lambda params: 2 * params.n + 1,
    doc="sum(sign(dp) v) / sum v over n bars, tick rule",
    by_rows=True,
)
AMIHUD = bar_feature(
    "amihud",
    OverBarsParams,
    amihud,
    warmup_bars=lambda params: params.n + 1,
    doc="log1p(mean(abs(r) / (p v))) over those of n bars that have volume",
    by_rows=True,
)
