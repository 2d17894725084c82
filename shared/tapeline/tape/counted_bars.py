"""Bars that count trades, volume or money, around an index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tapeline import bars
from tapeline.tape.seen import Seen
from tapeline.tape.windows import Empty, Floats, Int, Rows, Windows, Wish

RowsOf = Callable[[str, int, Empty], Rows]


class CountedBars:
    """The bars of ticks, volume and money of one symbol; `rows` gives those of the whole tape."""

    def __init__(self, seen: Seen, rows: RowsOf) -> None:
        self.seen = seen
        self.rows = rows

    def whole(self, unit: str, size: int) -> Rows:
        """All bars of the tape, forward in each day."""
        parts: list[Int] = []
        session: list[NDArray[np.int32]] = []
        closes: list[int] = []
        for number in range(len(self.seen.days)):
            low, high = (int(x) for x in self.seen.firsts[number : number + 2])
            if unit == "tick":
                first = np.arange(low, high, min(size, max(high - low, 1)), dtype=np.int64)
                stop = np.minimum(first + size, high) if size < high - low else np.full(len(first), high)
                part = np.stack([first, stop, stop - first == size], axis=1)
            else:
                part = self._spans(low, high, unit, size)
            parts.append(part)
            session.append(np.full(len(part), number, np.int32))
            closes.append(int(self.seen.tape.segments(self.seen.days[number])[-1, 1]))
        edges = np.concatenate([*parts, np.empty((0, 3), np.int64)])
        found = self.seen.from_edges(edges[None])
        day = np.concatenate([*session, np.empty(0, np.int32)])
        complete = edges[:, 2] == 1
        # A full bar is known just after its last trade, the rest of a day at its close.
        known_ns = np.where(complete, found.end_ts[0] + 1, np.array([*closes, 0], np.int64)[day])
        opening = self.seen.marked.close_before(edges[:, 0])
        return Rows(
            np.ascontiguousarray(found.bars[0], np.float64), found.start_ts[0], found.end_ts[0], known_ns, opening,
            day, complete, self.seen.days, np.ascontiguousarray(edges[:, :2]),
        )  # fmt: skip

    def _spans(self, low: int, high: int, unit: str, size: int) -> Int:
        """All bars of `[low, high)` that close on `size`, and the rest."""
        trades = self.seen.marked
        flags = None if trades.flags is None else trades.flags[low:high]

        def cut() -> Int:
            _, edges, complete = bars.session_threshold_bars(
                trades.price[low:high], trades.volume[low:high], flags, firsts=np.array([0, high - low], np.int64),
                limit=float(size), unit="dollar" if unit == "dollar" else "volume",
            )  # fmt: skip
            return np.column_stack([edges + low, complete]).astype(np.int64)

        return self.seen.safely(cut)

    def ticks(self, index: Int, wish: Wish) -> Int:
        """Groups of trades backward or forward from each index: int64 (n, count, 3)."""
        n, k = len(self.seen), min(wish.size, len(self.seen) + 1)
        steps = np.arange(wish.count, dtype=np.int64)
        index = index if wish.future else self.seen.before(index, wish)
        if not wish.cross_session:
            return self._in_sessions(index, wish, k)
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

    def _in_sessions(self, index: Int, wish: Wish, k: int) -> Int:
        """As `ticks`, no group crossing from one day into another."""
        number = np.clip(np.searchsorted(self.seen.firsts, index, "right") - 1, 0, max(len(self.seen.days) - 1, 0))
        low, high = self.seen.firsts[number], self.seen.firsts[number + 1]
        sizes = np.diff(self.seen.firsts)
        steps = np.arange(wish.count, dtype=np.int64)[None]
        groups = -(-sizes // k) if wish.future else sizes // k
        offset = np.concatenate([[0], np.cumsum(groups)])
        here = -(-(high - index) // k) if wish.future else (index - low) // k
        back = steps if wish.future else steps[:, ::-1]
        beyond = back - here[:, None]  # how many groups away from the day of the index
        row = offset[number + 1][:, None] + beyond if wish.future else offset[number][:, None] - 1 - beyond
        there = (beyond < 0) | ((row >= 0) & (row < offset[-1]))
        row = np.clip(row, 0, max(int(offset[-1]) - 1, 0))
        day = np.clip(np.searchsorted(offset, row, "right") - 1, 0, len(self.seen.days) - 1)
        inner = row - offset[day]
        if wish.future:
            first = np.where(beyond < 0, index[:, None] + back * k, self.seen.firsts[day] + inner * k)
            stop = np.minimum(first + k, np.where(beyond < 0, high[:, None], self.seen.firsts[day + 1]))
            full = stop - first == k
            there &= full | (wish.partial == "truncate")
        else:
            stop = np.where(
                beyond < 0, index[:, None] - back * k, self.seen.firsts[day + 1] - (groups[day] - 1 - inner) * k
            )
            first = stop - k
            full = there
        return np.where(there[..., None], np.stack([first, stop, full], axis=2), -1)

    def thresholds_ahead(self, index: Int, wish: Wish) -> Int:
        """Bars forward from each index to the end of its day, then those of the days after it."""
        rows = self.rows(wish.unit, wish.size, "carry")
        assert rows.edges is not None
        number = np.searchsorted(self.seen.firsts, index, "right") - 1
        high = self.seen.firsts[number + 1]
        found = bars.threshold_ahead(
            self.seen.marked,
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

    def thresholds_past(self, index: Int, wish: Wish, out: Floats | None) -> Windows:
        """The full bars before each index, and the running one if it is wanted."""
        rows = self.rows(wish.unit, wish.size, "carry")
        assert rows.edges is not None
        stop = self.seen.before(index, wish)
        done = np.searchsorted(rows.edges[:, 1], stop, "right")
        runs = (done < len(rows)) & (wish.whole or wish.partial == "truncate")
        found = self.seen.copied(rows, (done - wish.count + runs).astype(np.int64), wish.count, out)
        if runs.any():
            at = done[runs]
            found.complete[runs, -1] = False
            if not wish.whole:
                first = rows.edges[at, 0]
                found.bars[runs, -1] = self.seen.running(first, stop[runs], self.seen.marked.close_before(first), True)
                ts, when = self.seen.trades.ts, self.seen.times(index[runs])
                some = stop[runs] > first
                found.start_ts[runs, -1] = np.where(some, ts[first], when)
                found.end_ts[runs, -1] = np.where(some, ts[np.maximum(stop[runs] - 1, 0)], when)
        return found
