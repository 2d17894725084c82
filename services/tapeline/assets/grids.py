"""Bars of one symbol over trading time, and how they are cut from its trades."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tapeline.bars import ALL, BarsError, grid_ends, session_bars, tick_bars
from tapeline.errors import TapelineError
from tapeline.tape.trades import Trades, join

Unit = Literal["tick", "sec", "min", "hour", "day"]
UNIT_NS: Mapping[str, int] = {
    "sec": 1_000_000_000,
    "min": 60_000_000_000,
    "hour": 3_600_000_000_000,
    "day": 86_400_000_000_000,
}
DAY_NS = UNIT_NS["day"]
CLOSE = 3


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The bars of one unit and size over trading time.

    Attributes
    ----------
    bars : float64, shape (rows, 8), columns as in `tapeline.bars.COLUMNS`
    end : int64 ns, shape (rows,), ascending; a bar is complete from this time on
    segment : int64, shape (rows,), the session segment that a bar lies in
    session : int64, shape (rows,), the number of the trade date that a bar lies in
    starts : the first row of each stretch of time that the bars are of; several where grids are stacked
    """

    unit: Unit
    size: int
    bars: NDArray[np.float64]
    end: NDArray[np.int64]
    segment: NDArray[np.int64]
    session: NDArray[np.int64]
    starts: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        return len(self.end)

    def each(self, formula: Callable[[Grid], NDArray[np.float64]]) -> NDArray[np.float64]:
        """What a formula gives of each stretch by itself, one after another."""
        if len(self.starts) == 1:
            return formula(self)
        return np.concatenate([formula(self.cut(*rows)) for rows in pairwise((*self.starts, len(self.end)))])

    def cut(self, first: int, stop: int) -> Grid:
        """The rows from `first` to before `stop`."""
        rows = slice(max(first, 0), stop)
        return Grid(self.unit, self.size, self.bars[rows], self.end[rows], self.segment[rows], self.session[rows])


def stacked_grids(parts: Sequence[Grid]) -> Grid:
    """Grids of one unit and size, one after another as they are; each is a stretch of the whole."""
    starts = accumulate((len(part) for part in parts[:-1]), initial=0)
    return Grid(
        parts[0].unit,
        parts[0].size,
        np.concatenate([part.bars for part in parts]),
        np.concatenate([part.end for part in parts]),
        np.concatenate([part.segment for part in parts]),
        np.concatenate([part.session for part in parts]),
        tuple(starts),
    )


def joined_grids(parts: Sequence[Grid]) -> Grid:
    """Grids of one unit and size, one after another; bars before the first price of a part carry the last close."""
    bars = np.concatenate([part.bars for part in parts])
    row, close = 0, np.nan
    for part in parts:
        n = len(part)
        if n and part.bars[0, CLOSE] != part.bars[0, CLOSE]:
            # Bars without any price are at a part's beginning: the kernels carry within it.
            known = np.flatnonzero(~np.isnan(part.bars[:, CLOSE]))
            bars[row : row + (int(known[0]) if len(known) else n), : CLOSE + 1] = close
        last = float(part.bars[-1, CLOSE]) if n else np.nan
        close = close if np.isnan(last) else last
        row += n
    return Grid(
        parts[0].unit,
        parts[0].size,
        bars,
        np.concatenate([part.end for part in parts]),
        np.concatenate([part.segment for part in parts]),
        np.concatenate([part.session for part in parts]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Trades of some sessions of a symbol, to cut bars from.

    Attributes
    ----------
    trades : those of the sessions from segment `first` on
    segments, session : of every session of the symbol that is known, as in a `Market`
    first : the first segment that bars are cut for
    before : gives the trades of an earlier session by its number: bars of several days reach back
    """

    symbol: str
    trades: Trades
    segments: NDArray[np.int64]
    session: NDArray[np.int64]
    first: int = 0
    before: Callable[[int], Trades] | None = None

    def grid(self, unit: Unit, size: int, carry: float = np.nan) -> Grid:
        """The bars of a unit and size; `carry` is the close before the first.

        Raises
        ------
        TapelineError
            `invalid` for bars longer than a day, and what the kernels refuse.
        """
        try:
            if unit == "tick":
                return self._ticks(size, carry)
            if unit == "day":
                return self._days(size, carry)
            return self._times(unit, size, carry)
        except BarsError as error:
            raise TapelineError(
                f"bars of {size} {unit} of {self.symbol!r}: {error}", code=error.code, hint="tapeline tape verify"
            ) from error

    def _times(self, unit: Unit, size: int, carry: float) -> Grid:
        width = UNIT_NS[unit] * size
        if width > DAY_NS:
            raise TapelineError(f"bars of {size} {unit} are longer than a day", code="invalid", hint="use unit day")
        own = np.ascontiguousarray(self.segments[self.first :])
        ends = [grid_ends(low, high, width) for low, high in own.tolist()]
        numbers = self.first + np.repeat(np.arange(len(ends), dtype=np.int64), [len(part) for part in ends])
        trades = self.trades
        flags = None if bool((trades.flags == 7).all()) else trades.flags
        bars = session_bars(
            trades.ts, trades.price, trades.volume, flags, segments=own, width_ns=width, carry=carry, n_threads=1
        )
        return Grid(
            unit, size, bars, np.concatenate([*ends, np.empty(0, np.int64)]), numbers, self.session[numbers]
        )  # fmt: skip

    def _ticks(self, size: int, carry: float) -> Grid:
        """Bars of `size` trades, counted from each segment's first; a rest is a bar from the segment's close on."""
        trades = self.trades
        parts: list[NDArray[np.float64]] = [np.empty((0, 8))]
        ends: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        numbers: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        for number, (low, high) in enumerate(self.segments[self.first :].tolist(), self.first):
            rows = slice(*np.searchsorted(trades.ts, (low, high), "left").tolist())
            counted = trades.ts[rows][trades.flags[rows] & ALL != 0]
            if len(counted) == 0:
                continue
            bars, _ = tick_bars(trades.price[rows], trades.volume[rows], trades.flags[rows], size=size, carry=carry)
            # A bar is complete once its last trade lies before the time that asks.
            last = counted[size - 1 :: size] + 1
            ends.append(np.append(last, high) if len(last) < len(bars) else last)
            parts.append(bars)
            numbers.append(np.full(len(bars), number, np.int64))
            carry = float(bars[-1, CLOSE])
        segment = np.concatenate(numbers)
        return Grid("tick", size, np.concatenate(parts), np.concatenate(ends), segment, self.session[segment])

    def _days(self, size: int, carry: float) -> Grid:
        """Bars of `size` trade dates each, counted from the first date that is known; a rest is no bar.

        A bar reaches from its first open to its last close, breaks included; it belongs to its last segment.
        """
        own = int(self.session[self.first]) if self.first < len(self.session) else 0
        rows: list[list[float]] = []
        lasts: list[int] = []
        for number in range(own, int(self.session[-1]) + 1 if len(self.session) else 0):
            if (number + 1) % size:
                continue
            low = int(self.segments[np.searchsorted(self.session, number + 1 - size, "left"), 0])
            last = int(np.searchsorted(self.session, number, "right")) - 1
            kept = self._between(low, int(self.segments[last, 1]), range(number + 1 - size, min(own, number + 1)))
            found, _ = tick_bars(kept.price, kept.volume, kept.flags, size=max(len(kept), 1), carry=carry)
            rows.append(found[0].tolist() if len(found) else [carry] * 4 + [0.0] * 4)
            carry = rows[-1][CLOSE]
            lasts.append(last)
        segment = np.array(lasts, np.int64)
        bars = np.array(rows, np.float64).reshape(-1, 8)
        return Grid("day", size, bars, self.segments[segment, 1], segment, self.session[segment])

    def _between(self, low: int, high: int, earlier: range) -> Trades:
        rows = slice(*np.searchsorted(self.trades.ts, (low, high), "left").tolist())
        own = Trades(self.trades.ts[rows], self.trades.price[rows], self.trades.volume[rows], self.trades.flags[rows])
        if not len(earlier) or self.before is None:
            return own
        return join([*(self.before(number) for number in earlier), own])
