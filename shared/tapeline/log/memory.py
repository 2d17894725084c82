"""A log in memory: the smallest complete one, with the outcomes of the real one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta

from uuid_utils import uuid7

from tapeline.clock import Clock, SystemClock
from tapeline.errors import TapelineError
from tapeline.log import Appended, Head, NewCommit, StoredCommit
from tapeline.log.codec import Codec, Encoded, digest
from tapeline.log.outcomes import all_ours, check_batch, check_chain, check_expectation, check_room, message_id, ours
from tapeline.subjects import Ref, events_of_place, ref_of

DUPLICATE_WINDOW = timedelta(minutes=2)
LIST_SIZE = 1000


class InMemoryLog:
    """An `EventLog` that lives as long as its process.

    Parameters
    ----------
    codec
        Turns commits into the same bytes as on the real log.
    clock
        Gives `stored_at`, and ages the duplicate window.
    max_bytes
        Beyond it, appends are refused with `insufficient_storage`.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        clock: Clock | None = None,
        log_id: str | None = None,
        max_bytes: int = 2 * 1024**3,
    ) -> None:
        self._codec = codec
        self._clock = clock or SystemClock()
        self._log_id = log_id or str(uuid7())
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._commits: list[StoredCommit] = []
        self._of: dict[str, list[StoredCommit]] = {}
        self._sent: dict[str, datetime] = {}
        self._waiting: set[asyncio.Event] = set()

    async def append(self, commit: NewCommit, *, expected: int) -> Appended:
        """Store one commit; see `EventLog.append`."""
        check_expectation(commit, expected)
        encoded = self._codec.encode(commit)
        await asyncio.sleep(0)  # the real log answers later: callers must bear a switch here
        if self._tail(commit.ref) == expected and not self._is_known(message_id(commit)):
            check_room([commit], self._head())
            self._check_space(len(encoded.header) + len(encoded.body))
            return self._store(commit, encoded, message_id(commit))
        # The expectation is older than our own commit when the message id is what the log knows.
        since = expected if self._tail(commit.ref) != expected else 0
        found = ours(commit, encoded, self._since(commit.ref, since), sent=False)
        return all_ours([found], str(commit.ref))[0]

    async def append_all(self, commits: Sequence[tuple[NewCommit, int]]) -> list[Appended]:
        """Store several commits, all or none; see `EventLog.append_all`."""
        heads = check_batch(commits)
        encoded = [self._codec.encode(commit) for commit, _ in commits]
        check_chain(commits, encoded)
        await asyncio.sleep(0)
        ids = [message_id(commit, index) for index, (commit, _) in enumerate(commits)]
        moved = any(self._tail(ref) != expected for ref, expected in heads.items())
        if moved or any(self._is_known(id) for id in ids):
            found = [
                ours(commit, one, self._since(commit.ref, heads[commit.ref]), sent=False)
                for (commit, _), one in zip(commits, encoded, strict=True)
            ]
            return all_ours(found, ", ".join(map(str, heads)))
        check_room([commit for commit, _ in commits], self._head())
        self._check_space(sum(len(header) + len(body) for header, body in encoded))
        return [self._store(commit, one, id) for (commit, _), one, id in zip(commits, encoded, ids, strict=True)]

    async def load(
        self, ref: Ref, *, after: int = 0, upto: int | None = None, leader: bool = False
    ) -> list[StoredCommit]:
        """The commits of one aggregate; see `EventLog.load`."""
        await asyncio.sleep(0)
        return [one for one in self._since(ref, after) if upto is None or one.position <= upto]

    async def page(self, *, after: int, limit: int, team: str | None = None) -> list[StoredCommit]:
        """A few commits after a position; see `EventLog.page`."""
        await asyncio.sleep(0)
        of_team = (one for one in self._commits[after:] if team in (None, one.subject.split(".")[1]))
        return list(itertools.islice(of_team, min(limit, LIST_SIZE)))

    async def refs(self, place: str) -> list[Ref]:
        """The aggregates that are written as `<kind>/<id>`; see `EventLog.refs`."""
        events_of_place(place)
        found = (ref_of(subject) for subject in sorted(self._of))
        return [ref for ref in found if str(ref) == place]

    async def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[StoredCommit], None]:
        """Every commit in lists; see `EventLog.read`."""
        end = upto if follow else min(len(self._commits), len(self._commits) if upto is None else upto)
        grown = asyncio.Event()
        self._waiting.add(grown)
        try:
            while end is None or after < end:
                grown.clear()
                stop = after + LIST_SIZE if end is None else min(after + LIST_SIZE, end)
                found = self._commits[after:stop]
                if found:
                    after = found[-1].position
                    yield found
                else:
                    await grown.wait()
        finally:
            self._waiting.discard(grown)

    async def head(self) -> Head:
        """The end of the log; see `EventLog.head`."""
        return self._head()

    def _head(self) -> Head:
        return Head(
            log_id=self._log_id,
            position=len(self._commits),
            size_bytes=self._size_bytes,
            max_bytes=self._max_bytes,
        )

    def _tail(self, ref: Ref) -> int:
        commits = self._of.get(ref.subject)
        return commits[-1].position if commits else 0

    def _since(self, ref: Ref, after: int) -> list[StoredCommit]:
        return [one for one in self._of.get(ref.subject, []) if one.position > after]

    def _is_known(self, id: str) -> bool:
        sent_at = self._sent.get(id)
        return sent_at is not None and self._clock.now() - sent_at < DUPLICATE_WINDOW

    def _check_space(self, more_bytes: int) -> None:
        if self._size_bytes + more_bytes > self._max_bytes:
            raise TapelineError(
                f"the log is full: {self._size_bytes} of {self._max_bytes} bytes",
                code="insufficient_storage",
                hint="raise max_bytes of EVENTS with tapeline topology apply",
            )

    def _store(self, commit: NewCommit, encoded: Encoded, id: str) -> Appended:
        stored = StoredCommit(
            position=len(self._commits) + 1,
            subject=commit.ref.subject,
            header=encoded.header,
            body=encoded.body,
            stored_at=self._clock.now(),
        )
        self._commits.append(stored)
        self._of.setdefault(stored.subject, []).append(stored)
        self._sent[id] = stored.stored_at
        self._size_bytes += len(encoded.header) + len(encoded.body)
        for grown in self._waiting:
            grown.set()
        return Appended(
            position=stored.position,
            sequence=commit.sequence + len(commit.events) - 1,
            digest=digest(stored.subject, stored.header, stored.body),
        )
