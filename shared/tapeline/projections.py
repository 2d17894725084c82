"""Projections: fold the log into tables, position and effect in one transaction.

A projection is a module with `name`, `version`, `kinds`, `tables`, `keys` and `apply`; both functions are
pure, so a rebuild is always safe. A `Projector` feeds it: it reads a stretch of the log, loads the rows
that the stretch touches, folds in memory, writes each row once, and moves the position by
compare-and-set, all in one transaction.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol

import structlog
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Integer,
    MetaData,
    String,
    Table,
    and_,
    delete,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tapeline.database import MAX_BOUND, upsert
from tapeline.errors import TapelineError
from tapeline.log import EventLog
from tapeline.log.codec import Codec

log = structlog.get_logger()

POSITIONS = MetaData()
positions = Table(
    "projection_positions",
    POSITIONS,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("log_id", String(64), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("tables", JSON, nullable=False),
)

WAIT_S = 2.0
IDLE_CHECK_S = 1.0
CANCEL_AGAIN_S = 0.2
Key = tuple[Any, ...]
Row = dict[str, Any]


class Rows:
    """The rows that a stretch of the log touches, in memory; a projection reads and writes them here."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[Key, Row | None]] = defaultdict(dict)
        self._tables: dict[str, Table] = {}
        self._changed: dict[str, set[Key]] = defaultdict(set)

    def get(self, table: Table, *key: Any) -> Row | None:
        """A copy of the row with this primary key, or None. The key must be among `keys` of the event."""
        if key not in self._rows[table.name]:
            raise LookupError(f"{table.name} {key} was read but is not among the keys of its event")
        row = self._rows[table.name][key]
        return dict(row) if row is not None else None

    def put(self, table: Table, row: Row) -> None:
        """Write a whole row; a column that is left out takes its default, or NULL."""
        whole = {
            column.name: row.get(column.name, column.default.arg if column.default is not None else None)  # type: ignore[attr-defined]
            for column in table.columns
        }
        key = tuple(whole[column.name] for column in table.primary_key.columns)
        self._tables[table.name] = table
        self._rows[table.name][key] = whole
        self._changed[table.name].add(key)

    def change(self, table: Table, *key: Any, **values: Any) -> None:
        """Overwrite some columns of a row; a row that is not there stays away."""
        row = self.get(table, *key)
        if row is not None:
            self.put(table, row | values)

    def delete(self, table: Table, *key: Any) -> None:
        """Remove the row with this primary key."""
        self._tables[table.name] = table
        self._rows[table.name][key] = None
        self._changed[table.name].add(key)

    async def load(self, connection: AsyncConnection, table: Table, keys: Iterable[Key]) -> None:
        """Read the rows with these keys; those that are not there are remembered as missing."""
        self._tables[table.name] = table
        wanted = [key for key in keys if key not in self._rows[table.name]]
        columns = list(table.primary_key.columns)
        step = max(1, MAX_BOUND // len(columns))
        for start in range(0, len(wanted), step):
            part = wanted[start : start + step]
            self._rows[table.name].update(dict.fromkeys(part))
            if len(columns) == 1:
                condition: ColumnElement[bool] = columns[0].in_([key[0] for key in part])
            elif len(part) == 1:
                condition = and_(*(column == value for column, value in zip(columns, part[0], strict=True)))
            else:
                condition = tuple_(*columns).in_(part)
            for row in (await connection.execute(select(table).where(condition))).mappings():
                self._rows[table.name][tuple(row[column.name] for column in columns)] = dict(row)

    async def store(self, connection: AsyncConnection) -> None:
        """Write what has changed."""
        for name, keys in self._changed.items():
            table = self._tables[name]
            rows = [row for key in keys if (row := self._rows[name][key]) is not None]
            await upsert(connection, table, rows)
            gone = [key for key in keys if self._rows[name][key] is None]
            columns = list(table.primary_key.columns)
            for start in range(0, len(gone), 500):
                conditions = [
                    and_(*(column == value for column, value in zip(columns, key, strict=True)))
                    for key in gone[start : start + 500]
                ]
                await connection.execute(delete(table).where(or_(*conditions)))


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

    async def identity(self) -> str:
        """The id of the log that positions belong to."""
        ...

    async def head(self) -> int:
        """The last position."""
        ...

    def read(self, after: int) -> AsyncGenerator[tuple[int, list[Any]], None]:
        """Stretches of events for ever, each with the position that it ends at."""
        ...


class LogSource:
    """The events of some kinds, from the log."""

    def __init__(self, event_log: EventLog, codec: Codec, kinds: frozenset[str]) -> None:
        self._log = event_log
        self._codec = codec
        self._kinds = kinds

    async def identity(self) -> str:
        return (await self._log.head()).log_id

    async def head(self) -> int:
        return (await self._log.head()).position

    async def read(self, after: int) -> AsyncGenerator[tuple[int, list[Any]], None]:
        async with aclosing(self._log.read(after=after, follow=True)) as lists:
            async for commits in lists:
                # A filter on the server is many times slower than skipping here.
                events = [
                    event
                    for commit in commits
                    if commit.subject.split(".", 3)[2] in self._kinds
                    for event in self._codec.decode(commit)
                ]
                yield commits[-1].position, events


class Projector:
    """Keeps one projection's tables at the end of its source; any number may run, one at a time counts."""

    def __init__(self, source: Source, projection: Projection, engine: AsyncEngine) -> None:
        self._source = source
        self._projection = projection
        self._engine = engine
        self._position = -1
        self._log_id = ""
        self._moved = asyncio.Condition()
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
            for table in (positions, *self._projection.tables):
                await connection.run_sync(table.create, checkfirst=True)
            row = (await connection.execute(select(positions).where(positions.c.name == self.name))).mappings().first()
            if row is None or row["version"] != self._projection.version:
                await self._empty(connection)
                first = {"version": self._projection.version, "log_id": self._log_id, "position": 0, "tables": names}
                await upsert(connection, positions, [first | {"name": self.name}])
                self._position = 0
            elif row["log_id"] != self._log_id:
                raise TapelineError(
                    f"the tables of {self.name} were filled from log {row['log_id']}, this is log {self._log_id}",
                    code="log_mismatch",
                    hint="tapeline rebuild all",
                )
            else:
                self._position = row["position"]
        if self._position > await self._source.head():
            raise TapelineError(
                f"the tables of {self.name} are at position {self._position}, past the end of the log",
                code="log_behind_seal",
                hint="restore the log from a backup, then tapeline rebuild all",
            )

    async def run(self) -> None:
        """Follow the source for ever. Stops, saying where, at what it cannot fold."""
        while True:
            try:
                await self._follow()
            except _Moved:
                # Somebody else emptied or filled the tables: go on from where they are now.
                await self._reload()
            except (OperationalError, DBAPIError, OSError) as error:
                log.warning("projection_waits", projection=self.name, position=self._position, error=str(error)[:200])
                await asyncio.sleep(0.5)
            except TapelineError as error:
                if error.code not in ("unavailable", "timeout", "unknown_outcome"):
                    self.fault = error
                    log.error("projection_stopped", projection=self.name, position=self._position, error=error.message)
                    async with self._moved:
                        self._moved.notify_all()
                    raise
                log.warning("projection_waits", projection=self.name, position=self._position, error=error.message)
                await asyncio.sleep(0.5)

    async def _follow(self) -> None:
        # Whichever ends first ends both: the fold at what it cannot do, the watch at tables that were emptied.
        tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._watch())}
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

    async def _read(self) -> None:
        async with aclosing(self._source.read(self._position)) as stretches:
            async for position, events in stretches:
                await self._fold(position, events)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(IDLE_CHECK_S)
            before = self._position
            async with self._engine.connect() as connection:
                found = await connection.scalar(select(positions.c.position).where(positions.c.name == self.name))
            if found is None or found < before:
                raise _Moved

    async def _reload(self) -> None:
        async with self._engine.connect() as connection:
            found = await connection.scalar(select(positions.c.position).where(positions.c.name == self.name))
        if found is None:
            await self.open()
            found = self._position
        async with self._moved:
            self._position = found
            self._moved.notify_all()

    async def _fold(self, position: int, events: list[Any]) -> None:
        if position <= self._position:
            return
        async with self._engine.begin() as connection:
            rows = Rows()
            wanted: dict[Table, dict[Key, None]] = defaultdict(dict)
            for event in events:
                for table, key in self._projection.keys(event):
                    wanted[table][key] = None
            for table, keys in wanted.items():
                await rows.load(connection, table, keys)
            for event in events:
                try:
                    self._projection.apply(rows, event)
                except (LookupError, TypeError, ValueError, AttributeError) as error:
                    raise TapelineError(
                        f"projection {self.name} cannot fold {event!r:.200}: {error!r}", code="internal"
                    ) from error
            await rows.store(connection)
            moved = await connection.execute(
                update(positions)
                .where(
                    positions.c.name == self.name,
                    positions.c.log_id == self._log_id,
                    positions.c.position == self._position,
                )
                .values(position=position)
            )
            if moved.rowcount != 1:
                raise _Moved
        async with self._moved:
            self._position = position
            self._moved.notify_all()

    async def _empty(self, connection: AsyncConnection) -> None:
        for table in self._projection.tables:
            await connection.execute(delete(table))

    async def wait_for(self, position: int, timeout_s: float = WAIT_S) -> None:
        """Wait until the tables have reached a position.

        Raises `behind` after `timeout_s`, `invalid` for a position past the end of the log.
        """
        if self._position >= position:
            return
        try:
            async with asyncio.timeout(timeout_s), self._moved:
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


class _Moved(Exception):
    """The position in the database is not the one that this projector left."""


class Reader:
    """Gives queries a connection to tables that have reached the caller's position."""

    def __init__(self, engine: AsyncEngine, projector: Projector) -> None:
        self._engine = engine
        self.projector = projector

    @asynccontextmanager
    async def at(self, min_position: int | None = None) -> AsyncIterator[AsyncConnection]:
        """A connection for reading, once the tables have reached `min_position`."""
        if min_position:
            await self.projector.wait_for(min_position)
        elif self.projector.fault is not None:
            await self.projector.wait_for(self.projector.position + 1)
        async with self._engine.connect() as connection:
            yield connection


async def reset(connection: AsyncConnection, name: str) -> None:
    """Empty a projection's tables and its position, in the caller's transaction: its projector refills them."""
    row = (await connection.execute(select(positions).where(positions.c.name == name))).mappings().first()
    if row is None:
        raise TapelineError(f"no projection is named {name!r} here", code="not_found")
    metadata = MetaData()
    for table in row["tables"]:
        await connection.execute(delete(Table(table, metadata)))
    await connection.execute(update(positions).where(positions.c.name == name).values(position=0))
