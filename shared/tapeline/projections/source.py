"""What a projection is, and where its events come from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from sqlalchemy import Table

from tapeline.log import EventLog, StoredCommit, StoredEvent
from tapeline.log.codec import Codec
from tapeline.projections.rows import Rows
from tapeline.projections.statements import Key
from tapeline.projections.tail import Tail
from tapeline.projections.turns import gathered
from tapeline.subjects import parse_ref, ref_of

TOGETHER = 8_000
REST_S = 0.25
"""Nobody waits for what is folded from whole commits: those of a moment are folded together."""


class Projection(Protocol):
    """A pure fold of events into rows; a module is one."""

    name: str
    version: int
    kinds: frozenset[str]
    tables: Sequence[Table]

    def keys(self, event: Any, /) -> Iterable[tuple[Table, Key]]:
        """The rows that `apply` may read for this event."""
        ...

    def apply(self, rows: Rows, event: Any, /) -> None:
        """Fold one event into the rows."""
        ...


class Source(Protocol):
    """Where a projector's events come from: the log, or the stream of metrics."""

    stream: str

    async def identity(self) -> str:
        """The id of the log that positions belong to."""
        ...

    async def head(self) -> int:
        """The last position."""
        ...

    def aggregate(self, event: Any) -> str:
        """What an event belongs to, as `<team>/<kind>/<id>`."""
        ...

    async def load(self, aggregate: str, upto: int) -> list[Any]:
        """All events of one aggregate up to a position, in order."""
        ...

    async def missing(self) -> int:
        """How many of the events that there ever were cannot be read any more."""
        ...

    def read(self, after: int, upto: int | None = None) -> AsyncGenerator[tuple[int, list[Any]], None]:
        """Stretches of events, each with the position that it ends at: those up to a position, or for ever."""
        ...


class Lease(Protocol):
    """The right to move a projection's position; see `tapeline.log.lease`."""

    holder: str

    async def take(self) -> bool:
        """Take it if nobody has it; False while somebody else does."""
        ...

    async def keep(self) -> None:
        """Renew it; returns once it is lost."""
        ...

    async def give_back(self) -> None:
        """Let the next one have it at once."""
        ...


class LogSource:
    """The events of some kinds, from the log."""

    stream = "EVENTS"

    def __init__(self, event_log: EventLog | Tail, codec: Codec, kinds: frozenset[str]) -> None:
        self._log = event_log
        self._codec = codec
        self._kinds = kinds

    async def identity(self) -> str:
        return (await self._log.head()).log_id

    async def head(self) -> int:
        return (await self._log.head()).position

    def aggregate(self, event: StoredEvent) -> str:
        return f"{event.ref.team}/{event.ref}"

    async def load(self, aggregate: str, upto: int) -> list[StoredEvent]:
        commits = await self._log.load(parse_ref(aggregate), upto=upto)
        return [event for commit in commits for event in self._codec.decode(commit)]

    async def missing(self) -> int:
        return 0

    async def read(self, after: int, upto: int | None = None) -> AsyncGenerator[tuple[int, list[Any]], None]:
        async with aclosing(self._log.read(after=after, upto=upto, follow=upto is None)) as lists:
            async for commits in lists:
                # A filter on the server is many times slower than skipping here.
                events = [
                    event
                    for commit in commits
                    if commit.subject.split(".", 3)[2] in self._kinds
                    for event in self._codec.decode(commit)
                ]
                yield commits[-1].position, events


class CommitSource:
    """The commits of every kind, whole, from the log; those of a moment come together."""

    stream = "EVENTS"

    def __init__(self, event_log: EventLog | Tail) -> None:
        self._log = event_log

    async def identity(self) -> str:
        return (await self._log.head()).log_id

    async def head(self) -> int:
        return (await self._log.head()).position

    def aggregate(self, commit: StoredCommit) -> str:
        ref = ref_of(commit.subject)
        return f"{ref.team}/{ref}"

    async def load(self, aggregate: str, upto: int) -> list[StoredCommit]:
        return await self._log.load(parse_ref(aggregate), upto=upto)

    async def missing(self) -> int:
        return 0

    async def read(self, after: int, upto: int | None = None) -> AsyncGenerator[tuple[int, list[Any]], None]:
        async with aclosing(self._stretches(after, upto)) as read, aclosing(gathered(read, TOGETHER)) as stretches:
            async for position, commits in stretches:
                yield position, commits
                if upto is None and len(commits) < TOGETHER // 8:
                    await asyncio.sleep(REST_S)

    async def _stretches(self, after: int, upto: int | None) -> AsyncGenerator[tuple[int, list[Any]], None]:
        async with aclosing(self._log.read(after=after, upto=upto, follow=upto is None)) as lists:
            async for commits in lists:
                yield commits[-1].position, list(commits)
