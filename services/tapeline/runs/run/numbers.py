"""The numbers of runs: taken one after another, those who wait together in one commit.

The number comes before the birth and by itself: one message is one write to disk, and a batch that binds two
subjects costs many. A birth that does not follow, because the process died in between, leaves its number unused.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tapeline import names
from tapeline.decider import Deciders, Origin
from tapeline.errors import TapelineError
from tapeline.ids import derived_id
from tapeline.names import TakeNumbers, counter_ref

ACTOR = "service:runs"
TRIES = 20
MOST = 256
"""Numbers of one commit."""


@dataclass(slots=True)
class _Counter:
    """Where a team's counter stands, as far as this process knows, and who waits for a number."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: dict[str, asyncio.Future[int]] = field(default_factory=dict)
    last: int | None = None


class Numbers:
    """Gives each new run of a team its number."""

    def __init__(self, deciders: Deciders) -> None:
        self._deciders = deciders
        self._counters: dict[str, _Counter] = {}

    async def take(self, team: str, run_id: str) -> int:
        """The next number, which is on the log and belongs to this run.

        Raises
        ------
        TapelineError
            `unavailable` when other copies of the service took every number that was tried.
        """
        counter = self._counters.setdefault(team, _Counter())
        mine = counter.waiting.get(run_id)
        if mine is None:
            mine = counter.waiting[run_id] = asyncio.get_running_loop().create_future()
        async with counter.lock:
            # Whoever held the lock before may have taken numbers for all who waited by then.
            if not mine.done():
                batch = dict(list(counter.waiting.items())[:MOST])
                for taken in batch:
                    del counter.waiting[taken]
                await self._take(team, counter, batch)
        return await mine

    async def _take(self, team: str, counter: _Counter, batch: dict[str, asyncio.Future[int]]) -> None:
        try:
            first = await self._appended(team, counter, list(batch))
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
