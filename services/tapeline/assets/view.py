"""What features and labels are computed from: the bars of one symbol, and the times of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.grids import DAY_NS as DAY_NS
from tapeline.assets.grids import UNIT_NS as UNIT_NS
from tapeline.assets.grids import Grid as Grid
from tapeline.assets.grids import Stretch, joined_grids
from tapeline.assets.grids import Unit as Unit
from tapeline.bars import ranks, tick_bars
from tapeline.errors import TapelineError
from tapeline.tape.trades import Trades, join


def iso(ns: int) -> str:
    """A time in UTC: whole seconds as `2013-10-08T14:31:00Z`, else with nine digits."""
    seconds, rest = divmod(int(ns), 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:09d}Z" if rest else f"{text}Z"


def number(value: float) -> float | str:
    """A number as JSON holds it: what is not finite is a text."""
    return value if np.isfinite(value) else str(value)


class Past(Protocol):
    """The sessions before a market's own trades, as bars."""

    segments: int
    """How many of the market's segments lie there."""

    def grid(self, unit: Unit, size: int) -> Grid:
        """The last bars there; as many as are needed, and one with a price if there is any."""
        ...

    def trades(self, session: int) -> Trades:
        """The trades of one session, by its number."""
        ...


@dataclass(frozen=True, eq=False)
class Market:
    """The trades of one symbol and its sessions, as far as a build may read them.

    Attributes
    ----------
    segments : int64 ns, shape (k, 2): open and close of each session segment, in order
    session : int64, shape (k,): the number of the trade date that a segment belongs to
    dates : trade dates by number
    past : None, or the sessions before those that `trades` are of; nothing there can be changed
    """

    symbol: str
    trades: Trades
    segments: NDArray[np.int64]
    session: NDArray[np.int64]
    dates: tuple[str, ...]
    past: Past | None = None
    _grids: dict[tuple[str, int], Grid] = field(default_factory=dict)

    @cached_property
    def closes(self) -> NDArray[np.int64]:
        """When each segment closes: int64 ns, shape (k,)."""
        return np.ascontiguousarray(self.segments[:, 1])

    def grid(self, unit: Unit, size: int) -> Grid:
        """The bars of a unit and size; cut once.

        Raises
        ------
        TapelineError
            `invalid` for bars longer than a day, and what the kernels refuse.
        """
        found = self._grids.get((unit, size))
        if found is None:
            found = self._grids[unit, size] = self._cut(unit, size)
        return found

    def _cut(self, unit: Unit, size: int) -> Grid:
        before = None if self.past is None else self.past.grid(unit, size)
        carry = float(before.bars[-1, 3]) if before is not None and len(before.bars) else np.nan
        first, earlier = (0, None) if self.past is None else (self.past.segments, self.past.trades)
        stretch = Stretch(self.symbol, self.trades, self.segments, self.session, first, earlier)
        own = stretch.grid(unit, size, carry)
        return own if before is None else joined_grids([before, own])

    def within(self, low: int, high: int) -> Market:
        """The same market on a tape that begins at `low` and ends before `high`."""
        t = self.trades
        rows = slice(*np.searchsorted(t.ts, (low, high), "left").tolist())
        trades = Trades(t.ts[rows], t.price[rows], t.volume[rows], t.flags[rows])
        return Market(self.symbol, trades, self.segments, self.session, self.dates, self.past)

    def until(self, time: int) -> Market:
        """The same market on a tape that ends before `time`."""
        return self.within(int(np.iinfo(np.int64).min), time)

    def changed(self, price: NDArray[np.float64], volume: NDArray[np.int64] | NDArray[np.float64]) -> Market:
        """The same market with other prices and volumes, its bars not yet cut."""
        trades = Trades(self.trades.ts, price, volume, self.trades.flags)
        return Market(self.symbol, trades, self.segments, self.session, self.dates, self.past)

    def followed_by(self, cut: int, later: Market | None) -> Market:
        """The market of trades before `cut` and, from then on, of another one with trades at the same times, or none.

        Bars that were complete at the cut are this market's, all others those of `later`.
        """
        return Spliced(self, cut, later)


class Spliced(Market):
    """A market whose trades from a time on are another's; see `Market.followed_by`."""

    _parts: tuple[Market, int, Market | None]

    def __init__(self, before: Market, cut: int, later: Market | None) -> None:
        for name in ("symbol", "segments", "session", "dates", "past"):
            object.__setattr__(self, name, getattr(before, name))
        object.__setattr__(self, "_grids", {})
        object.__setattr__(self, "_parts", (before, cut, later))

    @cached_property
    def trades(self) -> Trades:  # pyright: ignore[reportIncompatibleVariableOverride]
        before, cut, later = self._parts
        own = before.trades
        row = int(own.ts.searchsorted(cut, "left"))
        first = Trades(own.ts[:row], own.price[:row], own.volume[:row], own.flags[:row])
        if later is None:
            return first
        last = later.trades
        return join([first, Trades(last.ts[row:], last.price[row:], last.volume[row:], last.flags[row:])])

    def _cut(self, unit: Unit, size: int) -> Grid:
        before, cut, later = self._parts
        own = before.grid(unit, size)
        stop = int(own.end.searchsorted(cut, "right"))
        if later is None:
            return self._ended(own, stop)
        # The same times and flags make the same rows: only what is in them differs.
        bars = np.concatenate([own.bars[:stop], later.grid(unit, size).bars[stop:]])
        return Grid(unit, size, bars, own.end, own.segment, own.session)

    def _ended(self, own: Grid, stop: int) -> Grid:
        """The bars of a tape that ends: one of what the running bar had so far, the others empty."""
        before, cut, _ = self._parts
        if own.unit == "tick":
            return before.until(cut).grid(own.unit, own.size)
        bars = own.bars.copy()
        carry = float(bars[stop - 1, 3]) if stop else np.nan
        low = int(own.end[stop - 1]) if stop else 0
        rows = slice(*before.trades.ts.searchsorted((low, cut), "left").tolist())
        bars[stop:, :4], bars[stop:, 4:] = carry, 0.0
        if rows.start < rows.stop and stop < len(bars):
            own_trades = before.trades
            price, volume, flags = own_trades.price[rows], own_trades.volume[rows], own_trades.flags[rows]
            running, _ = tick_bars(price, volume, flags, size=rows.stop - rows.start, carry=carry)
            if len(running):
                bars[stop] = running[0]
                bars[stop + 1 :, :4] = running[0, 3]
        return Grid(own.unit, own.size, bars, own.end, own.segment, own.session)


@dataclass(frozen=True, slots=True)
class History:
    """How much of the past is left for the first sample of a view.

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
class Places:
    """Where samples lie in a grid.

    Attributes
    ----------
    past : int64, shape (n,): for each sample the row one past its newest complete bar
    stop : the row one past the newest bar of all
    """

    grid: Grid
    past: NDArray[np.int64]
    stop: int

    @classmethod
    def of(cls, grid: Grid, times: NDArray[np.int64]) -> Places:
        """The places of some times, which ascend."""
        past = ranks(grid.end, times, right=True)
        return cls(grid, past, int(past[-1]) if len(past) else 0)

    @property
    def is_run(self) -> bool:
        """Whether each sample's newest bar is the one after that of the sample before."""
        past = self.past
        one_a_bar = len(past) > 0 and int(past[-1]) - int(past[0]) == len(past) - 1
        return one_a_bar and bool((past[1:] - past[:-1] == 1).all())


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A market at the times of some samples: all that a component is given.

    Attributes
    ----------
    times : int64 ns, shape (n,), ascending
    history : None, or what of the past is left to the first sample: what a feature says that it needs
    ahead : whether bars after the sample times may be read: by labels, never by features
    given : what else a component needs by name: numbers fitted on the train sessions, values of a feature
    """

    market: Market
    times: NDArray[np.int64]
    history: History | None = None
    ahead: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)
    _places: dict[tuple[str, int], Places] = field(default_factory=dict)

    def seen(
        self, history: History | None = None, *, ahead: bool = False, given: Mapping[str, Any] | None = None
    ) -> View:
        """The same samples with another history, foresight, or gifts; where they lie is looked up once for all."""
        return View(self.market, self.times, history, ahead, given or {}, self._places)

    def grid(self, unit: Unit, size: int, *, future: bool = False) -> Grid:
        """The bars of a unit and size that are complete at the last sample's time; with `ahead` all bars.

        Raises
        ------
        TapelineError
            `lookahead_refused` when a feature asks for the future.
        """
        if future and not self.ahead:
            refuse_future(unit, size)
        if self.ahead and self.history is None:
            return self.market.grid(unit, size)
        places = self._at(unit, size)
        return places.grid.cut(self._first(places), places.stop)

    def past(self, unit: Unit, size: int) -> NDArray[np.int64]:
        """For each sample the row one past its newest complete bar: int64, shape (n,).

        A bar whose end is the sample's time is complete: it holds trades before that time only.
        """
        places = self._at(unit, size)
        first = self._first(places)
        return places.past - first if first else places.past

    def depth(self, unit: Unit, size: int) -> NDArray[np.int64]:
        """How many complete bars lie before each sample's time: int64, shape (n,)."""
        return self.past(unit, size)

    def reaches(self, unit: Unit, size: int) -> tuple[int | NDArray[np.int64], int | NDArray[np.int64]]:
        """The rows of the grid that are of each sample's own market: the first, and one past the last."""
        return 0, len(self.grid(unit, size))

    def newest(self, values: NDArray[np.float64], unit: Unit, size: int, shift: int) -> NDArray[np.float64]:
        """What `newest` gives of values that are one a bar of the view's grid."""
        places = self._at(unit, size)
        if places.is_run:
            # One sample a bar: as they lie.
            row = int(places.past[0]) - self._first(places) - 1 - shift
            if row >= 0:
                return np.array(values[row : row + len(places.past)], np.float64)
        return newest(values, self.past(unit, size), shift)

    def _at(self, unit: Unit, size: int) -> Places:
        found = self._places.get((unit, size))
        if found is None:
            found = self._places[unit, size] = Places.of(self.market.grid(unit, size), self.times)
        return found

    def _first(self, places: Places) -> int:
        """The first row of the market's grid that the view shows."""
        if self.history is None or len(places.past) == 0:
            return 0
        return self.history.first_row(places.grid, int(places.past[0]))

    def segment(self) -> NDArray[np.int64]:
        """The session segment of each sample, `open < time <= close`: int64, shape (n,); -1 outside of all."""
        segments = self.market.segments
        found = ranks(self.market.closes, self.times)
        if len(segments) == 0:
            return np.full(len(found), -1, np.int64)
        inside = (found < len(segments)) & (segments[np.minimum(found, len(segments) - 1), 0] < self.times)
        return found if bool(inside.all()) else np.where(inside, found, -1)


def refuse_future(unit: Unit, size: int) -> NoReturn:
    """Refuse a feature that asks for the future."""
    raise TapelineError(
        f"bars of {size} {unit} after the sample's time were asked for",
        code="lookahead_refused",
        hint="a feature reads complete bars before its time; labels may read both ways",
    )


def newest(values: NDArray[np.float64], past: NDArray[np.int64], shift: int) -> NDArray[np.float64]:
    """The value of each sample's newest complete bar, `shift` bars further back; NaN before the first.

    Parameters
    ----------
    values : float64, shape (rows,) or (rows, k), one a bar
    past : int64, shape (n,), as `View.past` gives it
    """
    row = past - (1 + shift)
    if len(values) == 0:
        return np.full((len(past), *values.shape[1:]), np.nan)
    out = values[np.maximum(row, 0)].astype(np.float64)
    out[row < 0] = np.nan
    return out
