"""Objects made column by column, in plain Python."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any, TypeVar

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def made(kind: type[T], slots: Mapping[Any, Any], names: Sequence[str], columns: Sequence[Any], count: int) -> list[T]:
    """Objects whose fields are columns, made without their class's own ways: nothing is checked.

    Parameters
    ----------
    kind : the class; it makes its objects as `object` does
    slots : by its descriptor, what every object has there
    names, columns : the fields of `__dict__`, in their order; a column is a list, or what all objects share
    count : how many objects
    """
    for column in columns:
        if type(column) is list and len(column) != count:
            raise ValueError(f"a column of {len(column)} for {count} objects")
    found = list(map(object.__new__, repeat(kind, count)))
    given = [column if type(column) is list else repeat(column, count) for column in columns]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*given, strict=True)]
    deque(map(kind.__dict__.get("__dict__", _of_base(kind)).__set__, found, rows), 0)
    for slot, value in slots.items():
        deque(map(slot.__set__, found, repeat(value)), 0)
    return found


def _of_base(kind: type) -> Any:
    return next(base.__dict__["__dict__"] for base in kind.__mro__ if "__dict__" in base.__dict__)


def moments(times: Any) -> list[datetime]:
    """The UTC times that microseconds since 1970 stand for; `times` is an array of int64."""
    return [_EPOCH + timedelta(microseconds=time_us) for time_us in times.tolist()]


def texts(head: str, times: Any) -> list[str]:
    """`head` with the low 48 bits of each number after it, in twelve hexadecimal digits; `times` is int64."""
    return [f"{head}{time_us & 0xFFFFFFFFFFFF:012x}" for time_us in times.tolist()]
