"""Where the bars of an index lie: past ones know only what came before it, future ones only what came after.

`Seen` holds the trades of one symbol in one view; `index` is an ordinal in them. PAST(i) is every trade before
i, FUTURE(i) is i and all after it, also among equal times. `Windows` are the bars of many indices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from threading import RLock
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tapeline import bars
from tapeline.errors import TapelineError
from tapeline.tape.trades import Trades, none
from tapeline.tape.view import UNITS, OpenTape

Int = NDArray[np.int64]
Floats = NDArray[np.float64] | NDArray[np.float32]
Empty = Literal["carry", "nan", "skip"]

NEVER = int(np.iinfo(np.int64).max)
NAT = int(np.iinfo(np.int64).min)
TIME_UNITS = (*UNITS, "day")
ALL_UNITS = ("tick", *TIME_UNITS, "volume", "dollar")


class Windows(NamedTuple):
    """Bars of some indices and what is known of each.

    Attributes
    ----------
    bars : shape (n, count, 8), or (count, 8) for one index
    start_ts, end_ts : int64 ns, the least int64 (NaT) for a row that the tape does not have
    complete : bool, whether the row is a whole bar
    """

    bars: Floats
    start_ts: Int
    end_ts: Int
    complete: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Wish:
    """Which bars are wanted around each index."""

    count: int
    unit: str
    size: int
    future: bool = False
    whole: bool = False
    align: Literal["session", "index"] = "session"
    partial: Literal["drop", "truncate"] = "drop"
    empty: Empty = "carry"
    strict_time: bool = False
    cross_session: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Bars of a whole tape, oldest first.

    Attributes
    ----------
    bars : float64, shape (rows, 8)
    start, end : int64 ns; of tick and threshold bars the times of the first and last trade
    known : int64 ns, from when on a bar may be used; `NEVER` for one that the tape cuts off
    opening : float64, the close that each row was given by those before it
    session : int32, index into `dates`
    complete : bool
    edges : int64, shape (rows, 2), first trade and one past the last; None for bars of time
    """

    bars: NDArray[np.float64]
    start: Int
    end: Int
    known: Int
    opening: NDArray[np.float64]
    session: NDArray[np.int32]
    complete: NDArray[np.bool_]
    dates: list[str]
    edges: Int | None = None

    def __len__(self) -> int:
        return len(self.end)

    def take(self, kept: NDArray[np.int64]) -> Rows:
        """Some of the rows."""
        edges = None if self.edges is None else self.edges[kept]
        return Rows(
            np.ascontiguousarray(self.bars[kept]), self.start[kept], self.end[kept], self.known[kept],
            self.opening[kept], self.session[kept], self.complete[kept], self.dates, edges,
        )  # fmt: skip


class Seen:
    """The trades of one symbol in one view, with the bars cut from them so far.

    Notes
    -----
    The columns of the view are held in memory (25 bytes a trade) from the first question that needs single
    trades on; grids are kept as they are made.
    """

    def __init__(self, tape: OpenTape, symbol: str) -> None:
        self.tape, self.symbol = tape, symbol
        self.days = tape.days(symbol)
        self._lock = RLock()
        self._rows: dict[tuple[str, int, str], Rows] = {}

    @cached_property
    def trades(self) -> Trades:
        """Every trade of the view, in tape order."""
        with self._lock:
            return self.tape.all_trades(self.symbol) if self.days else none()

    @cached_property
    def marked(self) -> bars.Marked:
        """The trades as the kernels take them."""
        return bars.marked(self.trades.price, self.trades.volume, self.trades.flags)

    @cached_property
    def firsts(self) -> Int:
        """The ordinal of the first trade of each day with trades, and the count of all."""
        counts = [len(self.tape.trades(self.symbol, day)) for day in self.days]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @cached_property
    def close_ns(self) -> int:
        """The close of the last session."""
        return int(self.tape.segments(self.days[-1])[-1, 1]) if self.days else 0

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def times(self, index: Int) -> Int:
        """The time at each index; at the index after the last trade it is the close of the last session."""
        ts = self.trades.ts
        return np.where(index < len(ts), ts[np.minimum(index, len(ts) - 1)], self.close_ns) if len(ts) else index * 0

    def rows(self, unit: str, size: int, empty: Empty = "carry") -> Rows:
        """All bars of the tape in a unit: those of time on the sessions' grids, others forward in each day."""
        key = (unit, size, empty if unit in TIME_UNITS else "carry")
        with self._lock:
            if key not in self._rows:
                if unit not in TIME_UNITS:
                    self._rows[key] = self._counted(unit, size)
                elif empty == "skip":
                    full = self.rows(unit, size)
                    self._rows[key] = full.take(np.flatnonzero(full.bars[:, 4] > 0))
                else:
                    self._rows[key] = self._timed(unit, size, empty)
            return self._rows[key]

    def windows(self, index: Int, wish: Wish, out: Floats | None = None) -> Windows:
        """The bars that are wanted at each index."""
        if wish.unit == "tick":
            return self._from_edges(self._tick_edges(index, wish), out)
        if wish.unit in ("volume", "dollar"):
            if wish.future:
                return self._from_edges(self._threshold_edges(index, wish), out)
            return self._threshold_past(index, wish, out)
        if wish.align == "index":
            return self._anchored(index, wish, out)
        return (self._time_future if wish.future else self._time_past)(index, wish, out)

    def newest(self, index: Int, wish: Wish) -> Int:
        """For each index the row of `rows` that is one past its newest whole bar."""
        rows = self.rows(wish.unit, wish.size, wish.empty)
        if rows.edges is not None:
            return np.searchsorted(rows.edges[:, 1], self._before(index, wish), "right").astype(np.int64)
        return np.searchsorted(rows.known, self.times(index), "right").astype(np.int64)

    def _before(self, index: Int, wish: Wish) -> Int:
        """One past the last trade of PAST(i)."""
        if not wish.strict_time:
            return index
        earlier = np.searchsorted(self.trades.ts, self.times(index), "left")
        return np.where(index < len(self), earlier, index).astype(np.int64)

    # Bars of time on the grids of the sessions.

    def _timed(self, unit: str, size: int, empty: Literal["carry", "nan"]) -> Rows:
        if not self.days:
            nothing = np.empty(0, np.int64)
            return Rows(
                np.empty((0, 8)), nothing, nothing, nothing, np.empty(0), np.empty(0, np.int32), np.empty(0, bool), []
            )
        grid = self.tape.minute_grid(self.symbol, unit, size)
        opening = np.concatenate([[np.nan], grid.bars[:-1, 3]])
        if unit != "day":
            # In the view `all` a date may close on a trade outside of its hours, which no bar shows.
            carry, of_date = float("nan"), np.empty(len(grid.trade_dates))
            for number, day in enumerate(grid.trade_dates):
                of_date[number] = carry
                trades = self.tape.trades(self.symbol, day)
                lasts = np.flatnonzero(trades.flags & int(bars.Flag.LAST))
                carry = float(trades.price[lasts[-1]]) if len(lasts) else carry
            heads = np.flatnonzero(np.diff(grid.session, prepend=-1))
            opening[heads] = of_date[grid.session[heads]]
        complete = np.ones(len(grid), np.bool_)
        known = grid.end_ns.copy()
        if unit == "day":
            # The last block ends where the sessions table says, not where the tape happens to.
            dates = [d for d in self.tape.trade_dates if d >= self.days[0]]
            last = len(grid) * size - 1
            ends = grid.end_ns.copy()
            ends[-1] = int(self.tape.segments(dates[min(last, len(dates) - 1)])[-1, 1])
            complete[-1] = last < len(dates) and dates[last] <= self.days[-1]
            known = ends.copy()
            known[-1] = ends[-1] if last < len(dates) else NEVER
            grid = replace(grid, end_ns=ends)
        cells = grid.bars
        if empty == "nan":
            cells = cells.copy()
            cells[cells[:, 4] == 0, :4] = np.nan
        return Rows(cells, grid.start_ns, grid.end_ns, known, opening, grid.session, complete, grid.trade_dates)

    def _time_past(self, index: Int, wish: Wish, out: Floats | None) -> Windows:
        full, rows = self.rows(wish.unit, wish.size), self.rows(wish.unit, wish.size, wish.empty)
        when = self.times(index)
        done = np.searchsorted(full.known, when, "right")
        runs = np.zeros(len(index), np.bool_)
        newest, at = np.empty((0, 8)), done
        if (wish.whole or wish.partial == "truncate") and len(full):
            at = np.minimum(done, len(full) - 1)
            runs = (done < len(full)) & (full.start[at] <= when) & (when < full.end[at])
            at = at[runs]
            if wish.whole:
                newest = self.rows(wish.unit, wish.size, "nan" if wish.empty == "nan" else "carry").bars[at]
            else:
                first = np.searchsorted(self.trades.ts, full.start[at], "left")
                stop = np.maximum(self._before(index[runs], wish), first)
                newest = self._running(first, stop, full.opening[at], wish.empty != "nan")
            if wish.empty == "skip":
                runs[np.flatnonzero(runs)[newest[:, 4] == 0]] = False
                at, newest = at[newest[:, 4] > 0], newest[newest[:, 4] > 0]
        if wish.empty == "skip":
            done = np.searchsorted(rows.known, when, "right")
        found = self._copied(rows, (done - wish.count + runs).astype(np.int64), wish.count, out)
        if runs.any():
            found.bars[runs, -1] = newest
            found.start_ts[runs, -1], found.end_ts[runs, -1] = full.start[at], full.end[at]
            found.complete[runs, -1] = False
        return found

    def _time_future(self, index: Int, wish: Wish, out: Floats | None) -> Windows:
        full, rows = self.rows(wish.unit, wish.size), self.rows(wish.unit, wish.size, wish.empty)
        when = self.times(index)
        at = np.searchsorted(full.end, when, "right")
        inside = np.minimum(at, len(full) - 1)
        holds = (at < len(full)) & (full.start[inside] <= when)
        # A bar that starts at T may hold trades of that very time before the index: they are no future.
        cut = holds & ((full.start[inside] == when) | (wish.partial == "truncate"))
        tail = at + holds
        row, here = inside[cut], index[cut]
        first = np.searchsorted(self.trades.ts, full.start[row], "left")
        stop = np.searchsorted(self.trades.ts, full.end[row], "left")
        before = self.marked.before
        last = here - 1 if before is None else np.where(here > 0, before[here - 1], -1)
        carry = np.where(last >= first, self.trades.price[np.maximum(last, 0)], full.opening[row])
        rest = self._running(here, stop, carry, wish.empty != "nan")
        if wish.empty == "skip":
            some = rest[:, 4] > 0
            cut[np.flatnonzero(cut)[~some]] = False
            row, rest = row[some], rest[some]
            tail = np.searchsorted(np.flatnonzero(full.bars[:, 4] > 0), tail, "left")
        found = self._copied(rows, (tail - cut).astype(np.int64), wish.count, out)
        found.bars[cut, 0] = rest
        found.start_ts[cut, 0], found.end_ts[cut, 0] = when[cut], full.end[row]
        found.complete[cut, 0] = (full.start[row] == when[cut]) & full.complete[row]
        return found

    def _running(self, first: Int, stop: Int, carry: NDArray[np.float64], fill: bool) -> NDArray[np.float64]:
        """Bars of ranges of trades; those that begin alike are walked once."""
        order = np.lexsort((stop, first))
        found = np.empty((len(first), 8))
        edges = np.stack([first, stop], axis=1)[order]
        found[order] = self._safely(lambda: bars.running_bars(self.marked, edges, carry[order], fill=fill))
        return found

    def _copied(self, rows: Rows, first: Int, count: int, out: Floats | None) -> Windows:
        """Windows of rows; what lies outside of them is missing."""
        first = np.clip(first, -count, len(rows))
        cells = bars.lookback(rows.bars, first, count, out=out)
        at = first[:, None] + np.arange(count)
        there = (at >= 0) & (at < len(rows))
        at = np.clip(at, 0, max(len(rows) - 1, 0))
        if not len(rows):
            nat = np.full(at.shape, NAT)
            return Windows(cells, nat, nat.copy(), there)
        return Windows(
            cells, np.where(there, rows.start[at], NAT), np.where(there, rows.end[at], NAT), there & rows.complete[at]
        )

    # Bars that count trades, volume or money.

    def _counted(self, unit: str, size: int) -> Rows:
        parts: list[Int] = []
        session: list[NDArray[np.int32]] = []
        closes: list[int] = []
        for number in range(len(self.days)):
            low, high = (int(x) for x in self.firsts[number : number + 2])
            if unit == "tick":
                first = np.arange(low, high, min(size, max(high - low, 1)), dtype=np.int64)
                stop = np.minimum(first + size, high) if size < high - low else np.full(len(first), high)
                part = np.stack([first, stop, stop - first == size], axis=1)
            else:
                part = self._threshold_spans(low, high, unit, size)
            parts.append(part)
            session.append(np.full(len(part), number, np.int32))
            closes.append(int(self.tape.segments(self.days[number])[-1, 1]))
        edges = np.concatenate([*parts, np.empty((0, 3), np.int64)])
        found = self._from_edges(edges[None])
        day = np.concatenate([*session, np.empty(0, np.int32)])
        complete = edges[:, 2] == 1
        # A full bar is known just after its last trade, the rest of a day at its close.
        known_ns = np.where(complete, found.end_ts[0] + 1, np.array([*closes, 0], np.int64)[day])
        opening = self.marked.close_before(edges[:, 0])
        return Rows(
            np.ascontiguousarray(found.bars[0], np.float64), found.start_ts[0], found.end_ts[0], known_ns, opening,
            day, complete, self.days, np.ascontiguousarray(edges[:, :2]),
        )  # fmt: skip

    def _threshold_spans(self, low: int, high: int, unit: str, size: int) -> Int:
        """All bars of `[low, high)` that close on `size`, and the rest."""
        span, ask = np.array([[low, high]], np.int64), 1024
        while True:
            found: Int = bars.threshold_ahead(self.marked, span, limit=size, dollar=unit == "dollar", count=ask)[0]
            if ask > high - low or found[-1, 0] < 0:
                return np.asarray(found[found[:, 0] >= 0], np.int64)
            ask *= 8

    def _tick_edges(self, index: Int, wish: Wish) -> Int:
        """Groups of trades backward or forward from each index: int64 (n, count, 3)."""
        n, k = len(self), min(wish.size, len(self) + 1)
        steps = np.arange(wish.count, dtype=np.int64)
        index = index if wish.future else self._before(index, wish)
        if not wish.cross_session:
            return self._tick_edges_in_sessions(index, wish, k)
        if wish.future:
            first = index[:, None] + np.minimum(steps * k, n)
            stop = np.minimum(first + k, n)
            full = stop - first == k
            there = full if wish.partial == "drop" else first < n
        else:
            stop = index[:, None] - np.minimum(steps[::-1] * k, 2 * n + 2)
            first = stop - k
            there = full = first >= 0
        return np.where(there[..., None], np.stack([first, stop, full], axis=2), -1)

    def _tick_edges_in_sessions(self, index: Int, wish: Wish, k: int) -> Int:
        """As `_tick_edges`, no group crossing from one day into another."""
        number = np.clip(np.searchsorted(self.firsts, index, "right") - 1, 0, max(len(self.days) - 1, 0))
        low, high = self.firsts[number], self.firsts[number + 1]
        sizes = np.diff(self.firsts)
        steps = np.arange(wish.count, dtype=np.int64)[None]
        groups = -(-sizes // k) if wish.future else sizes // k
        offset = np.concatenate([[0], np.cumsum(groups)])
        here = -(-(high - index) // k) if wish.future else (index - low) // k
        back = steps if wish.future else steps[:, ::-1]
        beyond = back - here[:, None]  # how many groups away from the day of the index
        row = offset[number + 1][:, None] + beyond if wish.future else offset[number][:, None] - 1 - beyond
        there = (beyond < 0) | ((row >= 0) & (row < offset[-1]))
        row = np.clip(row, 0, max(int(offset[-1]) - 1, 0))
        day = np.clip(np.searchsorted(offset, row, "right") - 1, 0, len(self.days) - 1)
        inner = row - offset[day]
        if wish.future:
            first = np.where(beyond < 0, index[:, None] + back * k, self.firsts[day] + inner * k)
            stop = np.minimum(first + k, np.where(beyond < 0, high[:, None], self.firsts[day + 1]))
            full = stop - first == k
            there &= full | (wish.partial == "truncate")
        else:
            stop = np.where(beyond < 0, index[:, None] - back * k, self.firsts[day + 1] - (groups[day] - 1 - inner) * k)
            first = stop - k
            full = there
        return np.where(there[..., None], np.stack([first, stop, full], axis=2), -1)

    def _threshold_edges(self, index: Int, wish: Wish) -> Int:
        """Bars forward from each index to the end of its day, then those of the days after it."""
        rows = self.rows(wish.unit, wish.size)
        assert rows.edges is not None
        number = np.searchsorted(self.firsts, index, "right") - 1
        high = self.firsts[number + 1]
        found = bars.threshold_ahead(
            self.marked,
            np.stack([index, high], axis=1),
            limit=wish.size,
            dollar=wish.unit == "dollar",
            count=wish.count,
        )
        beyond = np.arange(wish.count)[None] - (found[:, :, 0] >= 0).sum(axis=1)[:, None]
        row = np.searchsorted(rows.edges[:, 0], high, "left")[:, None] + beyond
        later = (beyond >= 0) & (row < len(rows))
        row = np.clip(row, 0, len(rows) - 1)
        after = np.concatenate([rows.edges, rows.complete[:, None]], axis=1)[row]
        return np.where(later[..., None], after, found).astype(np.int64)

    def _threshold_past(self, index: Int, wish: Wish, out: Floats | None) -> Windows:
        rows = self.rows(wish.unit, wish.size)
        assert rows.edges is not None
        stop = self._before(index, wish)
        done = np.searchsorted(rows.edges[:, 1], stop, "right")
        runs = (done < len(rows)) & (wish.whole or wish.partial == "truncate")
        found = self._copied(rows, (done - wish.count + runs).astype(np.int64), wish.count, out)
        if runs.any():
            at = done[runs]
            found.complete[runs, -1] = False
            if not wish.whole:
                first = rows.edges[at, 0]
                found.bars[runs, -1] = self._running(first, stop[runs], self.marked.close_before(first), True)
                ts, when = self.trades.ts, self.times(index[runs])
                some = stop[runs] > first
                found.start_ts[runs, -1] = np.where(some, ts[first], when)
                found.end_ts[runs, -1] = np.where(some, ts[np.maximum(stop[runs] - 1, 0)], when)
        return found

    def _from_edges(self, edges: Int, out: Floats | None = None) -> Windows:
        """The bar of each pair of ordinals, with the close of the trades before it."""
        flat = edges.reshape(-1, 3)
        carry = self.marked.close_before(flat[:, 0])
        made = self._safely(lambda: bars.running_bars(self.marked, np.ascontiguousarray(flat[:, :2]), carry))
        cells: Floats = made.reshape(*edges.shape[:2], 8)
        if out is not None:
            out[...] = cells
            cells = out
        there, ts = edges[:, :, 0] >= 0, self.trades.ts
        if not len(ts):
            nat = np.full(there.shape, NAT)
            return Windows(cells, nat, nat.copy(), there)
        start = np.where(there, ts[np.maximum(edges[:, :, 0], 0)], NAT)
        end = np.where(there, ts[np.maximum(edges[:, :, 1] - 1, 0)], NAT)
        return Windows(cells, start, end, edges[:, :, 2] == 1)

    # Windows that end or begin at the time of the index, in elapsed trading time.

    @cached_property
    def _spans(self) -> tuple[Int, Int]:
        """The segments from the first day with trades to the last, and the trading time before each."""
        inside = [d for d in self.tape.trade_dates if self.days and self.days[0] <= d <= self.days[-1]]
        spans = np.concatenate([*(self.tape.segments(day) for day in inside), np.empty((0, 2), np.int64)])
        return spans, np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0])]).astype(np.int64)

    def _elapsed(self, ts: Int) -> tuple[Int, NDArray[np.bool_]]:
        """Trading time since the first open, and whether each time lies in a session."""
        spans, before = self._spans
        at = np.searchsorted(spans[:, 0], ts, "right") - 1
        held = np.maximum(at, 0)
        length = spans[held, 1] - spans[held, 0]
        gone = np.clip(ts - spans[held, 0], 0, length)
        return np.where(at >= 0, before[held] + gone, 0), (at >= 0) & (ts < spans[held, 1])

    @cached_property
    def _clocked(self) -> tuple[bars.Anchored, Int]:
        """The trades inside of sessions for anchored windows, and how many of them lie before each ordinal."""
        with self._lock:
            clock, inside = self._elapsed(self.trades.ts)
            kept = self.trades if bool(inside.all()) else self.trades.take(inside)
            rank = np.concatenate([[0], np.cumsum(inside)]).astype(np.int64)
            trades = bars.marked(kept.price, kept.volume, kept.flags)
            return bars.Anchored(trades, np.ascontiguousarray(clock[inside]), int(self._spans[1][-1])), rank

    def _anchored(self, index: Int, wish: Wish, out: Floats | None) -> Windows:
        anchored, rank = self._clocked
        width = UNITS[wish.unit] * wish.size
        when = self._elapsed(self.times(index))[0]
        made = self._safely(
            lambda: anchored.windows(
                rank[index], when, wish.count, width, future=wish.future, fill=wish.empty == "carry"
            )
        )
        spans, before = self._spans
        steps = np.arange(wish.count, dtype=np.int64) - (0 if wish.future else wish.count)
        low = when[:, None] + steps * width
        least, most = np.zeros(len(index), np.int64), np.full(len(index), before[-1])
        if not wish.cross_session:
            day = np.searchsorted(self.firsts, index, "right") - 1
            for number, name in enumerate(self.days):
                pieces = np.flatnonzero(np.isin(spans[:, 0], self.tape.segments(name)[:, 0]))
                mine = np.minimum(day, len(self.days) - 1) == number
                least[mine], most[mine] = before[pieces[0]], before[pieces[-1] + 1]
        there = (low >= least[:, None]) & (low + width <= most[:, None])
        made[~there] = [np.nan] * 4 + [0.0] * 4
        cells: Floats = made
        if out is not None:
            out[...] = made
            cells = out
        # The stamp of a start is the open of the later segment, that of an end the close of the earlier one.
        start = np.clip(np.searchsorted(before, low, "right") - 1, 0, len(spans) - 1)
        end = np.clip(np.searchsorted(before, low + width, "left") - 1, 0, len(spans) - 1)
        start_ts = spans[start, 0] + low - before[start]
        end_ts = spans[end, 0] + low + width - before[end]
        return Windows(cells, np.where(there, start_ts, NAT), np.where(there, end_ts, NAT), there)

    def _safely(self, call: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
        """What the kernels answer; a refusal becomes one of the project, with symbol and time."""
        try:
            return call()
        except bars.BarsError as error:
            raise TapelineError(
                f"symbol {self.symbol!r}: {error}",
                code=error.code,
                hint="tapeline tape verify checks the stored trades",
            ) from error
