"""Where the price goes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tapeline.assets.component import Columns, Component, LabelParams
from tapeline.assets.view import View

UPDOWN_COLUMNS = ("return", "up_strict", "down_strict", "short_down", "long_up")
UPDOWN_TYPES = ("regression", "binary", "binary", "binary", "binary")


class UpdownParams(LabelParams):
    """Moves smaller than `eps` (a share of the price) are neither long nor short."""

    eps: float = Field(default=0.0, ge=0.0, lt=1.0)


def updown(view: View, params: UpdownParams) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """return = c_{t+d+h} / c_{t+d} - 1, and four readings of its sign.

    Returns
    -------
    y : float64, shape (n, 5): return, return > 0, return < 0, return < -eps, return > eps; NaN: no sample
    t1 : int64 ns, shape (n,), end of the last bar read; -1: no sample

    Notes
    -----
    t is the newest complete bar, d the entry delay, h the horizon, in bars. A window that leaves the
    sample's session segment, or the end of the data, gives no sample.
    """
    grid = view.grid(params.unit, params.size)
    rows = len(grid.end)
    entry = view.past(params.unit, params.size) - 1 + params.entry_delay
    target = entry + params.horizon_bars
    known = (entry >= 0) & (target < rows)
    if rows and not params.cross_session:
        here = view.segment()
        known &= (grid.segment[np.clip(entry, 0, rows - 1)] == here) & (
            grid.segment[np.clip(target, 0, rows - 1)] == here
        )
    y = np.full((len(view.times), 5), np.nan)
    t1 = np.full(len(view.times), -1, np.int64)
    if not bool(known.any()):
        return y, t1
    close = grid.bars[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        move = close[target[known]] / close[entry[known]] - 1.0
    real = np.isfinite(move)
    where = np.flatnonzero(known)[real]
    move = move[real]
    readings = (move > 0, move < 0, move < -params.eps, move > params.eps)
    y[where] = np.stack([move, *(reading.astype(np.float64) for reading in readings)], axis=1)
    t1[where] = grid.end[target[where]]
    return y, t1


UPDOWN = Component(
    id="updown",
    kind="label",
    version=1,
    params=UpdownParams,
    warmup_bars=lambda params: 1,
    columns=lambda params: Columns((5,), UPDOWN_COLUMNS, UPDOWN_TYPES),
    compute=updown,
    doc="c_{t+d+h} / c_{t+d} - 1, whether it is above 0, below 0, below -eps, above eps",
)
