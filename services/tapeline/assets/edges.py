"""Check 9: a single feature that knows the label too well, or knows it for one bar only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.certificate import Check
from tapeline.assets.component import Instance

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
    for feature, values in features.items():
        now, earlier = _Columns(_flat(values, rows)), _flat(values, before[rows])
        for label, column, kind, target in targets:
            found = now.edges(target, kind)
            if not len(found):
                continue
            k = int(np.abs(found).argmax())
            edge = float(found[k])
            shifted = float(_Columns(earlier[:, k : k + 1]).edges(target, kind)[0])
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


def _flat(values: NDArray[np.float32], rows: NDArray[np.int64]) -> Floats:
    wide = int(np.prod(values.shape[1:])) > COLUMNS
    chosen = values[rows, -1] if wide and values.ndim > 2 else values[rows]
    return np.asarray(chosen.reshape(len(rows), -1)[:, :COLUMNS], dtype=np.float64)


class _Columns:
    """The columns of a feature, with their ranks and deviations, which all labels share."""

    def __init__(self, values: Floats) -> None:
        self._values = values

    @cached_property
    def _ranks(self) -> Floats:
        # Twice the rank; equal values share theirs: a sum of ranks is then the area under the curve.
        n = len(self._values)
        ranks = np.empty((self._values.shape[1], n))
        for column, out in zip(np.ascontiguousarray(self._values.T), ranks, strict=True):
            order = np.argsort(column)
            ordered = column[order]
            first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
            stop = np.append(first[1:], n)
            out[order] = np.repeat(first + stop + 1, stop - first)
        return ranks

    @cached_property
    def _deviations(self) -> tuple[Floats, Floats]:
        about = self._values - self._values.mean(axis=0)
        return about, np.square(about).sum(axis=0)

    def edges(self, target: Floats, kind: str) -> Floats:
        """2 AUC - 1, or the correlation, of each column with a target: shape (k,); 0 where either does not vary."""
        if len(target) < 2 or self._values.shape[1] == 0:
            return np.empty(0)
        if kind == "regression":
            about, squares = self._deviations
            b = target - target.mean()
            spread = np.sqrt(squares * np.square(b).sum())
            out = np.zeros(about.shape[1])
            np.divide(b @ about, spread, out=out, where=spread > 0)
            return out
        positive = target > 0
        ones = float(positive.sum())
        zeros = len(target) - ones
        if ones == 0 or zeros == 0:
            return np.zeros(self._values.shape[1])
        above = self._ranks @ positive.astype(np.float64) / 2 - ones * (ones + 1) / 2
        return np.asarray(2 * above / (ones * zeros) - 1, dtype=np.float64)
