"""Data frames of what the SDK gives: of pandas if it is installed, else of polars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def to_frame(items: Iterable[Any]) -> Any:
    """A data frame of runs, metrics, events or checkpoints, a row each and a column for each attribute.

    Raises
    ------
    ImportError
        Neither pandas nor polars is installed.
    """
    rows = [each.model_dump() if hasattr(each, "model_dump") else dict(each) for each in items]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return frame_of({name: [row.get(name) for row in rows] for name in names})


def frame_of(columns: Mapping[str, Any]) -> Any:
    """A data frame of columns; a vector is one cell."""
    try:
        import pandas

        return pandas.DataFrame({name: _cells(values) for name, values in columns.items()})
    except ImportError:
        pass
    try:
        import polars
    except ImportError as error:
        raise ImportError("a data frame needs pandas or polars: pip install 'tapeline[assets]'") from error
    return polars.DataFrame({name: _cells(values) for name, values in columns.items()}, strict=False)


def _cells(values: Any) -> Any:
    return list(values) if getattr(values, "ndim", 1) > 1 else values
