"""A calendar year of minute bars, with both clock changes, holidays and early closes, against the calendar itself."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from tapeline.tape.adapter import TapeAdapter
from tapeline.tape.prepared import TapeWriter
from tapeline.tape.sessions import Calendar, place, trade_dates
from tapeline.tape.trades import Trades
from tapeline.tape.view import OpenTape

calendars = pytest.importorskip("exchange_calendars")
MINUTE = 60_000_000_000


@pytest.mark.parametrize(
    ("name", "early", "closed"),
    [
        ("XNYS", ("2024-07-03", "2024-11-29", "2024-12-24"), ("2024-01-15", "2024-03-29", "2024-07-04", "2024-12-25")),
        ("CMES", ("2024-07-04", "2024-11-29"), ("2024-03-29", "2024-12-25")),
    ],
)
def test_a_year_of_minutes_is_that_of_the_calendar(
    tmp_path: Path, name: str, early: tuple[str, ...], closed: tuple[str, ...]
) -> None:
    calendar = Calendar(name)
    sessions = calendar.sessions(date(2024, 1, 2), date(2024, 12, 31))
    dates = trade_dates(sessions)
    # A trade in the first and last nanosecond of each session and some between, at known minutes.
    rng = np.random.default_rng(1)
    ends = np.array([[row.open_ns, row.close_ns - 1] for row in sessions]).ravel()
    lows = rng.choice(np.array([row.open_ns for row in sessions]), 300)
    ts = np.sort(np.concatenate([ends, lows + rng.integers(0, 12_000, 300) * 1_000_000_000]))
    n = len(ts)
    trades = Trades(ts, np.full(n, 10.0) + np.arange(n) % 7, np.ones(n, np.int64), np.full(n, 7, np.uint8))
    writer, placed = TapeWriter(tmp_path, calendar), place(ts, sessions)
    for number in range(len(dates)):
        writer.add("X", dates[number], trades.take(placed.day == number))
    made = writer.finish(sessions, {})
    tape = OpenTape(made.manifest, made.path_of)
    grid = tape.minute_grid("X")

    truth = calendars.get_calendar(name, start="2023-12-15", end="2025-01-15", side="left")
    minutes = truth.minutes_in_range("2024-01-02", "2024-12-31 23:59")
    minutes = minutes[np.isin(truth.minutes_to_sessions(minutes).strftime("%Y-%m-%d"), dates)]
    first = truth.session_open(dates[0])
    evening = truth.minutes_in_range(first, "2024-01-02")
    expected = np.unique(np.concatenate([evening.as_unit("ns").asi8, minutes.as_unit("ns").asi8]))
    assert np.array_equal(grid.start_ns, expected)
    assert (grid.end_ns - grid.start_ns == MINUTE).all()

    assert dates == [str(day.date()) for day in truth.sessions_in_range("2024-01-02", "2024-12-31")]
    assert not set(closed) & set(dates)
    lengths = dict(zip(dates, np.bincount(grid.session), strict=True))
    usual = max(lengths.values())
    assert all(lengths[day] < usual for day in early)
    # The hours around the clock changes are as long as any other.
    assert lengths["2024-03-08"] == lengths["2024-03-11"] == lengths["2024-11-01"] == lengths["2024-11-04"] == usual

    row = np.searchsorted(grid.start_ns, ts, "right") - 1
    assert np.array_equal(np.bincount(row, minlength=len(grid)), grid.bars[:, 4])
    adapter = TapeAdapter(tape, "X")
    index = rng.integers(1, n, 500)
    _, newest, _ = adapter.get_bars_many(index, 1, "min", grid=True)
    assert np.array_equal(newest, (grid.end_ns[None] <= ts[index][:, None]).sum(axis=1))
