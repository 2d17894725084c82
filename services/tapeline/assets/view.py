"""What features and labels are computed from: the bars of one symbol, and the times of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tapeline.bars import BarsError, grid_ends, session_bars
from tapeline.errors import TapelineError
from tapeline.tape.trades import Trades

Unit = Literal["sec", "min", "hour", "day"]
UNIT_NS: Mapping[Unit, int] = {
    "sec": 1_000_000_000,
    "min": 60_000_000_000,
    "hour": 3_600_000_000_000,
    "day": 86_400_000_000_000,
}
DAY_NS = UNIT_NS["day"]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The bars of one unit and size over trading time.

    Attributes
    ----------
    bars : float64, shape (rows, 8), columns as in `tapeline.bars.COLUMNS`
    end : int64 ns, shape (rows,), ascending; a bar is complete from this time on
    segment : int64, shape (rows,), the session segment that a bar lies in
    """

    unit: Unit
    size: int
    bars: NDArray[np.float64]
    end: NDArray[np.int64]
    segment: NDArray[np.int64]

    def cut(self, first: int, stop: int) -> Grid:
        """The rows from `first` to before `stop`."""
        rows = slice(max(first, 0), stop)
        return Grid(self.unit, self.size, np.ascontiguousarray(self.bars[rows]), self.end[rows], self.segment[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """The trades of one symbol and its sessions, as far as a build may read them.

    Attributes
    ----------
    segments : int64 ns, shape (k, 2): open and close of each session segment, in order
    session : int64, shape (k,): the number of the trade date that a segment belongs to
    dates : trade dates by number
    """

    symbol: str
    trades: Trades
    segments: NDArray[np.int64]
    session: NDArray[np.int64]
    dates: tuple[str, ...]
    _grids: dict[tuple[str, int], Grid] = field(default_factory=dict)

    def grid(self, unit: Unit, size: int) -> Grid:
        """The bars of a unit and size; cut once.

        Raises
        ------
        TapelineError
            What the kernels refuse; `unsupported` for days that are no single segment.
        """
        found = self._grids.get((unit, size))
        if found is None:
            found = self._grids[unit, size] = self._cut(unit, size)
        return found

    def _cut(self, unit: Unit, size: int) -> Grid:
        if unit == "day" and (size != 1 or bool((np.diff(self.session) == 0).any())):
            raise TapelineError(
                f"bars of {size} day are not served for {self.symbol!r}: a bar lies within one session segment",
                code="unsupported",
                hint="use size 1 on a calendar without breaks, or hours",
            )
        width = UNIT_NS[unit] * size
        if width > DAY_NS:
            raise TapelineError(f"bars of {size} {unit} are longer than a day", code="invalid", hint="use unit day")
        ends = [grid_ends(low, high, width) for low, high in self.segments.tolist()]
        numbers = np.repeat(np.arange(len(ends), dtype=np.int64), [len(part) for part in ends])
        trades = self.trades
        flags = None if bool((trades.flags == 7).all()) else trades.flags
        try:
            bars = session_bars(
                trades.ts, trades.price, trades.volume, flags, segments=self.segments, width_ns=width, n_threads=1
            )
        except BarsError as error:
            raise TapelineError(str(error), code=error.code, hint="tapeline tape verify") from error
        return Grid(unit, size, bars, np.concatenate([*ends, np.empty(0, np.int64)]), numbers)

    def changed(self, price: NDArray[np.float64], volume: NDArray[np.int64] | NDArray[np.float64]) -> Market:
        """The same market with other prices and volumes, its bars not yet cut."""
        trades = Trades(self.trades.ts, price, volume, self.trades.flags)
        return Market(self.symbol, trades, self.segments, self.session, self.dates)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A market at the times of some samples: all that a component is given.

    Attributes
    ----------
    times : int64 ns, shape (n,), ascending
    history : None, or how many bars before the one sample are left: for the check that history alone is enough
    """

    market: Market
    times: NDArray[np.int64]
    history: int | None = None

    def grid(self, unit: Unit, size: int) -> Grid:
        """The bars of a unit and size."""
        whole = self.market.grid(unit, size)
        if self.history is None:
            return whole
        stop = int(np.searchsorted(whole.end, self.times[0], "right"))
        return whole.cut(stop - self.history, stop)

    def past(self, unit: Unit, size: int) -> NDArray[np.int64]:
        """For each sample the row one past its newest complete bar: int64, shape (n,).

        A bar whose end is the sample's time is complete: it holds trades before that time only.
        """
        return np.searchsorted(self.grid(unit, size).end, self.times, "right").astype(np.int64)

    def segment(self) -> NDArray[np.int64]:
        """The session segment of each sample, `open < time <= close`: int64, shape (n,); -1 outside of all."""
        segments = self.market.segments
        found = np.searchsorted(segments[:, 1], self.times, "left").astype(np.int64)
        inside = found < len(segments)
        inside[inside] = segments[found[inside], 0] < self.times[inside]
        return np.where(inside, found, -1)


def newest(values: NDArray[np.float64], past: NDArray[np.int64], shift: int) -> NDArray[np.float64]:
    """The value of each sample's newest complete bar, `shift` bars further back; NaN before the first.

    Parameters
    ----------
    values : float64, shape (rows,) or (rows, k), one a bar
    past : int64, shape (n,), as `View.past` gives it
    """
    row = past - 1 - shift
    if len(values) == 0:
        return np.full((len(past), *values.shape[1:]), np.nan)
    out = values[np.maximum(row, 0)].astype(np.float64)
    out[row < 0] = np.nan
    return out
