"""Volumes and sizes of trades against their own averages, and against the hour of the session."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tapeline.assets.component import FeatureParams
from tapeline.assets.features import talib
from tapeline.assets.features.averages import AverageParams
from tapeline.assets.features.per_bar import bar_feature, ratio, stacked, sums
from tapeline.assets.view import Grid

PRICES = {"open": 0, "high": 1, "low": 2, "close": 3}


class VwapParams(FeatureParams):
    """Averages over each of `windows` bars, or over the session so far; `price` weighed by volume."""

    windows: tuple[int, ...] | None = None
    anchor: Literal["session"] | None = None
    price: Literal["open", "high", "low", "close"] = "close"

    @property
    def lengths(self) -> tuple[int, ...]:
        """The windows, unless the session is the anchor."""
        return () if self.anchor else self.windows or (20, 60)

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.anchor and self.windows is not None:
            raise ValueError("give windows or anchor, not both")
        if self.windows is not None and not (1 <= len(self.windows) <= 16):
            raise ValueError("give 1 to 16 windows")
        if any(not 1 <= n <= 10_000 for n in self.lengths):
            raise ValueError("a window has 1 to 10,000 bars")
        return self


class RvolParams(FeatureParams):
    """The last `d` sessions; bars are bars of time."""

    d: int = Field(default=20, ge=1, le=500)

    @model_validator(mode="after")
    def _has_times(self) -> Self:
        if self.unit in ("tick", "day"):
            raise ValueError(f"unit {self.unit} has no minutes of a session to compare")
        return self


def volume_ratio(grid: Grid, params: AverageParams) -> NDArray[np.float64]:
    """v / SMA(v, n) - 1."""
    volume = grid.bars[:, 5]
    return ratio(volume, talib.sma(volume, params.n)) - 1.0


def trade_size(grid: Grid, params: AverageParams) -> NDArray[np.float64]:
    """vol_mean / SMA(vol_mean, n) - 1, and vol_max / vol_sum."""
    bars = grid.bars
    against = ratio(bars[:, 6], talib.sma(bars[:, 6], params.n)) - 1.0
    return stacked(against, ratio(bars[:, 7], bars[:, 5]))


def since_open(values: NDArray[np.float64], session: NDArray[np.int64]) -> NDArray[np.float64]:
    """The sum of values from the first bar of each session up to each bar: shape (rows,)."""
    out = np.empty(len(values))
    edges = [*np.flatnonzero(np.diff(session, prepend=-1)).tolist(), len(values)]
    for low, high in pairwise(edges):
        out[low:high] = np.cumsum(values[low:high])
    return out


def vwap_ratio(grid: Grid, params: VwapParams) -> NDArray[np.float64]:
    """sum(p v) / sum(v) / c - 1, over each window or over the session so far.

    Notes
    -----
    An average that is cumulative from the tape's first bar drifts away from what it is compared with; this one
    begins with its window or session. NaN while no volume was traded in it.
    """
    close, volume = grid.bars[:, 3], grid.bars[:, 5]
    # Counted from the close: a bar without a price has no volume either, and must not make the sum NaN.
    paid = np.where(volume > 0, grid.bars[:, PRICES[params.price]] * volume, 0.0)
    if params.anchor:
        columns = [(since_open(paid, grid.session), since_open(volume, grid.session))]
    else:
        columns = [(sums(paid, n), sums(volume, n)) for n in params.lengths]
    return stacked(*(ratio(ratio(over, under), close) - 1.0 for over, under in columns))


def rvol(grid: Grid, params: RvolParams) -> NDArray[np.float64]:
    """The session's volume up to this bar over the mean of the same on the last d sessions.

    Notes
    -----
    The same means: after as many bars of the session. A session that was shorter counts with all its volume.
    """
    volume, d = since_open(grid.bars[:, 5], grid.session), params.d
    starts = np.flatnonzero(np.diff(grid.session, prepend=-1))
    lengths = np.diff([*starts.tolist(), len(volume)])
    out = np.full(len(volume), np.nan)
    if len(starts) <= d:
        return out
    place = np.arange(int(lengths.max()))
    table = np.stack(
        [volume[start + np.minimum(place, n - 1)] for start, n in zip(starts, lengths, strict=True)]
    )  # shape (sessions, bars of the longest)
    for k in range(d, len(starts)):
        usual = table[k - d : k].sum(axis=0) / d
        n = int(lengths[k])
        out[starts[k] : starts[k] + n] = ratio(table[k, :n], usual[:n])
    return out


VOLUME_RATIO = bar_feature(
    "volume_ratio",
    AverageParams,
    volume_ratio,
    warmup_bars=lambda params: params.n,
    doc="v / SMA(v, n) - 1 (TA-Lib SMA)",
)
TRADE_SIZE = bar_feature(
    "trade_size",
    AverageParams,
    trade_size,
    warmup_bars=lambda params: params.n,
    names=("mean_ratio", "max_share"),
    doc="vol_mean / SMA(vol_mean, n) - 1, vol_max / vol_sum (TA-Lib SMA)",
)
VWAP_RATIO = bar_feature(
    "vwap_ratio",
    VwapParams,
    vwap_ratio,
    warmup_bars=lambda params: max(params.lengths, default=1),
    names=lambda params: ("session",) if params.anchor else tuple(f"of_{n}" for n in params.lengths),
    doc="sum(p v) / sum(v) / c - 1 per window, or since the session's open",
    sessions=lambda params: 0 if params.anchor else None,
)
RVOL = bar_feature(
    "rvol",
    RvolParams,
    rvol,
    warmup_bars=lambda params: 1,
    doc="volume of the session so far / mean of the same on the last d sessions",
    sessions=lambda params: params.d,
)
