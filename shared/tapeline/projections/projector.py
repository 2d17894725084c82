"""The projector: feeds a projection from its source and keeps its position, exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, NoReturn

import structlog
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tapeline.database import Engine, is_of_data, is_passing, physical
from tapeline.errors import TapelineError
from tapeline.projections.folding import FOLD_FAULTS, fold, said
from tapeline.projections.parked import MOST, Parked, listed, released, set_aside, tried
from tapeline.projections.rows import Rows
from tapeline.projections.source import Lease, Projection, Source
from tapeline.projections.state import Moved, Place, make, move, place_of, positions
from tapeline.projections.statements import upsert
from tapeline.projections.turns import first_of, to_its_end

log = structlog.get_logger()

WAIT_S = 2.0
IDLE_CHECK_S = 1.0
STANDBY_LOOK_S = 0.01
SAVE_AFTER_S = 0.5
"""A position that no row goes with is stored this much later; sooner where other copies wait to see it."""
SAVE_SOON_S = 0.05
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
SHORT_EVENTS = 16
"""So few events are folded where they arrive; more of them, beside."""


class Projector:
    """Keeps one projection's tables at the end of its source; any number may run, one at a time counts."""

    def __init__(self, source: Source, projection: Projection, engine: Engine) -> None:
        self._source = source
        self._projection = projection
        self._engine = engine
        self._tables = {table.name: physical(table) for table in projection.tables}
        self._position = -1
        self._stored = -1
        self._log_id = ""
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._lease: Lease | None = None
        self._is_writer = True
        self._folding = asyncio.Lock()
        self._unsaved = asyncio.Event()
        self._rows = Rows(self._tables)
        self._parked: dict[str, Parked] = {}
        self._parkings = 0
        self.fault: TapelineError | None = None

    @property
    def name(self) -> str:
        return self._projection.name

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
        return self._parked

    def stand_by(self, lease: Lease) -> None:
        """Write only while holding a lease, and wait for it otherwise."""
        self._lease, self._is_writer = lease, False

    async def head(self) -> int:
        """The last position of the source."""
        return await self._source.head()

    async def open(self) -> None:
        """Make the tables when they are missing, and read the position.

        Raises `log_mismatch` when the tables were filled from another log. Tables of another version of
        the projection are emptied: the log refills them.
        """
        self._log_id = await self._source.identity()
        place, parked = await self._engine.write(self._made)
        self._rows = Rows(self._tables)
        self._stored, self._parkings, self._parked = place.position, place.parked, parked
        self._arrive(place.position)
        if self._position > await self._source.head():
            raise TapelineError(
                f"the tables of {self.name} are at position {self._position}, past the end of the log",
                code="log_behind_seal",
                hint="restore the log from a backup, then tapeline rebuild all",
            )

    def _made(self, connection: Connection) -> tuple[Place, dict[str, Parked]]:
        make(connection)
        row = connection.execute(select(positions).where(positions.c.name == self.name)).mappings().first()
        if row is None or row["version"] != self._projection.version:
            # Another version may have other columns.
            for table in self._tables.values():
                table.drop(connection, checkfirst=True)
            first = {
                "name": self.name, "version": self._projection.version, "log_id": self._log_id, "position": 0,
                "tables": sorted(table.name for table in self._projection.tables), "stream": self._source.stream,
                "writer": None, "parked": 0,
            }  # fmt: skip
            upsert(connection, positions, [first])
            released(connection, self.name)
            place = Place(0, 0)
        elif row["log_id"] != self._log_id:
            raise TapelineError(
                f"the tables of {self.name} were filled from log {row['log_id']}, this is log {self._log_id}",
                code="log_mismatch",
                hint="tapeline rebuild all",
            )
        else:
            place = Place(row["position"], row["parked"])
        for table in self._tables.values():
            table.create(connection, checkfirst=True)
        return place, {one.aggregate: one for one in listed(connection, self.name)}

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
            mine = update(positions).where(positions.c.name == self.name).values(writer=self._lease.holder)
            await self._engine.write(lambda connection: connection.execute(mine))
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
        async with aclosing(self._source.read(self._position)) as stretches:
            async for position, events in stretches:
                await to_its_end(self._fold(position, events))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(IDLE_CHECK_S)
            async with self._folding:
                place, wishes = await self._engine.read(self._looked)
                if place is None or place.position < self._stored or place.parked != self._parkings:
                    raise Moved
            for one in wishes:
                await to_its_end(self._retry(one))

    def _looked(self, connection: Connection) -> tuple[Place | None, list[Parked]]:
        wishes = [one for one in listed(connection, self.name) if one.wanted] if self._parked else []
        return place_of(connection, self.name), wishes

    async def _save(self) -> None:
        """Store a position that no rows went with, once a moment has passed without any."""
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(SAVE_AFTER_S if self._lease is None else SAVE_SOON_S)
            await to_its_end(self._save_now())

    async def _save_now(self) -> None:
        async with self._folding:
            self._unsaved.clear()
            if self._position > self._stored:
                await self._engine.write(
                    lambda connection: self._move(connection, self._position, self._parkings), is_short=True
                )
                self._stored = self._position

    async def _reload(self) -> None:
        def looked(connection: Connection) -> tuple[Place | None, list[Parked]]:
            return place_of(connection, self.name), listed(connection, self.name)

        async with self._folding:
            self._rows = Rows(self._tables)
            place, parked = await self._engine.read(looked)
            if place is None:
                await self.open()
                return
            self._stored, self._parkings = place.position, place.parked
            self._parked = {one.aggregate: one for one in parked}
            self._arrive(place.position)

    async def _look(self) -> None:
        """See how far the writer is. What was read may be older than what we have folded ourselves since."""
        place = await self._engine.read(lambda connection: place_of(connection, self.name))
        if place is not None and not self._is_writer and place.position > self._position:
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

    async def _fold(self, position: int, events: Sequence[Any]) -> None:
        async with self._folding:
            if position <= self._position:
                return
            # What overlaps with an earlier stretch is folded already.
            aggregate, last = self._source.aggregate, self._position
            new = [(aggregate(event), event) for event in events if event.position > last]
            if self._parked:
                new = [each for each in new if each[0] not in self._parked]
            if not new:
                # No row changes: the tables are at this position as they stand.
                self._unsaved.set()
                self._arrive(position)
                return
            await self._fold_or_part(position, new)

    async def _fold_or_part(self, position: int, events: Sequence[tuple[str, Any]]) -> None:
        """Fold a stretch; one that holds a value which the database refuses in halves, down to the commit."""
        try:
            await self._commit(position, events)
            return
        except (DBAPIError, ArithmeticError, ValueError) as error:
            places = sorted({event.position for _, event in events})
            if not places or not is_of_data(error):
                raise
            if len(places) == 1:
                aggregate, event = events[0]
                await self._commit(position, [], {aggregate: self._park(event, error)})
                return
        middle = places[len(places) // 2]
        await self._fold_or_part(middle - 1, [each for each in events if each[1].position < middle])
        await self._fold_or_part(position, [each for each in events if each[1].position >= middle])

    async def _commit(
        self, position: int, events: Sequence[tuple[str, Any]], given: Mapping[str, Parked] | None = None
    ) -> None:
        rows, known = self._rows, {**self._parked, **(given or {})}
        # Until it has succeeded nobody knows what the rows are worth.
        self._rows = Rows(self._tables)

        def work(connection: Connection) -> dict[str, Parked]:
            new = {**(given or {}), **fold(connection, self._projection, rows, events, known, self._park)}
            if len(self._parked) + len(new) > MOST:
                raise self._too_many(new)
            set_aside(connection, list(new.values()))
            self._move(connection, position, self._parkings + bool(new))
            return new

        parked = await self._engine.write(work, is_short=len(events) <= SHORT_EVENTS)
        rows.trim()
        self._rows = rows
        self._parked |= parked
        self._parkings += bool(parked)
        self._stored = position
        for one in parked.values():
            log.error("aggregate_parked", projection=self.name, aggregate=one.aggregate, why=one.error)
        self._arrive(position)

    def _move(self, connection: Connection, position: int, parkings: int) -> None:
        move(connection, self.name, self._log_id, Place(self._stored, self._parkings), Place(position, parkings))

    async def _retry(self, one: Parked) -> None:
        """Fold a parked aggregate from its first event to our position, and strike it off the list."""
        async with self._folding:
            self._rows = Rows(self._tables)
            upto = self._position
            # It may have grown beyond our position since; what is up to there does not change.
            events = await self._source.load(one.aggregate, upto)

            def work(connection: Connection) -> None:
                rows = Rows(self._tables)
                for event in events:
                    for table, key in self._projection.keys(event):
                        rows.expect(table, [key])
                    self._projection.apply(rows, event)
                rows.store(connection)
                released(connection, self.name, one.aggregate)
                self._move(connection, upto, self._parkings + 1)

            try:
                await self._engine.write(work)
            except (*FOLD_FAULTS, DBAPIError) as error:
                if isinstance(error, DBAPIError) and not is_of_data(error):
                    raise
                why = said(error)
                await self._engine.write(lambda connection: tried(connection, one, why))
                return
            self._stored = upto
            self._parkings += 1
            self._parked.pop(one.aggregate, None)
        log.info("aggregate_unparked", projection=self.name, aggregate=one.aggregate)

    def _park(self, event: Any, error: Exception) -> Parked:
        at = getattr(event, "created_at", None) or event.stored_at
        return Parked(self.name, self._source.aggregate(event), event.position, said(error), at.isoformat())

    def _too_many(self, parked: Mapping[str, Parked]) -> TapelineError:
        last = next(iter(parked.values()))
        return TapelineError(
            f"projection {self.name} cannot fold more than {MOST} aggregates; {last.aggregate} at position "
            f"{last.position}: {last.error}",
            code="internal",
            hint="mend the projection, then tapeline rebuild it",
        )

    async def wait_for(self, position: int, timeout_s: float = WAIT_S) -> None:
        """Wait until the tables have reached a position.

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
                    arrived = asyncio.get_running_loop().create_future()
                    self._waiting.append((position, arrived))
                    await arrived
        except TimeoutError:
            self._waiting = [each for each in self._waiting if not each[1].done()]
            head = await self._source.head()
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
