"""Momentum, by TA-Lib."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tapeline.assets.component import FeatureParams
from tapeline.assets.features import talib
from tapeline.assets.features.per_bar import bar_feature, in_blocks, is_flat, led, windows
from tapeline.assets.view import Grid


class RsiParams(FeatureParams):
    """Wilder's average over `n` bars."""

    n: int = Field(default=14, ge=2, le=1000)


class StochParams(FeatureParams):
    """The range of `n` bars, and the averages that smooth %K and %D."""

    n: int = Field(default=14, ge=2, le=1000)
    slow_k: int = Field(default=3, ge=1, le=1000)
    slow_d: int = Field(default=3, ge=1, le=1000)


class RangeParams(FeatureParams):
    """The range of `n` bars."""

    n: int = Field(default=14, ge=2, le=1000)


class CciParams(FeatureParams):
    """Deviation from the mean of `n` bars."""

    n: int = Field(default=20, ge=2, le=1000)


class AroonParams(FeatureParams):
    """How long ago the extremes of `n` bars were."""

    n: int = Field(default=25, ge=2, le=1000)


def rsi(grid: Grid, params: RsiParams) -> NDArray[np.float64]:
    """(RSI - 50) / 50, from -1 to 1."""
    return (talib.call("RSI", grid.bars[:, 3], needs=params.n + 1, timeperiod=params.n) - 50.0) / 50.0


def has_no_range(high: NDArray[np.float64], low: NDArray[np.float64], n: int) -> NDArray[np.bool_]:
    """Whether the highest high of the last n bars is their lowest low: TA-Lib gives 0 there, which is no value."""
    return np.asarray(is_flat(high, n) & is_flat(low, n) & (high == low), dtype=np.bool_)


def _any_of_last(flags: NDArray[np.bool_], n: int) -> NDArray[np.bool_]:
    out = flags.copy()
    if n > 1 and len(flags) >= n:
        out[n - 1 :] = windows(flags.astype(np.float64), n).max(axis=1) > 0
    return out


def stoch(grid: Grid, params: StochParams) -> NDArray[np.float64]:
    """(%K, %D) / 100: where the close lies in the range of n bars, twice smoothed (TA-Lib STOCH).

    Notes
    -----
    Lane's slow stochastics. NaN while a window without range is in the smoothing: 0 / 0 has no value.
    """
    _, high, low, close = grid.bars[:, :4].T

    def stretch(*columns: NDArray[np.float64]) -> NDArray[np.float64]:
        found = talib.call(
            "STOCH",
            *columns,
            needs=params.n + params.slow_k + params.slow_d - 2,
            outputs=2,
            fastk_period=params.n,
            slowk_period=params.slow_k,
            slowk_matype=0,
            slowd_period=params.slow_d,
            slowd_matype=0,
        )
        flat = _any_of_last(has_no_range(columns[0], columns[1], params.n), params.slow_k)
        found[flat, 0] = np.nan
        found[_any_of_last(flat, params.slow_d), 1] = np.nan
        return found / 100.0

    return in_blocks(stretch, params.n + params.slow_k + params.slow_d - 3, high, low, close).reshape(-1, 2)


def willr(grid: Grid, params: RangeParams) -> NDArray[np.float64]:
    """Williams' %R / 100, from -1 to 0: (c - max h) / (max h - min l) (TA-Lib WILLR)."""
    _, high, low, close = grid.bars[:, :4].T
    found = talib.call("WILLR", high, low, close, needs=params.n, timeperiod=params.n) / 100.0
    found[has_no_range(high, low, params.n)] = np.nan
    return found


def cci(grid: Grid, params: CciParams) -> NDArray[np.float64]:
    """CCI / 100: Lambert's index, (p - mean p) / (0.015 x mean deviation), p = (h + l + c) / 3 (TA-Lib CCI).

    Notes
    -----
    NaN where the n typical prices are equal: TA-Lib's 0 is no value there.
    """
    _, high, low, close = grid.bars[:, :4].T
    found = talib.call("CCI", high, low, close, needs=params.n, timeperiod=params.n) / 100.0
    typical = windows((high + low + close) / 3.0, params.n)
    # Typical prices that differ by rounding alone are equal.
    spread = led(typical.max(axis=1) - typical.min(axis=1), len(close)) if len(typical) else np.full(len(close), np.nan)
    found[spread <= 1e-12 * np.abs(close)] = np.nan
    return found


def aroonosc(grid: Grid, params: AroonParams) -> NDArray[np.float64]:
    """AROONOSC / 100, from -1 to 1: (bars since the lowest low - bars since the highest high) / n (TA-Lib AROONOSC)."""
    _, high, low, _ = grid.bars[:, :4].T
    return talib.call("AROONOSC", high, low, needs=params.n + 1, timeperiod=params.n) / 100.0


RSI = bar_feature(
    "rsi",
    RsiParams,
    rsi,
    # Wilder's average forgets as (1 - 1/n)^bars: after 25 n bars what came before weighs e^-25, which
    # keeps the truncation check's 1e-9.
    warmup_bars=lambda params: (1 + talib.WILDER_FORGETS) * params.n + 1,
    doc="(RSI - 50) / 50 over n bars (TA-Lib RSI)",
)
STOCH = bar_feature(
    "stoch",
    StochParams,
    stoch,
    warmup_bars=lambda params: params.n + params.slow_k + params.slow_d - 2,
    names=("k", "d"),
    doc="(%K, %D) / 100 of the slow stochastics (TA-Lib STOCH)",
)
WILLR = bar_feature(
    "willr", RangeParams, willr, warmup_bars=lambda params: params.n, doc="Williams' %R / 100 (TA-Lib WILLR)"
)
CCI = bar_feature("cci", CciParams, cci, warmup_bars=lambda params: params.n, doc="CCI / 100 (TA-Lib CCI)")
AROONOSC = bar_feature(
    "aroonosc", AroonParams, aroonosc, warmup_bars=lambda params: params.n + 1, doc="AROONOSC / 100 (TA-Lib AROONOSC)"
)
