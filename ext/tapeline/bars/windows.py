"""The front of look-backs: windows of a grid, bars that still run, windows anchored at an index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapeline.bars import front
from tapeline.bars.front import Flags, Volume
from tapeline.bars.pool import PIECES, share, split
from tapeline.bars.status import BarsError, Flag, Norm

SPAN = 64


@dataclass(frozen=True, slots=True, eq=False)
class Marked:
    """Trades made ready for being looked into often: `flags` is None where all of them are 7.

    Attributes
    ----------
    before : the last trade up to each that set a close, -1 for none; None where each did
    """

    price: NDArray[np.float64]
    volume: Volume
    flags: Flags
    before: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.price)

    def close_before(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """The close that the trades before each index leave: NaN where none set one."""
        last = np.maximum(index, 0) - 1
        if self.before is not None:
            last = np.where(last >= 0, self.before[last], -1) if len(self) else last
        return np.where(last >= 0, self.price[last], np.nan) if len(self) else np.full(len(index), np.nan)


def marked(price: NDArray[np.float64], volume: Volume, flags: Flags = None) -> Marked:
    """Trades with what look-backs need of their flags."""
    marks = front._trades(price, volume, flags)
    before = None
    if marks is not None and not bool((marks & int(Flag.LAST)).all()):
        before = np.maximum.accumulate(np.where(marks & int(Flag.LAST), np.arange(len(marks)), -1))
    return Marked(price, volume, marks, before)


def ranks(ordered: NDArray[np.int64], values: NDArray[np.int64], *, right: bool = False) -> NDArray[np.int64]:
    """How many of `ordered` lie before each value, or at it too if `right`: int64, shape of `values`.

    What `numpy.searchsorted` gives, for values that mostly rise: each search begins where the last one ended.

    Parameters
    ----------
    ordered : int64, shape (m,), not falling
    values : int64, shape (n,)
    """
    front._column("ordered", ordered, np.int64)
    front._column("values", values, np.int64)
    out = np.empty(len(values), np.int64)
    front._run.ranks(ordered, values, right, out)
    return out


def lookback(
    grid: NDArray[np.float64],
    first: NDArray[np.int64],
    count: int,
    *,
    out: NDArray[np.float64] | NDArray[np.float32] | None = None,
    n_threads: int = 1,
) -> NDArray[np.float64] | NDArray[np.float32]:
    """Rows `[first[k], first[k] + count)` of a grid: shape (n, count, 8), float64, or as `out`.

    Rows that the grid does not have get NaN prices and 0 for the rest.
    """
    count = front._positive("count", count, 1_000_000)
    front._column("first", first, np.int64)
    if grid.dtype != np.float64 or grid.ndim != 2 or grid.shape[1] != 8 or not grid.flags.c_contiguous:
        raise BarsError(f"grid is {grid.dtype} {grid.shape}; it must be contiguous float64 (rows, 8)")
    to = np.empty((len(first), count, 8)) if out is None else out
    if to.shape != (len(first), count, 8) or to.dtype not in (np.float64, np.float32) or not to.flags.c_contiguous:
        raise BarsError(f"out is {to.dtype} {to.shape}; it must be contiguous float ({len(first)}, {count}, 8)")

    def part(low: int, high: int) -> None:
        fault = np.zeros(2, np.int64)
        front._fail(front._run.lookback(grid, first[low:high], count, to[low:high], fault), fault)

    _shared(part, len(first), n_threads)
    return to


def gather(
    grid: NDArray[np.float64],
    past: NDArray[np.int64],
    count: int,
    norm: str | Norm = Norm.NONE,
    *,
    scale: NDArray[np.float64] | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Windows of the `count` bars that end before grid row `past[k]`: float32, shape (n, count, 8).

    Parameters
    ----------
    grid : float64, shape (rows, 8)
    past : int64, shape (n,), 0 to rows: one past the newest bar of each window
    norm : `none`, `last_price_pct`, `zscore_window` or `max_values` (by `scale`, float64, shape (8,))

    Notes
    -----
    Rows before the grid begins have NaN prices and 0 for the rest. Prices and sums are normalised in float64
    and cast once. A divisor of 0 gives NaN.
    """
    try:
        way = norm if isinstance(norm, Norm) else Norm[norm.upper()]
    except KeyError:
        known = ", ".join(kind.name.lower() for kind in Norm)
        raise BarsError(f"norm is {norm!r}; it may be {known}") from None
    count = front._positive("count", count, 1_000_000)
    front._column("past", past, np.int64)
    if grid.dtype != np.float64 or grid.ndim != 2 or grid.shape[1] != 8 or not grid.flags.c_contiguous:
        raise BarsError(f"grid is {grid.dtype} {grid.shape}; it must be contiguous float64 (rows, 8)")
    if way is Norm.MAX_VALUES and scale is None:
        raise BarsError("norm max_values needs `scale`, the maxima of the eight columns")
    scale = np.ones(8) if scale is None else np.ascontiguousarray(scale, np.float64)
    if scale.shape != (8,):
        raise BarsError(f"scale has shape {scale.shape}; it must be (8,)")
    shape = (len(past), count, 8)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.dtype != np.float32 or out.shape != shape or not out.flags.c_contiguous:
        raise BarsError(f"out is {out.dtype} {out.shape}; it must be contiguous float32 {shape}")
    fault = np.zeros(2, np.int64)
    front._fail(front._run.gather(grid, past, count, int(way), scale, out, fault), fault)
    return out


def running_bars(
    trades: Marked, edges: NDArray[np.int64], carry: NDArray[np.float64], *, fill: bool = True, n_threads: int = 1
) -> NDArray[np.float64]:
    """One bar for each pair of `edges`, the trades `[first, stop)`, `carry[r]` being the close before it.

    A negative `first` is a missing row. Pairs that begin alike and grow cost one walk.
    """
    if edges.size and (int(edges[:, 1].max()) > len(trades) or bool((edges[:, 1] < edges[:, 0]).any())):
        raise BarsError(f"edges lie outside of the {len(trades)} trades")
    out = np.empty((len(edges), 8))
    edges, carry = np.ascontiguousarray(edges, np.int64), np.ascontiguousarray(carry, np.float64)

    def part(low: int, high: int) -> None:
        fault = np.zeros(2, np.int64)
        status = front._run.running_bars(
            trades.price, trades.volume, trades.flags, edges[low:high], carry[low:high], fill, out[low:high], fault
        )
        fault[1] += low
        front._fail(status, fault)

    _shared(part, len(edges), n_threads)
    return out


def threshold_ahead(
    trades: Marked, spans: NDArray[np.int64], *, limit: float, dollar: bool, count: int
) -> NDArray[np.int64]:
    """The first `count` bars that close on `limit` in each of `spans`: int64 (n, count, 3).

    First trade, one past the last, and 1 where the limit was reached, 0 for the rest of a span; -1 for missing.
    """
    edges = np.empty((len(spans), count, 3), np.int64)
    front._run.threshold_ahead(
        trades.price, trades.volume, trades.flags, np.ascontiguousarray(spans, np.int64), float(limit), dollar, edges
    )
    return edges


class Anchored:
    """Trades made ready for windows that are anchored at an index instead of lying on a grid.

    Parameters
    ----------
    clock : int64 ns, shape (n,), elapsed trading time of each trade, non-decreasing
    total : trading time in all, in ns
    """

    def __init__(self, trades: Marked, clock: NDArray[np.int64], total: int) -> None:
        front._column("clock", clock, np.int64)
        if len(clock) != len(trades):
            raise BarsError(f"there are {len(trades)} prices but {len(clock)} times")
        self.trades, self.clock, self.total = trades, clock, total
        self._coarse = np.ascontiguousarray(clock[::SPAN])
        n = len(clock) // SPAN
        self._range, self._whole = np.empty((n, 2)), np.empty((n, 4), np.int64)
        front._run.blocks(trades.price, trades.volume, trades.flags, self._range, self._whole)

    def windows(
        self,
        at: NDArray[np.int64],
        when: NDArray[np.int64],
        count: int,
        width_ns: int,
        *,
        future: bool = False,
        fill: bool = True,
        n_threads: int = 1,
        out: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Windows of `count` bars that end, or with `future` begin, at the trading times `when`.

        Parameters
        ----------
        at : int64, shape (n,): with `future` only trades from it on count
        when : int64 ns, shape (n,), in any order
        """
        to = np.empty((len(when), count, 8)) if out is None else out
        if to.shape != (len(when), count, 8) or to.dtype != np.float64 or not to.flags.c_contiguous:
            raise BarsError(f"out is {to.dtype} {to.shape}; it must be contiguous float64 ({len(when)}, {count}, 8)")
        order = np.argsort(when, kind="stable")
        at, when = np.ascontiguousarray(at[order], np.int64), np.ascontiguousarray(when[order], np.int64)
        t = self.trades

        def part(low: int, high: int) -> None:
            fault = np.zeros(2, np.int64)
            front._fail(
                front._run.anchored(
                    self.clock, self._coarse, t.price, t.volume, t.flags, t.before, self._range, self._whole,
                    at[low:high], when[low:high], order[low:high], width_ns, self.total, future, fill,
                    np.empty(count + 1, np.int64), to, fault,
                ),
                fault,
            )  # fmt: skip

        _shared(part, len(when), n_threads)
        return to


def _shared(part: Callable[[int, int], None], n: int, n_threads: int) -> None:
    """Run `part(low, high)` over `[0, n)` on some threads."""
    if n_threads <= 1 or n < 2 * n_threads:
        part(0, n)
        return
    at = split(n, PIECES * n_threads)
    share(lambda k: part(at[k], at[k + 1]), len(at) - 1, n_threads)
