"""When samples are taken: at the end of every bar, when the price has moved enough, or at times of day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.features.returns import log_returns
from tapeline.assets.view import Grid, Market

Times = tuple[NDArray[np.int64], NDArray[np.int64]]
SECOND_NS = 1_000_000_000


def sample_times(market: Market, sampling: Mapping[str, Any], days: Mapping[str, int], calendar: str) -> Times:
    """The sample times that lie in `days`, ascending, and the number of the session of each.

    Parameters
    ----------
    sampling : as a resolved spec has it
    days : trade dates of the build, with their numbers
    calendar : whose time zone times of day are in

    Notes
    -----
    `every`: the end of each bar. `cusum`: López de Prado, Advances in Financial Machine Learning, section 2.5.2.1:
    the end of a bar at which the log returns since the last sample, added up and never below 0 (or, for falls,
    above 0), pass the threshold; sums begin at 0 in each session, so that a session does not depend on those
    before it. `at_times`: times of day of the exchange, where they lie in a session.
    """
    if sampling["kind"] == "at_times":
        return _at_times(market, sampling["times"], days, calendar)
    grid = market.grid(sampling["unit"], sampling["size"])
    rows = np.arange(len(grid.end)) if sampling["kind"] == "every" else _moved(grid, sampling["threshold"])
    numbers = np.array([days.get(day, -1) for day in market.dates], np.int64)
    session = numbers[grid.session[rows]] if len(rows) else np.empty(0, np.int64)
    kept = session >= 0
    # Bars of ticks may end together: one sample, after the last of them.
    kept[:-1] &= grid.end[rows][1:] != grid.end[rows][:-1]
    return grid.end[rows][kept], session[kept]


def _moved(grid: Grid, threshold: float) -> NDArray[np.int64]:
    moves = np.nan_to_num(log_returns(grid.bars[:, 3], 1)).tolist()
    sessions = grid.session.tolist()
    rows: list[int] = []
    up = down = 0.0
    for row, (move, session) in enumerate(zip(moves, sessions, strict=True)):
        if row == 0 or session != sessions[row - 1]:
            # A step over night belongs to no session.
            up = down = 0.0
            continue
        up, down = max(up + move, 0.0), min(down + move, 0.0)
        if up > threshold or down < -threshold:
            rows.append(row)
            up = down = 0.0
    return np.array(rows, np.int64)


def _at_times(market: Market, times: list[str], days: Mapping[str, int], calendar: str) -> Times:
    from tapeline.tape.sessions import Calendar

    zone = Calendar(calendar).zone
    clocks = [time.fromisoformat(text) for text in times]
    found: dict[int, int] = {}
    for number, (low, high) in zip(market.session.tolist(), market.segments.tolist(), strict=True):
        day = days.get(market.dates[number])
        if day is None:
            continue
        for clock in clocks:
            for moment in _moments(date.fromisoformat(market.dates[number]), clock, zone):
                if low < moment <= high:
                    found[moment] = day
    moments = sorted(found)
    return np.array(moments, np.int64), np.array([found[moment] for moment in moments], np.int64)


def _moments(day: date, clock: time, zone: ZoneInfo) -> list[int]:
    # A session may open on the evening before its trade date.
    both = (day - timedelta(days=1), day)
    return [int(datetime.combine(each, clock, zone).timestamp()) * SECOND_NS for each in both]
