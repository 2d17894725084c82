"""Points of a curve that show its shape: the least and the greatest finite value of each stretch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeline.columns import Points

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STRETCH = 64


def thinned(points: Points, stretch: int = STRETCH) -> Points:
    """The least and the greatest of each `stretch` neighbours, in order; a stretch without a finite value has none."""
    return points.take(extremes(points, stretch))


def extremes(points: Points, stretch: int) -> NDArray[np.intp]:
    """Where the least and the greatest finite value of each stretch lie, ascending; the earlier of equal ones."""
    import numpy as np

    count = len(points)
    if not count:
        return np.empty(0, np.intp)
    rows = -(-count // stretch)
    finite = points.finite()
    values = points.floats()
    low, high = np.full(rows * stretch, np.inf), np.full(rows * stretch, -np.inf)
    low[:count][finite], high[:count][finite] = values[finite], values[finite]
    starts = np.arange(rows) * stretch
    least = low.reshape(rows, stretch).argmin(axis=1) + starts
    greatest = high.reshape(rows, stretch).argmax(axis=1) + starts
    has_any = np.zeros(rows * stretch, bool)
    has_any[:count] = finite
    kept = has_any.reshape(rows, stretch).any(axis=1)
    return np.unique(np.concatenate([least[kept], greatest[kept]]))
