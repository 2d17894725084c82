"""The numbers of runs: taken one after another, those who wait together in one commit, and some in advance.

The number comes before the birth and by itself: one message is one write to disk, and a batch that binds two
subjects costs many. While runs are born one after another, the next numbers are taken in the background, so that
a birth waits for its own write only. A number whose birth does not follow, because the process ended in between,
stays unused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from tapeline import names
from tapeline.clock import Clock
from tapeline.decider import Deciders, Origin
from tapeline.errors import TapelineError
from tapeline.ids import derived_id, new_id
from tapeline.logs import get_logger
from tapeline.names import TakeNumbers, counter_ref

log = get_logger()

ACTOR = "service:runs"
TRIES = 20
MOST = 64
"""Numbers of one commit."""
QUICK_S = 1.0
"""Who wants a number so soon after another probably wants a third one."""
AHEAD = 16
"""So many numbers are taken in advance at most: the end of the process leaves them unused."""


@dataclass(slots=True)
class _Counter:
    """Where a team's counter stands, as far as this process knows, and who waits for a number."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: dict[str, asyncio.Future[int]] = field(default_factory=dict)
    last: int | None = None
    spare: deque[int] = field(default_factory=deque)
    asked: deque[float] = field(default_factory=lambda: deque(maxlen=AHEAD))
    filling: asyncio.Task[None] | None = None


class Numbers:
    """Gives each new run of a team its number."""

    def __init__(self, deciders: Deciders, clock: Clock) -> None:
        self._deciders = deciders
        self._clock = clock
        self._counters: dict[str, _Counter] = {}
        # Two copies never take numbers by one name: whose they are is what the log says.
        self._name = f"ahead-{new_id()}"

    async def take(self, team: str, run_id: str) -> int:
        """The next number, which is on the log and belongs to this run.

        Raises
        ------
        TapelineError
            `unavailable` when other copies of the service took every number that was tried.
        """
        counter = self._counter(team)
        ahead = self._ahead(counter)
        mine = counter.waiting.get(run_id)
        if mine is None and counter.spare:
            number = counter.spare.popleft()
            if len(counter.spare) <= ahead // 2 and counter.filling is None:
                counter.filling = asyncio.create_task(self._fill(team, counter, ahead))
            return number
        if mine is None:
            mine = counter.waiting[run_id] = asyncio.get_running_loop().create_future()
        async with counter.lock:
            # Whoever held the lock before may have taken numbers for all who waited by then.
            self._hand_out(counter)
            if not mine.done():
                batch = dict(list(counter.waiting.items())[:MOST])
                for taken in batch:
                    del counter.waiting[taken]
                await self._take(team, counter, batch, ahead)
        return await mine

    def give_back(self, team: str, number: int) -> None:
        """Let another run have a number that its own did not need after all: it was born before."""
        self._counter(team).spare.appendleft(number)

    def _counter(self, team: str) -> _Counter:
        counter = self._counters.get(team)
        if counter is None:
            counter = self._counters[team] = _Counter()
        return counter

    @staticmethod
    def _hand_out(counter: _Counter) -> None:
        """Give what was taken in advance meanwhile to those who wait, first come first served."""
        while counter.spare and counter.waiting:
            future = counter.waiting.pop(next(iter(counter.waiting)))
            if not future.done():
                future.set_result(counter.spare.popleft())

    def _ahead(self, counter: _Counter) -> int:
        """How many numbers are worth having: as many as were asked for just now."""
        now = self._clock.monotonic()
        while counter.asked and now - counter.asked[0] > QUICK_S:
            counter.asked.popleft()
        found = len(counter.asked)
        counter.asked.append(now)
        return found

    async def _fill(self, team: str, counter: _Counter, ahead: int) -> None:
        try:
            async with counter.lock:
                await self._take(team, counter, {}, ahead - len(counter.spare))
        except TapelineError as error:
            # The next birth asks by itself, and is told.
            log.warning("numbers_not_taken", team=team, code=error.code, why=error.message)
        finally:
            counter.filling = None

    async def _take(self, team: str, counter: _Counter, batch: dict[str, asyncio.Future[int]], ahead: int) -> None:
        holders = [*batch, *[self._name] * ahead]
        if not holders:
            return
        try:
            first = await self._appended(team, counter, holders)
        except BaseException as error:
            for future in batch.values():
                if isinstance(error, Exception):
                    future.set_exception(error)
                    future.exception()  # it may be that nobody waits any more
                else:
                    future.cancel()
            raise
        for i, future in enumerate(batch.values()):
            if not future.done():
                future.set_result(first + i)
        counter.spare.extend(range(first + len(batch), first + len(holders)))

    async def _appended(self, team: str, counter: _Counter, holders: list[str]) -> int:
        ref = counter_ref(team, "run")
        for _ in range(TRIES):
            if counter.last is None:
                counter.last = (await self._deciders.state(names, ref)).number
            first, counter.last = counter.last + 1, None
            origin = Origin(actor=ACTOR, command_id=derived_id("numbers", team, str(first), *holders))
            try:
                await self._deciders.handle(names, ref, TakeNumbers(first=first, holders=holders), origin)
            except TapelineError as error:
                # Another copy of the service took the number in between.
                if error.code != "conflict":
                    raise
                continue
            counter.last = first + len(holders) - 1
            return first
        raise TapelineError("no number could be taken", code="unavailable", hint="repeat the command")
