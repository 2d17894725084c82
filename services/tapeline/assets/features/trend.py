"""How steadily the price goes one way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tapeline.assets.component import FeatureParams
from tapeline.assets.features import talib
from tapeline.assets.features.per_bar import bar_feature, in_blocks, led, ratio, stacked, windows
from tapeline.assets.view import Grid


class AdxParams(FeatureParams):
    """Wilder's averages over `n` bars."""

    n: int = Field(default=14, ge=2, le=1000)


class LinregParams(FeatureParams):
    """The line through `n` closes."""

    n: int = Field(default=20, ge=3, le=10_000)


def adx(grid: Grid, params: AdxParams) -> NDArray[np.float64]:
    """ADX / 100, (+DI - -DI) / 100: Wilder's directional movement (TA-Lib ADX, PLUS_DI, MINUS_DI)."""
    _, high, low, close = grid.bars[:, :4].T
    n = params.n
    strength = talib.call("ADX", high, low, close, needs=2 * n, timeperiod=n)
    up = talib.call("PLUS_DI", high, low, close, needs=n + 1, timeperiod=n)
    down = talib.call("MINUS_DI", high, low, close, needs=n + 1, timeperiod=n)
    return stacked(strength / 100.0, (up - down) / 100.0)


def linreg(grid: Grid, params: LinregParams) -> NDArray[np.float64]:
    """Slope / c and r^2 of the least-squares line through the last n closes (slope: TA-Lib LINEARREG_SLOPE).

    Notes
    -----
    r^2 = slope^2 Sxx / Syy with sums of squares about the means; NaN where all closes are equal. TA-Lib's CORREL
    would take running sums of squares, which lose their digits.
    """
    n = params.n
    squares = n * (n * n - 1) / 12.0

    def stretch(close: NDArray[np.float64]) -> NDArray[np.float64]:
        counted, first = talib.relative(close)
        slope = talib.call("LINEARREG_SLOPE", counted, needs=n, timeperiod=n)
        about = windows(counted, n)
        about = about - about[:, :1]
        about = about - about.mean(axis=1, keepdims=True)
        spread = led(np.square(about).sum(axis=1), len(close))
        fit = np.minimum(ratio(np.square(slope) * squares, spread), 1.0)
        return stacked(ratio(slope * (first / 1e4), close), fit)

    return in_blocks(stretch, n - 1, grid.bars[:, 3]).reshape(-1, 2)


ADX = bar_feature(
    "adx",
    AdxParams,
    adx,
    # Two of Wilder's averages follow one another: what came before weighs about 30 e^-30.
    warmup_bars=lambda params: (7 + talib.WILDER_FORGETS) * params.n,
    names=("strength", "direction"),
    doc="ADX / 100, (+DI - -DI) / 100 (TA-Lib ADX, PLUS_DI, MINUS_DI)",
)
LINREG = bar_feature(
    "linreg",
    LinregParams,
    linreg,
    warmup_bars=lambda params: params.n,
    names=("slope", "fit"),
    doc="slope / c and r^2 of the least-squares line through n closes (TA-Lib LINEARREG_SLOPE)",
)
