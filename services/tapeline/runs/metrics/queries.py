"""Rows of measurements to points: exact, newest first, effective or raw by attempt."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from heapq import heappush, heapreplace
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, bindparam, func, select

from tapeline.columns import Points, joined, pack, point_id
from tapeline.contracts.metrics import AttemptMetricsView, ChunkView, ColumnsView, ReadColumns
from tapeline.contracts.runs import ListMetrics, MetricView, ProgressView
from tapeline.metric_archives import Files
from tapeline.runs.metrics import batch as batches
from tapeline.runs.metrics.effective import Effective
from tapeline.runs.metrics.tables import latest_metrics, metric_attempts, metric_batches, metric_segments, progress
from tapeline.runs.metrics.units import MOST, Unit, Wanted, bounds, chosen, walk
from tapeline.runs.moments import moment, us_of

PAGE_BYTES = 940_000
"""Bytes of the chunks of one page of columns, as they travel; a message holds 1 MiB."""
MOST_BYTES = 990_000
AHEAD = 32
"""Pages at most that are told in advance: a caller may ask for several at once."""
_s = metric_segments.c
AT_ONCE = 4000
"""Latest values that are read at once: always more than a message holds."""
_LATEST = (
    select(latest_metrics)
    .where(
        latest_metrics.c.team == bindparam("of"),
        latest_metrics.c.run_id == bindparam("run"),
        latest_metrics.c.tag > bindparam("last"),
    )
    .order_by(latest_metrics.c.tag)
    .limit(AT_ONCE)
)
_PROGRESS = (
    select(progress)
    .where(progress.c.team == bindparam("of"), progress.c.run_id.in_(bindparam("runs", expanding=True)))
    .order_by(progress.c.updated_us, progress.c.operation)
)


def points(
    connection: Connection, team: str, run_id: str, query: ListMetrics, files: Files | None = None
) -> list[MetricView]:
    """Points of a run, newest first."""
    if query.limit == 0 or query.global_steps == [] or query.tags == []:
        return []
    before = us_of(query.created_before) if query.created_before is not None else None
    wanted = Wanted(team=team, run=run_id, tags=query.tags, attempt=query.attempt, before_us=before, files=files)
    effective = Effective(connection, wanted, bounds(connection, team, run_id))
    lots: list[tuple[Unit, Points]] = []
    # The times of the newest points so far, the earliest of them first.
    newest: list[int] = []
    for unit in walk(connection, wanted):
        # All points later than the last of this unit have been seen.
        if len(newest) == query.limit and newest[0] > unit.last_us:
            break
        found = _filtered(effective.of(unit), query, before)
        if not len(found):
            continue
        lots.append((unit, found))
        # The times of a lot ascend.
        for time_us in reversed(found.times[-query.limit :].tolist()):
            if len(newest) < query.limit:
                heappush(newest, time_us)
            elif time_us > newest[0]:
                heapreplace(newest, time_us)
            else:
                break
    return _newest(run_id, lots, query.limit)


def _filtered(found: Points, query: ListMetrics, before: int | None) -> Points:
    import numpy as np

    if before is not None and len(found) and int(found.times[-1]) >= before:
        found = found.take(found.times < before)
    if query.global_steps is not None and len(found):
        found = found.take(np.isin(found.steps, query.global_steps))
    return found


def _newest(run_id: str, lots: Sequence[tuple[Unit, Points]], limit: int) -> list[MetricView]:
    import numpy as np

    if not lots:
        return []
    everything = joined(found for _, found in lots)
    owner = np.repeat(np.arange(len(lots)), [len(found) for _, found in lots])
    chosen = np.argsort(-everything.times, kind="stable")[:limit]
    kept = everything.take(chosen)
    rows = zip(
        owner[chosen].tolist(), kept.steps.tolist(), kept.times.tolist(), kept.values(), strict=True
    )  # fmt: skip
    return [
        MetricView(
            id=point_id(run_id, time_us), created_at=moment(time_us), run_id=run_id, global_step=step,
            tag=lots[place][0].tag, value=_plain(value), job_id=f"{run_id}.{lots[place][0].attempt}",
        )
        for place, step, time_us, value in rows
    ]  # fmt: skip


def _plain(value: float | int) -> float | int | Literal["NaN", "Infinity", "-Infinity"]:
    if isinstance(value, float) and not math.isfinite(value):
        return batches.special(value)  # type: ignore[return-value]
    return value


def columns(
    connection: Connection, team: str, run_id: str, query: ReadColumns, files: Files | None = None
) -> ColumnsView:
    """Points of a run as packed columns, unit by unit, newest first; units that count whole go out as they lie."""
    if query.tags == []:
        return ColumnsView(chunks=[], next=None)
    given = us_of(query.created_before) if query.created_before is not None else None
    before = min((each for each in (given, query.before) if each is not None), default=None)
    # Where the page before ended at a moment, what goes on beyond it is cut there.
    reach = None if query.before is not None and query.reach == query.before else query.reach
    wanted = Wanted(
        team=team, run=run_id, tags=query.tags, attempt=query.attempt, before_us=before, reach_us=reach,
        until_us=query.until, files=files,
    )  # fmt: skip
    effective = Effective(connection, wanted, bounds(connection, team, run_id))
    page: list[tuple[Unit, ChunkView | None]] = []
    size = 0
    for unit in walk(connection, wanted):
        if query.until is not None and unit.last_us < query.until:
            break
        body = _body(effective, unit, before)
        chunk = None
        if body is not None:
            size += _room(len(body), unit.tag)
            # One batch is never told in two pages: it fits a message, as it came in one.
            is_one_batch = unit.batch_us is not None and page and page[0][0].batch_us == unit.batch_us
            if size > (MOST_BYTES if is_one_batch else PAGE_BYTES) and any(chunk is not None for _, chunk in page):
                return _cut(connection, wanted, page, unit, query)
            chunk = ChunkView(tag=unit.tag, attempt=unit.attempt, body=base64.b64encode(body).decode())
        page.append((unit, chunk))
    return ColumnsView(chunks=[chunk for _, chunk in page if chunk is not None], next=None)


def _cut(
    connection: Connection,
    wanted: Wanted,
    page: list[tuple[Unit, ChunkView | None]],
    following: Unit,
    query: ReadColumns,
) -> ColumnsView:
    """A page that is full, and where the next one begins: below its last unit, or before a batch.

    Batches may become segments between two pages, of which the newest point tells nothing of where the page ended.
    What no segment holds yet is therefore cut between two batches, whose times never overlap, and told by that time.
    """
    whole = [each for each in page if each[0].batch_us is None or each[0].batch_us != following.batch_us]
    if any(chunk is not None for _, chunk in whole):
        following = next((unit for unit, _ in page[len(whole) :]), following)
        page = whole
    chunks = [chunk for _, chunk in page if chunk is not None]
    at = page[-1][0].batch_us
    if at is not None and following.last_us < at and _is_border(connection, wanted, at):
        return ColumnsView(chunks=chunks, next=at, before=at)
    reach = page[-1][0].last_us
    is_beyond = query.before is not None and reach > query.before
    ahead = _ahead(connection, wanted, reach) if query.until is None else []
    return ColumnsView(chunks=chunks, next=reach, before=query.before if is_beyond else None, ahead=ahead)


def _is_border(connection: Connection, wanted: Wanted, time_us: int) -> bool:
    """Whether batches begin before a time, and no segment lies on both sides of it: no late attempt is among them."""
    straddling = chosen(select(_s.tag), wanted).where(_s.last_us >= time_us, _s.first_us < time_us).limit(1)
    return _is_any_batch_before(connection, wanted, time_us) and connection.scalar(straddling) is None


def _is_any_batch_before(connection: Connection, wanted: Wanted, time_us: int) -> bool:
    """Whether a batch that no segment holds yet begins before a time."""
    b = metric_batches.c
    found = select(b.batch).where(b.team == wanted.team, b.run_id == wanted.run, b.first_us < time_us).limit(1)
    return connection.scalar(found) is not None


def _body(effective: Effective, unit: Unit, before: int | None) -> bytes | None:
    """The packed points of a unit that count, as they lie where all of them do; None where there are none."""
    if (before is None or unit.last_us < before) and effective.counts_whole(unit):
        return unit.packed
    found = effective.of(unit)
    if before is not None and len(found) and int(found.times[-1]) >= before:
        found = found.take(found.times < before)
    if not len(found):
        return None
    return unit.packed if unit.given is None and len(found) == unit.count else pack(found)


def _room(size: int, tag: str) -> int:
    """The bytes that a chunk takes in a reply."""
    return -(-size // 3) * 4 + len(tag.encode()) + tag.count('"') + tag.count("\\") + 48


def _ahead(connection: Connection, wanted: Wanted, reach: int) -> list[int]:
    """Where the pages after the next one begin, as far as that can be told from the sizes of segments."""
    is_beyond = wanted.before_us is not None and reach > wanted.before_us
    if is_beyond or _is_any_batch_before(connection, wanted, reach):
        # What is no segment yet becomes part of one any moment.
        return []
    rows = (
        chosen(select(_s.last_us, _s.tag, func.coalesce(func.length(_s.body), _s.size_bytes)), wanted)
        .where(_s.last_us < reach)
        .order_by(_s.last_us.desc())
        .limit(AHEAD * MOST)
    )
    found: list[int] = []
    size, last = 0, reach
    for last_us, tag, length in map(tuple, connection.execute(rows)):
        size += _room(length, tag)
        if size > PAGE_BYTES and last != reach:
            found.append(last)
            size = _room(length, tag)
            if len(found) == AHEAD:
                break
        last = last_us
    return found


def latest(
    connection: Connection, team: str, run_id: str, after: str | None = None, files: Files | None = None
) -> list[MetricView]:
    """The last effective point of every tag, by tag, or of the tags after one."""
    effective = bounds(connection, team, run_id)
    found: list[MetricView] = []
    while True:
        rows = connection.execute(_LATEST, {"of": team, "run": run_id, "last": after or ""}).mappings().all()
        for row in rows:
            bound = effective.get(row["attempt"])
            if bound is None or row["global_step"] <= bound:
                found.append(_latest_of(row))
                continue
            # A later attempt has superseded this point and not measured this tag yet.
            found += points(connection, team, run_id, ListMetrics(run=run_id, tags=[row["tag"]], limit=1), files)
        # More than a message holds is left for the next question.
        if len(rows) < AT_ONCE or len(found) >= AT_ONCE:
            return found
        after = rows[-1]["tag"]


def _latest_of(row: RowMapping) -> MetricView:
    value: Any = row["whole"] if row["whole"] is not None else row["real"] if row["special"] is None else row["special"]
    return MetricView(
        id=point_id(row["run_id"], row["time_us"]),
        created_at=moment(row["time_us"]),
        run_id=row["run_id"],
        global_step=row["global_step"],
        tag=row["tag"],
        value=value,
        job_id=f"{row['run_id']}.{row['attempt']}",
    )


def attempts(connection: Connection, team: str, run_id: str) -> list[AttemptMetricsView]:
    """What is stored of each attempt of a run."""
    m = metric_attempts.c
    statement = select(metric_attempts).where(m.team == team, m.run_id == run_id).order_by(m.attempt)
    return [
        AttemptMetricsView(
            attempt=row["attempt"], batches=row["batch"], points=row["points"], refused=row["refused"],
            refusal=row["refusal"], is_sealed=row["is_sealed"],
        )
        for row in connection.execute(statement).mappings()
    ]  # fmt: skip


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
