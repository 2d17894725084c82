"""Batches of measurements to rows: a tail of batches, segments where a batch closes them, and what was archived."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Table

from tapeline.columns import Points, bounds, pack
from tapeline.errors import TapelineError
from tapeline.log.metrics import MetricsMessage
from tapeline.projections import Key, Row, Rows
from tapeline.runs.metrics import batch as batches
from tapeline.runs.metrics.archived import ArchivedRun
from tapeline.runs.metrics.tables import (
    TABLES,
    latest_metrics,
    metric_archives,
    metric_attempts,
    metric_batches,
    metric_segments,
    progress,
)
from tapeline.runs.metrics.thin import STRETCH, thinned
from tapeline.runs.moments import us_of

name = "run_metrics"
version = 3
kinds: frozenset[str] = frozenset()
tables: Sequence[Table] = TABLES

LONGEST = 8192
"""Points of one segment at most. An archive names segments by their last times: while batches stand before a marker
they must make the same segments, or points would be there twice."""

Measured = MetricsMessage | ArchivedRun


def keys(event: Measured) -> Iterable[tuple[Table, Key]]:
    """The rows that a batch touches; of one that cannot be read the first, and `apply` says why.

    A marker only writes.
    """
    if isinstance(event, ArchivedRun):
        return
    team, run = event.team, event.run
    yield metric_attempts, (team, run, event.attempt)
    try:
        found = batches.decode(event.body)
    except TapelineError:
        return
    for column in found.columns:
        yield latest_metrics, (team, run, column.tag)
    if found.seal is not None:
        for number in range(found.seal, event.batch):
            yield metric_batches, (team, run, event.attempt, number)


def apply(rows: Rows, event: Measured) -> None:
    """Fold one batch into its rows; one that is known is dropped. A marker writes every row of its run."""
    if isinstance(event, ArchivedRun):
        _put_archive(rows, event)
        return
    team, run, attempt = event.team, event.run, event.attempt
    known = rows.get(metric_attempts, team, run, attempt) or {
        "team": team, "run_id": run, "attempt": attempt, "batch": 0, "points": 0, "max_step": None, "refused": 0,
        "refusal": None,
    }  # fmt: skip
    if event.batch <= known["batch"]:
        return
    found = batches.decode(event.body)
    points = {column.tag: column.points() for column in found.columns}
    steps = [bounds(each.steps)[1] for each in points.values()]
    rows.put(
        metric_attempts,
        known
        | {
            "batch": event.batch, "upto": found.upto, "points": known["points"] + found.points,
            "max_step": max([*steps, *([known["max_step"]] if known["max_step"] is not None else [])], default=None),
            "is_sealed": found.seal is not None, "refused": known["refused"] + (found.refused is not None),
            "refusal": found.refused[:400] if found.refused else known["refusal"],
        },
    )  # fmt: skip
    if found.seal is not None:
        _seal(rows, event, found)
    elif points:
        times = [bounds(each.times) for each in points.values()]
        rows.put(
            metric_batches,
            {
                "team": team, "run_id": run, "attempt": attempt, "batch": event.batch,
                "first_us": min(first for first, _ in times), "last_us": max(last for _, last in times),
                "body": event.body,
            },
        )  # fmt: skip
    for tag, each in points.items():
        _keep_latest(rows, event, tag, each)
    for said in found.progress:
        rows.put(
            progress,
            {
                "team": team, "run_id": run, "operation": said.operation, "value": said.value,
                "final_value": said.final_value, "units": said.units, "updated_us": said.time // 1000,
            },
        )  # fmt: skip


def _seal(rows: Rows, event: MetricsMessage, last: batches.Batch) -> None:
    """Make segments of the batches that this one closes, and let them go."""
    gathered: list[batches.Batch] = []
    for number in range(last.seal or event.batch, event.batch):
        key = (event.team, event.run, event.attempt, number)
        row = rows.get(metric_batches, *key)
        if row is not None:
            gathered.append(batches.decode(row["body"]))
            rows.delete(metric_batches, *key)
    for row in segments(event.team, event.run, event.attempt, [*gathered, last]):
        rows.put(metric_segments, row)


def segments(team: str, run: str, attempt: int, many: Iterable[batches.Batch]) -> Iterator[Row]:
    """The rows of the segments that batches of an attempt become together."""
    for tag, points in batches.merged(many).items():
        # Even parts, so that none of them is a rest of a few points.
        parts = -(-len(points) // LONGEST)
        size = -(-len(points) // parts)
        for start in range(0, len(points), size):
            yield _segment(team, run, attempt, tag, points.take(slice(start, start + size)))


def _segment(team: str, run: str, attempt: int, tag: str, points: Points) -> Row:
    # Where a step was measured twice, a curve is drawn from the points themselves.
    is_thin = len(points) > 2 * STRETCH and bool((points.steps[1:] > points.steps[:-1]).all())
    return {
        "team": team, "run_id": run, "tag": tag, "last_us": int(points.times[-1]),
        "first_us": int(points.times[0]), "attempt": attempt, "points": len(points),
        "min_step": int(points.steps.min()), "max_step": int(points.steps.max()),
        "nonfinite": len(points) - int(points.finite().sum()), "body": pack(points),
        "thin": pack(thinned(points)) if is_thin else None,
    }  # fmt: skip


def _put_archive(rows: Rows, event: ArchivedRun) -> None:
    """Write what a manifest tells of its run: the same rows whether its batches were folded before or are gone."""
    if event.fault is not None:
        raise event.fault
    found, at = event.manifest, event.at
    if found is None or at is None:
        raise TapelineError(f"the marker at {event.position} names no manifest", code="corrupt")
    of = {"team": event.team, "run_id": event.run}
    for attempt, first in found.unsealed.items():
        for number in range(first, found.ledger[attempt][0] + 1):
            rows.delete(metric_batches, event.team, event.run, attempt, number)
    for table, many in ((metric_attempts, found.attempts), (latest_metrics, found.latest), (progress, found.progress)):
        for row in many:
            rows.put(table, of | row)
    for one in found.segments:
        rows.put(
            metric_segments,
            of | {
                "tag": one.tag, "attempt": one.attempt, "first_us": one.first_us, "last_us": one.last_us,
                "points": one.points, "min_step": one.min_step, "max_step": one.max_step, "nonfinite": one.nonfinite,
                "thin": one.thin, "object": found.objects[one.object].sha256, "place": one.offset,
                "size_bytes": one.size_bytes, "digest": one.digest,
            },
        )  # fmt: skip
    rows.put(
        metric_archives,
        of | {
            "position": event.position, "through": found.through, "manifest": at.sha256, "messages": event.messages,
            "batches": found.batches, "points": found.points, "objects": len(found.objects),
            "size_bytes": found.size_bytes, "archived_us": us_of(event.stored_at),
        },
    )  # fmt: skip


def _keep_latest(rows: Rows, event: MetricsMessage, tag: str, points: Points) -> None:
    place = int(points.times.argmax()) if len(points) > 1 else 0
    time_us = int(points.times[place])
    known = rows.get(latest_metrics, event.team, event.run, tag)
    if known is not None and (known["attempt"], known["time_us"]) >= (event.attempt, time_us):
        return
    # One number is read without making arrays of it: a run may have ten thousand tags.
    is_whole = bool(points.whole[place])
    value: Any = int(points.bits[place]) if is_whole else float(points.bits.view("<f8")[place])
    is_special = not is_whole and not math.isfinite(value)
    rows.put(
        latest_metrics,
        {
            "team": event.team, "run_id": event.run, "tag": tag, "attempt": event.attempt,
            "global_step": int(points.steps[place]), "time_us": time_us, "whole": value if is_whole else None,
            "real": None if is_whole or is_special else value,
            "special": batches.special(value) if is_special else None,
        },
    )  # fmt: skip
