"""Batches of measurements to rows; a batch that is known is dropped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Table

from tapeline.log.metrics import MetricsMessage
from tapeline.projections import Key, Rows
from tapeline.runs.metrics import batch as batches
from tapeline.runs.metrics.tables import TABLES, latest_metrics, metric_batches, progress

name = "run_metrics"
version = 1
kinds: frozenset[str] = frozenset()
tables: Sequence[Table] = TABLES


def keys(event: MetricsMessage) -> Iterable[tuple[Table, Key]]:
    """The rows that a batch touches."""
    found = batches.decode(event.body)
    yield metric_batches, (event.team, event.run, event.attempt, event.batch)
    for column in found.columns:
        yield latest_metrics, (event.team, event.run, column.tag)


def apply(rows: Rows, event: MetricsMessage) -> None:
    """Fold one batch into its rows."""
    if rows.get(metric_batches, event.team, event.run, event.attempt, event.batch) is not None:
        return
    found = batches.decode(event.body)
    row: dict[str, Any] = {
        "team": event.team, "run_id": event.run, "attempt": event.attempt, "batch": event.batch,
        "points": found.points, "refused": found.refused[:400] if found.refused else None, "body": event.body,
    }  # fmt: skip
    if found.columns:
        import numpy as np

        times = np.concatenate([column.times_us() for column in found.columns])
        steps = np.concatenate([column.steps() for column in found.columns])
        row |= {
            "first_us": int(times.min()), "last_us": int(times.max()),
            "min_step": int(steps.min()), "max_step": int(steps.max()),
        }  # fmt: skip
    rows.put(metric_batches, row)
    for column in found.columns:
        _keep_latest(rows, event, column)
    for said in found.progress:
        rows.put(
            progress,
            {
                "team": event.team, "run_id": event.run, "operation": said.operation, "value": said.value,
                "final_value": said.final_value, "units": said.units, "updated_us": said.time // 1000,
            },
        )  # fmt: skip


def _keep_latest(rows: Rows, event: MetricsMessage, column: batches.Column) -> None:
    times = column.times_us()
    place = int(times.argmax())
    known = rows.get(latest_metrics, event.team, event.run, column.tag)
    if known is not None and known["time_us"] >= int(times[place]):
        return
    value = column.values()[place].item()
    is_whole = column.kind == "i8"
    is_special = not is_whole and not math.isfinite(value)
    rows.put(
        latest_metrics,
        {
            "team": event.team, "run_id": event.run, "tag": column.tag, "attempt": event.attempt,
            "batch": event.batch, "place": place, "global_step": int(column.steps()[place]),
            "time_us": int(times[place]), "whole": value if is_whole else None,
            "real": None if is_whole or is_special else value,
            "special": batches.special(value) if is_special else None,
        },
    )  # fmt: skip
