"""Returns of closes, and how much they vary."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import Field

from tapeline.assets.component import Columns, Component, FeatureParams
from tapeline.assets.view import View, newest


class LogReturnParams(FeatureParams):
    """The return over `k` bars."""

    k: int = Field(default=1, ge=1, le=10_000)


class RealisedVolParams(FeatureParams):
    """Volatility over `n` returns."""

    n: int = Field(default=20, ge=1, le=10_000)


def log_returns(close: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """ln(c_t / c_{t-k}) of each bar: float64, shape (rows,); NaN for the first k."""
    out = np.full(len(close), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        out[k:] = np.log(close[k:] / close[: len(close) - k])
    out[~np.isfinite(out)] = np.nan
    return out


def log_return(view: View, params: LogReturnParams) -> NDArray[np.float64]:
    """ln(c_t / c_{t-k})."""
    grid = view.grid(params.unit, params.size)
    values = log_returns(grid.bars[:, 3], params.k)
    return newest(values, view.past(params.unit, params.size), params.shift)[:, None]


def realised_vol(view: View, params: RealisedVolParams) -> NDArray[np.float64]:
    """sqrt(sum of r^2) over the last n log returns."""
    grid = view.grid(params.unit, params.size)
    values = np.full(len(grid.bars), np.nan)
    squared = np.square(log_returns(grid.bars[:, 3], 1))
    if len(squared) >= params.n:
        # One sum a window, never a running one: a running sum would carry its rounding along for ever.
        values[params.n - 1 :] = np.sqrt(sliding_window_view(squared, params.n).sum(axis=1))
    return newest(values, view.past(params.unit, params.size), params.shift)[:, None]


LOG_RETURN = Component(
    id="log_return",
    kind="feature",
    version=1,
    params=LogReturnParams,
    warmup_bars=lambda params: params.k + 1,
    columns=lambda params: Columns((1,), ("log_return",)),
    compute=log_return,
    doc="ln(c_t / c_{t-k})",
)

REALISED_VOL = Component(
    id="realised_vol",
    kind="feature",
    version=1,
    params=RealisedVolParams,
    warmup_bars=lambda params: params.n + 1,
    columns=lambda params: Columns((1,), ("realised_vol",)),
    compute=realised_vol,
    doc="sqrt(sum of r^2) over the last n log returns r",
)
