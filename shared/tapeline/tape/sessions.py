"""Trading sessions as a table of int64 nanoseconds: below it nothing knows of time zones.

A row is one segment of a trade date. Regular hours are `[open_ns, close_ns)`, extended ones
`[pre_open_ns, post_close_ns)`. A trade after the end of one date's extended hours belongs to the next date.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from tapeline.errors import TapelineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DAY_NS = 86_400_000_000_000
BUILT_IN = ("24/7", "SIM")
EXTENDED = {"XNYS": "04:00-20:00"}


class Segment(NamedTuple):
    """One segment of a trade date, its regular and its extended hours in ns since 1970 UTC."""

    trade_date: str
    segment: int
    open_ns: int
    close_ns: int
    pre_open_ns: int
    post_close_ns: int


@dataclass(frozen=True, slots=True)
class Calendar:
    """A calendar by name, with its options; `sessions` gives the rows of a range of dates.

    Attributes
    ----------
    name : `24/7`, `SIM`, or a name of exchange-calendars such as `XNYS`
    close_grace_s : seconds by which each close is moved, for closing auctions that print after it
    extended : `HH:MM-HH:MM` local time of extended hours, or None for the calendar's own
    """

    name: str
    close_grace_s: int = 0
    extended: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.close_grace_s <= 300:
            raise TapelineError(
                f"close grace is {self.close_grace_s} s", code="invalid_argument", hint="take 0 to 300 seconds"
            )
        if self.name not in BUILT_IN:
            _known(self.name)
        if self.extended is not None:
            _hours(self.extended)

    @property
    def zone(self) -> ZoneInfo:
        """The exchange's time zone."""
        if self.name == "24/7":
            return ZoneInfo("UTC")
        return ZoneInfo("America/New_York" if self.name == "SIM" else _zone(self.name))

    def sessions(self, first: date, last: date) -> tuple[Segment, ...]:
        """The segments of all trade dates from `first` to `last`, both included, in order of time."""
        days = {"24/7": _always, "SIM": _simulated}.get(self.name) or (lambda a, b: _exchange(self.name, a, b))
        extended = self.extended or EXTENDED.get(self.name)
        rows: list[Segment] = []
        for day, group in groupby(days(first, last), key=lambda row: row[0]):
            parts = [(low, high + self.close_grace_s * 1_000_000_000) for _, low, high in group]
            before, after = parts[0][0], parts[-1][1]
            if extended is not None:
                start, end = _hours(extended)
                before = min(before, _ns(datetime.combine(day, start, self.zone)))
                after = max(after, _ns(datetime.combine(day, end, self.zone)))
            for number, (low, high) in enumerate(parts):
                pre = before if number == 0 else low
                post = after if number == len(parts) - 1 else high
                rows.append(Segment(day.isoformat(), number, low, high, pre, post))
        return tuple(rows)


def calendar_for(market: str) -> str | None:
    """The calendar of a Lean market such as `equity/usa`, or None where the user must name one."""
    return {
        "equity/usa": "XNYS",
        "future/cme": "CMES",
        "future/comex": "CMES",
        "future/cbot": "CMES",
        "future/nymex": "CMES",
    }.get(market) or ("24/7" if market.startswith("crypto/") else None)


def trade_dates(sessions: Iterable[Segment]) -> list[str]:
    """The trade dates of a table, in order, each once."""
    return [day for day, _ in groupby(row.trade_date for row in sessions)]


class Placed(NamedTuple):
    """Where trades belong: the index of a trade date for each, and how many lie outside extended hours."""

    day: NDArray[np.int64]
    outside: int


def place(ts: NDArray[np.int64], sessions: Sequence[Segment]) -> Placed:
    """The trade date of each trade: that whose extended hours hold it, or the next one.

    An index equal to the number of trade dates means that the table ends before the trade.
    """
    import numpy as np

    pre = np.array([next(g).pre_open_ns for _, g in groupby(sessions, key=lambda r: r.trade_date)], np.int64)
    post = np.array([list(g)[-1].post_close_ns for _, g in groupby(sessions, key=lambda r: r.trade_date)], np.int64)
    day = np.searchsorted(post, ts, "right").astype(np.int64)
    inside = day < len(post)
    early = ts[inside] < pre[day[inside]]
    return Placed(day, int(early.sum()))


def _ns(moment: datetime) -> int:
    whole = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (whole.days * 86_400 + whole.seconds) * 1_000_000_000 + whole.microseconds * 1000


def utc_date(ns: int) -> date:
    """The UTC date of a time."""
    return date(1970, 1, 1) + timedelta(days=ns // DAY_NS)


def _hours(text: str) -> tuple[time, time]:
    found = re.fullmatch(r"(\d\d):(\d\d)-(\d\d):(\d\d)", text)
    if found:
        a, b, c, d = map(int, found.groups())
        if a < 24 and c < 24 and b < 60 and d < 60 and (a, b) < (c, d):
            return time(a, b), time(c, d)
    raise TapelineError(
        f"extended hours are {text!r}", code="invalid_argument", hint="write them as 04:00-20:00, local time"
    )


Row = tuple[date, int, int]


def _always(first: date, last: date) -> list[Row]:
    """One session a UTC day, from midnight to midnight."""
    days = range(first.toordinal(), last.toordinal() + 1)
    epoch = date(1970, 1, 1).toordinal()
    return [(date.fromordinal(d), (d - epoch) * DAY_NS, (d - epoch + 1) * DAY_NS) for d in days]


def _simulated(first: date, last: date) -> list[Row]:
    """Monday to Friday 09:30 to 16:00 New York, the last Friday of November to 13:00, no holidays."""
    zone = ZoneInfo("America/New_York")
    rows = []
    for ordinal in range(first.toordinal(), last.toordinal() + 1):
        day = date.fromordinal(ordinal)
        if day.weekday() >= 5:
            continue
        short = day.month == 11 and day.weekday() == 4 and day.day > 23
        low = _ns(datetime.combine(day, time(9, 30), zone))
        high = _ns(datetime.combine(day, time(13 if short else 16), zone))
        rows.append((day, low, high))
    return rows


def _missing() -> TapelineError:
    return TapelineError(
        "calendars of exchanges need the package exchange-calendars",
        code="dependency_missing",
        hint="pip install 'tapeline[assets]'",
    )


def _known(name: str) -> None:
    try:
        from exchange_calendars import get_calendar_names
    except ImportError:
        if re.fullmatch(r"[A-Z]{4}", name):
            raise _missing() from None
        names = list(BUILT_IN)
    else:
        names = [*BUILT_IN, *get_calendar_names(include_aliases=True)]
    if name in names:
        return
    near = difflib.get_close_matches(name.upper(), names, 3, 0.5)
    raise TapelineError(
        f"there is no calendar {name!r}",
        code="calendar_unknown",
        hint=f"did you mean {', '.join(near)}?" if near else "take 24/7, SIM, XNYS, CMES or another ISO code",
    )


@lru_cache(maxsize=8)
def _zone(name: str) -> str:
    try:
        import exchange_calendars
    except ImportError:
        raise _missing() from None
    return str(exchange_calendars.get_calendar(name).tz.key)


@lru_cache(maxsize=8)
def _opened(name: str, first: date, last: date) -> tuple[Row, ...]:
    try:
        import exchange_calendars
    except ImportError:
        raise _missing() from None
    # Its defaults reach back only 20 years, so the range is always given.
    calendar = exchange_calendars.get_calendar(
        name, start=(first - timedelta(days=10)).isoformat(), end=(last + timedelta(days=10)).isoformat()
    )
    rows: list[Row] = []
    for label, line in calendar.schedule.iterrows():
        day = date.fromisoformat(str(label)[:10])
        if not first <= day <= last:
            continue
        low, high = int(line["open"].value), int(line["close"].value)
        pause, again = line["break_start"], line["break_end"]
        if pause == pause:  # NaT is not equal to itself
            rows += [(day, low, int(pause.value)), (day, int(again.value), high)]
        else:
            rows.append((day, low, high))
    return tuple(rows)


def _exchange(name: str, first: date, last: date) -> list[Row]:
    return list(_opened(name, first, last))
