"""The loops of `_loops.pyx` in plain Python and NumPy, written to be read; the kernels must agree with them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MASK = (1 << 64) - 1


def moments(values: NDArray[np.float32]) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, sum of squares about it, least and greatest of the last axis over all others."""
    rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
    mean = rows.mean(axis=0)
    return mean, np.square(rows - mean).sum(axis=0), rows.min(axis=0), rows.max(axis=0)


def first_not_finite(values: NDArray[np.float32]) -> int:
    """The place of the first value that is NaN or infinite, in C order; -1 if there is none."""
    found = np.flatnonzero(~np.isfinite(values))
    return int(found[0]) if len(found) else -1


def has_nan(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each row holds a NaN."""
    return np.asarray(np.isnan(values).reshape(len(values), -1).any(axis=1), np.bool_)


def weigh(values: NDArray[np.float32], weights: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """For each row the sum, modulo 2^64, of its 32-bit words, each times its weight."""
    words = values.reshape(len(values), -1).view(np.uint32)
    return np.array(
        [sum(int(w) * int(k) for w, k in zip(row, weights, strict=True)) & MASK for row in words], np.uint64
    )


def rank_sums(values: NDArray[np.float32], marks: Floats) -> Floats:
    """For each mark and column the sum of the mark times 1 + values below + values not above."""
    ranks = np.array([[1 + (c < x).sum() + (c <= x).sum() for x in c] for c in values.T], np.float64)
    return marks @ ranks.T


def products(values: NDArray[np.float32], about: Floats) -> tuple[Floats, Floats]:
    """The sums over rows of each column's deviations times each of `about`, and of their squares."""
    deviations = values.astype(np.float64) - values.astype(np.float64).mean(axis=0)
    return about @ deviations, np.square(deviations).sum(axis=0)


def _stirred(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def disturb(price: Floats, volume: Ints | Floats, seed: int, scale: float) -> tuple[list[float], list[float]]:
    """Every price and volume times 1 plus noise of its own; whole volumes are rounded, and 1 or 2 more."""
    prices: list[float] = []
    volumes: list[float] = []
    for i, (p, v) in enumerate(zip(price.tolist(), volume.tolist(), strict=True)):
        x = _stirred((seed + i) & MASK)
        a, b, c, d = (x >> shift & 0xFFFF for shift in (0, 16, 32, 48))
        prices.append(p * (1.0 + scale * ((a + b + 0.5) / 65536.0 - 1.0)))
        changed = v * (1.0 + scale * ((c + d + 0.5) / 65536.0 - 1.0))
        volumes.append(int(changed + 0.5) + 1 + (x >> 63) if volume.dtype == np.int64 else changed)
    return prices, volumes


def touches(
    bars: Floats, entry: Ints, last: Ints, up: Floats, down: Floats, side: Floats
) -> list[tuple[int, float, int]]:
    """How each window ends, at which price, and after how many bars. Both barriers in one bar are a stop."""
    found: list[tuple[int, float, int]] = []
    for begin, end, top, bottom, way in zip(
        entry.tolist(), last.tolist(), up.tolist(), down.tolist(), side.tolist(), strict=True
    ):
        target, stop = (top, bottom) if way > 0 else (bottom, top)
        ending = (1, float(bars[end, 3]), end - begin)
        for row in range(begin + 1, end + 1):
            opened, high, low = (float(x) for x in bars[row, :3])
            is_up, is_down = high >= top, low <= bottom
            if is_down if way > 0 else is_up:
                ending = (0, min(opened, stop) if way > 0 else max(opened, stop), row - begin)
                break
            if is_up or is_down:
                ending = (2, target, row - begin)
                break
        found.append(ending)
    return [(how, math.nan if math.isnan(price) else price, after) for how, price, after in found]


def window_sums(values: Floats, n: int) -> list[float]:
    """The sum of each n neighbours, added up from the oldest on."""
    found: list[float] = []
    for stop in range(n, len(values) + 1):
        total = 0.0
        for value in values[stop - n : stop].tolist():
            total += value
        found.append(total)
    return found


def price_marks(price: Floats, flags: NDArray[np.uint8]) -> tuple[int, int, float, float] | None:
    """Of the trades that set a close: how many, how many in whole cents, the first and the last price."""
    kept = [p for p, flag in zip(price.tolist(), flags.tolist(), strict=True) if flag & 2]
    whole = sum(abs(p * 100.0 - round(p * 100.0)) < 1e-6 for p in kept)
    return (len(kept), whole, kept[0], kept[-1]) if kept else None


def deviations(values: NDArray[np.float32], about: Floats) -> tuple[Floats, Floats]:
    """The sums, over all axes but the last, of differences from `about`, and of their squares."""
    apart = values.reshape(-1, values.shape[-1]).astype(np.float64) - about
    return apart.sum(axis=0), np.square(apart).sum(axis=0)
