"""The projector: feeds a projection from its source and keeps its position, exactly once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar

import structlog
from sqlalchemy import Select, Table, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tapeline.database import is_of_data, is_passing, physical, upsert
from tapeline.errors import TapelineError
from tapeline.projections.parked import MAX_ERROR, MOST, Parked, listed, released, set_aside, tried
from tapeline.projections.rows import Key, Rows
from tapeline.projections.source import Lease, Projection, Source
from tapeline.projections.state import make, positions

log = structlog.get_logger()

T = TypeVar("T")
WAIT_S = 2.0
IDLE_CHECK_S = 1.0
STANDBY_LOOK_S = 0.01
CANCEL_AGAIN_S = 0.2
END_S = 5.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
FOLD_FAULTS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, TapelineError)
"""What a fold raises at an event that it does not understand."""


class Projector:
    """Keeps one projection's tables at the end of its source; any number may run, one at a time counts."""

    def __init__(self, source: Source, projection: Projection, engine: AsyncEngine) -> None:
        self._source = source
        self._projection = projection
        self._engine = engine
        self._tables = {table.name: physical(table) for table in projection.tables}
        self._position = -1
        self._log_id = ""
        self._moved = asyncio.Condition()
        self._lease: Lease | None = None
        self._is_writer = True
        self._folding = asyncio.Lock()
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
        names = sorted(table.name for table in self._projection.tables)
        async with self._engine.begin() as connection:
            await make(connection)
            row = (await connection.execute(select(positions).where(positions.c.name == self.name))).mappings().first()
            if row is None or row["version"] != self._projection.version:
                # Another version may have other columns.
                for table in self._tables.values():
                    await connection.run_sync(table.drop, checkfirst=True)
                first = {
                    "name": self.name, "version": self._projection.version, "log_id": self._log_id, "position": 0,
                    "tables": names, "stream": self._source.stream, "writer": None, "parked": 0,
                }  # fmt: skip
                await upsert(connection, positions, [first])
                await released(connection, self.name)
                self._position, self._parkings = 0, 0
            elif row["log_id"] != self._log_id:
                raise TapelineError(
                    f"the tables of {self.name} were filled from log {row['log_id']}, this is log {self._log_id}",
                    code="log_mismatch",
                    hint="tapeline rebuild all",
                )
            else:
                self._position, self._parkings = row["position"], row["parked"]
            self._parked = {one.aggregate: one for one in await listed(connection, self.name)}
            for table in self._tables.values():
                await connection.run_sync(table.create, checkfirst=True)
        if self._position > await self._source.head():
            raise TapelineError(
                f"the tables of {self.name} are at position {self._position}, past the end of the log",
                code="log_behind_seal",
                hint="restore the log from a backup, then tapeline rebuild all",
            )

    async def run(self) -> None:
        """Follow the source for ever. Stops, saying where, at what it cannot fold."""
        pause_s = FIRST_PAUSE_S
        while True:
            before = self._position
            try:
                try:
                    await self._take_turn()
                except _Moved:
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
        async with self._moved:
            self._moved.notify_all()
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
            async with self._engine.begin() as connection:
                mine = update(positions).where(positions.c.name == self.name).values(writer=self._lease.holder)
                await connection.execute(mine)
            self._is_writer = True
            log.info("projection_writes", projection=self.name, writer=self._lease.holder, position=self._position)
            await _first_of(self._follow(), self._lease.keep())
        finally:
            self._is_writer = False
            await self._lease.give_back()

    async def _follow(self) -> None:
        # Whichever ends first ends both: the fold at what it cannot do, the watch at tables that were emptied.
        await _first_of(self._read(), self._watch())

    async def _read(self) -> None:
        async with aclosing(self._source.read(self._position)) as stretches:
            async for position, events in stretches:
                await _to_its_end(self._fold(position, events))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(IDLE_CHECK_S)
            async with self._folding:
                async with self._engine.connect() as connection:
                    found = (await connection.execute(self._mine())).first()
                    wishes = [one for one in await listed(connection, self.name) if one.wanted]
                if found is None or found.position < self._position or found.parked != self._parkings:
                    raise _Moved
            for one in wishes:
                await _to_its_end(self._retry(one))

    def _mine(self) -> Select[*tuple[Any, ...]]:
        return select(positions.c.position, positions.c.parked).where(positions.c.name == self.name)

    async def _reload(self) -> None:
        async with self._engine.connect() as connection:
            found = (await connection.execute(self._mine())).first()
            parked = {one.aggregate: one for one in await listed(connection, self.name)}
        if found is None:
            await self.open()
            position = self._position
        else:
            position, self._parkings, self._parked = found.position, found.parked, parked
        async with self._moved:
            self._position = position
            self._moved.notify_all()

    async def _look(self) -> None:
        """See how far the writer is. What was read may be older than what we have folded ourselves since."""
        async with self._engine.connect() as connection:
            found = (await connection.execute(self._mine())).first()
        if found is None or self._is_writer or found.position <= self._position:
            return
        async with self._moved:
            self._position = found.position
            self._moved.notify_all()

    async def _fold(self, position: int, events: list[Any]) -> None:
        async with self._folding:
            if position <= self._position:
                return
            # What overlaps with an earlier stretch is folded already.
            new = [event for event in events if event.position > self._position]
            await self._fold_or_part(position, new)

    async def _fold_or_part(self, position: int, events: list[Any]) -> None:
        """Fold a stretch; one that holds a value which the database refuses in halves, down to the commit."""
        try:
            await self._commit(position, events)
            return
        except (DBAPIError, ArithmeticError, ValueError) as error:
            places = sorted({event.position for event in events})
            if not places or not is_of_data(error):
                raise
            if len(places) == 1:
                await self._commit(position, [], {self._source.aggregate(events[0]): self._park(events[0], error)})
                return
        middle = places[len(places) // 2]
        await self._fold_or_part(middle - 1, [event for event in events if event.position < middle])
        await self._fold_or_part(position, [event for event in events if event.position >= middle])

    async def _commit(self, position: int, events: list[Any], parked: dict[str, Parked] | None = None) -> None:
        parked = parked or {}
        async with self._engine.begin() as connection:
            rows = Rows(self._tables)
            wanted: dict[Table, dict[Key, None]] = defaultdict(dict)
            foldable = []
            for event in events:
                aggregate = self._source.aggregate(event)
                if aggregate in self._parked or aggregate in parked:
                    continue
                try:
                    for table, key in self._projection.keys(event):
                        wanted[table][key] = None
                    foldable.append((aggregate, event))
                except FOLD_FAULTS as error:
                    parked[aggregate] = self._park(event, error)
            for table, keys in wanted.items():
                await rows.load(connection, table, keys)
            place = 0
            for aggregate, event in foldable:
                if aggregate in parked and event.position >= parked[aggregate].position:
                    continue
                if event.position != place:
                    place = event.position
                    rows.keep()
                try:
                    self._projection.apply(rows, event)
                except FOLD_FAULTS as error:
                    # A commit counts whole or not at all.
                    rows.rewind()
                    parked[aggregate] = self._park(event, error)
            await rows.store(connection)
            if len(self._parked) + len(parked) > MOST:
                raise self._too_many(parked)
            await set_aside(connection, list(parked.values()))
            await self._move(connection, position, self._parkings + bool(parked))
        self._parked |= parked
        self._parkings += bool(parked)
        for one in parked.values():
            log.error("aggregate_parked", projection=self.name, aggregate=one.aggregate, why=one.error)
        async with self._moved:
            self._position = position
            self._moved.notify_all()

    async def _move(self, connection: AsyncConnection, position: int, parkings: int) -> None:
        moved = await connection.execute(
            update(positions)
            .where(
                positions.c.name == self.name,
                positions.c.log_id == self._log_id,
                positions.c.position == self._position,
                positions.c.parked == self._parkings,
            )
            .values(position=position, parked=parkings)
        )
        if moved.rowcount != 1:
            raise _Moved

    async def _retry(self, one: Parked) -> None:
        """Fold a parked aggregate from its first event to our position, and strike it off the list."""
        async with self._folding:
            try:
                async with self._engine.begin() as connection:
                    # First, so that nobody moves the position while we read up to it.
                    await self._move(connection, self._position, self._parkings + 1)
                    rows = Rows(self._tables)
                    for event in await self._source.load(one.aggregate, self._position):
                        for table, key in self._projection.keys(event):
                            rows.expect(table, [key])
                        self._projection.apply(rows, event)
                    await rows.store(connection)
                    await released(connection, self.name, one.aggregate)
            except (*FOLD_FAULTS, DBAPIError) as error:
                if isinstance(error, DBAPIError) and not is_of_data(error):
                    raise
                async with self._engine.begin() as connection:
                    await tried(connection, one, said(error))
                return
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
                async with self._moved:
                    await self._moved.wait_for(lambda: self._position >= position or self.fault is not None)
        except TimeoutError:
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


def said(error: Exception) -> str:
    """An error in one line, for the list of what is parked."""
    return f"{type(error).__name__}: {error}"[:MAX_ERROR].partition("\n")[0]


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run works until one ends, then end the others; raises what the first one raised."""
    tasks = {asyncio.create_task(work) for work in works}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left = set(tasks)
        while left:
            for task in left:
                task.cancel()
            # The client library may swallow a cancellation that meets it while it connects: say it again.
            _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Run work that a cancellation may not cut: a transaction that is left half-way keeps its locks."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + END_S
        while not task.done() and loop.time() < deadline:
            # Whoever cancels says it again; the first time is remembered by the raise below.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task], timeout=deadline - loop.time())
        task.cancel()
        raise


class _Moved(Exception):
    """The position in the database is not the one that this projector left."""
