"""Whether the log is whole: every fault with its position and kind."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tapeline.errors import TapelineError
from tapeline.log import GENESIS, EventLog, StoredCommit
from tapeline.log.codec import Codec, digest, read_brief
from tapeline.replay.reading import codec

MAX_FAULTS = 100


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `hole`, `sequence`, `chain`, `decode` or `duplicate`, where, and what is wrong."""

    position: int
    kind: str
    message: str


@dataclass(slots=True)
class Report:
    """What a check of the log found."""

    log_id: str
    position: int
    commits: int = 0
    events: int = 0
    aggregates: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the log is whole."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """The report with stable keys."""
        return asdict(self) | {"ok": self.ok}

    def __str__(self) -> str:
        if self.ok:
            return f"complete: {self.events} events in {self.commits} commits of {self.aggregates} aggregates"
        lines = [f"{fault.position}: {fault.kind}: {fault.message}" for fault in self.faults]
        return "\n".join([f"{len(self.faults)} faults in {self.commits} commits", *lines])


@dataclass(slots=True)
class _Chain:
    sequence: int = 0
    digest: str = GENESIS


async def verify(log: EventLog) -> Report:
    """Check that positions are dense, sequences gapless, chains unbroken, ids unique, events decodable."""
    head = await log.head()
    report = Report(head.log_id, head.position)
    chains: dict[str, _Chain] = {}
    ids: set[str] = set()
    decoder = codec()
    last = 0
    try:
        async for commits in log.read(upto=head.position):
            for commit in commits:
                if commit.position != last + 1:
                    _add(report, commit.position, "hole", f"the commit before is at {last}")
                last = commit.position
                report.commits += 1
                _check(commit, chains.setdefault(commit.subject, _Chain()), ids, decoder, report)
                if len(report.faults) >= MAX_FAULTS:
                    return report
    except TapelineError as error:
        # The reader itself refuses a log with a hole.
        _add(report, last + 1, "hole", error.message)
    if last != head.position and report.ok:
        _add(report, head.position, "hole", f"reading ended at {last}")
    report.aggregates = len(chains)
    return report


def _check(commit: StoredCommit, chain: _Chain, ids: set[str], decoder: Codec, report: Report) -> None:
    place = f"{commit.subject}"
    try:
        brief = read_brief(commit.header, commit.position)
        events = decoder.decode(commit)
    except TapelineError as error:
        _add(report, commit.position, "decode", error.message)
        return
    if brief.prev != chain.digest:
        _add(report, commit.position, "chain", f"{place}: prev is {brief.prev[:12]}…, expected {chain.digest[:12]}…")
    if brief.seq != chain.sequence + 1 or brief.n != len(events):
        _add(
            report, commit.position, "sequence",
            f"{place}: {brief.n} events from {brief.seq}, expected {len(events)} from {chain.sequence + 1}",
        )  # fmt: skip
    for event in events:
        report.events += 1
        if event.sequence != chain.sequence + 1:
            _add(
                report,
                commit.position,
                "sequence",
                f"{place}: {event.type} has {event.sequence}, after {chain.sequence}",
            )
        chain.sequence = event.sequence
        if event.id in ids:
            _add(report, commit.position, "duplicate", f"{place}: event id {event.id} is there twice")
        ids.add(event.id)
    chain.digest = digest(commit.subject, commit.header, commit.body)


def _add(report: Report, position: int, kind: str, message: str) -> None:
    report.faults.append(Fault(position, kind, message))
