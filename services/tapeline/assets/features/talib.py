"""TA-Lib's functions on columns of bars; no indicator that it has is written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tapeline.errors import TapelineError


def sma(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """The mean of the last n values: float64, NaN for the first n - 1.

    Notes
    -----
    TA-Lib keeps a running sum, in which rounding of earlier values stays: the mean of n zeros would be
    about 1e-15. A window of zeros has mean 0 here.
    """
    if n == 1:
        return values.astype(np.float64)
    if not _is_long_enough(values, n):
        return np.full(len(values), np.nan)
    out: NDArray[np.float64] = _talib().SMA(np.ascontiguousarray(values, np.float64), timeperiod=n)
    out[n - 1 :][~sliding_window_view(values != 0, n).any(axis=1)] = 0.0
    return out


def rsi(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Wilder's relative strength index, 0 to 100: float64, NaN for the first n."""
    if not _is_long_enough(values, n + 1):
        return np.full(len(values), np.nan)
    out: NDArray[np.float64] = _talib().RSI(np.ascontiguousarray(values, np.float64), timeperiod=n)
    return out


def _is_long_enough(values: NDArray[np.float64], n: int) -> bool:
    # TA-Lib raises on input that is empty or NaN throughout.
    return bool(np.count_nonzero(~np.isnan(values)) >= n)


def _talib() -> Any:
    try:
        import talib
    except ImportError as error:
        raise TapelineError(
            "indicators need the package TA-Lib", code="dependency_missing", hint="pip install 'tapeline[assets]'"
        ) from error
    return talib
