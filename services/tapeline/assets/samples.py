"""The samples of one symbol: their times, features, labels, and which of them are whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.component import Instance
from tapeline.assets.stack import Stack
from tapeline.assets.view import View, iso
from tapeline.errors import TapelineError
from tapeline.measures import has_nan

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
    filled : rows with a value in place of NaN, by feature
    weight : float32, shape (n,): the product of the weights that labels give, 1 where they give none
    """

    t0: NDArray[np.int64]
    session: NDArray[np.int64]
    features: Mapping[str, NDArray[np.float32]]
    labels: Mapping[str, NDArray[np.float32]]
    t1: NDArray[np.int64]
    weight: NDArray[np.float32]
    dropped: Mapping[str, int] = field(default_factory=dict)
    filled: Mapping[str, int] = field(default_factory=dict)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Samples:
        """Some of the rows; they are not copied where they lie together."""
        rows = together(np.flatnonzero(chosen) if chosen.dtype == np.bool_ else np.asarray(chosen, np.int64))
        return Samples(
            self.t0[rows],
            self.session[rows],
            {name: values[rows] for name, values in self.features.items()},
            {name: values[rows] for name, values in self.labels.items()},
            self.t1[rows],
            self.weight[rows],
            self.dropped,
            self.filled,
        )


def together(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Ascending rows as a slice where they lie together, so that what is taken by them is no copy."""
    if len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1 and bool((rows[1:] > rows[:-1]).all()):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def as_stored(values: NDArray[np.float64] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Values as a file holds them: float32, C order, NaN for what float32 cannot hold."""
    if values.dtype == np.float32:
        return np.ascontiguousarray(values, dtype=np.float32)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def computed(
    view: View, features: Sequence[Instance], labels: Sequence[Instance], *, ahead: bool = False
) -> dict[str, Any]:
    """What each feature and label gives for the samples of a view, or of a stack, by name.

    Each feature is given the history that it says it needs before the first sample, and nothing older, so that
    its values do not depend on where the tape begins.

    Parameters
    ----------
    ahead : whether features may read the future; they are then given all of the past too

    Raises
    ------
    TapelineError
        `lookahead_refused` for a feature that asks for the future, with its name.
    """
    found: dict[str, Any] = {}
    for feature in features:
        try:
            found[feature.name] = np.asarray(
                feature.compute(view.seen(None if ahead else feature.history, ahead=ahead))
            )
        except TapelineError as error:
            if error.code != "lookahead_refused":
                raise
            first = f" at {iso(int(view.times[0]))}" if len(view.times) else ""
            raise TapelineError(
                f"feature {feature.name!r} asked for the future{first}: {error.message}",
                code=error.code,
                hint=error.hint,
            ) from error
    for label in labels:
        found[label.name] = label.compute(view.seen(ahead=True))
    return found


def make(
    stack: Stack,
    features: Sequence[Instance],
    labels: Sequence[Instance],
    session: NDArray[np.int64],
    missing: str,
    known: Mapping[str, Any],
) -> list[Samples]:
    """The samples of each view of a stack that have every label, enough history, and features as `missing` demands.

    Parameters
    ----------
    stack : of views that have samples, no two of them of one session
    session : int64, shape (n,), the number of the session of each sample
    missing : `drop` leaves out rows with a NaN, `zero` writes 0, `carry` repeats at most 5 rows of the session
    known : what `computed` gives
    """
    t0, starts = stack.times, stack.starts
    kept = np.ones(len(t0), bool)
    none = np.zeros(len(starts), np.int64)
    dropped: dict[str, NDArray[np.int64]] = {}
    filled: dict[str, NDArray[np.int64]] = {}

    def count(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.add.reduceat(rows, starts, dtype=np.int64) if bool(rows.any()) else none

    def drop(instance: Instance, bad: NDArray[np.bool_]) -> None:
        depth = stack.depth(instance.params.unit, instance.params.size)
        if int(depth.min()) < instance.warmup_bars:
            bad = bad | (depth < instance.warmup_bars)
        dropped[instance.name] = count(bad & kept)
        kept[bad] = False

    columns: dict[str, NDArray[np.float32]] = {}
    for instance in features:
        values = as_stored(known[instance.name])
        if missing != "drop":
            holes = _has_nan(values)
            values = fill(values, session, carry=missing == "carry")
            filled[instance.name] = count(holes & ~_has_nan(values))
        columns[instance.name] = values
        drop(instance, _has_nan(values))
    targets: dict[str, NDArray[np.float32]] = {}
    ends = np.empty((len(t0), len(labels)), np.int64)
    weight = np.ones(len(t0), np.float32)
    for j, instance in enumerate(labels):
        target, ends[:, j], *weights = known[instance.name]
        for each in weights:
            weight *= as_stored(each)
        targets[instance.name] = as_stored(target)
        drop(instance, (ends[:, j] < 0) | _has_nan(targets[instance.name]) | np.isnan(weight))
    whole = Samples(t0, session, columns, targets, ends, weight)
    made = []
    for k, (low, high) in enumerate(pairwise([*starts.tolist(), len(t0)])):
        counts = [{name: int(found[k]) for name, found in each.items()} for each in (dropped, filled)]
        rows = low + np.flatnonzero(kept[low:high])
        made.append(replace(whole.take(rows), dropped=counts[0], filled=counts[1]))
    return made


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
    return has_nan(values)


def nothing(features: Sequence[Instance], labels: Sequence[Instance]) -> Samples:
    """No samples of some features and labels."""
    none = np.empty(0, np.int64)
    return Samples(
        none,
        none,
        {each.name: np.empty((0, *each.columns.shape), np.float32) for each in features},
        {each.name: np.empty((0, *each.columns.shape), np.float32) for each in labels},
        np.empty((0, len(labels)), np.int64),
        np.empty(0, np.float32),
    )


def one_after_another(parts: Sequence[Samples]) -> Samples:
    """The samples of all parts in their order; what was left out and filled is added up."""
    if len(parts) == 1:
        return parts[0]
    dropped, filled = Counter[str](), Counter[str]()
    for part in parts:
        dropped.update(part.dropped)
        filled.update(part.filled)
    return Samples(
        np.concatenate([part.t0 for part in parts]),
        np.concatenate([part.session for part in parts]),
        {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
        {name: np.concatenate([part.labels[name] for part in parts]) for name in parts[0].labels},
        np.concatenate([part.t1 for part in parts]),
        np.concatenate([part.weight for part in parts]),
        dict(dropped),
        dict(filled),
    )


def joined(parts: Sequence[Samples]) -> tuple[Samples, NDArray[np.uint16]]:
    """The samples of all symbols in order of (time, symbol), and the number of each one's symbol."""
    symbol = np.concatenate([np.full(len(part.t0), i, np.uint16) for i, part in enumerate(parts)])
    whole = one_after_another(parts)
    if len(parts) == 1:
        return whole, symbol
    order = np.lexsort((symbol, whole.t0))
    return whole.take(order), symbol[order]
