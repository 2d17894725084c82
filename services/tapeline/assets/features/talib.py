"""TA-Lib's functions on columns of bars; no indicator that it has is written by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.errors import TapelineError
from tapeline.measures import window_sums

Floats = NDArray[np.float64]

FORGETS = 13
"""Periods after which an EMA weighs what came before by e^-26, and the truncation check's 1e-9 holds."""
WILDER_FORGETS = 25
"""The same for Wilder's average, which forgets half as fast: e^-25."""


def call(function: str, *columns: Floats, needs: int, outputs: int = 1, **periods: int | float) -> Floats:
    """What a function of TA-Lib gives: float64, shape (rows,), or (rows, outputs) where it gives several columns.

    Parameters
    ----------
    needs : rows that it needs for its first value; NaN throughout where there are fewer
    """
    whole = [np.ascontiguousarray(column, np.float64) for column in columns]
    # TA-Lib raises on input that is empty or NaN throughout.
    rows = len(whole[0])
    if any(rows - np.count_nonzero(column != column) < needs for column in whole):
        return np.full((len(whole[0]), outputs) if outputs > 1 else len(whole[0]), np.nan)
    found = _function(function)(*whole, **periods)
    return np.stack(found, axis=1) if outputs > 1 else np.asarray(found, np.float64)


def sma(values: Floats, n: int) -> Floats:
    """The mean of the last n values: float64, NaN for the first n - 1.

    Notes
    -----
    TA-Lib keeps a running sum, in which rounding of earlier values stays: the mean of n zeros would be
    about 1e-15. A window of zeros has mean 0 here.
    """
    if n == 1:
        return values.astype(np.float64)
    out = call("SMA", values, needs=n, timeperiod=n)
    if len(out) >= n:
        out[n - 1 :][window_sums((values != 0).astype(np.float64), n) == 0] = 0.0
    return out


def relative(values: Floats) -> tuple[Floats, float]:
    """Prices in 1/10,000 of the first of them, from which they are counted, and that price.

    Notes
    -----
    Sums of squares of prices as they are lose their digits, and TA-Lib takes variances below 1e-14 for 0.
    """
    known = values == values
    first = (float(values[int(known.argmax())]) if bool(known.any()) else 1.0) or 1.0
    return (values / first - 1.0) * 1e4, first


@cache
def _function(name: str) -> Any:
    try:
        import talib
    except ImportError as error:
        raise TapelineError(
            "indicators need the package TA-Lib", code="dependency_missing", hint="pip install 'tapeline[assets]'"
        ) from error
    found = getattr(talib, name)
    # What it is wrapped in looks for columns of pandas and Polars; ours are arrays.
    return getattr(found, "__wrapped__", found)
