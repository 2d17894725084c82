"""What is asked about an index, and what is answered: a wish, rows of bars, windows of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tapeline.tape.view import UNITS

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
