"""How much of a sample is its own: labels that overlap in time tell the same story twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.certificate import Check
from tapeline.assets.samples import together
from tapeline.bars import ranks

LEAST = 0.5


def uniqueness(t0: NDArray[np.int64], t1: NDArray[np.int64], symbol: NDArray[np.uint16]) -> NDArray[np.float64]:
    """The mean over [t0, t1] of 1 / concurrency: float64, shape (n,), above 0 and up to 1.

    Parameters
    ----------
    t0, t1 : int64 ns, shape (n,): from when to when each sample's labels reach
    symbol : shape (n,): samples of different symbols do not overlap

    Notes
    -----
    López de Prado, Advances in Financial Machine Learning, section 4.3. Concurrency is counted at the sample times
    and at the ends of labels: how many of the symbol's samples reach over each.
    """
    out = np.ones(len(t0))
    for number in np.unique(symbol):
        rows = together(np.flatnonzero(symbol == number))
        begin, end = np.ascontiguousarray(t0[rows]), np.ascontiguousarray(t1[rows])
        points = np.concatenate([begin, end])
        points.sort(kind="stable")
        points = points[np.append(True, points[1:] != points[:-1])] if len(points) else points
        first, stop = ranks(points, begin), ranks(points, end, right=True)
        steps = np.bincount(first, minlength=len(points) + 1) - np.bincount(stop, minlength=len(points) + 1)
        shares = np.concatenate([[0.0], np.cumsum(1.0 / np.cumsum(steps[:-1]))])
        out[rows] = (shares[stop] - shares[first]) / (stop - first)
    return out


def overlap(found: NDArray[np.float64], *, is_weighed: bool) -> Check:
    """Check 6: a warning where the train samples are less than half their own, and nothing weighs them by it.

    Parameters
    ----------
    found : uniqueness of each train row
    """
    mean = round(float(found.mean()), 6) if len(found) else 1.0
    warnings = []
    if mean < LEAST and not is_weighed:
        warnings.append(f"labels overlap: samples are {mean:.2f} their own on average; use uniqueness: true")
    numbers = {"mean_uniqueness": mean, "rows": len(found), "weighed": is_weighed}
    return Check(6, "overlap", "warned" if warnings else "passed", numbers, None, warnings)
