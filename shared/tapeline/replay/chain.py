"""One pass over commits: positions, sequences, chains of digests, ids, decoding, and the root over all.

`root(p) = SHA-256(root(p - 1) || digest(p))` with the raw bytes of both, and `root(0)` 32 zero bytes. It is
what seals sign and what exports carry: two logs with one root at a position are equal up to there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tapeline.bulk import digests, roots
from tapeline.errors import TapelineError
from tapeline.log import GENESIS, Head, StoredCommit
from tapeline.log.codec import Codec, Header, Placed

NO_ROOT = bytes(32)


class Recorded(Protocol):
    """What can be checked and compared: a log, or an export of one."""

    async def head(self) -> Head:
        """The end."""
        ...

    def read(self, *, after: int = 0, upto: int | None = None) -> AsyncGenerator[list[StoredCommit], None]:
        """The commits with `after < position <= upto`, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its position, its kind, and what is wrong.

    Kinds: `hole`, `sequence`, `chain`, `decode`, `seal`, `duplicate`; of an export also `segment`,
    `manifest`; of a comparison `differs`.
    """

    position: int
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.position}: {self.kind}: {self.message}"


@dataclass(slots=True)
class _Chain:
    sequence: int
    digest: str


class Walk:
    """What is known of a log after the commits that were added.

    Parameters
    ----------
    codec
        Decodes events; one that it does not know is a fault.
    after, root
        Where the walk begins. Beyond position 0 the first commit of each aggregate is taken as it comes.

    Attributes
    ----------
    position, root, digest : of the last commit
    commits, events : how many there were
    erased : how many commits of each subject had something erased
    """

    def __init__(self, codec: Codec, *, after: int = 0, root: bytes = NO_ROOT) -> None:
        self._codec = codec
        self._begins_at_origin = after == 0
        self._chains: dict[str, _Chain] = {}
        self._ids: set[str] = set()
        self.position = after
        self.root = root
        self.digest = GENESIS
        self.commits = 0
        self.events = 0
        self.erased: Counter[str] = Counter()

    @property
    def aggregates(self) -> int:
        """How many aggregates there were."""
        return len(self._chains)

    def add(self, commit: StoredCommit) -> Sequence[Fault]:
        """Take the next commit; what is wrong with it."""
        return self.add_all([commit])

    def add_all(self, commits: Sequence[StoredCommit]) -> list[Fault]:
        """Take commits one after another; what is wrong with each."""
        faults: list[Fault] = []
        raws = digests(commits)
        for commit, raw in zip(commits, raws, strict=True):
            self._step(commit, raw.hex(), faults)
        if raws:
            self.root = roots(self.root, raws)[-1]
        return faults

    def _step(self, commit: StoredCommit, own: str, faults: list[Fault]) -> None:
        at = commit.position
        subject = commit.subject
        before, self.position = self.position, at
        self.commits += 1
        self.digest = own
        try:
            header, placed = self._codec.check(commit)
        except TapelineError as error:
            # The chain goes on over what cannot be read, so that its successors are not blamed for it.
            if subject in self._chains:
                self._chains[subject].digest = own
            faults += [*_gap(before, at), Fault(at, "decode", error.message)]
            return
        chain = self._chains.get(subject)
        if chain is None:
            chain = _Chain(0, GENESIS) if self._begins_at_origin else _Chain(header.seq - 1, header.prev)
            self._chains[subject] = chain
        ids, sequence, known = self._ids, chain.sequence, len(self._ids)
        whole = (
            at == before + 1 and header.prev == chain.digest and header.seq == sequence + 1 and header.n == len(placed)
        )
        for event in placed:
            sequence += 1
            if event.sequence != sequence:
                whole = False
            ids.add(event.id)
        if not whole or len(ids) != known + len(placed):
            faults += [*_gap(before, at), *_misplaced(commit, header, placed, chain)]
            if len(ids) != known + len(placed):
                faults.append(Fault(at, "duplicate", f"{subject}: an id of its events is there twice"))
        self.events += len(placed)
        if placed:
            chain.sequence = placed[-1].sequence
        if header.erased is not None:
            self.erased[subject] += 1
        # The successor names the digest that this commit had before something in it was erased.
        chain.digest = header.erased or own


def _gap(before: int, at: int) -> Iterator[Fault]:
    if at != before + 1:
        yield Fault(at, "hole", f"it follows position {before}")


def _misplaced(commit: StoredCommit, header: Header, placed: Sequence[Placed], chain: _Chain) -> Iterator[Fault]:
    """What is wrong with the place that a commit says it has in its aggregate."""
    at, subject, sequence = commit.position, commit.subject, chain.sequence
    if header.prev != chain.digest:
        told = f"{subject}: prev is {header.prev[:12]}, the commit before has {chain.digest[:12]}"
        yield Fault(at, "chain", told)
    if header.seq != sequence + 1 or header.n != len(placed):
        told = f"{header.n} events from {header.seq}, expected {len(placed)} from {sequence + 1}"
        yield Fault(at, "sequence", f"{subject}: {told}")
    for event in placed:
        sequence += 1
        if event.sequence != sequence:
            yield Fault(at, "sequence", f"{subject}: event {event.id} has {event.sequence}, expected {sequence}")
            sequence = event.sequence
