"""Whether the log is whole: every fault with its position and kind."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tapeline.bulk import digests
from tapeline.errors import TapelineError
from tapeline.log import StoredCommit
from tapeline.log.codec import digest
from tapeline.replay.chain import NO_ROOT, Fault, Recorded, Walk
from tapeline.replay.reading import codec
from tapeline.replay.seals import Seal, holding
from tapeline.subjects import ref_of

MAX_FAULTS = 100


@dataclass(slots=True)
class Report:
    """What a check of the log found; `since` is where a quick one began, `sealed` what the last seal covers.

    `forgotten` says what an operator admitted to have lost, `erased` in how many commits of which aggregates
    the law had something removed.
    """

    log_id: str
    position: int
    since: int = 0
    sealed: int = 0
    commits: int = 0
    events: int = 0
    aggregates: int = 0
    root: str = ""
    forgotten: list[str] = field(default_factory=list)
    erased: dict[str, int] = field(default_factory=dict)
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
            begun = f" after position {self.since}" if self.since else ""
            sealed = f"sealed to {self.sealed}" if self.sealed else "not sealed"
            lines = [f"complete: {self.events} events in {self.commits} commits{begun}, {sealed}"]
        else:
            lines = [str(fault) for fault in self.faults]
            lines.insert(0, f"{len(self.faults)} faults in {self.commits} commits")
        lines += [f"forgotten: {lost}" for lost in self.forgotten]
        lines += [f"erased: in {n} commits of {aggregate}" for aggregate, n in sorted(self.erased.items())]
        return "\n".join(lines)


async def verify(
    log: Recorded,
    *,
    seals: Sequence[Seal] = (),
    quick: bool = False,
    after: int = 0,
    against: Recorded | None = None,
) -> Report:
    """Check positions, sequences, chains, ids, events, roots and seals.

    Parameters
    ----------
    seals : sequence of Seal
        All of the log, in the order in which they were made; their signatures are checked already.
    quick : bool
        Begin at the last seal.
    after : int
        Begin after this position. What came before is not looked at: the first commit of each aggregate is taken
        as it comes, and without a seal at this very position roots cannot be compared, only digests.
    against : Recorded, optional
        Another log (an export, say) whose commits must have the same digests as far as it goes.

    Raises
    ------
    TapelineError
        `invalid` for a position past the end.
    """
    head = await log.head()
    report = Report(head.log_id, head.position)
    for seal in seals:
        if seal.kind == "forgotten":
            report.forgotten.append(f"{seal.position + 1} to {seal.lost_upto}, admitted on {seal.time}")
    seals = holding(seals)
    by_position = {seal.position: seal for seal in seals}
    if not 0 <= after <= head.position:
        raise TapelineError(
            f"position {after} is past the end of the log ({head.position})", code="invalid", hint="leave --after out"
        )
    start = by_position.get(after)
    if quick and seals and after < seals[-1].position <= head.position:
        start = seals[-1]
    report.since = start.position if start is not None else after
    is_rooted = report.since == 0 or start is not None
    walk = Walk(codec(), after=report.since, root=bytes.fromhex(start.root) if start is not None else NO_ROOT)
    for seal in seals:
        if seal.position > head.position:
            told = f"the log ends at {head.position}, but {seal.position} was sealed on {seal.time}"
            report.faults.append(Fault(seal.position, "seal", told))
    if start is not None:
        report.sealed = start.position
        found = [one async for many in log.read(after=start.position - 1, upto=start.position) for one in many]
        if [digest(one.subject, one.header, one.body) for one in found] != [start.digest]:
            report.faults.append(Fault(start.position, "seal", "its digest is not the sealed one"))
    try:
        async for commits in log.read(after=report.since, upto=head.position):
            for part in _parts(commits, by_position):
                report.faults += walk.add_all(part)
                sealed = by_position.get(walk.position)
                if sealed is not None:
                    if is_rooted and sealed.root != walk.root.hex():
                        told = f"the root is {walk.root.hex()[:12]}, sealed was {sealed.root[:12]}"
                        report.faults.append(Fault(sealed.position, "seal", told))
                    elif sealed.digest != walk.digest:
                        told = f"the digest is {walk.digest[:12]}, sealed was {sealed.digest[:12]}"
                        report.faults.append(Fault(sealed.position, "seal", told))
                    else:
                        report.sealed = max(report.sealed, sealed.position)
            if len(report.faults) >= MAX_FAULTS:
                break
    except TapelineError as error:
        if error.code not in ("log_damaged", "schema_unknown"):
            raise
        # The reader itself refuses a log with a hole, or a message that is no commit.
        report.faults.append(Fault(walk.position + 1, "hole", error.message))
    if walk.position != head.position and report.ok:
        report.faults.append(Fault(head.position, "hole", f"reading ended at {walk.position}"))
    report.commits, report.events, report.aggregates = walk.commits, walk.events, walk.aggregates
    report.root = walk.root.hex() if is_rooted else ""
    report.erased = {f"{ref.team}/{ref}": n for ref, n in ((ref_of(of), n) for of, n in walk.erased.items())}
    if against is not None and report.ok:
        report.faults += await _compared(log, against, report.since)
    return report


def _parts(commits: Sequence[StoredCommit], ends: Container[int]) -> Iterator[Sequence[StoredCommit]]:
    """Commits in parts, each of which ends at one of the positions `ends`, or at the last commit."""
    start = 0
    for k, commit in enumerate(commits, 1):
        if commit.position in ends or k == len(commits):
            yield commits[start:k]
            start = k


async def _compared(log: Recorded, other: Recorded, since: int) -> list[Fault]:
    """The first position at which two logs differ, as far as the shorter one goes."""
    upto = min((await log.head()).position, (await other.head()).position)
    theirs = other.read(after=since, upto=upto)
    waiting: dict[int, bytes] = {}
    reached = since
    try:
        async for commits in log.read(after=since, upto=upto):
            while reached < commits[-1].position:
                more: list[StoredCommit] = await anext(theirs, [])
                if not more:
                    break
                waiting |= {one.position: raw for one, raw in zip(more, digests(more), strict=True)}
                reached = more[-1].position
            for one, raw in zip(commits, digests(commits), strict=True):
                if (found := waiting.pop(one.position, None)) is None:
                    return [Fault(one.position, "hole", "what it is compared with does not have it")]
                if found != raw:
                    return [Fault(one.position, "chain", "its digest differs from the one compared with")]
    finally:
        await theirs.aclose()
    return []
