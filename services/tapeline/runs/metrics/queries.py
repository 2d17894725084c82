"""Rows of measurements to points: exact, newest first, effective or raw by attempt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Connection, RowMapping, bindparam, select

from tapeline.contracts.runs import ListMetrics, MetricView, ProgressView
from tapeline.ids import derived_id
from tapeline.runs.metrics import batch as batches
from tapeline.runs.metrics.tables import latest_metrics, metric_batches, progress
from tapeline.runs.moments import moment, us_of
from tapeline.runs.run.tables import attempts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCHES_AT_ONCE = 64
_PROGRESS = (
    select(progress)
    .where(progress.c.team == bindparam("of"), progress.c.run_id.in_(bindparam("runs", expanding=True)))
    .order_by(progress.c.updated_us, progress.c.operation)
)
Bounds = dict[int, int]
"""Per attempt the last step that is effective; an attempt that is not in it is not superseded."""


def bounds(connection: Connection, team: str, run_id: str) -> Bounds:
    """How far each attempt's points are effective: later attempts supersede what lies beyond their start."""
    statement = select(attempts.c.attempt, attempts.c.from_step).where(
        attempts.c.team == team, attempts.c.run_id == run_id
    )
    starts = [(row.attempt, row.from_step) for row in connection.execute(statement) if row.from_step is not None]
    if not starts:
        return {}
    return {
        attempt: min(step for later, step in starts if later > attempt)
        for attempt in range(1, max(later for later, _ in starts))
        if any(later > attempt for later, _ in starts)
    }


def points(connection: Connection, team: str, run_id: str, query: ListMetrics) -> list[MetricView]:
    """Points of a run, newest first."""
    if query.limit == 0 or query.global_steps == [] or query.tags == []:
        return []
    effective = bounds(connection, team, run_id) if query.attempt is None else {}
    statement = (
        select(metric_batches)
        .where(metric_batches.c.team == team, metric_batches.c.run_id == run_id, metric_batches.c.points > 0)
        .order_by(metric_batches.c.last_us.desc())
    )
    if isinstance(query.attempt, int):
        statement = statement.where(metric_batches.c.attempt == query.attempt)
    if query.created_before is not None:
        statement = statement.where(metric_batches.c.first_us < us_of(query.created_before))
    if query.global_steps:
        statement = statement.where(
            metric_batches.c.min_step <= max(query.global_steps), metric_batches.c.max_step >= min(query.global_steps)
        )
    found: list[MetricView] = []
    offset = 0
    while len(found) < query.limit:
        rows = connection.execute(statement.limit(BATCHES_AT_ONCE).offset(offset)).mappings().all()
        for row in rows:
            # Times of a run never overlap between batches: the newest batch has the newest points.
            found += _of_batch(row, query, effective, query.limit - len(found))
            if len(found) >= query.limit:
                break
        if len(rows) < BATCHES_AT_ONCE:
            break
        offset += BATCHES_AT_ONCE
    return found


def _of_batch(row: RowMapping, query: ListMetrics, effective: Bounds, limit: int) -> list[MetricView]:
    import numpy as np

    batch = batches.decode(row["body"])
    chosen: list[tuple[int, int, batches.Column]] = []
    bound = effective.get(row["attempt"])
    for column in batch.columns:
        if query.tags is not None and column.tag not in query.tags:
            continue
        steps, times = column.steps(), column.times_us()
        mask: NDArray[np.bool_] = np.ones(len(steps), dtype=bool)
        if bound is not None:
            mask &= steps <= bound
        if query.global_steps is not None:
            mask &= np.isin(steps, query.global_steps)
        if query.created_before is not None:
            mask &= times < us_of(query.created_before)
        chosen += [(int(times[i]), int(i), column) for i in np.flatnonzero(mask)]
    chosen.sort(key=lambda each: -each[0])
    run_id, attempt = row["run_id"], row["attempt"]
    return [_point(run_id, attempt, row["batch"], column, i, time_us) for time_us, i, column in chosen[:limit]]


def _point(run_id: str, attempt: int, batch: int, column: batches.Column, i: int, time_us: int) -> MetricView:
    return MetricView(
        id=derived_id(run_id, str(attempt), str(batch), column.tag, str(i)),
        created_at=moment(time_us),
        run_id=run_id,
        global_step=int(column.steps()[i]),
        tag=column.tag,
        value=_plain(column.values()[i].item()),
        job_id=f"{run_id}.{attempt}",
    )


def _plain(value: float | int) -> float | int | Literal["NaN", "Infinity", "-Infinity"]:
    if isinstance(value, float) and not math.isfinite(value):
        return batches.special(value)  # type: ignore[return-value]
    return value


def latest(connection: Connection, team: str, run_id: str) -> list[MetricView]:
    """The last effective point of every tag, by tag."""
    effective = bounds(connection, team, run_id)
    statement = (
        select(latest_metrics)
        .where(latest_metrics.c.team == team, latest_metrics.c.run_id == run_id)
        .order_by(latest_metrics.c.tag)
    )
    found = []
    for row in connection.execute(statement).mappings().all():
        bound = effective.get(row["attempt"])
        if bound is None or row["global_step"] <= bound:
            found.append(_latest_of(row))
            continue
        # A later attempt has superseded this point and not measured this tag yet.
        found += points(connection, team, run_id, ListMetrics(run=run_id, tags=[row["tag"]], limit=1))
    return found


def _latest_of(row: RowMapping) -> MetricView:
    value: Any = row["whole"] if row["whole"] is not None else row["real"] if row["special"] is None else row["special"]
    return MetricView(
        id=derived_id(row["run_id"], str(row["attempt"]), str(row["batch"]), row["tag"], str(row["place"])),
        created_at=moment(row["time_us"]),
        run_id=row["run_id"],
        global_step=row["global_step"],
        tag=row["tag"],
        value=value,
        job_id=f"{row['run_id']}.{row['attempt']}",
    )


def progress_of(connection: Connection, team: str, run_ids: Sequence[str]) -> dict[str, tuple[list[ProgressView], int]]:
    """The progress of runs, in the order in which operations were last heard of, and when the last one was."""
    if not run_ids:
        return {}
    found: dict[str, tuple[list[ProgressView], int]] = {}
    for row in connection.execute(_PROGRESS, {"of": team, "runs": list(run_ids)}).mappings():
        views, _ = found.get(row["run_id"], ([], 0))
        view = ProgressView(
            operation=row["operation"], value=row["value"], final_value=row["final_value"], units=row["units"]
        )
        found[row["run_id"]] = ([*views, view], row["updated_us"])
    return found
