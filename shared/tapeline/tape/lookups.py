"""Where the bars of an index lie: past ones know only what came before it, future ones only what came after."""

from __future__ import annotations

import numpy as np

from tapeline import bars
from tapeline.tape.anchored_bars import AnchoredBars
from tapeline.tape.counted_bars import CountedBars
from tapeline.tape.seen import Seen
from tapeline.tape.time_bars import TimeBars
from tapeline.tape.view import OpenTape
from tapeline.tape.windows import TIME_UNITS, Empty, Floats, Int, Rows, Windows, Wish


class Lookups:
    """The bars of one symbol in one view; those of the whole tape are kept once they are made."""

    def __init__(self, tape: OpenTape, symbol: str) -> None:
        self.seen = Seen(tape, symbol)
        self._rows: dict[tuple[str, int, str], Rows] = {}
        self._timed = TimeBars(self.seen, self.rows)
        self._counted = CountedBars(self.seen, self.rows)
        self._anchored = AnchoredBars(self.seen)

    def rows(self, unit: str, size: int, empty: Empty = "carry") -> Rows:
        """All bars of the tape in a unit: those of time on the sessions' grids, others forward in each day."""
        key = (unit, size, empty if unit in TIME_UNITS else "carry")
        with self.seen.lock:
            if key not in self._rows:
                if unit not in TIME_UNITS:
                    self._rows[key] = self._counted.whole(unit, size)
                elif empty == "skip":
                    full = self.rows(unit, size)
                    self._rows[key] = full.take(np.flatnonzero(full.bars[:, 4] > 0))
                else:
                    self._rows[key] = self._timed.whole(unit, size, empty)
            return self._rows[key]

    def windows(self, index: Int, wish: Wish, out: Floats | None = None) -> Windows:
        """The bars that are wanted at each index."""
        if wish.unit == "tick":
            return self.seen.from_edges(self._counted.ticks(index, wish), out)
        if wish.unit in ("volume", "dollar"):
            if wish.future:
                return self.seen.from_edges(self._counted.thresholds_ahead(index, wish), out)
            return self._counted.thresholds_past(index, wish, out)
        if wish.align == "index":
            return self._anchored.windows(index, wish, out)
        return (self._timed.future if wish.future else self._timed.past)(index, wish, out)

    def newest(self, index: Int, wish: Wish) -> Int:
        """For each index the row of `rows` that is one past its newest whole bar."""
        rows = self.rows(wish.unit, wish.size, wish.empty)
        if rows.edges is not None:
            return bars.ranks(np.ascontiguousarray(rows.edges[:, 1]), self.seen.before(index, wish), right=True)
        return bars.ranks(rows.known, self.seen.times(index), right=True)
