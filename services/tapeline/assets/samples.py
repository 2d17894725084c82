"""The samples of one symbol: their times, features, labels, and which of them are whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.component import Instance
from tapeline.assets.view import Market, Unit, View

CARRY_ROWS = 5


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Samples in order of time.

    Attributes
    ----------
    t0 : int64 ns, shape (n,), when the sample is asked about
    session : int64, shape (n,), number of its session within the build
    features : float32, shape (n, ...), by name
    labels : float32, shape (n, columns), by name
    t1 : int64 ns, shape (n, labels), end of the last bar that each label read
    dropped : rows that are no samples, by the feature or label that says so
    """

    t0: NDArray[np.int64]
    session: NDArray[np.int64]
    features: Mapping[str, NDArray[np.float32]]
    labels: Mapping[str, NDArray[np.float32]]
    t1: NDArray[np.int64]
    dropped: Mapping[str, int] = field(default_factory=dict)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Samples:
        """Some of the rows."""
        return Samples(
            self.t0[rows],
            self.session[rows],
            {name: values[rows] for name, values in self.features.items()},
            {name: values[rows] for name, values in self.labels.items()},
            self.t1[rows],
            self.dropped,
        )


def sample_times(
    market: Market, unit: Unit, size: int, days: Mapping[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ends of the sampling bars that lie in `days`, and the number of the session of each."""
    grid = market.grid(unit, size)
    numbers = np.array([days.get(date, -1) for date in market.dates], np.int64)
    session = numbers[market.session[grid.segment]] if len(grid.end) else np.empty(0, np.int64)
    kept = session >= 0
    return grid.end[kept], session[kept]


def as_stored(values: NDArray[np.float64] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Values as a file holds them: float32, C order, NaN for what float32 cannot hold."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def make(
    market: Market,
    features: Sequence[Instance],
    labels: Sequence[Instance],
    unit: Unit,
    size: int,
    days: Mapping[str, int],
    missing: str,
) -> Samples:
    """The samples of a symbol that have every label, enough history, and features as `missing` demands.

    Parameters
    ----------
    days : trade dates of the build, with their numbers
    missing : `drop` leaves out rows with a NaN, `zero` writes 0, `carry` repeats at most 5 rows of the session
    """
    t0, session = sample_times(market, unit, size, days)
    view = View(market, t0)
    kept = np.ones(len(t0), bool)
    dropped: dict[str, int] = {}

    def drop(name: str, bad: NDArray[np.bool_]) -> None:
        dropped[name] = int((bad & kept).sum())
        kept[bad] = False

    columns: dict[str, NDArray[np.float32]] = {}
    for instance in features:
        values = as_stored(instance.compute(view))
        short = view.past(instance.params.unit, instance.params.size) < instance.warmup_bars
        if missing != "drop":
            values = fill(values, session, carry=missing == "carry")
        columns[instance.name] = values
        drop(instance.name, short | _has_nan(values))
    targets: dict[str, NDArray[np.float32]] = {}
    ends = np.empty((len(t0), len(labels)), np.int64)
    for j, instance in enumerate(labels):
        values, ends[:, j] = instance.compute(view)
        targets[instance.name] = as_stored(values)
        drop(instance.name, (ends[:, j] < 0) | _has_nan(targets[instance.name]))
    return Samples(t0, session, columns, targets, ends, dropped).take(kept)


def fill(values: NDArray[np.float32], session: NDArray[np.int64], *, carry: bool) -> NDArray[np.float32]:
    """Values without NaN as far as the rule goes: zeros, or the last row's value for up to 5 rows."""
    holes = np.isnan(values)
    if not carry:
        return np.where(holes, np.float32(0), values)
    out = values.copy()
    for _ in range(CARRY_ROWS):
        same = np.zeros(len(session), bool)
        same[1:] = session[1:] == session[:-1]
        before = np.concatenate([out[:1], out[:-1]])
        take = np.isnan(out) & ~np.isnan(before) & same.reshape(-1, *[1] * (out.ndim - 1))
        if not bool(take.any()):
            break
        # One row a round, so that a hole is filled from the row before it and never from further ahead.
        out = np.where(take, before, out)
    return out


def _has_nan(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.isnan(values).reshape(len(values), -1).any(axis=1), dtype=np.bool_)


def joined(parts: Sequence[Samples]) -> tuple[Samples, NDArray[np.uint16]]:
    """The samples of all symbols in order of (time, symbol), and the number of each one's symbol."""
    symbol = np.concatenate([np.full(len(part.t0), i, np.uint16) for i, part in enumerate(parts)])
    t0 = np.concatenate([part.t0 for part in parts])
    order = np.lexsort((symbol, t0))
    dropped: dict[str, int] = {}
    for part in parts:
        for name, count in part.dropped.items():
            dropped[name] = dropped.get(name, 0) + count
    whole = Samples(
        t0,
        np.concatenate([part.session for part in parts]),
        {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
        {name: np.concatenate([part.labels[name] for part in parts]) for name in parts[0].labels},
        np.concatenate([part.t1 for part in parts]),
        dropped,
    )
    return whole.take(order), symbol[order]
