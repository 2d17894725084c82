"""Columns of an asset file that hold places instead of windows of bars: the windows are made when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class IndexedColumn:
    """A feature of windows of bars, first axis = row; reading rows gives the bits that a materialised one holds.

    Attributes
    ----------
    past : int64, shape (n,): in the grid of the row's symbol, the row one past the newest bar of its window
    codes : shape (n,): the number of each row's symbol
    grids : by that number bars, float64, shape (rows, 8)
    window : the shape of one sample, (count, 8)
    scale : float64, shape (symbols, 8), for the norm `max_values`
    """

    past: NDArray[np.int64]
    codes: NDArray[Any]
    grids: Sequence[NDArray[np.float64]]
    window: tuple[int, ...]
    norm: str
    scale: NDArray[np.float64] | None = None

    dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.past)

    @property
    def shape(self) -> tuple[int, ...]:
        """As that of a materialised column."""
        return (len(self.past), *self.window)

    @property
    def ndim(self) -> int:
        """How many axes `shape` has."""
        return 1 + len(self.window)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All windows."""
        found = self[:]
        return found if dtype is None else found.astype(dtype)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The windows of a row, a slice, a mask or indices; more axes as in NumPy."""
        if isinstance(rows, tuple):
            first, *rest = rows
            found = self[first]
            return np.asarray(found[tuple(rest) if np.ndim(first) == 0 and not isinstance(first, slice) else
                                    (slice(None), *rest)])  # fmt: skip
        past = np.atleast_1d(self.past[rows])
        made = self._gathered(np.ascontiguousarray(past, np.int64), np.atleast_1d(self.codes[rows]))
        return made[0] if np.ndim(self.past[rows]) == 0 else made

    def _gathered(self, past: NDArray[np.int64], codes: NDArray[Any]) -> NDArray[np.float32]:
        from tapeline.bars import gather

        def of(code: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
            scale = None if self.scale is None else self.scale[code]
            return gather(self.grids[code], rows, self.window[0], self.norm, scale=scale)

        if len(self.grids) == 1:
            return of(0, past)
        out = np.empty((len(past), *self.window), np.float32)
        for code in np.unique(codes).tolist():
            own = codes == code
            out[own] = of(code, np.ascontiguousarray(past[own]))
        return out
