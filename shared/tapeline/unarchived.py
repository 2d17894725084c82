"""Archived measurements as the batches that they came in, for who has to see them one after the other once more.

The times of a run never come twice and grow from batch to batch, so a batch is what lies between the last time of
the one before and its own. What comes out folds to the same rows as the batches that were purged.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tapeline.columns import Points, pack, unpack
from tapeline.log.metrics import MetricsMessage, MetricsStream
from tapeline.metric_archives import Arrival, Manifest, arrivals_of, encode, fetch, manifest_at, marker_of
from tapeline.store import ArtifactStore

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PROGRESS = ("operation", "value", "final_value", "units", "time")


def us_of(time: datetime) -> int:
    """Whole microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


async def batches_of(
    store: ArtifactStore, manifest: Manifest, *, until: datetime | None = None
) -> list[MetricsMessage]:
    """The batches that a manifest stands for, in order; those that were stored by a time.

    Raises
    ------
    TapelineError
        `corrupt` when an object is missing or damaged.
    """
    arrivals = [one async for many in arrivals_of(store, manifest) for one in many]
    if until is not None:
        arrivals = [one for one in arrivals if one.stored_us <= us_of(until)]
    columns = await _columns(store, manifest, arrivals)
    ledger: dict[int, list[int]] = {}
    found = []
    for i, one in enumerate(arrivals):
        mine = columns[i]
        _, _, first, points, tags = ledger.get(one.attempt, [0, 0, 1, 0, 0])
        is_first = first == one.batch
        if one.seal is not None:
            ledger[one.attempt] = [one.batch, one.upto, one.batch + 1, 0, 0]
        else:
            points = sum(count for _, count, _ in mine) + (0 if is_first else points)
            tags = max(len(mine), 0 if is_first else tags)
            ledger[one.attempt] = [one.batch, one.upto, first, points, tags]
        found.append(_message(manifest, one, [{"tag": tag, "body": body} for tag, _, body in mine], ledger))
    return found


async def _columns(
    store: ArtifactStore, manifest: Manifest, arrivals: list[Arrival]
) -> dict[int, list[tuple[str, int, bytes]]]:
    """Of each batch by its place: the tag, the count and the packed points of its columns, by tag."""
    ends = [one.last_us for one in arrivals]
    found: dict[int, list[tuple[str, int, bytes]]] = defaultdict(list)
    last_us = ends[-1] if ends else -1
    data: dict[int, bytes] = {}
    for segment in sorted(manifest.segments, key=lambda one: (one.tag, one.first_us)):
        if segment.first_us > last_us:
            continue
        if segment.object not in data:
            data[segment.object] = await fetch(store, manifest.objects[segment.object])
        points = unpack(data[segment.object][segment.offset : segment.offset + segment.size_bytes])
        start = 0
        while start < len(points):
            place = bisect_left(ends, int(points.times[start]))
            if place == len(ends):
                break
            stop = start + int((points.times[start:] <= ends[place]).sum())
            _join(found[place], segment.tag, points.take(slice(start, stop)))
            start = stop
    return found


def _join(columns: list[tuple[str, int, bytes]], tag: str, points: Points) -> None:
    """Add points of a tag, whose batch may have begun in the segment before."""
    from tapeline.columns import joined

    if columns and columns[-1][0] == tag:
        points = joined([unpack(columns.pop()[2]), points])
    columns.append((tag, len(points), pack(points)))


def _message(
    manifest: Manifest, one: Arrival, columns: list[dict[str, Any]], ledger: dict[int, list[int]]
) -> MetricsMessage:
    body = {
        "run": manifest.run, "attempt": one.attempt, "batch": one.batch, "epoch": one.epoch, "last_us": one.last_us,
        "upto": one.upto, "columns": columns,
        "progress": [dict(zip(_PROGRESS, said, strict=True)) for said in one.progress],
        "seal": one.seal, "ledger": ledger, "refused": one.refused,
    }  # fmt: skip
    return MetricsMessage(
        position=one.position, team=manifest.team, run=manifest.run, attempt=one.attempt, batch=one.batch,
        body=encode(body), stored_at=_EPOCH + timedelta(microseconds=one.stored_us),
    )  # fmt: skip


async def all_of_run(
    metrics: MetricsStream, store: ArtifactStore, team: str, run: str
) -> AsyncIterator[MetricsMessage]:
    """Every batch that a run ever had, in order, whether it lies on METRICS or in an archive."""
    is_first = True
    async for one in metrics.messages_of(team, run):
        if one.is_archive and is_first:
            for batch in await batches_of(store, await manifest_at(store, marker_of(one.body).manifest)):
                yield batch
        elif one.is_batch:
            yield one
        is_first = is_first and not (one.is_archive or one.is_batch)


async def purged_by(metrics: MetricsStream, store: ArtifactStore, until: datetime) -> list[MetricsMessage]:
    """The batches that had been stored by a time and whose place a marker took later, by position."""
    seen: set[tuple[str, str]] = set()
    found: list[MetricsMessage] = []
    async for many in metrics.read():
        for one in many:
            of = one.team, one.run
            if of in seen or not (one.is_archive or one.is_batch):
                continue
            # Whatever is before a marker goes at once, so it is the first of a run or stands for nothing that is gone.
            seen.add(of)
            if one.is_archive and one.stored_at > until:
                manifest = await manifest_at(store, marker_of(one.body).manifest)
                batches = await batches_of(store, manifest, until=until)
                # A METRICS that was made anew counts from one again: all of it comes before the marker.
                last = max(1, one.position - 1)
                found += [replace(batch, position=min(batch.position, last)) for batch in batches]
    return sorted(found, key=lambda one: one.position)
