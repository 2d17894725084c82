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
COLUMNS, WIDE = 16, 8
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
        _loops.has_nan(np.ascontiguousarray(values, np.float32).reshape(len(values), -1).view(np.uint32), out)
    return out


def weigh(values: NDArray[np.float32], weights: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """Add to `out` for each row the sum of its 32-bit words, each times its weight: equal rows have equal sums."""
    if len(values):
        words = np.ascontiguousarray(values, np.float32).reshape(len(values), -1).view(np.uint32)
        _loops.weigh(words, weights, out)


def rank_sums(values: NDArray[np.float32], marks: Floats) -> Floats:
    """For each mark and column the sum over rows of the mark times twice the rank of the value, from 2.

    Parameters
    ----------
    values : float32, shape (n, k), n below 2^32; equal values of a column share their rank
    marks : float64, shape (t, n)

    Returns
    -------
    float64, shape (t, k)
    """
    n, k = values.shape
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    padded = -(-len(marks) // WIDE) * WIDE
    weights = np.zeros((n, padded))
    weights[:, : len(marks)] = marks.T
    blocks = [np.ascontiguousarray(weights[:, start : start + WIDE]) for start in range(0, padded, WIDE)]
    out = np.zeros((k, padded))
    keys, found = np.empty((COLUMNS, n), np.uint64), np.empty((COLUMNS, WIDE))
    for first in range(0, k if n else 0, COLUMNS):
        # Some columns at a time stay in the nearer memory.
        some = keys[: min(COLUMNS, k - first)]
        _loops.ordered_keys(bits, first, some)
        some.sort(axis=1)
        for j, block in enumerate(blocks):
            _loops.rank_sums(some, block, found)
            out[first : first + len(some), j * WIDE : (j + 1) * WIDE] = found[: len(some)]
    return np.ascontiguousarray(out[:, : len(marks)].T)


def products(values: NDArray[np.float32], about: Floats) -> tuple[Floats, Floats]:
    """The sums over rows of each column's deviations times each of `about`, and of their squares.

    Parameters
    ----------
    values : float32, shape (n, k)
    about : float64, shape (t, n)

    Returns
    -------
    float64, shapes (t, k) and (k,)

    Notes
    -----
    No matrix product of a library: those start threads that wait busily, and differ from machine to machine.
    """
    out, squares = np.zeros((len(about), values.shape[1])), np.zeros(values.shape[1])
    rows = np.ascontiguousarray(values, np.float32)
    _loops.products(rows, moments(rows).mean, np.ascontiguousarray(about), out, squares)
    return out, squares


def disturb(price: Floats, volume: Ints | Floats, seed: int) -> tuple[Floats, Ints | Floats]:
    """Prices and volumes, each changed by 5 % noise of its own; whole volumes by a few units more."""
    # One piece of memory: where it is large, it comes in large pages.
    both = np.empty(2 * len(price))
    moved = both[: len(price)]
    changed: Any = both[len(price) :].view(volume.dtype)
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


def window_sums(values: Floats, n: int) -> Floats:
    """The sum of each n neighbours: shape (rows - n + 1,); a window has one order of summation wherever it lies."""
    out = np.zeros(max(len(values) - n + 1, 0))
    if len(out):
        _loops.window_sums(np.ascontiguousarray(values), n, out)
    return out


def deviations(values: NDArray[np.float32], about: Floats) -> tuple[Floats, Floats]:
    """The sums, over all axes but the last, of differences from `about`, and of their squares: float64, shape (k,)."""
    total, squares = np.zeros(values.shape[-1]), np.zeros(values.shape[-1])
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, values.shape[-1])
    _loops.deviations(rows, np.ascontiguousarray(about), total, squares)
    return total, squares


def price_marks(price: Floats, flags: NDArray[np.uint8]) -> tuple[int, int, float, float] | None:
    """Of the trades that set a close: how many, how many of them in whole cents, the first and the last price.

    None where there is no such trade.
    """
    out = np.zeros(4)
    _loops.price_marks(np.ascontiguousarray(price), np.ascontiguousarray(flags), out)
    count, whole, first, last = out.tolist()
    return (int(count), int(whole), first, last) if count else None


__all__ = [
    "Moments",
    "deviations",
    "disturb",
    "first_not_finite",
    "has_nan",
    "moments",
    "price_marks",
    "products",
    "rank_sums",
    "touches",
    "weigh",
    "window_sums",
]
