"""The trades of one symbol in one view, and bars cut from ranges of them.

`index` is an ordinal of these trades. PAST(i) is every trade before i, FUTURE(i) is i and all after it, also
among equal times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from threading import RLock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tapeline import bars
from tapeline.errors import TapelineError
from tapeline.tape.trades import Trades, none
from tapeline.tape.view import OpenTape
from tapeline.tape.windows import NAT, Floats, Int, Rows, Windows, Wish

Kernel = TypeVar("Kernel", bound=NDArray[np.float64] | NDArray[np.int64])


class Seen:
    """The trades of one symbol in one view.

    Notes
    -----
    The columns of the view are held in memory (25 bytes a trade) from the first question that needs single
    trades on.
    """

    def __init__(self, tape: OpenTape, symbol: str) -> None:
        self.tape, self.symbol = tape, symbol
        self.days = tape.days(symbol)
        self.lock = RLock()

    @cached_property
    def trades(self) -> Trades:
        """Every trade of the view, in tape order."""
        with self.lock:
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

    def before(self, index: Int, wish: Wish) -> Int:
        """One past the last trade of PAST(i)."""
        if not wish.strict_time:
            return index
        earlier = bars.ranks(self.trades.ts, self.times(index))
        return np.where(index < len(self), earlier, index).astype(np.int64)

    def running(self, first: Int, stop: Int, carry: NDArray[np.float64], fill: bool) -> NDArray[np.float64]:
        """Bars of ranges of trades; those that begin alike are walked once."""
        order = np.lexsort((stop, first))
        found = np.empty((len(first), 8))
        edges = np.stack([first, stop], axis=1)[order]
        found[order] = self.safely(lambda: bars.running_bars(self.marked, edges, carry[order], fill=fill))
        return found

    def copied(self, rows: Rows, first: Int, count: int, out: Floats | None) -> Windows:
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

    def from_edges(self, edges: Int, out: Floats | None = None) -> Windows:
        """The bar of each pair of ordinals, with the close of the trades before it."""
        flat = edges.reshape(-1, 3)
        carry = self.marked.close_before(flat[:, 0])
        made = self.safely(lambda: bars.running_bars(self.marked, np.ascontiguousarray(flat[:, :2]), carry))
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

    def safely(self, call: Callable[[], Kernel]) -> Kernel:
        """What the kernels answer; a refusal becomes one of the project, with symbol and time."""
        try:
            return call()
        except bars.BarsError as error:
            raise TapelineError(
                f"symbol {self.symbol!r}: {error}",
                code=error.code,
                hint="tapeline tape verify checks the stored trades",
            ) from error
