"""Where in its session and week a sample lies: known in advance, so no leak."""

from __future__ import annotations

import math
from datetime import date

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.component import Columns, Component, FeatureParams
from tapeline.assets.view import View

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday")


class DayParams(FeatureParams):
    """As an angle, or with `one_hot` one column a day."""

    one_hot: bool = False


def session_fraction(view: View, params: FeatureParams) -> NDArray[np.float64]:
    """The elapsed share of the session segment, above 0 and up to 1."""
    found = view.segment()
    out = np.full(len(view.times), np.nan)
    inside = found >= 0
    low, high = view.market.segments[found[inside]].T
    out[inside] = (view.times[inside] - low) / (high - low)
    return out[:, None]


def day_of_week(view: View, params: DayParams) -> NDArray[np.float64]:
    """sin and cos of 2 pi d / 5, d = 0 on Monday; with `one_hot` a 1 in the day's column.

    Notes
    -----
    d is that of the trade date, so a futures evening belongs to the next day. Saturday and Sunday, where a market
    has them, are zeros: a place that no weekday has.
    """
    angles = [(math.sin(2 * math.pi * d / 5), math.cos(2 * math.pi * d / 5)) for d in range(5)]
    rows = np.array([*np.eye(5), *np.zeros((2, 5))]) if params.one_hot else np.array([*angles, (0.0, 0.0), (0.0, 0.0)])
    weekday = np.array([date.fromisoformat(day).weekday() for day in view.market.dates], np.int64)
    found = view.segment()
    out = np.full((len(view.times), rows.shape[1]), np.nan)
    inside = found >= 0
    out[inside] = rows[weekday[view.market.session[found[inside]]]]
    return out


SESSION_FRACTION = Component(
    id="session_fraction",
    kind="feature",
    version=1,
    params=FeatureParams,
    warmup_bars=lambda params: 0,
    columns=lambda params: Columns((1,), ("session_fraction",)),
    compute=session_fraction,
    stacks=True,
    doc="elapsed share of the session, 0 to 1",
)
DAY_OF_WEEK = Component(
    id="day_of_week",
    kind="feature",
    version=1,
    params=DayParams,
    warmup_bars=lambda params: 0,
    columns=lambda params: Columns((5,), WEEKDAYS) if params.one_hot else Columns((2,), ("sin", "cos")),
    compute=day_of_week,
    stacks=True,
    doc="sin, cos of 2 pi d / 5, d = 0 on Monday; one_hot: five columns",
)
