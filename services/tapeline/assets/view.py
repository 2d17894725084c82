"""What features and labels are computed from: the bars of one symbol, and the times of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tapeline.bars import ALL, BarsError, grid_ends, ranks, session_bars, tick_bars
from tapeline.errors import TapelineError
from tapeline.tape.trades import Trades

Unit = Literal["tick", "sec", "min", "hour", "day"]
UNIT_NS: Mapping[str, int] = {
    "sec": 1_000_000_000,
    "min": 60_000_000_000,
    "hour": 3_600_000_000_000,
    "day": 86_400_000_000_000,
}
DAY_NS = UNIT_NS["day"]


def iso(ns: int) -> str:
    """A time in UTC: whole seconds as `2013-10-08T14:31:00Z`, else with nine digits."""
    seconds, rest = divmod(int(ns), 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:09d}Z" if rest else f"{text}Z"


def number(value: float) -> float | str:
    """A number as JSON holds it: what is not finite is a text."""
    return value if np.isfinite(value) else str(value)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The bars of one unit and size over trading time.

    Attributes
    ----------
    bars : float64, shape (rows, 8), columns as in `tapeline.bars.COLUMNS`
    end : int64 ns, shape (rows,), ascending; a bar is complete from this time on
    segment : int64, shape (rows,), the session segment that a bar lies in
    session : int64, shape (rows,), the number of the trade date that a bar lies in
    """

    unit: Unit
    size: int
    bars: NDArray[np.float64]
    end: NDArray[np.int64]
    segment: NDArray[np.int64]
    session: NDArray[np.int64]

    def cut(self, first: int, stop: int) -> Grid:
        """The rows from `first` to before `stop`."""
        rows = slice(max(first, 0), stop)
        return Grid(
            self.unit,
            self.size,
            np.ascontiguousarray(self.bars[rows]),
            self.end[rows],
            self.segment[rows],
            self.session[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """The trades of one symbol and its sessions, as far as a build may read them.

    Attributes
    ----------
    segments : int64 ns, shape (k, 2): open and close of each session segment, in order
    session : int64, shape (k,): the number of the trade date that a segment belongs to
    dates : trade dates by number
    """

    symbol: str
    trades: Trades
    segments: NDArray[np.int64]
    session: NDArray[np.int64]
    dates: tuple[str, ...]
    _grids: dict[tuple[str, int], Grid] = field(default_factory=dict)

    def grid(self, unit: Unit, size: int) -> Grid:
        """The bars of a unit and size; cut once.

        Raises
        ------
        TapelineError
            What the kernels refuse; `unsupported` for days that are no single segment.
        """
        found = self._grids.get((unit, size))
        if found is None:
            found = self._grids[unit, size] = self._cut(unit, size)
        return found

    def _cut(self, unit: Unit, size: int) -> Grid:
        if unit == "day" and (size != 1 or bool((np.diff(self.session) == 0).any())):
            raise TapelineError(
                f"bars of {size} day are not served for {self.symbol!r}: a bar lies within one session segment",
                code="unsupported",
                hint="use size 1 on a calendar without breaks, or hours",
            )
        if unit == "tick":
            return self._ticks(size)
        width = UNIT_NS[unit] * size
        if width > DAY_NS:
            raise TapelineError(f"bars of {size} {unit} are longer than a day", code="invalid", hint="use unit day")
        ends = [grid_ends(low, high, width) for low, high in self.segments.tolist()]
        numbers = np.repeat(np.arange(len(ends), dtype=np.int64), [len(part) for part in ends])
        trades = self.trades
        flags = None if bool((trades.flags == 7).all()) else trades.flags
        try:
            bars = session_bars(
                trades.ts, trades.price, trades.volume, flags, segments=self.segments, width_ns=width, n_threads=1
            )
        except BarsError as error:
            raise TapelineError(str(error), code=error.code, hint="tapeline tape verify") from error
        end = np.concatenate([*ends, np.empty(0, np.int64)])
        return Grid(unit, size, bars, end, numbers, self.session[numbers])

    def _ticks(self, size: int) -> Grid:
        """Bars of `size` trades, counted from each segment's first; a rest is a bar from the segment's close on."""
        trades, carry = self.trades, np.nan
        parts: list[NDArray[np.float64]] = [np.empty((0, 8))]
        ends: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        numbers: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        for number, (low, high) in enumerate(self.segments.tolist()):
            rows = slice(*np.searchsorted(trades.ts, (low, high), "left").tolist())
            counted = trades.ts[rows][trades.flags[rows] & ALL != 0]
            if len(counted) == 0:
                continue
            try:
                bars, _ = tick_bars(trades.price[rows], trades.volume[rows], trades.flags[rows], size=size, carry=carry)
            except BarsError as error:
                raise TapelineError(str(error), code=error.code, hint="tapeline tape verify") from error
            # A bar is complete once its last trade lies before the time that asks.
            last = counted[size - 1 :: size] + 1
            ends.append(np.append(last, high) if len(last) < len(bars) else last)
            parts.append(bars)
            numbers.append(np.full(len(bars), number, np.int64))
            carry = float(bars[-1, 3])
        segment = np.concatenate(numbers)
        return Grid("tick", size, np.concatenate(parts), np.concatenate(ends), segment, self.session[segment])

    def within(self, low: int, high: int) -> Market:
        """The same market on a tape that begins at `low` and ends before `high`."""
        t = self.trades
        rows = slice(*np.searchsorted(t.ts, (low, high), "left").tolist())
        trades = Trades(t.ts[rows], t.price[rows], t.volume[rows], t.flags[rows])
        return Market(self.symbol, trades, self.segments, self.session, self.dates)

    def until(self, time: int) -> Market:
        """The same market on a tape that ends before `time`."""
        return self.within(int(np.iinfo(np.int64).min), time)

    def changed(self, price: NDArray[np.float64], volume: NDArray[np.int64] | NDArray[np.float64]) -> Market:
        """The same market with other prices and volumes, its bars not yet cut."""
        trades = Trades(self.trades.ts, price, volume, self.trades.flags)
        return Market(self.symbol, trades, self.segments, self.session, self.dates)


@dataclass(frozen=True, slots=True)
class History:
    """How much of the past is left for one sample.

    Attributes
    ----------
    bars : that many complete bars before the sample's time
    sessions : None, or so many whole sessions before that of the newest bar that counts
    shift : how many bars further back the newest bar that counts lies
    """

    bars: int
    sessions: int | None = None
    shift: int = 0

    def first_row(self, grid: Grid, stop: int) -> int:
        """The first row of a grid that is left before row `stop`."""
        first = max(stop - self.bars, 0)
        newest = stop - 1 - self.shift
        if self.sessions is None or newest < 0:
            return first
        there = grid.session[: newest + 1]
        dates = there[np.flatnonzero(np.diff(there, prepend=-1))]
        oldest = dates[max(len(dates) - 1 - self.sessions, 0)]
        return min(first, int(np.searchsorted(there, oldest, "left")))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A market at the times of some samples: all that a component is given.

    Attributes
    ----------
    times : int64 ns, shape (n,), ascending
    history : None, or what of the past is left: for the check that a feature's warm-up is enough
    ahead : whether bars after the sample times may be read: by labels, never by features
    given : what else a component needs by name: numbers fitted on the train sessions, values of a feature
    """

    market: Market
    times: NDArray[np.int64]
    history: History | None = None
    ahead: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)

    def grid(self, unit: Unit, size: int, *, future: bool = False) -> Grid:
        """The bars of a unit and size that are complete at the last sample's time; with `ahead` all bars.

        Raises
        ------
        TapelineError
            `lookahead_refused` when a feature asks for the future.
        """
        if future and not self.ahead:
            raise TapelineError(
                f"bars of {size} {unit} after the sample's time were asked for",
                code="lookahead_refused",
                hint="a feature reads complete bars before its time; labels may read both ways",
            )
        whole = self.market.grid(unit, size)
        if self.ahead and self.history is None:
            return whole
        stop = int(np.searchsorted(whole.end, self.times[-1], "right")) if len(self.times) else 0
        return whole.cut(0 if self.history is None else self.history.first_row(whole, stop), stop)

    def past(self, unit: Unit, size: int) -> NDArray[np.int64]:
        """For each sample the row one past its newest complete bar: int64, shape (n,).

        A bar whose end is the sample's time is complete: it holds trades before that time only.
        """
        return ranks(self.grid(unit, size).end, self.times, right=True)

    def segment(self) -> NDArray[np.int64]:
        """The session segment of each sample, `open < time <= close`: int64, shape (n,); -1 outside of all."""
        segments = self.market.segments
        found = np.searchsorted(segments[:, 1], self.times, "left").astype(np.int64)
        inside = found < len(segments)
        inside[inside] = segments[found[inside], 0] < self.times[inside]
        return np.where(inside, found, -1)


def newest(values: NDArray[np.float64], past: NDArray[np.int64], shift: int) -> NDArray[np.float64]:
    """The value of each sample's newest complete bar, `shift` bars further back; NaN before the first.

    Parameters
    ----------
    values : float64, shape (rows,) or (rows, k), one a bar
    past : int64, shape (n,), as `View.past` gives it
    """
    row = past - 1 - shift
    if len(values) == 0:
        return np.full((len(past), *values.shape[1:]), np.nan)
    out = values[np.maximum(row, 0)].astype(np.float64)
    out[row < 0] = np.nan
    return out
