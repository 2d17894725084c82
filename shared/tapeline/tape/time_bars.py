"""Bars of time on the grids of the sessions, around an index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from tapeline import bars
from tapeline.tape.seen import Seen
from tapeline.tape.windows import NEVER, Empty, Floats, Int, Rows, Windows, Wish

RowsOf = Callable[[str, int, Empty], Rows]


class TimeBars:
    """The bars of time of one symbol; `rows` gives those of the whole tape."""

    def __init__(self, seen: Seen, rows: RowsOf) -> None:
        self.seen = seen
        self.rows = rows

    def whole(self, unit: str, size: int, empty: Literal["carry", "nan"]) -> Rows:
        """All bars of the tape."""
        if not self.seen.days:
            nothing = np.empty(0, np.int64)
            return Rows(
                np.empty((0, 8)), nothing, nothing, nothing, np.empty(0), np.empty(0, np.int32), np.empty(0, bool), []
            )
        grid = self.seen.tape.minute_grid(self.seen.symbol, unit, size)
        opening = np.concatenate([[np.nan], grid.bars[:-1, 3]])
        if unit != "day":
            # In the view `all` a date may close on a trade outside of its hours, which no bar shows.
            carry, of_date = float("nan"), np.empty(len(grid.trade_dates))
            for number, day in enumerate(grid.trade_dates):
                of_date[number] = carry
                trades = self.seen.tape.trades(self.seen.symbol, day)
                lasts = np.flatnonzero(trades.flags & int(bars.Flag.LAST))
                carry = float(trades.price[lasts[-1]]) if len(lasts) else carry
            heads = np.flatnonzero(np.diff(grid.session, prepend=-1))
            opening[heads] = of_date[grid.session[heads]]
        complete = np.ones(len(grid), np.bool_)
        known = grid.end_ns.copy()
        if unit == "day":
            # The last block ends where the sessions table says, not where the tape happens to.
            dates = [d for d in self.seen.tape.trade_dates if d >= self.seen.days[0]]
            last = len(grid) * size - 1
            ends = grid.end_ns.copy()
            ends[-1] = int(self.seen.tape.segments(dates[min(last, len(dates) - 1)])[-1, 1])
            complete[-1] = last < len(dates) and dates[last] <= self.seen.days[-1]
            known = ends.copy()
            known[-1] = ends[-1] if last < len(dates) else NEVER
            grid = replace(grid, end_ns=ends)
        cells = grid.bars
        if empty == "nan":
            cells = cells.copy()
            cells[cells[:, 4] == 0, :4] = np.nan
        return Rows(cells, grid.start_ns, grid.end_ns, known, opening, grid.session, complete, grid.trade_dates)

    def past(self, index: Int, wish: Wish, out: Floats | None) -> Windows:
        """The whole bars before each index, and the running one if it is wanted."""
        full, rows = self.rows(wish.unit, wish.size, "carry"), self.rows(wish.unit, wish.size, wish.empty)
        when = self.seen.times(index)
        done = bars.ranks(full.known, when, right=True)
        runs = np.zeros(len(index), np.bool_)
        newest, at = np.empty((0, 8)), done
        if (wish.whole or wish.partial == "truncate") and len(full):
            at = np.minimum(done, len(full) - 1)
            runs = (done < len(full)) & (full.start[at] <= when) & (when < full.end[at])
            at = at[runs]
            if wish.whole:
                newest = self.rows(wish.unit, wish.size, "nan" if wish.empty == "nan" else "carry").bars[at]
            else:
                first = bars.ranks(self.seen.trades.ts, full.start[at])
                stop = np.maximum(self.seen.before(index[runs], wish), first)
                newest = self.seen.running(first, stop, full.opening[at], wish.empty != "nan")
            if wish.empty == "skip":
                runs[np.flatnonzero(runs)[newest[:, 4] == 0]] = False
                at, newest = at[newest[:, 4] > 0], newest[newest[:, 4] > 0]
        if wish.empty == "skip":
            done = bars.ranks(rows.known, when, right=True)
        found = self.seen.copied(rows, (done - wish.count + runs).astype(np.int64), wish.count, out)
        if runs.any():
            found.bars[runs, -1] = newest
            found.start_ts[runs, -1], found.end_ts[runs, -1] = full.start[at], full.end[at]
            found.complete[runs, -1] = False
        return found

    def future(self, index: Int, wish: Wish, out: Floats | None) -> Windows:
        """The bars from each index on."""
        full, rows = self.rows(wish.unit, wish.size, "carry"), self.rows(wish.unit, wish.size, wish.empty)
        when = self.seen.times(index)
        at = bars.ranks(full.end, when, right=True)
        inside = np.minimum(at, len(full) - 1)
        holds = (at < len(full)) & (full.start[inside] <= when)
        # A bar that starts at T may hold trades of that very time before the index: they are no future.
        cut = holds & ((full.start[inside] == when) | (wish.partial == "truncate"))
        tail = at + holds
        row, here = inside[cut], index[cut]
        first = bars.ranks(self.seen.trades.ts, full.start[row])
        stop = bars.ranks(self.seen.trades.ts, full.end[row])
        before = self.seen.marked.before
        last = here - 1 if before is None else np.where(here > 0, before[here - 1], -1)
        carry = np.where(last >= first, self.seen.trades.price[np.maximum(last, 0)], full.opening[row])
        rest = self.seen.running(here, stop, carry, wish.empty != "nan")
        if wish.empty == "skip":
            some = rest[:, 4] > 0
            cut[np.flatnonzero(cut)[~some]] = False
            row, rest = row[some], rest[some]
            tail = np.searchsorted(np.flatnonzero(full.bars[:, 4] > 0), tail, "left")
        found = self.seen.copied(rows, (tail - cut).astype(np.int64), wish.count, out)
        found.bars[cut, 0] = rest
        found.start_ts[cut, 0], found.end_ts[cut, 0] = when[cut], full.end[row]
        found.complete[cut, 0] = (full.start[row] == when[cut]) & full.complete[row]
        return found
