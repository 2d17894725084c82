"""The suites of the eventsourcing library for stores of events, run on our log through an adapter.

One event a commit; a list is one atomic batch. The foreign version is data of the event, and a conflict is an
integrity error. The library's calls come from any thread and block; ours run on a loop of their own.
"""

from __future__ import annotations

import base64
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, NoReturn, TypeVar
from uuid import UUID, uuid4

import pytest
from eventsourcing.persistence import AggregateRecorder, ApplicationRecorder, IntegrityError, Notification, StoredEvent
from eventsourcing.tests.persistence import (
    AggregateRecorderTestCase,
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
)

from tapeline import topology
from tapeline.log import GENESIS, Conflict, NewCommit, StoredCommit
from tapeline.log import StoredEvent as OurEvent
from tapeline.log.codec import Codec, digest
from tapeline.log.jetstream import JetStreamLog
from tapeline.loop_thread import LoopThread
from tapeline.subjects import Ref
from tapeline.testing.server import NatsServer, connector

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """An event of the library."""

    SCHEMA: ClassVar[int] = 1
    version: int
    topic: str
    state: str


CODEC = Codec({("Foreign", 1): Foreign})


class LogOnLoop:
    """A log on a real server, whose coroutines are run from other threads."""

    def __init__(self) -> None:
        self._loop = LoopThread("foreign")
        self.server = NatsServer()
        self.server.start()
        self.log = self.run(self._open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(work, 60)

    async def _open(self) -> JetStreamLog:
        self._client = await self.server.connect()
        await topology.apply(self._client, topology.topology())
        return JetStreamLog(self._client, CODEC, connect=connector(self.server.url), role="foreign")

    def close(self) -> None:
        self._loop.end(self._client.close())
        self.server.__exit__(None, None, None)


class Recorder(AggregateRecorder):
    """Events of aggregates on our log."""

    def __init__(self, on: LogOnLoop) -> None:
        self._on = on

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        self._on.run(self._insert(stored_events))
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        found = [
            StoredEvent(originator_id, event.data.version, event.data.topic, base64.b64decode(event.data.state))
            for event in _events(self._on.run(self._on.log.load(_ref(originator_id), leader=False)))
            if (gt is None or event.data.version > gt) and (lte is None or event.data.version <= lte)
        ]
        return (found[::-1] if desc else found)[:limit]

    async def _insert(self, stored_events: Sequence[StoredEvent]) -> list[int]:
        batch: list[tuple[NewCommit, int]] = []
        tails: dict[Ref, tuple[int, int, int, str]] = {}
        command = uuid4().hex
        for stored in stored_events:
            ref = _ref(stored.originator_id)
            position, sequence, version, prev = tails.get(ref) or await self._tail(ref)
            if stored.originator_version <= version:
                raise IntegrityError(f"{ref} has a version {stored.originator_version} already")
            state = base64.b64encode(stored.state).decode()
            event = Foreign(version=stored.originator_version, topic=stored.topic, state=state)
            commit = NewCommit(
                ref=ref, events=(event,), sequence=sequence + 1, prev=prev, created_at=datetime.now(UTC),
                actor="user:library", command="Insert", command_id=f"{command}-{len(batch)}",
            )  # fmt: skip
            batch.append((commit, position))
            after = digest(ref.subject, *CODEC.encode(commit))
            tails[ref] = (position, sequence + 1, stored.originator_version, after)
        try:
            return [made.position for made in await self._on.log.append_all(batch)] if batch else []
        except Conflict as error:
            raise IntegrityError(str(error)) from error

    async def _tail(self, ref: Ref) -> tuple[int, int, int, str]:
        commits = await self._on.log.load(ref)
        if not commits:
            return 0, 0, -1, GENESIS
        last = commits[-1]
        (event,) = CODEC.decode(last)
        return last.position, event.sequence, event.data.version, digest(last.subject, last.header, last.body)


class Notifications(Recorder, ApplicationRecorder):
    """The same, with the order of the whole log."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        return self._on.run(self._insert(stored_events))

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        after = (start or 0) - (1 if start and inclusive_of_start else 0)
        return self._on.run(self._read(after, limit, stop, topics))

    def max_notification_id(self) -> int | None:
        return self._on.run(self._on.log.head()).position or None

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> NoReturn:
        raise AssertionError("no case of the suite subscribes")

    async def _read(self, after: int, limit: int, stop: int | None, topics: Sequence[str]) -> list[Notification]:
        # Without a filter nothing beyond the limit needs to be read.
        upto = stop if topics else min(stop or after + limit, after + limit)
        commits = [one async for many in self._on.log.read(after=after, upto=upto) for one in many]
        found = [
            Notification(
                UUID(event.ref.id), event.data.version, event.data.topic, base64.b64decode(event.data.state),
                event.position,
            )
            for event in _events(commits)
            if not topics or event.data.topic in topics
        ]  # fmt: skip
        return found[:limit]


def _events(commits: Sequence[StoredCommit]) -> list[OurEvent]:
    return [event for commit in commits for event in CODEC.decode(commit)]


def _ref(originator_id: UUID | str) -> Ref:
    return Ref("foreign", "run", str(originator_id))


@pytest.fixture(autouse=True)
def on(request: pytest.FixtureRequest) -> Iterator[None]:
    """A fresh log for each case."""
    made = LogOnLoop()
    request.instance.on = made
    yield
    made.close()


class TestAggregates(AggregateRecorderTestCase):
    """Cases of one aggregate's events."""

    on: LogOnLoop

    def create_recorder(self) -> AggregateRecorder:
        return Recorder(self.on)


class TestApplication(ApplicationRecorderTestCase[ApplicationRecorder]):
    """Cases of the order of all events, with concurrent writers and readers."""

    on: LogOnLoop

    def create_recorder(self) -> ApplicationRecorder:
        return Notifications(self.on)


class TestNoInterleaving(NonInterleavingNotificationIDsBaseCase):
    """Two batches of a thousand never mix."""

    on: LogOnLoop

    def create_recorder(self) -> ApplicationRecorder:
        return Notifications(self.on)


# Imported names are collected too: the abstract cases are not to be run.
del AggregateRecorderTestCase, ApplicationRecorderTestCase, NonInterleavingNotificationIDsBaseCase
