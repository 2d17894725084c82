"""Whether the measurements are whole: the batches of each attempt of a run have numbers without a gap."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tapeline.errors import TapelineError
from tapeline.log.metrics import MetricsMessage, MetricsStream
from tapeline.replay.chain import Fault
from tapeline.store import ArtifactStore


@dataclass(slots=True)
class MetricsReport:
    """What a check of the stream METRICS found; positions are those of that stream.

    `begins_late` names the attempts whose first batches are gone and in no archive, with the number of the first that
    is there: only an admin can have removed them. `archives` is how many markers stand for batches.
    """

    position: int
    batches: int = 0
    runs: int = 0
    archives: int = 0
    begins_late: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no batch is missing."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """The report with stable keys."""
        return asdict(self) | {"ok": self.ok}

    def __str__(self) -> str:
        if self.ok:
            lines = [f"complete: {self.batches} batches of {self.runs} runs"]
        else:
            lines = [f"{len(self.faults)} faults in {self.batches} batches", *map(str, self.faults)]
        if self.archives:
            lines[0] += f", {self.archives} archives"
        lines += [f"begins at batch {batch}: {attempt}" for attempt, batch in sorted(self.begins_late.items())]
        return "\n".join(lines)


async def verify_metrics(metrics: MetricsStream, store: ArtifactStore | None = None) -> MetricsReport:
    """Check that the batches of each attempt follow each other; with a store, that every archive is whole.

    Faults are `hole` (batches are missing), `duplicate` (a batch is there twice), `decode` (a message is no batch)
    and `archive` (an object is missing or damaged).
    """
    report = MetricsReport(await metrics.head())
    last: dict[tuple[str, str, int], int] = {}
    async for batches in metrics.read(upto=report.position):
        for one in batches:
            if one.is_archive:
                await _take_archive(report, last, one, store)
                continue
            if not one.is_batch:
                told = f"{one.team}/run/{one.run}: the message is no batch of metrics, and is left out"
                report.faults.append(Fault(one.position, "decode", told))
                continue
            report.batches += 1
            attempt = f"{one.team}/run/{one.run}, attempt {one.attempt}"
            before = last.get((one.team, one.run, one.attempt))
            if before is None:
                if one.batch != 1:
                    report.begins_late[attempt] = one.batch
            elif one.batch > before + 1:
                gone = f"batches {before + 1} to {one.batch - 1} are missing"
                report.faults.append(Fault(one.position, "hole", f"{attempt}: {gone}"))
            elif one.batch <= before:
                told = f"batch {one.batch} comes again after {before}"
                report.faults.append(Fault(one.position, "duplicate", f"{attempt}: {told}"))
            last[one.team, one.run, one.attempt] = max(one.batch, before or 0)
    report.runs = len({(team, run) for team, run, _ in last})
    return report


async def _take_archive(
    report: MetricsReport, last: dict[tuple[str, str, int], int], one: MetricsMessage, store: ArtifactStore | None
) -> None:
    """Count on from where the batches have ended that a marker stands for, and read what it names."""
    from tapeline.metric_archives import check_all, manifest_at, marker_of

    report.archives += 1
    try:
        marker = marker_of(one.body)
        for attempt, reached in marker.ledger.items():
            of = one.team, one.run, attempt
            last[of] = max(reached[0], last.get(of, 0))
        if store is not None:
            await check_all(store, await manifest_at(store, marker.manifest))
    except TapelineError as error:
        if error.code not in ("corrupt", "schema_unknown"):
            raise
        report.faults.append(Fault(one.position, "archive", f"{one.team}/run/{one.run}: {error.message}"))
