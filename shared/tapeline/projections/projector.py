"""The projector: feeds a projection from its source and keeps its position, exactly once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NoReturn

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tapeline.database import Engine, is_passing
from tapeline.errors import TapelineError
from tapeline.logs import get_logger
from tapeline.projections.building import Builder
from tapeline.projections.generation import SHORT_EVENTS, Generation
from tapeline.projections.parked import Parked, listed
from tapeline.projections.source import Lease, Projection, Source
from tapeline.projections.state import ACTIVE, HANDED, Known, Moved, active, begin, known, make, take_back, write
from tapeline.projections.turns import first_of, gathered, to_its_end

log = get_logger()

WAIT_S = 2.0
IDLE_CHECK_S = 1.0
HANDED_S = 5.0
"""So long a projector waits for the generation that is to take over before it goes on itself."""
HANDED_LOOK_S = 0.01
STANDBY_LOOK_S = 0.01
SAVE_AFTER_S = 0.5
"""A position that no row goes with is stored this much later; sooner where other copies wait to see it."""
SAVE_SOON_S = 0.05
TOGETHER = 1000
"""So many events are folded in one transaction at most."""
BREATH_S = 0.002
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


class Projector:
    """Keeps one projection's tables at the end of its source; any number may run, one at a time counts."""

    def __init__(self, source: Source, projection: Projection, engine: Engine) -> None:
        self.source = source
        self.projection = projection
        self.engine = engine
        self._generation: Generation | None = None
        self._log_id = ""
        self._waiting: list[tuple[int, asyncio.Future[None], bool]] = []
        self._lease: Lease | None = None
        self._is_writer = True
        self._folding = asyncio.Lock()
        self._unsaved = asyncio.Event()
        self._breathing: asyncio.Future[None] | None = None
        self._position = -1
        self.fault: TapelineError | None = None

    @property
    def name(self) -> str:
        return self.projection.name

    @property
    def position(self) -> int:
        """The position that the tables are at; -1 before the first look at the database."""
        return self._position

    @property
    def log_id(self) -> str:
        return self._log_id

    @property
    def is_writer(self) -> bool:
        """Whether this projector moves the position; a standby only reads it."""
        return self._is_writer

    @property
    def parked(self) -> Mapping[str, Parked]:
        """What could not be folded and was set aside, by `<team>/<kind>/<id>`."""
        return self._generation.parked if self._generation is not None else {}

    def version_of(self, table: str) -> tuple[Generation, int] | None:
        """What is another one once a row of a table has changed; None where somebody else may change it."""
        if self._lease is not None or self._generation is None:
            return None
        return self._generation, self._generation.changes(table)

    def stand_by(self, lease: Lease) -> None:
        """Write only while holding a lease, and wait for it otherwise."""
        self._lease, self._is_writer = lease, False

    async def head(self) -> int:
        """The last position of the source."""
        return await self.source.head()

    async def open(self) -> None:
        """Make the tables when they are missing, and read the position.

        Tables of another version of the projection are not served: those of this one are built beside them
        first, and shown in their place.

        Raises `log_mismatch` when the tables were filled from another log.
        """
        self._log_id = await self.source.identity()
        found = await self.engine.write(self._found)
        if found is None:
            builder = Builder(self)
            await builder.build()
            await builder.switch()
            found = await self.engine.write(self._found)
        if found is None:
            raise TapelineError(
                f"the tables of {self.name} are of another version than this code",
                code="unavailable",
                hint="tapeline rebuild all, with the version of tapeline that is to run",
            )
        self._adopt(*found)
        if self._position > (head := await self.source.head()):
            raise TapelineError(
                f"the tables of {self.name} are at position {self._position}, past the end of the log ({head})",
                code="log_behind_seal",
                hint="restore the log from a backup, then tapeline rebuild all",
            )

    def _found(self, connection: Connection) -> tuple[Known, list[Parked]] | None:
        """The active generation, made when there is none; None when it is of another version."""
        make(connection)
        found = active(connection, self.name)
        if found is None:
            numbers = [each.generation for each in known(connection, self.name)]
            found = self.first(max(numbers, default=0) + 1, ACTIVE)
            begin(connection, found, self.projection.tables)
        if found.log_id != self._log_id:
            raise TapelineError(
                f"the tables of {self.name} were filled from log {found.log_id}, this is log {self._log_id}",
                code="log_mismatch",
                hint="tapeline rebuild all",
            )
        if found.version != self.projection.version:
            return None
        return found, listed(connection, self.name, found.generation)

    def first(self, generation: int, state: str) -> Known:
        """A generation that nothing was folded into yet."""
        return Known(
            self.name, generation, state, self.projection.version, self._log_id, 0,
            sorted(table.name for table in self.projection.tables), self.source.stream, None, None, 0,
        )  # fmt: skip

    def _adopt(self, of: Known, parked: Sequence[Parked]) -> None:
        of = replace(of, state=ACTIVE)
        self._generation = Generation(self.source, self.projection, self.engine, of, parked)
        self._arrive(of.position)

    @property
    def _tables(self) -> Generation:
        if self._generation is None:
            raise TapelineError(f"projection {self.name} was not opened", code="internal")
        return self._generation

    async def run(self) -> None:
        """Follow the source for ever. Stops, saying where, at what it cannot fold."""
        pause_s = FIRST_PAUSE_S
        while True:
            before = self._position
            try:
                try:
                    await self._take_turn()
                except Moved:
                    # Somebody else emptied or filled the tables: go on from where they are now.
                    await self._reload()
            except (DBAPIError, PoolTimeoutError, OSError) as error:
                if not is_passing(error):
                    await self._stop(TapelineError(f"projection {self.name}: {error}"[:500], code="internal"))
                log.warning("projection_waits", projection=self.name, position=self._position, error=str(error)[:200])
            except TapelineError as error:
                if error.code not in ("unavailable", "timeout", "unknown_outcome"):
                    await self._stop(error)
                log.warning("projection_waits", projection=self.name, position=self._position, error=error.message)
            else:
                continue
            pause_s = FIRST_PAUSE_S if self._position > before else min(2 * pause_s, LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _stop(self, error: TapelineError) -> NoReturn:
        self.fault = error
        log.error("projection_stopped", projection=self.name, position=self._position, error=error.message)
        self._arrive(self._position)
        raise error

    async def _take_turn(self) -> None:
        if self._lease is None:
            await self._follow()
            return
        while not await self._lease.take():
            await self._reload()
            await asyncio.sleep(IDLE_CHECK_S)
        try:
            # The one before has moved on since we last looked.
            await self._reload()
            of, holder = self._tables.known, self._lease.holder
            await self.engine.write(lambda connection: write(connection, of, writer=holder))
            self._is_writer = True
            log.info("projection_writes", projection=self.name, writer=self._lease.holder, position=self._position)
            await first_of(self._follow(), self._lease.keep())
        finally:
            self._is_writer = False
            await self._lease.give_back()

    async def _follow(self) -> None:
        # Whichever ends first ends all: the fold at what it cannot do, the watch at tables that were emptied.
        await first_of(self._read(), self._watch(), self._save())

    async def _read(self) -> None:
        async with (
            aclosing(self.source.read(self._position)) as read,
            aclosing(gathered(read, TOGETHER, self._breath)) as stretches,
        ):
            async for position, events in stretches:
                if not events and not self._folding.locked():
                    # Nothing to write: most of what a projection of few kinds hears.
                    self._tables.skip(position)
                    self._unsaved.set()
                    self._arrive(max(position, self._position))
                    continue
                await to_its_end(self._fold(position, events))

    async def _breath(self, events: int) -> None:
        """Let the reply to the command that made a commit go out first, unless somebody waits for its rows."""
        if not events or events > SHORT_EVENTS or any(hurries for _, _, hurries in self._waiting):
            return
        loop = asyncio.get_running_loop()
        breath = self._breathing = loop.create_future()
        end = loop.call_later(BREATH_S, _end, breath)
        try:
            await breath
        finally:
            end.cancel()
            self._breathing = None

    async def _fold(self, position: int, events: Sequence[Any]) -> None:
        async with self._folding:
            if position > self._position:
                if not await self._tables.fold(position, events):
                    self._unsaved.set()
                self._arrive(position)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(IDLE_CHECK_S)
            async with self._folding:
                place, wishes = await self.engine.read(self._tables.look)
                if not self._tables.is_as_left(place):
                    raise Moved
            for one in wishes:
                await to_its_end(self._retry(one))

    async def _retry(self, one: Parked) -> None:
        async with self._folding:
            await self._tables.retry(one)

    async def _save(self) -> None:
        """Store a position that no rows went with, once a moment has passed without any."""
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(SAVE_AFTER_S if self._lease is None else SAVE_SOON_S)
            await to_its_end(self._save_now())

    async def _save_now(self) -> None:
        async with self._folding:
            self._unsaved.clear()
            await self._tables.save()

    async def _reload(self) -> None:
        """Be where the database is, with the generation that is shown now."""

        def looked(connection: Connection) -> tuple[Known, list[Parked]] | None:
            found = active(connection, self.name)
            return None if found is None else (found, listed(connection, self.name, found.generation))

        async with self._folding:
            while (found := await self.engine.read(looked)) is not None and found[0].state == HANDED:
                # Another generation takes over in a moment, unless its builder has died over it.
                if time.time() - (found[0].beat or 0.0) > HANDED_S:
                    await self.engine.write(lambda connection: take_back(connection, self.name))
                await asyncio.sleep(HANDED_LOOK_S)
            if found is None:
                await self.open()
            elif found[0].version != self.projection.version:
                raise TapelineError(
                    f"the tables of {self.name} are of version {found[0].version} now, this code folds version "
                    f"{self.projection.version}",
                    code="conflict",
                    hint="run the version of tapeline that built them, or go back: tapeline rebuild --back",
                )
            else:
                self._adopt(*found)

    async def _look(self) -> None:
        """See how far the writer is. What was read may be older than what we have folded ourselves since."""
        place = await self.engine.read(self._tables.place)
        if self._is_writer:
            return
        if place is None:
            await self._reload()
        elif place.position > self._position:
            self._arrive(place.position)

    def _arrive(self, position: int) -> None:
        """Be at a position, and let go on who has waited for it."""
        self._position = position
        if self._waiting:
            left = []
            for each in self._waiting:
                if each[0] > position and self.fault is None:
                    left.append(each)
                elif not each[1].done():
                    each[1].set_result(None)
            self._waiting = left

    async def wait_for(self, position: int, timeout_s: float = WAIT_S, *, hurries: bool = True) -> None:
        """Wait until the tables have reached a position; who `hurries` has them folded at once.

        Raises `behind` after `timeout_s`, `invalid` for a position past the end of the log.
        """
        if self._position >= position:
            return
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_writer and self.fault is None and self._position < position:
                    await asyncio.sleep(STANDBY_LOOK_S)
                    await self._look()
                if self.fault is None and self._position < position:
                    if hurries and self._breathing is not None:
                        _end(self._breathing)
                    arrived = asyncio.get_running_loop().create_future()
                    self._waiting.append((position, arrived, hurries))
                    await arrived
        except TimeoutError:
            self._waiting = [each for each in self._waiting if not each[1].done()]
            head = await self.source.head()
            if position > head:
                raise TapelineError(
                    f"position {position} is past the end of the log ({head})",
                    code="invalid",
                    hint="was the position taken from another log?",
                ) from None
            raise TapelineError(
                f"the view is at {self._position}, asked for {position}", code="behind", hint="retry"
            ) from None
        if self.fault is not None:
            raise TapelineError(
                f"projection {self.name} stopped at {self._position}: {self.fault.message}",
                code="unavailable",
                hint=self.fault.hint or "tapeline doctor",
            )


def _end(breath: asyncio.Future[None]) -> None:
    if not breath.done():
        breath.set_result(None)
