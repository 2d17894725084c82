"""Windows that end or begin at the time of an index, in elapsed trading time."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tapeline import bars
from tapeline.tape.seen import Seen
from tapeline.tape.view import UNITS
from tapeline.tape.windows import NAT, Floats, Int, Windows, Wish


class AnchoredBars:
    """Windows of one symbol that end or begin at the time of an index."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    @cached_property
    def _spans(self) -> tuple[Int, Int]:
        """The segments from the first day with trades to the last, and the trading time before each."""
        inside = [
            d for d in self.seen.tape.trade_dates if self.seen.days and self.seen.days[0] <= d <= self.seen.days[-1]
        ]
        spans = np.concatenate([*(self.seen.tape.segments(day) for day in inside), np.empty((0, 2), np.int64)])
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
        with self.seen.lock:
            clock, inside = self._elapsed(self.seen.trades.ts)
            kept = self.seen.trades if bool(inside.all()) else self.seen.trades.take(inside)
            rank = np.concatenate([[0], np.cumsum(inside)]).astype(np.int64)
            trades = bars.marked(kept.price, kept.volume, kept.flags)
            return bars.Anchored(trades, np.ascontiguousarray(clock[inside]), int(self._spans[1][-1])), rank

    def windows(self, index: Int, wish: Wish, out: Floats | None) -> Windows:
        """The bars that end, or begin, at the time of each index."""
        anchored, rank = self._clocked
        width = UNITS[wish.unit] * wish.size
        when = self._elapsed(self.seen.times(index))[0]
        made = self.seen.safely(
            lambda: anchored.windows(
                rank[index], when, wish.count, width, future=wish.future, fill=wish.empty == "carry"
            )
        )
        spans, before = self._spans
        steps = np.arange(wish.count, dtype=np.int64) - (0 if wish.future else wish.count)
        low = when[:, None] + steps * width
        least, most = np.zeros(len(index), np.int64), np.full(len(index), before[-1])
        if not wish.cross_session:
            day = np.searchsorted(self.seen.firsts, index, "right") - 1
            for number, name in enumerate(self.seen.days):
                pieces = np.flatnonzero(np.isin(spans[:, 0], self.seen.tape.segments(name)[:, 0]))
                mine = np.minimum(day, len(self.seen.days) - 1) == number
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
