"""Which bars a label may read: from the entry after its delay to the end of its horizon."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.component import LabelParams
from tapeline.assets.view import Grid, View

Answer = tuple[NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """The samples whose window lies within the data, as rows of a grid.

    Attributes
    ----------
    sample : int64, shape (m,): which of the n samples have a window
    now : int64, shape (m,): row t, the newest bar complete at the sample's time
    entry : int64, shape (m,): row t + d, whose close is the first price that counts
    last : int64, shape (m,): row t + d + h, the last one read
    """

    grid: Grid
    n: int
    sample: NDArray[np.int64]
    now: NDArray[np.int64]
    entry: NDArray[np.int64]
    last: NDArray[np.int64]

    def answer(self, *columns: NDArray[np.float64] | NDArray[np.int64] | NDArray[np.bool_]) -> Answer:
        """Columns of shape (m,) as a label gives them: NaN and -1 where there is no window, or no finite value."""
        values = np.empty((len(self.sample), len(columns)))
        real = np.ones(len(self.sample), bool)
        for k, column in enumerate(columns):
            values[:, k] = column
            if column.dtype.kind == "f":
                real &= np.isfinite(column)
        sample, last = self.sample, self.last
        if not bool(real.all()):
            sample, last, values = sample[real], last[real], values[real]
        y = np.full((self.n, len(columns)), np.nan)
        t1 = np.full(self.n, -1, np.int64)
        y[sample] = values
        t1[sample] = self.grid.end[last]
        return y, t1


def reach(view: View, params: LabelParams) -> Reach:
    """The windows of a view's samples.

    Notes
    -----
    t is the newest complete bar, d the entry delay, h the horizon, in bars. A window that leaves the sample's
    session segment, unless `cross_session`, or the end of the data, is none.
    """
    grid = view.grid(params.unit, params.size, future=True)
    rows, (first, stop) = len(grid.end), view.reaches(params.unit, params.size)
    now = view.past(params.unit, params.size) - 1
    entry = now + params.entry_delay
    last = entry + params.horizon_bars
    known = (entry >= first) & (last < stop)
    if rows and not params.cross_session:
        here = view.segment()
        for there in (entry, last):
            known &= grid.segment[np.minimum(np.maximum(there, 0), rows - 1)] == here
    sample = np.flatnonzero(known)
    return Reach(grid, len(view.times), sample, now[sample], entry[sample], last[sample])


def moves(found: Reach) -> NDArray[np.float64]:
    """c_{t+d+h} / c_{t+d} - 1 of each window: float64, shape (m,)."""
    close = found.grid.bars[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        return close[found.last] / close[found.entry] - 1.0
