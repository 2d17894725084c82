"""One reading of the log's end for everything in a process that follows it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

from tapeline.errors import TapelineError
from tapeline.log import EventLog, Head, StoredCommit
from tapeline.subjects import Ref

REMEMBERED = 1000
"""Commits at the end that a follower may still join at."""
MOST_WAITING = 64
"""Lists that a slow follower may leave lying; then it reads by itself until it has caught up."""


class _Follower:
    """The place of one follower: what it has not taken yet."""

    __slots__ = ("error", "is_slow", "lists", "woken")

    def __init__(self) -> None:
        self.lists: deque[list[StoredCommit]] = deque()
        self.woken = asyncio.Event()
        self.is_slow = False
        self.error: BaseException | None = None


class Tail:
    """The log for its followers: each commit is delivered to the process once, and handed to all of them.

    A follower that is behind reads by itself up to the end, then joins. What one of them is told of a fault,
    all are.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._followers: set[_Follower] = set()
        self._recent: deque[StoredCommit] = deque(maxlen=REMEMBERED)
        self._position = 0
        self._task: asyncio.Task[None] | None = None

    async def head(self) -> Head:
        """The end of the log."""
        return await self._log.head()

    async def load(
        self, ref: Ref, *, after: int = 0, upto: int | None = None, leader: bool = False
    ) -> list[StoredCommit]:
        """The commits of one aggregate; see `EventLog.load`."""
        return await self._log.load(ref, after=after, upto=upto, leader=leader)

    async def read(
        self, *, after: int = 0, upto: int | None = None, follow: bool = False
    ) -> AsyncGenerator[list[StoredCommit], None]:
        """Every commit after a position, in order; see `EventLog.read`. Who follows shares one reading."""
        while not (follow and upto is None and self._is_near(after)):
            async with aclosing(self._log.read(after=after, upto=upto)) as alone:
                async for commits in alone:
                    after = commits[-1].position
                    yield commits
            if not follow or (upto is not None and after >= upto):
                return
            if self._task is None:
                break
        async with aclosing(self._joined(after)) as lists:
            async for commits in lists:
                yield commits

    def _is_near(self, after: int) -> bool:
        """Whether what follows a position is at hand, or still to come."""
        if self._task is None:
            return False
        oldest = self._recent[0].position if self._recent else self._position + 1
        return oldest <= after + 1

    async def _joined(self, after: int) -> AsyncGenerator[list[StoredCommit], None]:
        follower = _Follower()
        if self._task is None:
            self._position = after
            self._recent.clear()
            self._task = asyncio.create_task(self._run(after))
        missed = [commit for commit in self._recent if commit.position > after]
        if missed:
            follower.lists.append(missed)
            follower.woken.set()
        self._followers.add(follower)
        try:
            while True:
                await follower.woken.wait()
                follower.woken.clear()
                while follower.lists:
                    commits = follower.lists.popleft()
                    if commits[0].position != after + 1:
                        commits = [commit for commit in commits if commit.position > after]
                    if commits:
                        after = commits[-1].position
                        yield commits
                if follower.error is not None:
                    raise follower.error
                if follower.is_slow:
                    raise TapelineError("a follower of the log has fallen behind", code="unavailable", hint="retry")
        finally:
            self._followers.discard(follower)
            if not self._followers and self._task is not None:
                task, self._task = self._task, None
                task.cancel()
                await asyncio.wait([task], timeout=1.0)

    async def _run(self, after: int) -> None:
        mine = asyncio.current_task()
        error: BaseException | None = None
        try:
            async with aclosing(self._log.read(after=after, follow=True)) as lists:
                async for commits in lists:
                    if self._task is not mine:
                        return  # the client library may swallow a cancellation: another reading has begun
                    self._recent.extend(commits)
                    self._position = commits[-1].position
                    for follower in self._followers:
                        if follower.is_slow:
                            continue
                        follower.lists.append(commits)
                        follower.is_slow = len(follower.lists) > MOST_WAITING
                        follower.woken.set()
        except Exception as raised:
            # Each follower raises it where it is waited for.
            error = raised
        finally:
            # Without followers it was told to end; those of the next reading are not its own.
            if self._task is mine:
                self._task = None
                for follower in self._followers:
                    follower.error = error or TapelineError("the reading of the log has ended", code="unavailable")
                    follower.woken.set()
