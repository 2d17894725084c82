"""The event log: append, load, read, follow. Its protocol and the values that pass through it.

Reading order: this file, `codec.py` (bytes of a commit), `memory.py` (the smallest complete log),
`jetstream.py` (the real one), `reader.py` (the fast reader).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import msgspec

from tapeline.subjects import Ref

GENESIS = "0" * 64
"""`prev` of an aggregate's first commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCommit:
    """The events of one command on one aggregate, not yet on the log.

    `sequence` is the place of the first event, 1-based; `prev` the digest of the aggregate's previous
    commit (`GENESIS` for none); `created_at` aware UTC. `events` are instances of contract classes.
    `content` is a digest of what the caller asked, so that an id used again for something else is noticed.
    """

    ref: Ref
    events: tuple[Any, ...]
    sequence: int
    prev: str
    created_at: datetime
    actor: str
    command: str
    command_id: str
    cause: str | None = None
    correlation_id: str | None = None
    content: str | None = None


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """One event as it stands on the log; `data` is the decoded contract class, upcast to the newest.

    `is_erased` says that something of its commit was erased by law: a whole event is then read as its tombstone.
    """

    ref: Ref
    id: str
    sequence: int
    type: str
    schema: int
    created_at: datetime
    data: Any
    position: int
    index: int
    actor: str
    command: str
    command_id: str
    cause: str | None
    correlation_id: str | None
    content: str | None = None
    is_erased: bool = False


class StoredCommit(msgspec.Struct, frozen=True, gc=False):
    """One commit as it stands on the log: raw bytes, decoded on demand.

    `position` is its place in the log, `header` the bytes of `Tl-Commit`, `body` the JSON list of events,
    `stored_at` the broker's time. `codec.decode` gives its events, `codec.digest` its digest.
    """

    position: int
    subject: str
    header: bytes
    body: bytes
    stored_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """Where a commit stands: its position, the sequence of its last event, and its digest.

    `replayed` is true when the commit was found to be on the log already.
    """

    position: int
    sequence: int
    digest: str
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of the log: its id, the last position (0 when empty), and how full it is, in bytes."""

    log_id: str
    position: int
    size_bytes: int
    max_bytes: int


class Conflict(Exception):
    """The aggregate has moved on since the expectation was formed; decide again on what is there."""


class EventLog(Protocol):
    """The append-only truth. `JetStreamLog` and `InMemoryLog` pass one contract suite."""

    async def append(self, commit: NewCommit, *, expected: int) -> Appended:
        """Store one commit whose aggregate's last commit is at position `expected` (0 for none).

        Raises `Conflict` when the aggregate has moved and none of its new commits is this command's;
        `TapelineError` with code `insufficient_storage`, `too_large`, `unavailable`, `unknown_outcome`
        or `internal`.
        """
        ...

    async def append_all(self, commits: Sequence[tuple[NewCommit, int]]) -> list[Appended]:
        """Store 1..1000 commits, each with its expectation, all or none."""
        ...

    async def load(
        self, ref: Ref, *, after: int = 0, upto: int | None = None, leader: bool = False
    ) -> list[StoredCommit]:
        """The commits of one aggregate with `after < position <= upto`, in order.

        `leader` reads past any replica that may lag.
        """
        ...

    async def page(self, *, after: int, limit: int, team: str | None = None) -> list[StoredCommit]:
        """At most `limit` commits after a position, in order: of one team, or of all; 1000 at most.

        Made for a few of them at a time; `read` is the way through a whole log.
        """
        ...

    async def refs(self, place: str) -> list[Ref]:
        """The aggregates that are written as `<kind>/<id>`: one a team that has such events, in order."""
        ...

    def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[StoredCommit], None]:
        """Every commit with `after < position <= upto`, in order and without a hole, in lists.

        Ends at the position that was last when reading began, or never when `follow`.
        """
        ...

    async def head(self) -> Head:
        """The end of the log."""
        ...
