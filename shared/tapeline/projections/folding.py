"""One stretch of events into the rows of a projection: read what they touch, fold in memory, write each row once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table

from tapeline.errors import TapelineError
from tapeline.projections.parked import MAX_ERROR, Parked
from tapeline.projections.rows import Rows
from tapeline.projections.source import Projection
from tapeline.projections.statements import Key

FOLD_FAULTS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, TapelineError)
"""What a fold raises at an event that it does not understand."""

Park = Callable[[Any, Exception], Parked]


def fold(
    connection: Connection,
    projection: Projection,
    rows: Rows,
    events: Sequence[Any],
    parked: Mapping[str, Parked],
    park: Park,
    aggregate_of: Callable[[Any], str],
) -> dict[str, Parked]:
    """Fold events into rows and write what changed; gives what could not be folded.

    Events of what is parked are left out. A commit counts whole or not at all.
    """
    if not parked:
        try:
            _fold_all(connection, projection, rows, events)
        except FOLD_FAULTS:
            # One of them cannot be folded: all of them once more, with an eye on which.
            rows.forget()
        else:
            rows.store(connection)
            return {}
    new: dict[str, Parked] = {}
    wanted: dict[Table, dict[Key, None]] = defaultdict(dict)
    foldable = []
    keys, apply = projection.keys, projection.apply
    for event in events:
        aggregate = aggregate_of(event)
        if aggregate in parked or aggregate in new:
            continue
        try:
            for table, key in keys(event):
                wanted[table][key] = None
            foldable.append((aggregate, event))
        except FOLD_FAULTS as error:
            new[aggregate] = park(event, error)
    for table, found in wanted.items():
        rows.load(connection, table, found)
    place = 0
    for aggregate, event in foldable:
        if new and aggregate in new and event.position >= new[aggregate].position:
            continue
        if event.position != place:
            place = event.position
            rows.keep()
        try:
            apply(rows, event)
        except FOLD_FAULTS as error:
            rows.rewind()
            new[aggregate] = park(event, error)
    rows.store(connection)
    return new


def _fold_all(connection: Connection, projection: Projection, rows: Rows, events: Sequence[Any]) -> None:
    """Fold events of which each can be folded."""
    keys, apply = projection.keys, projection.apply
    if not rows.is_whole:
        wanted: dict[Table, dict[Key, None]] = defaultdict(dict)
        for event in events:
            for table, key in keys(event):
                wanted[table][key] = None
        for table, found in wanted.items():
            rows.load(connection, table, found)
    for event in events:
        apply(rows, event)


def said(error: Exception) -> str:
    """An error in one line, for the list of what is parked."""
    return f"{type(error).__name__}: {error}"[:MAX_ERROR].partition("\n")[0]
