"""Loops of the asset build: rows of samples measured, compared and ranked, trades disturbed, barriers looked for.

Read `reference.py` first: it says in plain NumPy what `_loops.pyx` does fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.measures import _loops

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BLOCK = 1024
NOISE = 0.05 * 6.0**0.5
"""A sum of two even numbers, less 1, deviates by 1 / sqrt 6: this much of it is a deviation of 5 %."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of each column: how many values, their mean, the sum of squares about it, the least and the greatest."""

    count: int
    mean: Floats
    second: Floats
    low: Floats
    high: Floats


def moments(values: NDArray[np.float32]) -> Moments:
    """The moments of the last axis over all others, in float64, with one order of summation on every machine.

    Notes
    -----
    Blocks of 1,024 rows are merged in order: Chan, Golub and LeVeque, The American Statistician 37 (1983).
    """
    width = values.shape[-1]
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, width)
    found = [np.empty(width) for _ in range(6)]
    if width:
        _loops.moments(rows, BLOCK, *found)
    return Moments(len(rows), *found[:4])


def first_not_finite(values: NDArray[np.float32]) -> int:
    """The place of the first value that is NaN or infinite, in C order; -1 if there is none."""
    return _loops.first_not_finite(np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32))


def has_nan(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each row holds a NaN: bool, shape (n,)."""
    out = np.zeros(len(values), np.bool_)
    if len(values):
        _loops.has_nan(np.ascontiguousarray(values, np.float32).reshape(len(values), -1), out)
    return out


def weigh(values: NDArray[np.float32], weights: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """Add to `out` for each row the sum of its 32-bit words, each times its weight: equal rows have equal sums."""
    if len(values):
        words = np.ascontiguousarray(values, np.float32).reshape(len(values), -1).view(np.uint32)
        _loops.weigh(words, weights, out)


def shared_ranks(values: NDArray[np.float32]) -> Floats:
    """Twice the rank, from 2, of each value among those of its column, equal values sharing theirs.

    Parameters
    ----------
    values : float32, shape (n, k), n below 2^32

    Returns
    -------
    float64, shape (k, n)
    """
    # Numbers that are ordered as the floats are; 0.0 makes -0.0 the same as 0.
    bits = np.ascontiguousarray((values + np.float32(0.0)).T).view(np.uint32)
    keys = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
    ordered = (keys << np.uint64(32)) | np.arange(len(values), dtype=np.uint64)
    ordered.sort(axis=1)
    out = np.empty(ordered.shape)
    _loops.shared_ranks(ordered, out)
    return out


def disturb(price: Floats, volume: Ints | Floats, seed: int) -> tuple[Floats, Ints | Floats]:
    """Prices and volumes, each changed by 5 % noise of its own; whole volumes by a few units more."""
    changed: Any = np.empty_like(volume)
    moved = np.empty_like(price)
    whole: Any = np.ascontiguousarray(volume)
    _loops.disturb(np.ascontiguousarray(price), whole, seed, NOISE, moved, changed)
    return moved, changed


def touches(bars: Floats, entry: Ints, last: Ints, up: Floats, down: Floats, side: Floats) -> tuple[Ints, Floats, Ints]:
    """How each window of bars ends (0 stop, 1 time-out, 2 target), at which price, and after how many bars.

    Parameters
    ----------
    bars : float64, shape (rows, 8), columns as in `tapeline.bars.COLUMNS`
    entry, last : int64, shape (m,): a window is the rows after `entry` up to `last`
    up, down : float64, shape (m,): prices of the upper and the lower barrier; inf, or NaN, for none
    side : float64, shape (m,): above 0 the upper barrier is the target, else the lower one
    """
    m, rows = len(entry), len(bars)
    how, price, after = np.empty(m, np.int64), np.empty(m), np.empty(m, np.int64)
    if m:
        if int(entry.min()) < 0 or int(last.max()) >= rows or int((last - entry).min()) < 0:
            raise ValueError("a window lies outside of the bars")
        _loops.touches(
            np.ascontiguousarray(bars), np.ascontiguousarray(entry), np.ascontiguousarray(last),
            np.ascontiguousarray(up), np.ascontiguousarray(down), np.ascontiguousarray(side), how, price, after,
        )  # fmt: skip
    return how, price, after


__all__ = ["Moments", "disturb", "first_not_finite", "has_nan", "moments", "shared_ranks", "touches", "weigh"]
