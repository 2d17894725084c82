"""Whether the measurements are whole: the batches of each attempt of a run have numbers without a gap."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tapeline.log.metrics import MetricsStream
from tapeline.replay.chain import Fault


@dataclass(slots=True)
class MetricsReport:
    """What a check of the stream METRICS found; positions are those of that stream.

    `begins_late` names the attempts whose first batches are gone, with the number of the first that is there: an
    admin may purge what was moved to the artifact store, and nobody else can remove a batch.
    """

    position: int
    batches: int = 0
    runs: int = 0
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
        lines += [f"begins at batch {batch}: {attempt}" for attempt, batch in sorted(self.begins_late.items())]
        return "\n".join(lines)


async def verify_metrics(metrics: MetricsStream) -> MetricsReport:
    """Check that the batches of each attempt follow each other.

    Faults are `hole` (batches are missing), `duplicate` (a batch is there twice) and `decode` (a message is no
    batch).
    """
    report = MetricsReport(await metrics.head())
    last: dict[tuple[str, str, int], int] = {}
    async for batches in metrics.read(upto=report.position):
        for one in batches:
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
