"""What builders and users ask a tape: bars into the past and the future of a trade, days, maxima.

PAST(i) is every trade before `index`, FUTURE(i) is that trade and all after it, in the order of the tape; no
trade is in both. A past answer depends on PAST(i), the time at the index and the sessions, and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tapeline.bars import COLUMNS
from tapeline.errors import TapelineError
from tapeline.tape.base_adapter import BaseAdapter
from tapeline.tape.dates import as_trade_date, as_until, frames
from tapeline.tape.lookups import Lookups
from tapeline.tape.sessions import Calendar
from tapeline.tape.view import UNITS, OpenTape, View
from tapeline.tape.windows import ALL_UNITS, NAT, TIME_UNITS, Empty, Floats, Int, Windows, Wish

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

DAY_NS = 86_400_000_000_000
MOST_BARS = 1_000_000
MINUTE_NAMES = ("open", "high", "low", "close", "count", "vol_sum", "vol_mean", "vol_max")


class GridRows(NamedTuple):
    """A grid and, for each index, the row one past its newest bar and whether all bars asked for exist."""

    grid: NDArray[np.float64]
    row: Int
    valid: NDArray[np.bool_]


class TapeAdapter(BaseAdapter):
    """The adapter of a tape's symbol in a view.

    Parameters
    ----------
    tape : an opened tape
    view : `regular`, `extended` or `all`
    allow_lookahead : permit `prevent_lookahead_bias=False`; what is built so knows the future
    cache_bytes : how much of the answers is kept; those asked for longest ago go first
    max_result_bytes : the largest answer
    adjust : reserved; prices are as traded

    Notes
    -----
    Methods may be called from several threads. The trades of the view are held in memory once single trades
    are needed, 25 bytes each.

    Examples
    --------
    >>> adapter = TapeAdapter(tape, "SIM1")
    >>> adapter.get_bars(index=5000, count=90, unit="min").shape
    (90, 8)
    >>> adapter.get_bars(prevent_lookahead_bias=False)
    Traceback (most recent call last):
    tapeline.errors.TapelineError: a bar that is still running was asked for as history files hold it, with trades ...
    """

    def __init__(
        self,
        tape: OpenTape,
        symbol: str,
        view: View = "regular",
        allow_lookahead: bool = False,
        cache_bytes: int = 512 * 2**20,
        *,
        max_result_bytes: int = 4 * 2**30,
        adjust: None = None,
    ) -> None:
        if adjust is not None:
            raise TapelineError(
                "prices are not adjusted: a factor known later would leak the future",
                code="unsupported",
                hint="leave `adjust` out",
            )
        self.tape = tape.seen_as(view)
        self.symbol, self.view, self.allow_lookahead = symbol, view, allow_lookahead
        self._lookups = Lookups(self.tape, symbol)
        self._seen = self._lookups.seen
        self._most = max_result_bytes
        self._cache: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._cache_bytes, self._held = cache_bytes, 0
        self._lock = Lock()

    def __len__(self) -> int:
        """How many trades the view has."""
        return len(self._seen)

    def get_bars(
        self,
        index: int | None = None,
        count: int = 1,
        unit: str = "tick",
        size: int = 1,
        future: bool = False,
        prevent_lookahead_bias: bool = True,
        *,
        align: Literal["session", "index"] = "session",
        partial: Literal["drop", "truncate"] = "drop",
        empty: Empty = "carry",
        strict_time: bool = False,
        cross_session: bool | None = None,
        companions: bool = False,
    ) -> Any:
        """`count` bars before an index, oldest first, or with `future` from it on: float64 (count, 8), read-only.

        Parameters
        ----------
        index : ordinal of a trade of the view; its length, or None, for all of it as past
        unit : `tick`, `sec`, `min`, `hour`, `day`, `volume`, `dollar`
        prevent_lookahead_bias : False gives the bar that is running at the index whole, with trades that are
            not known there; refused unless the adapter allows it
        align : bars lie on the grids of the sessions, or end (begin) at the time of the index
        partial : whether the bar running at the index is left out, or cut at the index
        empty : prices of a bar of time without trades: carried, NaN, or no such bar
        strict_time : trades of the very time of the index are not past either
        cross_session : whether bars may reach from one session into another; for `tick` and `align='index'`
        companions : give `Windows`: bars, start_ts, end_ts, complete

        Raises
        ------
        TapelineError
            `invalid_argument`, `lookahead_refused`, `limit_exceeded`, `overflow`.
        """
        wish = self._wish(
            count, unit, size, future, prevent_lookahead_bias, align, partial, empty, strict_time, cross_session
        )
        if index is None:
            if future:
                raise _refused("index is None, which is the end of the tape", "give an index with future=True")
            place = len(self)
        else:
            place = int(self._places(index if _is_int(index) else [index], wish)[0])
        self._fits(1, wish)

        def make() -> tuple[Windows, int]:
            found = self._lookups.windows(np.array([place], np.int64), wish)
            parts = Windows(*(part[0] for part in found))
            for part in parts:
                part.flags.writeable = False
            return parts, sum(part.nbytes for part in parts)

        answer = self._kept(("bars", place, wish), make)
        return answer if companions else answer.bars

    def get_bars_many(
        self,
        indices: Any,
        count: int = 1,
        unit: str = "tick",
        size: int = 1,
        future: bool = False,
        prevent_lookahead_bias: bool = True,
        *,
        align: Literal["session", "index"] = "session",
        partial: Literal["drop", "truncate"] = "drop",
        empty: Empty = "carry",
        strict_time: bool = False,
        cross_session: bool | None = None,
        companions: bool = False,
        grid: bool = False,
        out: Floats | None = None,
        dtype: Any = np.float64,
    ) -> Any:
        """`get_bars` at many indices, to the bit: shape (n, count, 8).

        Parameters
        ----------
        indices : whole numbers, in any order, repeated ones allowed
        grid : give `GridRows` instead: the whole grid once, and one row number for each index
        out : where to write, float64 or float32
        dtype : float64, or float32: the same numbers cast once
        """
        wish = self._wish(
            count, unit, size, future, prevent_lookahead_bias, align, partial, empty, strict_time, cross_session
        )
        places = self._places(indices, wish)
        if grid:
            if future or partial != "drop" or wish.whole or align == "index" or unit == "tick":
                raise _refused(
                    "a grid has only whole past bars of the session",
                    "take a unit of time, volume or dollar, partial='drop', future=False",
                )
            row = self._lookups.newest(places, wish)
            cells = self._lookups.rows(unit, size, empty).bars.view()
            cells.flags.writeable = False
            return GridRows(cells, row, row >= count)
        kind = np.dtype(dtype) if out is None else out.dtype
        if kind not in (np.dtype(np.float64), np.dtype(np.float32)):
            raise _refused(f"dtype is {kind}", "take float64 or float32")
        self._fits(len(places), wish)
        shape = (len(places), count, 8)
        if out is not None and (out.shape != shape or not out.flags.c_contiguous):
            raise _refused(f"out has shape {out.shape}", f"it must be contiguous {shape}")
        if out is None and kind == np.float32:
            out = np.empty(shape, np.float32)
        found = self._lookups.windows(places, wish, out)
        return found if companions else found.bars

    def get_bar_daterange(self, date: Any, unit: str = "tick", size: int = 1, future: bool = False) -> pd.DataFrame:
        """All bars of a trade date: the eight columns and `timestamp`; a fresh frame each time.

        `timestamp` is when a bar is known, or with `future` when it starts, so that a backward as-of join never
        leaks: a bar of time is known at its end, one of ticks, volume or money 1 ns after its last trade, the
        rest of a session at its close. `attrs` hold `view`, `tape` and `complete`.

        Raises
        ------
        TapelineError
            `invalid_date`, `invalid_argument`. A date without a session gives an empty frame.
        """
        return self._day_frame(date, unit, size, future, COLUMNS)

    def get_minute_bars(self, date: Any, size: int = 1, future: bool = False) -> pd.DataFrame:
        """The minute bars of a trade date, as `get_bar_daterange`, under shorter names.

        Examples
        --------
        >>> bars = adapter.get_minute_bars("2025-02-03")  # 1-minute bars, past data
        >>> len(bars)
        390
        >>> bars = adapter.get_minute_bars("2025-02-03", 5)  # 5-minute bars
        >>> bars.timestamp[0]  # when the first one is known
        Timestamp('2025-02-03 14:35:00+0000', tz='UTC')
        >>> bars = adapter.get_minute_bars("2025-02-03", future=True)  # For label computation
        >>> bars.timestamp[0]  # where the first one begins
        Timestamp('2025-02-03 14:30:00+0000', tz='UTC')
        """
        return self._day_frame(date, "min", size, future, MINUTE_NAMES)

    def get_date(self, date: Any) -> pd.DataFrame:
        """All trades of a trade date in tape order: timestamp, price, volume, flags, index.

        Examples
        --------
        >>> df = adapter.get_date("2025-02-03")
        >>> df.equals(adapter.get_date(pd.to_datetime("2025-02-03")))
        True
        >>> list(df)
        ['timestamp', 'price', 'volume', 'flags', 'index']
        """
        day = as_trade_date(date, self._zone)
        trades, number = self.tape.trades(self.symbol, day), 0
        if len(trades):
            number = int(self._seen.firsts[self._seen.days.index(day)])
        return frames(
            {
                "timestamp": trades.ts,
                "price": trades.price.copy(),
                "volume": trades.volume.copy(),
                "flags": trades.flags.copy(),
                "index": np.arange(number, number + len(trades)),
            }
        )

    def get_max_values(self, *, unit: str = "min", size: int = 1, until: Any = None) -> NDArray[np.float64]:
        """The greatest open, high, low, close, count, vol_sum, vol_sum / count, vol_max of any bar: float64 (8,).

        Parameters
        ----------
        until : only bars known by then: ns since 1970, a time, or a trade date (its end); None: the whole tape,
            whose end nobody knows who builds features
        """
        self._known(unit, size)
        most = None if until is None else as_until(until, self._zone, self.tape)

        def make() -> tuple[NDArray[np.float64], int]:
            rows = self._lookups.rows(unit, size)
            cells = rows.bars if most is None else rows.bars[rows.known <= most]
            some = np.where(np.isnan(cells), -np.inf, cells).max(axis=0, initial=-np.inf)
            found = np.where(np.isneginf(some), np.nan, some)
            found.flags.writeable = False
            return found, found.nbytes

        return self._kept(("max", unit, size, most), make)

    def _day_frame(self, date: Any, unit: str, size: int, future: bool, names: tuple[str, ...]) -> pd.DataFrame:
        self._known(unit, size)
        if unit == "day" and size != 1:
            raise _refused(f"a trade date has no bars of {size} days", "take size=1")
        day = as_trade_date(date, self._zone)

        def make() -> tuple[tuple[NDArray[np.float64], Int, NDArray[np.bool_]], int]:
            rows = self._lookups.rows(unit, size)
            number = rows.dates.index(day) if day in rows.dates else -1
            low, high = np.searchsorted(rows.session, [number, number + 1]) if number >= 0 else (0, 0)
            stamp = rows.start if future else np.where(rows.complete, rows.known, rows.end)
            if not future and rows.edges is not None:
                stamp = rows.known
            parts = rows.bars[low:high].copy(), stamp[low:high].copy(), rows.complete[low:high].copy()
            return parts, sum(part.nbytes for part in parts)

        cells, stamp, complete = self._kept(("day", day, unit, size, future), make)
        frame = frames({name: cells[:, k].copy() for k, name in enumerate(names)} | {"timestamp": stamp})
        frame.attrs |= {"view": self.view, "tape": self.tape.manifest["content_sha256"], "complete": complete.copy()}
        return frame

    @property
    def _zone(self) -> Any:
        name = next(s["calendar"] for s in self.tape.manifest["symbols"] if s["symbol"] == self.symbol)
        return Calendar(name).zone

    def _known(self, unit: str, size: int) -> None:
        if unit not in ALL_UNITS:
            raise _refused(f"there is no unit {unit!r}", f"units are {', '.join(ALL_UNITS)}")
        _whole("size", size, 1, 2**62)
        if unit in UNITS and size * UNITS[unit] > DAY_NS:
            raise _refused(f"{size} {unit} is more than 24 hours", "take the unit day")

    def _wish(
        self,
        count: int,
        unit: str,
        size: int,
        future: bool,
        prevent_lookahead_bias: bool,
        align: Literal["session", "index"],
        partial: Literal["drop", "truncate"],
        empty: Empty,
        strict_time: bool,
        cross_session: bool | None,
    ) -> Wish:
        """The arguments, checked."""
        _whole("count", count, 1, MOST_BARS)
        self._known(unit, size)
        choices = {"align": (align, ("session", "index")), "partial": (partial, ("drop", "truncate"))}
        for name, (given, known) in (choices | {"empty": (empty, ("carry", "nan", "skip"))}).items():
            if given not in known:
                raise _refused(f"{name} is {given!r}", f"take {' or '.join(known)}")
        if align == "index" and unit not in UNITS:
            raise _refused(f"bars of {unit} cannot be anchored at the index", f"take {', '.join(UNITS)}")
        if align == "index" and empty == "skip":
            raise _refused("anchored bars cannot skip empty ones", "take empty='carry' or 'nan'")
        crossing = unit == "tick" or align == "index"
        if cross_session and not crossing:
            raise _refused(f"bars of {unit} do not cross sessions", "only tick and align='index' may")
        whole = not prevent_lookahead_bias and not future
        if whole and not self.allow_lookahead:
            raise TapelineError(
                "a bar that is still running was asked for as history files hold it, with trades not yet known",
                code="lookahead_refused",
                hint="keep prevent_lookahead_bias=True, or open the adapter with allow_lookahead=True",
            )
        crosses = crossing if cross_session is None else bool(cross_session)
        return Wish(int(count), unit, int(size), bool(future), whole, align, partial, empty, bool(strict_time), crosses)

    def _places(self, indices: Any, wish: Wish) -> Int:
        """The indices as int64, checked against the view."""
        given = np.asarray(indices)
        if given.ndim == 0:
            given = given[None]
        if given.dtype.kind not in "iu" or given.ndim != 1:
            if given.size == 0:
                return np.empty(0, np.int64)
            raise _refused(
                f"index {given.flat[0]!r} is {given.dtype}", "an index is a whole number, the ordinal of a trade"
            )
        n = len(self)
        bad = (given < 0) | (given > n - wish.future)
        if bool(bad.any()):
            bound = f"[0, {n})" if wish.future else f"[0, {n}]"
            raise _refused(
                f"index {given[bad][0]} is outside {bound}", "an index is the ordinal of a trade of the view"
            )
        return given.astype(np.int64)

    def _fits(self, places: int, wish: Wish) -> None:
        size = places * wish.count * 64
        if size > self._most:
            raise TapelineError(
                f"the answer would take {size:,} bytes; the most is {self._most:,}",
                code="limit_exceeded",
                hint="ask for fewer indices at a time, or for grid=True",
            )

    def _kept(self, key: Hashable, make: Callable[[], tuple[T, int]]) -> T:
        """An answer out of the cache, or a new one, which is kept there."""
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key][0]  # type: ignore[no-any-return]
        answer, size = make()
        with self._lock:
            if key not in self._cache and size <= self._cache_bytes:
                self._cache[key] = answer, size
                self._held += size
                while self._held > self._cache_bytes:
                    self._held -= self._cache.popitem(last=False)[1][1]
        return answer


def _refused(message: str, hint: str) -> TapelineError:
    return TapelineError(message, code="invalid_argument", hint=hint)


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not _is_int(value) or not low <= int(value) <= high:  # type: ignore[call-overload]
        raise _refused(f"{name} is {value!r}", f"take a whole number from {low} to {high:,}")


__all__ = ["NAT", "TIME_UNITS", "BaseAdapter", "GridRows", "TapeAdapter", "Windows"]
