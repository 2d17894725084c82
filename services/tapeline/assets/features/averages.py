"""Closes against their averages, by TA-Lib."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tapeline.assets.component import FeatureParams
from tapeline.assets.features import talib
from tapeline.assets.features.per_bar import bar_feature, in_blocks, is_flat, ratio, stacked
from tapeline.assets.view import Grid


class AverageParams(FeatureParams):
    """An average over `n` bars."""

    n: int = Field(default=20, ge=2, le=10_000)


class MacdParams(FeatureParams):
    """Bars of the fast, the slow and the signal average."""

    fast: int = Field(default=12, ge=2, le=1000)
    slow: int = Field(default=26, ge=2, le=1000)
    signal: int = Field(default=9, ge=1, le=1000)

    @model_validator(mode="after")
    def _is_slower(self) -> Self:
        if self.slow <= self.fast:
            raise ValueError(f"slow must be above fast, got {self.slow} and {self.fast}")
        return self


class BandParams(FeatureParams):
    """Bands `k` deviations away from the mean of `n` bars."""

    n: int = Field(default=20, ge=2, le=10_000)
    k: float = Field(default=2.0, gt=0.0, le=100.0)


def sma_ratio(grid: Grid, params: AverageParams) -> NDArray[np.float64]:
    """SMA_n / c - 1 (TA-Lib SMA)."""

    def stretch(close: NDArray[np.float64]) -> NDArray[np.float64]:
        counted, first = talib.relative(close)
        mean = talib.call("SMA", counted, needs=params.n, timeperiod=params.n)
        return ratio((mean / 1e4 + 1.0) * first, close) - 1.0

    return in_blocks(stretch, params.n - 1, grid.bars[:, 3])


def ema_ratio(grid: Grid, params: AverageParams) -> NDArray[np.float64]:
    """EMA_n / c - 1, the weight of the newest close being 2 / (n + 1) (TA-Lib EMA)."""
    close = grid.bars[:, 3]
    return ratio(talib.call("EMA", close, needs=params.n, timeperiod=params.n), close) - 1.0


def macd(grid: Grid, params: MacdParams) -> NDArray[np.float64]:
    """(line, signal, histogram) / c: EMA_fast - EMA_slow, its EMA_signal, their difference (TA-Lib MACD)."""
    close = grid.bars[:, 3]
    found = talib.call(
        "MACD",
        close,
        needs=params.slow + params.signal - 1,
        outputs=3,
        fastperiod=params.fast,
        slowperiod=params.slow,
        signalperiod=params.signal,
    )
    return stacked(*(ratio(column, close) for column in found.T))


def bb(grid: Grid, params: BandParams) -> NDArray[np.float64]:
    """%B = (c - low) / (up - low), width = (up - low) / mid (TA-Lib BBANDS).

    Notes
    -----
    Bollinger's bands: mid = SMA_n, up and low k population deviations from it. Where all n closes are equal the
    bands have no width: width is 0 and %B has no value.
    """

    def stretch(close: NDArray[np.float64]) -> NDArray[np.float64]:
        counted, _ = talib.relative(close)
        up, mid, low = talib.call(
            "BBANDS", counted, needs=params.n, outputs=3, timeperiod=params.n, nbdevup=params.k, nbdevdn=params.k
        ).T
        place, width = ratio(counted - low, up - low), ratio(up - low, mid + 1e4)
        flat = is_flat(close, params.n)
        place[flat], width[flat] = np.nan, 0.0
        return stacked(place, width)

    return in_blocks(stretch, params.n - 1, grid.bars[:, 3]).reshape(-1, 2)


SMA_RATIO = bar_feature(
    "sma_ratio", AverageParams, sma_ratio, warmup_bars=lambda params: params.n, doc="SMA_n / c - 1 (TA-Lib SMA)"
)
EMA_RATIO = bar_feature(
    "ema_ratio",
    AverageParams,
    ema_ratio,
    warmup_bars=lambda params: (1 + talib.FORGETS) * params.n,
    doc="EMA_n / c - 1 (TA-Lib EMA)",
)
MACD = bar_feature(
    "macd",
    MacdParams,
    macd,
    warmup_bars=lambda params: (2 + talib.FORGETS) * params.slow + (2 + talib.FORGETS) * params.signal,
    names=("line", "signal", "histogram"),
    doc="(line, signal, histogram) / c (TA-Lib MACD)",
)
BB = bar_feature(
    "bb",
    BandParams,
    bb,
    warmup_bars=lambda params: params.n,
    names=("place", "width"),
    doc="%B = (c - low) / (up - low), width = (up - low) / mid of Bollinger's bands (TA-Lib BBANDS)",
)
