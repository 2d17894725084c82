"""Statistics of the train rows: what a model may know of the data before it sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.component import Instance
from tapeline.assets.view import Grid, Market, iso, number
from tapeline.measures import moments


def of_train(
    features: Mapping[str, NDArray[np.float32]],
    labels: Mapping[str, NDArray[np.float32]],
    label_instances: Sequence[Instance],
) -> dict[str, Any]:
    """Mean, variance, minima and maxima of features, and class counts of labels, over the rows given.

    Notes
    -----
    In float64, one number for each column of the last axis, over all rows and all other axes; one order of summation
    serves every machine.
    """
    rows = len(next(iter(features.values())))
    return {
        "part": "train",
        "first_row": 0,
        "stop_row": rows,
        "features": {name: _moments(values) for name, values in features.items()},
        "labels": {instance.name: _classes(labels[instance.name], instance) for instance in label_instances},
    }


def of_fits(features: Sequence[Instance], train: Mapping[str, Market]) -> dict[str, Any]:
    """The numbers that features were fitted with, by feature and symbol, and the sessions that they come from."""
    return {
        feature.name: {
            symbol: {
                "part": "train",
                **_reach(train[symbol].grid(feature.params.unit, feature.params.size)),
                "values": [number(float(value)) for value in values.reshape(-1)],
            }
            for symbol, values in sorted(feature.fitted.items())
        }
        for feature in features
        if feature.fitted
    }


def _reach(grid: Grid) -> dict[str, str | None]:
    """From when to when the bars of a grid end."""
    return {
        "from": iso(int(grid.end[0])) if len(grid) else None,
        "to": iso(int(grid.end[-1])) if len(grid) else None,
    }


def _moments(values: NDArray[np.float32]) -> dict[str, Any]:
    found = moments(values)
    variance = found.second / found.count if found.count else found.second
    return {
        "count": found.count,
        "mean": found.mean.tolist(),
        "variance": variance.tolist(),
        "min": found.low.tolist() if found.count else [],
        "max": found.high.tolist() if found.count else [],
    }


def _classes(values: NDArray[np.float32], instance: Instance) -> list[dict[str, Any]]:
    columns = instance.columns
    made: list[dict[str, Any]] = []
    for j, (name, kind) in enumerate(zip(columns.names, columns.types, strict=True)):
        column = values[:, j]
        if kind == "regression":
            whole = column.astype(np.float64)
            made.append({"name": name, "type": kind, "mean": float(whole.mean()), "variance": float(whole.var())})
        else:
            k = 2 if kind == "binary" else int(kind.removeprefix("multiclass(").removesuffix(")"))
            counts = np.bincount(column.astype(np.int64), minlength=k)
            made.append({"name": name, "type": kind, "counts": counts.tolist()})
    return made
