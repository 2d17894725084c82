"""Where the price goes."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from tapeline.assets.component import Columns, Component, LabelParams
from tapeline.assets.labels.reach import Answer, moves, reach
from tapeline.assets.view import View

UPDOWN_COLUMNS = ("return", "up_strict", "down_strict", "short_down", "long_up")
UPDOWN_TYPES = ("regression", "binary", "binary", "binary", "binary")


class UpdownParams(LabelParams):
    """Moves smaller than `eps` (a share of the price) are neither long nor short."""

    eps: float = Field(default=0.0, ge=0.0, lt=1.0)


def fwd_return(view: View, params: LabelParams) -> Answer:
    """c_{t+d+h} / c_{t+d} - 1, d the entry delay, h the horizon in bars."""
    found = reach(view, params)
    return found.answer(moves(found))


def updown(view: View, params: UpdownParams) -> Answer:
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
    found = reach(view, params)
    move = moves(found)
    return found.answer(move, move > 0, move < 0, move < -params.eps, move > params.eps)


def three_class(view: View, params: UpdownParams) -> Answer:
    """0 down: return < -eps, 2 up: return > eps, else 1 flat."""
    found = reach(view, params)
    move = moves(found)
    which = 1.0 + (move > params.eps) - (move < -params.eps)
    return found.answer(np.where(np.isfinite(move), which, np.nan))


FWD_RETURN = Component(
    id="fwd_return",
    kind="label",
    version=1,
    params=LabelParams,
    warmup_bars=lambda params: 1,
    columns=lambda params: Columns((1,), ("return",), ("regression",)),
    compute=fwd_return,
    stacks=True,
    doc="c_{t+d+h} / c_{t+d} - 1",
)
UPDOWN = Component(
    id="updown",
    kind="label",
    version=1,
    params=UpdownParams,
    warmup_bars=lambda params: 1,
    columns=lambda params: Columns((5,), UPDOWN_COLUMNS, UPDOWN_TYPES),
    compute=updown,
    stacks=True,
    doc="c_{t+d+h} / c_{t+d} - 1, whether it is above 0, below 0, below -eps, above eps",
)
THREE_CLASS = Component(
    id="three_class",
    kind="label",
    version=1,
    params=UpdownParams,
    warmup_bars=lambda params: 1,
    columns=lambda params: Columns((1,), ("class",), ("multiclass(3)",)),
    compute=three_class,
    stacks=True,
    doc="0 down, 1 flat, 2 up: c_{t+d+h} / c_{t+d} - 1 below -eps, between, above eps",
)
