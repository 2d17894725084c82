"""Moving the points of runs that ended long ago to the artifact store.

The batches of a run are folded once more, as the projection folds them; what comes out lies in objects, and a manifest
says what and where. Then the log has it, then METRICS has a marker that stands for the batches, and the projection
makes rows of the marker. Each step can be repeated: what was killed after any of them is done over and ends the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tapeline import metric_archives as forms
from tapeline.clock import Clock
from tapeline.contracts.archives import MetricsArchived
from tapeline.database import Engine, is_passing
from tapeline.decider import Deciders, Origin, Outcome, origin_of
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.log import Conflict
from tapeline.log.metrics import MetricsMessage, MetricsStream
from tapeline.logs import get_logger
from tapeline.metric_archives import Arrival, Manifest, Object
from tapeline.projections import Rows
from tapeline.runs.metrics import archives
from tapeline.runs.metrics import batch as batches
from tapeline.runs.metrics import projection as metrics_projection
from tapeline.runs.metrics.archived import resolved
from tapeline.runs.metrics.intake import Intake
from tapeline.runs.metrics.tables import (
    latest_metrics,
    metric_attempts,
    metric_batches,
    metric_segments,
    progress,
)
from tapeline.runs.moments import us_of
from tapeline.runs.run import aggregate
from tapeline.runs.run.commands import KeepArchive
from tapeline.store import ArtifactStore
from tapeline.subjects import Ref

log = get_logger()

TRIES = 5
FIRST_S = 10.0
EVERY_S = 3600.0
TOGETHER = 256
"""Messages that are folded at once, beside the event loop."""
ARRIVALS = 50_000
"""Batches of which one object tells."""
ACTOR = "service:runs"


@dataclass(frozen=True, slots=True)
class Kept:
    """An archive that is whole: where its manifest lies, and what it says."""

    at: Object
    manifest: Manifest

    def event(self) -> MetricsArchived:
        """The same as the log has it."""
        found = self.manifest
        objects = [forms.artifact_of(each, f"points-{i:04d}") for i, each in enumerate(found.objects)]
        objects += [forms.artifact_of(each, f"arrivals-{i:04d}") for i, each in enumerate(found.arrivals)]
        return MetricsArchived(
            through=found.through, points=found.points, manifest=forms.artifact_of(self.at, "manifest"),
            objects=objects,
        )  # fmt: skip


@dataclass(slots=True)
class Folded:
    """A run's messages as the projection folds them, and what the manifest has besides."""

    team: str
    run: str
    rows: Rows = field(default_factory=lambda: Rows(is_whole=True))
    position: int = 0
    messages: int = 0
    last_us: int = 0
    marked: Kept | None = None
    arrivals: list[Arrival] = field(default_factory=list)
    reached: dict[int, int] = field(default_factory=dict)

    def take(self, many: Sequence[MetricsMessage]) -> None:
        """Fold batches and what is none; a marker is taken by `begin`."""
        for one in many:
            self.position, self.messages = one.position, self.messages + 1
            if not one.is_batch or one.batch <= self.reached.get(one.attempt, 0):
                continue
            self.marked = None
            found = batches.decode(one.body)
            metrics_projection.apply(self.rows, one)
            self.reached[one.attempt], self.last_us = one.batch, max(self.last_us, found.last_us)
            self.arrivals.append(
                Arrival(
                    one.position, us_of(one.stored_at), one.attempt, one.batch, found.epoch,
                    found.upto, found.last_us, found.seal, found.refused,
                    [[s.operation, s.value, s.final_value, s.units, s.time] for s in found.progress],
                )
            )  # fmt: skip

    def begin(self, position: int, messages: int, kept: Kept) -> None:
        """Go on from a marker: what came before it is in its manifest."""
        self.position, self.messages = position, messages + 1
        self.last_us, self.marked, self.arrivals = kept.manifest.last_us, kept, []
        self.reached = {attempt: reached[0] for attempt, reached in kept.manifest.ledger.items()}

    def close(self, known: Manifest | None) -> tuple[Manifest, list[bytes]]:
        """The manifest without its arrivals, and the objects that are new; the tail becomes segments."""
        unsealed: dict[int, int] = {}
        waiting: dict[int, list[batches.Batch]] = {}
        for row in self.rows.every(metric_batches):
            waiting.setdefault(row["attempt"], []).append(batches.decode(row["body"]))
        for attempt, many in waiting.items():
            unsealed[attempt] = min(each.batch for each in many)
            for made in metrics_projection.segments(self.team, self.run, attempt, many):
                self.rows.put(metric_segments, made)
        objects = list(known.objects) if known else []
        before = len(objects)
        numbers = {each.sha256: i for i, each in enumerate(objects)}
        packer = forms.Packer()
        segments = []
        for row in self.rows.every(metric_segments):
            if row["body"] is None:
                place, offset = numbers[row["object"]], row["place"]
                size, digest = row["size_bytes"], row["digest"]
            else:
                place, offset = packer.add(row["body"])
                place, size, digest = place + before, len(row["body"]), forms.digest_of(row["body"])
            facts = {name: row[name] for name in _FACTS}
            segments.append(forms.Segment(object=place, offset=offset, size_bytes=size, digest=digest, **facts))
        attempts = self.rows.every(metric_attempts)
        return Manifest(
            team=self.team, run=self.run, through=self.position,
            points=sum(row["points"] for row in attempts), batches=sum(row["batch"] for row in attempts),
            last_us=self.last_us, unsealed=unsealed,
            ledger={row["attempt"]: [row["batch"], row["upto"], row["batch"] + 1, 0, 0] for row in attempts},
            attempts=[_own(row) | {"is_sealed": True} for row in attempts],
            latest=[_own(row) for row in self.rows.every(latest_metrics)],
            progress=[_own(row) for row in self.rows.every(progress)],
            objects=objects, segments=segments, arrivals=list(known.arrivals) if known else [],
        ), packer.close()  # fmt: skip


_FACTS = ("tag", "attempt", "first_us", "last_us", "points", "min_step", "max_step", "nonfinite", "thin")


def _own(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("team", "run_id")}


class Archiving:
    """Archives runs: each that has ended long ago, and any other that somebody asks for.

    Parameters
    ----------
    after_s
        So long after its end a run is archived by itself; None for never.
    """

    def __init__(
        self, *, metrics: MetricsStream, store: ArtifactStore, deciders: Deciders, engine: Engine, clock: Clock,
        intake: Intake, after_s: float | None,
    ) -> None:  # fmt: skip
        self._metrics = metrics
        self._store = store
        self._deciders = deciders
        self._engine = engine
        self._clock = clock
        self._intake = intake
        self._after_s = after_s

    async def run(self) -> None:
        """Archive for ever what is due, and set markers that were lost with METRICS."""
        await asyncio.sleep(FIRST_S)
        while True:
            try:
                await self.restore()
                await self.look()
            except (DBAPIError, PoolTimeoutError, OSError) as error:
                # Nobody waits for it: what goes by is waited out until the next time.
                if not is_passing(error):
                    raise
                log.warning("metrics_archive_waits", why=str(error)[:200])
            await asyncio.sleep(EVERY_S)

    async def restore(self) -> list[Ref]:
        """Set the markers that are missing from METRICS, which was lost or is that of an import; whose those are."""
        return await self._each(await self._engine.read(archives.unmarked))

    async def look(self) -> list[Ref]:
        """Archive every run that is due now; those that it was done for."""
        if self._after_s is None:
            return []
        due_us = int((self._clock.now().timestamp() - self._after_s) * 1e6)
        return await self._each(await self._engine.read(lambda connection: archives.due(connection, due_us)))

    async def _each(self, refs: Sequence[Ref]) -> list[Ref]:
        done = []
        for ref in refs:
            try:
                await self.archive(ref, origin_of(ACTOR, None))
            except (TapelineError, OSError) as error:
                # One run that cannot be archived keeps nobody else's points in the tables.
                log.warning("metrics_not_archived", run=ref.id, why=str(error)[:400])
            else:
                done.append(ref)
        return done

    async def archive(self, ref: Ref, origin: Origin) -> tuple[Outcome[aggregate.Run], Kept]:
        """Move every point of a run to the artifact store; repeating it changes nothing.

        Raises
        ------
        TapelineError
            `conflict` when the run has not ended, or has measured nothing; `not_found` for an unknown run; what the
            store says; `log_damaged` when a batch cannot be read.
        """
        for _ in range(TRIES):
            run = await self._deciders.state(aggregate, ref)
            # Refused before anything is read or written.
            aggregate.check_put_away(run, "archiving its points")
            kept, messages, position = await self._kept(ref, run.archived)
            outcome = await self._deciders.handle(aggregate, ref, KeepArchive(archived=kept.event()), origin)
            passed("archive.noted")
            if messages is not None:
                marker = forms.mark(kept.manifest, kept.at, messages)
                try:
                    position = await self._metrics.append_archive(
                        ref.team, ref.id, kept.at.sha256, marker, expected=position
                    )
                except Conflict:
                    # A batch has come in between: it is archived too.
                    origin = origin_of(origin.actor, None, correlation=origin.correlation_id)
                    continue
                passed("archive.marked")
                log.info(
                    "metrics_archived", run=ref.id, points=kept.manifest.points, objects=len(kept.manifest.objects)
                )
            self._intake.position = max(self._intake.position, position)
            return outcome, kept
        raise TapelineError(
            f"run {ref.id} is still measuring: batches came in each of {TRIES} times", code="conflict",
            hint="repeat it when its spool is sent: tapeline spool ls",
        )  # fmt: skip

    async def _kept(self, ref: Ref, noted: MetricsArchived | None) -> tuple[Kept, int | None, int]:
        """The archive of all that a run has, how many messages a marker is to stand for, and where they end.

        None messages where METRICS has the marker already.
        """
        folded = Folded(ref.team, ref.id)
        known: Manifest | None = None
        async for many in _lists(self._metrics.messages_of(ref.team, ref.id)):
            if many[0].is_archive:
                marker = await resolved(self._store, many[0])
                if marker.fault is not None or marker.at is None or marker.manifest is None:
                    raise marker.fault or forms.lacking(str(marker.position), "is named by no manifest")
                known = marker.manifest
                metrics_projection.apply(folded.rows, marker)
                folded.begin(marker.position, marker.messages, Kept(marker.at, known))
            else:
                await asyncio.to_thread(folded.take, many)
        if folded.marked is not None:
            return folded.marked, None, folded.position
        if not folded.arrivals and noted is not None:
            # METRICS was lost, or is that of an import: the log knows where the points are.
            at = Object(noted.manifest.sha256, noted.manifest.size_bytes)
            return Kept(at, await forms.manifest_at(self._store, at)), folded.messages, folded.position
        manifest, objects = await asyncio.to_thread(folded.close, known)
        if not manifest.points:
            raise TapelineError(
                f"run {ref.id} has measured nothing", code="conflict", hint="there is nothing to archive"
            )
        passed("archive.packed")
        for data in objects:
            manifest.objects.append(await forms.keep(self._store, data))
        for start in range(0, len(folded.arrivals), ARRIVALS):
            part = forms.encode(folded.arrivals[start : start + ARRIVALS])
            manifest.arrivals.append(await forms.keep(self._store, part))
        at = await forms.keep(self._store, forms.encode(manifest))
        passed("archive.stored")
        return Kept(at, manifest), folded.messages, folded.position


async def _lists(messages: AsyncIterator[MetricsMessage]) -> AsyncIterator[list[MetricsMessage]]:
    """Messages in lists; a marker alone."""
    many: list[MetricsMessage] = []
    async for one in messages:
        if many and (one.is_archive or len(many) >= TOGETHER):
            yield many
            many = []
        if one.is_archive:
            yield [one]
        else:
            many.append(one)
    if many:
        yield many
