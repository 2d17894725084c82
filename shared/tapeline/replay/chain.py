"""One pass over commits: positions, sequences, chains of digests, ids, decoding, and the root over all.

`root(p) = SHA-256(root(p - 1) || digest(p))` with the raw bytes of both, and `root(0)` 32 zero bytes. It is
what seals sign and what exports carry: two logs with one root at a position are equal up to there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from tapeline.errors import TapelineError
from tapeline.log import GENESIS, Head, StoredCommit
from tapeline.log.codec import Codec, digest, read_brief

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


def extended(root: bytes, digest: str) -> bytes:
    """The root one commit further."""
    return hashlib.sha256(root + bytes.fromhex(digest)).digest()


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

    def add(self, commit: StoredCommit) -> list[Fault]:
        """Take the next commit; what is wrong with it."""
        faults: list[Fault] = []
        at = commit.position
        if at != self.position + 1:
            faults.append(Fault(at, "hole", f"it follows position {self.position}"))
        self.position = at
        self.commits += 1
        self.digest = digest(commit.subject, commit.header, commit.body)
        self.root = extended(self.root, self.digest)
        try:
            brief = read_brief(commit.header, at)
            events = self._codec.decode(commit)
        except TapelineError as error:
            faults.append(Fault(at, "decode", error.message))
            # The chain goes on over what cannot be read, so that its successors are not blamed for it.
            if commit.subject in self._chains:
                self._chains[commit.subject].digest = self.digest
            return faults
        chain = self._chains.get(commit.subject)
        if chain is None:
            chain = _Chain(0, GENESIS) if self._begins_at_origin else _Chain(brief.seq - 1, brief.prev)
            self._chains[commit.subject] = chain
        if brief.prev != chain.digest:
            told = f"{commit.subject}: prev is {brief.prev[:12]}, the commit before has {chain.digest[:12]}"
            faults.append(Fault(at, "chain", told))
        if brief.seq != chain.sequence + 1 or brief.n != len(events):
            told = f"{brief.n} events from {brief.seq}, expected {len(events)} from {chain.sequence + 1}"
            faults.append(Fault(at, "sequence", f"{commit.subject}: {told}"))
        for event in events:
            self.events += 1
            chain.sequence += 1
            if event.sequence != chain.sequence:
                told = f"{event.type} has {event.sequence}, expected {chain.sequence}"
                faults.append(Fault(at, "sequence", f"{commit.subject}: {told}"))
                chain.sequence = event.sequence
            if event.id in self._ids:
                faults.append(Fault(at, "duplicate", f"{commit.subject}: event id {event.id} is there twice"))
            self._ids.add(event.id)
        if brief.erased is not None:
            self.erased[commit.subject] += 1
        # The successor names the digest that this commit had before something in it was erased.
        chain.digest = brief.erased or self.digest
        return faults
