"""Returns of closes, and how much they vary."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tapeline.assets.component import FeatureParams
from tapeline.assets.features import talib
from tapeline.assets.features.per_bar import bar_feature, ratio, sums
from tapeline.assets.view import Grid
from tapeline.logarithms import ln

MOST_WEIGHTS = 10_000


class LogReturnParams(FeatureParams):
    """The return over `k` bars."""

    k: int = Field(default=1, ge=1, le=10_000)


class RocParams(FeatureParams):
    """The return over `k` bars."""

    k: int = Field(default=10, ge=1, le=10_000)


class RealisedVolParams(FeatureParams):
    """Volatility over `n` returns."""

    n: int = Field(default=20, ge=1, le=10_000)


class FracDiffParams(FeatureParams):
    """The order of differencing, and the weight below which what lies further back is left out."""

    d: float = Field(default=0.4, gt=0.0, le=2.0)
    tau: float = Field(default=1e-4, ge=1e-6, lt=0.1)


def log_returns(close: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """ln(c_t / c_{t-k}) of each bar: float64, shape (rows,); NaN for the first k."""
    out = np.full(len(close), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        out[k:] = ln(close[k:] / close[: len(close) - k])
    out[~np.isfinite(out)] = np.nan
    return out


def log_return(grid: Grid, params: LogReturnParams) -> NDArray[np.float64]:
    """ln(c_t / c_{t-k})."""
    return log_returns(grid.bars[:, 3], params.k)


def roc(grid: Grid, params: RocParams) -> NDArray[np.float64]:
    """c_t / c_{t-k} - 1 (TA-Lib ROCP)."""
    return talib.call("ROCP", grid.bars[:, 3], needs=params.k + 1, timeperiod=params.k)


def gap(grid: Grid, params: FeatureParams) -> NDArray[np.float64]:
    """o_t / c_{t-1} - 1 at the first bar of a session, 0 at all others; NaN for the first bar of all."""
    out = np.full(len(grid.end), np.nan)
    out[1:] = np.where(grid.session[1:] != grid.session[:-1], ratio(grid.bars[1:, 0], grid.bars[:-1, 3]) - 1.0, 0.0)
    return out


def realised_vol(grid: Grid, params: RealisedVolParams) -> NDArray[np.float64]:
    """sqrt(sum of r^2) over the last n log returns."""
    # One sum a window, never a running one: a running sum would carry its rounding along for ever.
    return np.sqrt(sums(np.square(log_returns(grid.bars[:, 3], 1)), params.n))


def weights(d: float, tau: float) -> list[float]:
    """w_0 = 1, w_k = -w_{k-1} (d - k + 1) / k, as long as abs(w_k) >= tau.

    Examples
    --------
    >>> weights(1.0, 1e-4)
    [1.0, -1.0]
    """
    made = [1.0]
    while len(made) < MOST_WEIGHTS:
        k = len(made)
        w = -made[-1] * (d - k + 1) / k
        if abs(w) < tau:
            break
        made.append(w)
    return made


def frac_diff(grid: Grid, params: FracDiffParams) -> NDArray[np.float64]:
    """sum over k of w_k ln c_{t-k}.

    Notes
    -----
    The fixed-width window of López de Prado, Advances in Financial Machine Learning, section 5.5: memory is
    kept where whole differences would lose it. Terms are added in the order of k, the same on every machine.
    """
    used = weights(params.d, params.tau)
    rows, last = len(grid.end), len(used) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = ln(grid.bars[:, 3])
    out = np.full(rows, np.nan)
    if rows > last:
        total = np.zeros(rows - last)
        for k, w in enumerate(used):
            total += w * logs[last - k : rows - k]
        out[last:] = total
    out[~np.isfinite(out)] = np.nan
    return out


LOG_RETURN = bar_feature(
    "log_return",
    LogReturnParams,
    log_return,
    warmup_bars=lambda params: params.k + 1,
    doc="ln(c_t / c_{t-k})",
    by_rows=True,
)
ROC = bar_feature("roc", RocParams, roc, warmup_bars=lambda params: params.k + 1, doc="c_t / c_{t-k} - 1 (TA-Lib ROCP)")
GAP = bar_feature(
    "gap",
    FeatureParams,
    gap,
    warmup_bars=lambda params: 2,
    doc="o_t / c_{t-1} - 1 at a session's first bar, 0 elsewhere",
    by_rows=True,
)
REALISED_VOL = bar_feature(
    "realised_vol",
    RealisedVolParams,
    realised_vol,
    warmup_bars=lambda params: params.n + 1,
    doc="sqrt(sum of r^2) over the last n log returns r",
    by_rows=True,
)
FRAC_DIFF = bar_feature(
    "frac_diff",
    FracDiffParams,
    frac_diff,
    warmup_bars=lambda params: len(weights(params.d, params.tau)),
    doc="sum of w_k ln c_{t-k}, w_0 = 1, w_k = -w_{k-1} (d - k + 1) / k, cut at abs(w) < tau",
    by_rows=True,
)
