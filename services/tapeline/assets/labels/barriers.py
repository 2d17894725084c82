"""Which of a target and a stop the price touches first."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tapeline.assets.component import Columns, Component, FeatureSpec, LabelParams
from tapeline.assets.features import talib
from tapeline.assets.features.per_bar import means
from tapeline.assets.features.returns import log_returns
from tapeline.assets.labels.reach import Answer, Reach, reach
from tapeline.assets.view import Grid, View
from tapeline.measures import touches

TARGET = 2
Measure = Literal["atr", "pct", "sigma"]


class BarrierParams(LabelParams):
    """The target `tp` above and the stop `sl` below the entry, counted in `measure` over `n` bars.

    `atr` is Wilder's average true range, `pct` a hundredth of the entry's price, `sigma` the root mean square of
    n log returns times the entry's price.
    """

    tp: float = Field(default=2.0, gt=0.0, le=1000.0)
    sl: float = Field(default=2.0, gt=0.0, le=1000.0)
    measure: Measure = "atr"
    n: int = Field(default=14, ge=2, le=1000)


class MetaParams(LabelParams):
    """The bet of a feature: its sign says which side. `tp` and `sl` end it early, as in `triple_barrier`."""

    side: FeatureSpec
    side_column: int = Field(default=0, ge=0, le=10_000)
    tp: float | None = Field(default=None, gt=0.0, le=1000.0)
    sl: float | None = Field(default=None, gt=0.0, le=1000.0)
    measure: Measure = "atr"
    n: int = Field(default=14, ge=2, le=1000)
    cost: float = Field(default=0.0, ge=0.0, lt=1.0)


def measures(grid: Grid, params: BarrierParams | MetaParams) -> NDArray[np.float64]:
    """How much price one of `tp` and `sl` is, for an entry price of 1: float64, shape (rows,), one a bar."""
    _, high, low, close = grid.bars[:, :4].T
    if params.measure == "pct":
        return np.full(len(close), 0.01)
    if params.measure == "atr":
        return talib.call("NATR", high, low, close, needs=params.n + 1, timeperiod=params.n) / 100.0
    return np.sqrt(means(np.square(log_returns(close, 1)), params.n))


def _warmup(params: BarrierParams | MetaParams) -> int:
    return {"pct": 1, "atr": (1 + talib.WILDER_FORGETS) * params.n + 1, "sigma": params.n + 1}[params.measure]


def _outcomes(found: Reach, params: BarrierParams) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    price = found.grid.bars[found.entry, 3]
    one = found.grid.each(lambda grid: measures(grid, params))[found.now] * price
    up, down = price + params.tp * one, price - params.sl * one
    how, end, after = touches(found.grid.bars, found.entry, found.last, up, down, np.ones(len(price)))
    with np.errstate(divide="ignore", invalid="ignore"):
        # Without a measure there are no barriers, and no sample.
        return how, np.where(np.isfinite(one), end / price - 1.0, np.nan), after


def triple_barrier(view: View, params: BarrierParams) -> Answer:
    """Class (0 stop, 1 time-out, 2 target), return, and bars to the touch.

    Notes
    -----
    López de Prado, Advances in Financial Machine Learning, section 3.4. The measure is that of bar t, before
    the entry. Bars t + d + 1 to t + d + h are looked at. Both barriers touched inside one bar counts as stop: which
    came first cannot be known. A stop that the price jumped over is filled at the bar's open, a target at the target.
    t1 is the end of the whole horizon: the label reads it all, whenever a barrier is touched.
    """
    found = reach(view, params)
    how, move, after = _outcomes(found, params)
    return found.answer(how, move, after)


def rr_atr(view: View, params: BarrierParams) -> Answer:
    """1 where the target comes before the stop and the time-out, else 0."""
    found = reach(view, params)
    how, move, _ = _outcomes(found, params)
    return found.answer(np.where(np.isfinite(move), how == TARGET, np.nan))


def meta_label(view: View, params: MetaParams) -> Answer:
    """1 where the bet of the `side` feature paid more than `cost`, else 0.

    Notes
    -----
    López de Prado, Advances in Financial Machine Learning, section 3.6. Above 0 the feature bets on a rise, below
    on a fall; 0 or NaN is no bet and no sample. Without `tp` and `sl` the bet is held for the whole horizon.
    """
    found = reach(view, params)
    values = np.asarray(view.given["side"], np.float64).reshape(found.n, -1)
    side = np.sign(values[:, min(params.side_column, values.shape[1] - 1)])[found.sample]
    price = found.grid.bars[found.entry, 3]
    none = np.full(len(price), np.inf)
    one = (
        found.grid.each(lambda grid: measures(grid, params))[found.now] * price
        if params.tp or params.sl
        else np.ones(len(price))
    )
    ahead = none if params.tp is None else params.tp * one
    behind = none if params.sl is None else params.sl * one
    up = price + np.where(side > 0, ahead, behind)
    down = price - np.where(side > 0, behind, ahead)
    _, end, _ = touches(found.grid.bars, found.entry, found.last, up, down, side)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = side * (end / price - 1.0)
    bet = np.isfinite(gain) & np.isfinite(one) & (side != 0)
    return found.answer(np.where(bet, gain > params.cost, np.nan))


TRIPLE_BARRIER = Component(
    id="triple_barrier",
    kind="label",
    version=1,
    params=BarrierParams,
    warmup_bars=_warmup,
    columns=lambda params: Columns((3,), ("class", "return", "bars"), ("multiclass(3)", "regression", "regression")),
    compute=triple_barrier,
    stacks=True,
    doc="class (0 stop, 1 time-out, 2 target), return, bars to touch; both touched inside one bar is a stop",
)
RR_ATR = Component(
    id="rr_atr",
    kind="label",
    version=1,
    params=BarrierParams,
    warmup_bars=_warmup,
    columns=lambda params: Columns((1,), ("target_first",), ("binary",)),
    compute=rr_atr,
    stacks=True,
    doc="1 if the target comes before the stop, else 0",
)
META_LABEL = Component(
    id="meta_label",
    kind="label",
    version=1,
    params=MetaParams,
    warmup_bars=lambda params: _warmup(params) if params.tp or params.sl else 1,
    columns=lambda params: Columns((1,), ("paid",), ("binary",)),
    compute=meta_label,
    stacks=True,
    doc="1 if the bet of the side feature paid",
    inputs=lambda params: {"side": params.side},
)
