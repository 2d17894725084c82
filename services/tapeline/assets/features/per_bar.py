"""Features that have one value, or one row of values, for each bar: a sample takes that of its newest bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tapeline.assets.component import Columns, Component, FeatureParams
from tapeline.assets.view import Grid, View
from tapeline.measures import window_sums

Floats = NDArray[np.float64]
BLOCK = 1024


def bar_feature(
    id: str,
    params: type[FeatureParams],
    formula: Callable[[Grid, Any], Floats],
    *,
    warmup_bars: Callable[[Any], int],
    doc: str,
    names: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = (),
    sessions: Callable[[Any], int | None] = lambda params: None,
    by_rows: bool = False,
) -> Component:
    """The component of a formula over bars.

    Parameters
    ----------
    formula : gives float64, shape (rows,) or (rows, k), one a bar, NaN where there is no value
    names : of the k columns; one column is named as the component
    by_rows : whether a row's value is the same to the bit wherever its warm-up rows lie: no sum runs on from one row
        to the next; stretches of several views are then computed in one go
    """

    def compute(view: View, chosen: Any) -> Floats:
        grid = view.grid(chosen.unit, chosen.size)
        values = formula(grid, chosen) if by_rows else grid.each(lambda stretch: formula(stretch, chosen))
        found = view.newest(values, chosen.unit, chosen.size, chosen.shift)
        return found[:, None] if found.ndim == 1 else found

    def columns(chosen: Any) -> Columns:
        made = (names(chosen) if callable(names) else names) or (id,)
        return Columns((len(made),), made)

    return Component(
        id=id,
        kind="feature",
        version=1,
        params=params,
        warmup_bars=warmup_bars,
        columns=columns,
        compute=compute,
        doc=doc,
        sessions=sessions,
        stacks=True,
    )


def ratio(over: Floats, under: Floats) -> Floats:
    """The quotient; NaN where the divisor is 0."""
    some = under != 0
    if bool(some.all()):
        return np.asarray(over / under, np.float64)
    out = np.full(over.shape, np.nan)
    np.divide(over, under, out=out, where=some)
    return out


def stacked(*columns: Floats) -> Floats:
    """Columns side by side: shape (rows, k)."""
    return np.stack(columns, axis=1)


def in_blocks(formula: Callable[..., Floats], before: int, *columns: Floats) -> Floats:
    """A formula over the last `before + 1` rows, computed on one stretch of 1,024 rows after another.

    Notes
    -----
    TA-Lib keeps running sums, in which rounding of earlier rows stays for ever, and matrices of windows grow
    with the rows: short stretches bound both. A stretch is given the `before` rows ahead of it.
    """
    rows, parts = len(columns[0]), []
    for start in range(0, rows, BLOCK):
        low = max(0, start - before)
        parts.append(formula(*(column[low : start + BLOCK] for column in columns))[start - low :])
    return np.concatenate(parts) if parts else np.empty(0)


def windows(values: Floats, n: int) -> Floats:
    """The last n values of each row: a view of shape (rows - n + 1, n); no rows where there are fewer than n."""
    return sliding_window_view(values, n) if len(values) >= n else np.empty((0, n))


def led(values: Floats, rows: int) -> Floats:
    """Values of the last rows, with NaN for the rows before them: shape (rows, ...)."""
    out = np.full((rows, *values.shape[1:]), np.nan)
    out[rows - len(values) :] = values
    return out


def sums(values: Floats, n: int) -> Floats:
    """The sum of the last n values, each window summed by itself: float64, shape (rows,), NaN for the first n - 1."""
    return led(window_sums(values, n), len(values))


def means(values: Floats, n: int) -> Floats:
    """The mean of the last n values, each window by itself: float64, shape (rows,), NaN for the first n - 1."""
    return sums(values, n) / n


def is_flat(values: Floats, n: int) -> NDArray[np.bool_]:
    """Whether the last n values are equal: shape (rows,), False where there are fewer."""
    out = np.zeros(len(values), bool)
    run = windows((values[1:] == values[:-1]).astype(np.float64), n - 1) if n > 1 else np.ones((len(values), 1))
    whole = run.min(axis=1) > 0
    if len(whole):
        out[len(out) - len(whole) :] = whole
    return out
