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


def shared_ranks(values: NDArray[np.float32]) -> Floats:
    """Twice the rank of each value among those of its column: 1 + values below + values not above."""
    return np.array([[1 + (c < x).sum() + (c <= x).sum() for x in c] for c in values.T], np.float64)


def _stirred(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def disturb(price: Floats, volume: Ints | Floats, seed: int, scale: float) -> tuple[list[float], list[float]]:
    """Every price and volume times 1 plus noise of its own; whole volumes are rounded, and 1 to 3 more."""
    prices: list[float] = []
    volumes: list[float] = []
    for i, (p, v) in enumerate(zip(price.tolist(), volume.tolist(), strict=True)):
        x = _stirred((seed + i) & MASK)
        a, b, c, d = (x >> shift & 0xFFFF for shift in (0, 16, 32, 48))
        prices.append(p * (1.0 + scale * ((float(a) + float(b) + 1.0) / 65536.0 - 1.0)))
        changed = v * (1.0 + scale * ((float(c) + float(d) + 1.0) / 65536.0 - 1.0))
        volumes.append(round(changed) + 1 + x % 3 if volume.dtype == np.int64 else changed)
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
