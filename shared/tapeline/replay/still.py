"""A log that ends at a position and takes nothing: what the projections of a world are filled from, or stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import NoReturn

from tapeline.errors import ReadOnly
from tapeline.log import Appended, EventLog, Head, NewCommit, StoredCommit
from tapeline.log.metrics import MetricsMessage, MetricsStream
from tapeline.store import ArtifactStore
from tapeline.subjects import Ref


def refuse(position: int) -> NoReturn:
    """Say that the past takes nothing."""
    raise ReadOnly.of(
        "conflict", f"this is the state at position {position}, which does not change", hint="connect without at"
    )


class StillLog:
    """An `EventLog` whose last position is `position`. Without a log behind it there is nothing to read any more."""

    def __init__(self, log_id: str, position: int, log: EventLog | None = None) -> None:
        self._log_id = log_id
        self._position = position
        self._log = log

    async def append(self, commit: NewCommit, *, expected: int) -> Appended:
        """Refused."""
        refuse(self._position)

    async def append_all(self, commits: Sequence[tuple[NewCommit, int]]) -> list[Appended]:
        """Refused."""
        refuse(self._position)

    async def load(
        self, ref: Ref, *, after: int = 0, upto: int | None = None, leader: bool = False
    ) -> list[StoredCommit]:
        """The commits of one aggregate up to the end."""
        end = self._position if upto is None else min(upto, self._position)
        return [] if self._log is None else await self._log.load(ref, after=after, upto=end, leader=leader)

    async def page(self, *, after: int, limit: int, team: str | None = None) -> list[StoredCommit]:
        """A few commits after a position, up to the end."""
        found = [] if self._log is None else await self._log.page(after=after, limit=limit, team=team)
        return [one for one in found if one.position <= self._position]

    async def refs(self, place: str) -> list[Ref]:
        """The aggregates that are written as `<kind>/<id>`, those too that begin after the end."""
        return [] if self._log is None else await self._log.refs(place)

    async def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[StoredCommit], None]:
        """Every commit up to the end; who follows waits there for ever."""
        end = self._position if upto is None else min(upto, self._position)
        if self._log is not None and after < end:
            lists = self._log.read(after=after, upto=end)
            try:
                async for many in lists:
                    yield many
            finally:
                await lists.aclose()
        if follow:
            await asyncio.Event().wait()

    async def head(self) -> Head:
        """The end."""
        return Head(log_id=self._log_id, position=self._position, size_bytes=0, max_bytes=1)


class StillMetrics(MetricsStream):
    """The measurements that had been stored by a time; `reached` is set once all of them were read.

    Batches that were purged since come from the archive that took their place.

    Attributes
    ----------
    position : of the last of them, as far as it is known
    """

    def __init__(
        self, metrics: MetricsStream | None, until: datetime, position: int = 0, store: ArtifactStore | None = None
    ) -> None:
        self._behind = metrics
        self._store = store
        self._until = until
        self.position = position
        self.reached = asyncio.Event()

    async def append(
        self, team: str, run: str, attempt: int, batch: int, body: bytes, *, expected: int | None = None
    ) -> int:
        """Refused."""
        raise ReadOnly.of("conflict", "the past takes no measurements", hint="connect without at")

    async def tail(self, team: str, run: str) -> MetricsMessage | None:
        """Nothing: only what appends asks for it."""
        return None

    async def head(self) -> int:
        """The end; before it is known, that of all measurements."""
        if self._behind is None or self.reached.is_set():
            return self.position
        return await self._behind.head()

    async def missing(self) -> int:
        """As of the measurements behind."""
        return 0 if self._behind is None else await self._behind.missing()

    async def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[MetricsMessage], None]:
        """Every batch that had been stored by then."""
        self.position = max(self.position, after)
        if self._behind is not None:
            gone = await self._gone(after)
            lists = self._behind.read(after=after, upto=upto)
            try:
                async for many in lists:
                    found = [one for one in many if one.stored_at <= self._until]
                    if found:
                        earlier = [one for one in gone if one.position < found[-1].position]
                        gone = gone[len(earlier) :]
                        self.position = found[-1].position
                        yield sorted([*earlier, *found], key=lambda one: one.position) if earlier else found
                    if len(found) < len(many):
                        break
            finally:
                await lists.aclose()
            if gone:
                self.position = gone[-1].position
                yield gone
        self.reached.set()
        if follow:
            await asyncio.Event().wait()

    async def _gone(self, after: int) -> list[MetricsMessage]:
        """What had been stored by then and is purged now."""
        if self._behind is None or self._store is None or not await self._behind.missing():
            return []
        from tapeline.unarchived import purged_by

        return [one for one in await purged_by(self._behind, self._store, self._until) if one.position > after]
