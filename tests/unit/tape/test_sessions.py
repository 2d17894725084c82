"""Session tables: the hours of known days, and where trades belong."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from tapeline.errors import TapelineError
from tapeline.tape.sessions import Calendar, Segment, place


def ns(text: str) -> int:
    return int(np.datetime64(text, "ns").astype(np.int64))


def of(name: str, day: str, **options: object) -> list[Segment]:
    one = date.fromisoformat(day)
    return list(Calendar(name, **options).sessions(one, one))  # type: ignore[arg-type]


def test_a_day_round_the_clock_has_24_hours() -> None:
    assert of("24/7", "2024-03-10") == [Segment("2024-03-10", 0, *[ns("2024-03-10"), ns("2024-03-11")] * 2)]


@pytest.mark.parametrize(
    ("day", "low", "high"),
    [
        ("2024-03-08", "2024-03-08T14:30", "2024-03-08T21:00"),
        ("2024-03-11", "2024-03-11T13:30", "2024-03-11T20:00"),
        ("2024-11-29", "2024-11-29T14:30", "2024-11-29T18:00"),
    ],
)
def test_simulated_hours_follow_new_york(day: str, low: str, high: str) -> None:
    assert of("SIM", day)[0][2:4] == (ns(low), ns(high))
    assert of("SIM", "2024-03-09") == []


def test_exchange_hours_are_those_of_the_calendar() -> None:
    pytest.importorskip("exchange_calendars")
    early = of("XNYS", "2013-11-29")[0]
    assert early.close_ns == ns("2013-11-29T18:00")
    assert (early.pre_open_ns, early.post_close_ns) == (ns("2013-11-29T09:00"), ns("2013-11-30T01:00"))
    assert of("CMES", "2024-03-11")[0].open_ns == ns("2024-03-10T22:00")
    assert of("CMES", "2024-03-08")[0].open_ns == ns("2024-03-07T23:00")
    assert of("XNYS", "1999-06-01")[0].open_ns == ns("1999-06-01T13:30")
    assert len(of("XTKS", "2024-05-07")) == 2


def test_the_close_can_be_moved_for_closing_auctions() -> None:
    assert of("SIM", "2024-01-02", close_grace_s=60)[0].close_ns == ns("2024-01-02T21:01")
    with pytest.raises(TapelineError, match="301 s"):
        Calendar("SIM", close_grace_s=301)


def test_extended_hours_are_local_times() -> None:
    row = of("SIM", "2024-01-02", extended="08:00-17:30")[0]
    assert (row.pre_open_ns, row.post_close_ns) == (ns("2024-01-02T13:00"), ns("2024-01-02T22:30"))
    for wrong in ("8-17", "17:00-08:00", "08:00-25:00"):
        with pytest.raises(TapelineError, match="extended hours"):
            Calendar("SIM", extended=wrong)


def test_an_unknown_calendar_names_the_nearest() -> None:
    with pytest.raises(TapelineError) as caught:
        Calendar("xnyz")
    assert caught.value.code == "calendar_unknown"
    assert "XNYS" in (caught.value.hint or "")


def test_a_trade_after_the_close_belongs_to_the_next_date() -> None:
    table = Calendar("SIM").sessions(date(2024, 1, 5), date(2024, 1, 8))
    ts = np.array(["2024-01-05T14:29", "2024-01-05T14:30", "2024-01-05T21:00", "2024-01-08T20:59"], "datetime64[ns]")
    placed = place(ts.astype(np.int64), table)
    assert (placed.day.tolist(), placed.outside) == ([0, 0, 1, 1], 2)
