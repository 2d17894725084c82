"""Check 9: a single feature that knows the label too well, or knows it for one bar only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.certificate import Check
from tapeline.assets.component import Instance
from tapeline.measures import products, rank_sums

TOO_GOOD = 0.9
EDGE = 0.2
LEFT = 0.25
ROWS = 4_000
COLUMNS = 512
SHOWN = 10

Floats = NDArray[np.float64]


def too_good(
    features: Mapping[str, NDArray[np.float32]],
    labels: Mapping[str, NDArray[np.float32]],
    label_instances: Sequence[Instance],
    symbol: NDArray[np.uint16],
    session: NDArray[np.int64],
) -> Check:
    """A warning for each feature whose AUC or correlation with a label column is above 0.9, over train rows.

    Notes
    -----
    For classes the measure is 2 x AUC - 1 of each class against the others (0.8 is an AUC of 0.9), for numbers
    Pearson's correlation. What has an edge above 0.2 is looked at again with the feature of the row before: an
    edge of which less than a quarter is left comes from the newest bar alone, as that of a bar not yet over does.
    """
    n = len(symbol)
    rows = np.arange(0, n, max(1, -(-n // ROWS)))
    before = np.full(n, -1)
    for number in np.unique(symbol):
        own = np.flatnonzero(symbol == number)
        before[own[1:]] = np.where(session[own[1:]] == session[own[:-1]], own[:-1], -1)
    rows = rows[before[rows] >= 0]
    edges: list[dict[str, Any]] = []
    warnings: list[str] = []
    targets = [
        (instance.name, name, kind, column)
        for instance in label_instances
        for name, kind, values in zip(
            instance.columns.names, instance.columns.types, labels[instance.name].T, strict=True
        )
        for column in _targets(values[rows].astype(np.float64), kind)
    ]
    sought = _Targets([target for *_, target in targets], [kind for *_, kind, _ in targets])
    for feature, values in features.items():
        found_of, earlier = _Columns(_flat(values, rows)).edges(sought), _flat(values, before[rows])
        best = np.abs(found_of).argmax(axis=1) if found_of.size else np.empty(0, np.int64)
        # The strongest column of each target, a row earlier; most are strongest for several.
        chosen = np.unique(best)
        later = _Columns(np.ascontiguousarray(earlier[:, chosen])).edges(sought)
        for i, k in enumerate(best.tolist()):
            label, column, kind, _ = targets[i]
            edge = float(found_of[i, k])
            shifted = float(later[i, int(np.searchsorted(chosen, k))])
            edges.append({"feature": feature, "column": k, "label": label, "label_column": column,
                          "edge": round(edge, 6), "one_bar_later": round(shifted, 6)})  # fmt: skip
            limit = TOO_GOOD if kind == "regression" else 2 * TOO_GOOD - 1
            measure = f"correlation {abs(edge):.3f}" if kind == "regression" else f"AUC {(1 + abs(edge)) / 2:.3f}"
            if abs(edge) > limit:
                warnings.append(f"{feature!r} column {k} has {measure} with {label!r} {column}: too good to be true")
            elif abs(edge) > EDGE and abs(shifted) < LEFT * abs(edge):
                warnings.append(f"{feature!r} column {k} has {measure} with {label!r} {column}, and nearly none a "
                                "bar later: look whether its newest bar is over")  # fmt: skip
    edges.sort(key=lambda each: -abs(each["edge"]))
    numbers = {"rows": len(rows), "edges": edges[:SHOWN]}
    return Check(9, "too_good", "warned" if warnings else "passed", numbers, None, list(dict.fromkeys(warnings)))


def _targets(values: Floats, kind: str) -> list[Floats]:
    if not kind.startswith("multiclass"):
        return [values]
    return [(values == number).astype(np.float64) for number in np.unique(values)]


def _flat(values: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    wide = int(np.prod(values.shape[1:])) > COLUMNS
    chosen = values[rows, -1] if wide and values.ndim > 2 else values[rows]
    return chosen.reshape(len(rows), -1)[:, :COLUMNS]


class _Targets:
    """Label columns as matrices: what all features are measured against."""

    def __init__(self, targets: Sequence[Floats], kinds: Sequence[str]) -> None:
        n = len(targets[0]) if targets else 0
        whole = np.stack(targets) if targets else np.empty((0, n))
        self.is_number = np.array([kind == "regression" for kind in kinds], bool)
        numbers = whole[self.is_number]
        self.about = numbers - numbers.mean(axis=1, keepdims=True) if n else numbers
        self.positive = (whole[~self.is_number] > 0).astype(np.float64)


class _Columns:
    """The columns of a feature, which all labels are held against: float32, shape (n, k)."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self._values = values

    def edges(self, targets: _Targets) -> Floats:
        """2 AUC - 1, or the correlation, of each column with each target: (targets, k); 0 where one is constant."""
        n, k = self._values.shape
        out = np.zeros((len(targets.is_number), k if n >= 2 else 0))
        if out.size == 0:
            return out
        if bool(targets.is_number.any()):
            found, squares = products(self._values, targets.about)
            spread = np.sqrt(np.square(targets.about).sum(axis=1)[:, None] * squares)
            out[targets.is_number] = np.divide(found, spread, out=np.zeros_like(found), where=spread > 0)
        if not bool(targets.is_number.all()):
            ones = targets.positive.sum(axis=1, keepdims=True)
            # A sum of ranks is an area under a curve; equal values share theirs.
            above = rank_sums(self._values, targets.positive) / 2 - ones * (ones + 1) / 2
            pairs = ones * (n - ones)
            found = 2 * above / np.maximum(pairs, 1) - 1
            out[~targets.is_number] = np.where(pairs > 0, found, 0.0)
        return out
