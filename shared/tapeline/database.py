"""Engines for the tables: SQLite in a file of each service, or PostgreSQL.

An engine runs plain functions over a synchronous connection, each in one transaction. How they get there is
the engine's affair: a step over to another thread for each statement costs more than most statements do.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from sqlalchemy import BigInteger, Column, Connection, Index, Integer, MetaData, String, Table, Text, event
from sqlalchemy import TypeDecorator as _Decorated
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.types import TypeEngine

from tapeline.errors import TapelineError

T = TypeVar("T")
Work = Callable[[Connection], T]

BUSY_TIMEOUT_S = 5.0
READERS = 4
SHORT_S = 0.002
"""So long a query may hold up everything else; one that takes longer is run again beside."""
WRITE_CACHE_KIB = 65_536
LOOK_EVERY = 2000
"""Steps of SQLite's machine between two looks at the clock."""
CHECKPOINT_EVERY = 200
"""Short writes between two checkpoints; a checkpoint waits for the disk, so none of them makes one."""
# Connection lost, rolled back for another's sake, out of resources, not ready, or asked to stop.
PASSING_STATES = ("08", "40", "53", "55", "57", "58")


class Engine(Protocol):
    """A database that runs functions over a connection."""

    @property
    def dialect(self) -> Dialect:
        """How the database speaks."""
        ...

    async def read(self, work: Work[T]) -> T:
        """What a function finds; all that it reads is of one moment. It may be run twice."""
        ...

    async def write(self, work: Work[T], *, is_short: bool = False) -> T:
        """Run a function in a transaction that holds if it returns, and leaves nothing if it raises.

        `is_short` says that it takes no longer than a query by key.
        """
        ...

    async def dispose(self) -> None:
        """Close all connections."""
        ...


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite+aiosqlite:///{path}"


def make_engine(url: str) -> Engine:
    """An engine for `sqlite+aiosqlite:///...` or `postgresql+asyncpg://...`.

    SQLite runs in WAL mode with `synchronous=NORMAL`, PostgreSQL with `synchronous_commit=off`: a power cut
    may take back the last transactions, rows and position together, and the log refills them.
    """
    if url.startswith("sqlite"):
        return SqliteEngine(url)
    if url.startswith("postgresql+asyncpg"):
        return PostgresEngine(url)
    raise TapelineError(
        f"{url.split(':', 1)[0]!r} is not a database that is served",
        code="unsupported",
        hint="use sqlite+aiosqlite or postgresql+asyncpg",
    )


def to_json(value: Any) -> str:
    """A value of a JSON column as text."""
    return _json.encode(value).decode()


def _plain(value: Any) -> Any:
    """What is a text or a whole number after all; names of tables are texts of their own kind."""
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"a {type(value).__name__} has no place in JSON")


_json = msgspec.json.Encoder(enc_hook=_plain)


class SqliteEngine:
    """A SQLite file: short work runs where it is asked for, long work in threads of its own.

    Measured: a step to another thread and back costs more than a query by key, and the thread that waits
    for the interpreter holds up everything else. A query that turns out to be long is cut off and run again
    in a thread, so that no request waits for another's.
    """

    def __init__(self, url: str) -> None:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        self._engine = create_engine(
            url.replace("+aiosqlite", ""),
            poolclass=NullPool,
            # Transactions are begun and ended here; a statement alone is one.
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
            json_serializer=to_json,
            json_deserializer=msgspec.json.decode,
        )
        event.listen(self._engine, "connect", _configure)
        self._here: Connection | None = None
        self._until = 0.0
        self._writer: Connection | None = None
        self._writing = asyncio.Lock()
        self._writes = ThreadPoolExecutor(1, "sqlite-writer")
        self._reads = ThreadPoolExecutor(READERS, "sqlite-reader")
        self._readers: list[Connection] = []
        self._since_checkpoint = 0
        self._checkpoint: asyncio.Future[None] | None = None

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    async def read(self, work: Work[T]) -> T:
        try:
            return _transaction(self._at_hand(), "BEGIN", partial(self._cut_off, work))
        except DBAPIError as error:
            # Too long for here, or a lock that is worth a wait.
            if _code(error) not in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY):
                raise
        return await asyncio.get_running_loop().run_in_executor(self._reads, self._read_beside, work)

    async def write(self, work: Work[T], *, is_short: bool = False) -> T:
        async with self._writing:
            if is_short:
                try:
                    found = _transaction(self._at_hand(), "BEGIN IMMEDIATE", work)
                except DBAPIError as error:
                    # Another process writes: wait for it where waiting holds up nobody.
                    if _code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                        raise
                else:
                    self._count_towards_checkpoint()
                    return found
            return await asyncio.get_running_loop().run_in_executor(self._writes, self._write_beside, work)

    async def dispose(self) -> None:
        if self._checkpoint is not None:
            await asyncio.gather(self._checkpoint, return_exceptions=True)
        loop = asyncio.get_running_loop()
        for pool in (self._reads, self._writes):
            await loop.run_in_executor(None, pool.shutdown)
        for connection in (self._here, self._writer, *self._readers):
            if connection is not None:
                connection.close()
        self._here, self._writer = None, None
        self._readers.clear()
        self._engine.dispose()
        self._writes = ThreadPoolExecutor(1, "sqlite-writer")
        self._reads = ThreadPoolExecutor(READERS, "sqlite-reader")

    def _at_hand(self) -> Connection:
        """The connection of the event loop's own thread: it never waits, for a lock or for the disk."""
        if self._here is None:
            self._here = self._engine.connect()
            raw: Any = self._here.connection.driver_connection
            raw.execute("PRAGMA busy_timeout=0")
            raw.execute("PRAGMA wal_autocheckpoint=0")
            raw.set_progress_handler(self._is_too_long, LOOK_EVERY)
        return self._here

    def _cut_off(self, work: Work[T], connection: Connection) -> T:
        # The questions alone: a transaction whose end was cut off would stay open for ever.
        self._until = time.perf_counter() + SHORT_S
        try:
            return work(connection)
        finally:
            self._until = 0.0

    def _is_too_long(self) -> bool:
        return 0.0 < self._until < time.perf_counter()

    def _read_beside(self, work: Work[T]) -> T:
        connection = self._readers.pop() if self._readers else self._engine.connect()
        try:
            return _transaction(connection, "BEGIN", work)
        finally:
            self._readers.append(connection)

    def _write_beside(self, work: Work[T]) -> T:
        if self._writer is None:
            self._writer = self._engine.connect()
            raw: Any = self._writer.connection.driver_connection
            # A long transaction that outgrows the cache writes its pages again and again.
            raw.execute(f"PRAGMA cache_size=-{WRITE_CACHE_KIB}")
        return _transaction(self._writer, "BEGIN IMMEDIATE", work)

    def _count_towards_checkpoint(self) -> None:
        self._since_checkpoint += 1
        if self._since_checkpoint >= CHECKPOINT_EVERY and (self._checkpoint is None or self._checkpoint.done()):
            self._since_checkpoint = 0
            loop = asyncio.get_running_loop()
            self._checkpoint = loop.run_in_executor(self._writes, self._make_checkpoint)

    def _make_checkpoint(self) -> None:
        if self._writer is None:
            self._writer = self._engine.connect()
        raw: Any = self._writer.connection.driver_connection
        # It takes what it can get without waiting for anybody, and says so instead of failing.
        raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _configure(connection: Any, _record: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=OFF"):
        connection.execute(f"PRAGMA {pragma}")


def _transaction(connection: Connection, begin: str, work: Work[T]) -> T:
    raw: Any = connection.connection.driver_connection
    _run(raw, begin)
    try:
        found = work(connection)
        _run(raw, "COMMIT")
    except BaseException:
        if raw.in_transaction:
            _run(raw, "ROLLBACK")
        raise
    return found


def _run(raw: Any, statement: str) -> None:
    try:
        raw.execute(statement)
    except sqlite3.Error as error:
        raise OperationalError(statement, None, error) from error


def _code(error: DBAPIError) -> int | None:
    code: int | None = getattr(error.orig, "sqlite_errorcode", None)
    # The low byte is the kind, what is above it says more.
    return None if code is None else code & 0xFF


class PostgresEngine:
    """A PostgreSQL database, through asyncpg."""

    def __init__(self, url: str) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        settings = {"synchronous_commit": "off", "application_name": "tapeline"}
        # A pooled connection may have been cut while it was idle: asking first costs less than a failed query.
        self._engine = create_async_engine(
            url, pool_size=8, max_overflow=8, pool_pre_ping=True, connect_args={"server_settings": settings},
            json_serializer=to_json, json_deserializer=msgspec.json.decode,
        )  # fmt: skip
        self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ")

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    async def read(self, work: Work[T]) -> T:
        async with self._snapshots.connect() as connection:
            return await connection.run_sync(work)

    async def write(self, work: Work[T], *, is_short: bool = False) -> T:
        async with self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def dispose(self) -> None:
        await self._engine.dispose()


def is_passing(error: Exception) -> bool:
    """Whether an error of a database goes away by itself: it is locked, full, restarting or out of reach."""
    if isinstance(error, InterfaceError) and isinstance(getattr(error.orig, "__cause__", None), ValueError):
        # How asyncpg calls a value that no column takes.
        return False
    if isinstance(error, OSError | PoolTimeoutError | InterfaceError | OperationalError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or (state is not None and str(state).startswith(PASSING_STATES))


def is_of_data(error: Exception) -> bool:
    """Whether a database refuses a value, which no other table or time would change."""
    if isinstance(error, ArithmeticError | ValueError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = str(getattr(error.orig, "sqlstate", None) or "")
    cause = getattr(error.orig, "__cause__", None)
    return isinstance(error, DataError | IntegrityError) or state.startswith("22") or isinstance(cause, ValueError)


def physical(table: Table, suffix: str = "") -> Table:
    """A table as it is made in the database: no text is cut, no number overflows, and text sorts by bytes.

    SQLite keeps to none of the lengths and widths that a table declares, and sorts by bytes; with this
    PostgreSQL does the same, so that one log gives the same rows in the same order in both.
    """
    made = Table(
        f"{table.name}{suffix}",
        MetaData(),
        *(
            Column(
                column.name,
                _wide(column.type),
                primary_key=column.primary_key,
                nullable=column.nullable,
                default=column.default.arg if column.default is not None else None,  # type: ignore[attr-defined]
                autoincrement=False,
            )
            for column in table.columns
        ),
    )
    for index in sorted(table.indexes, key=lambda each: str(each.name)):
        Index(f"{index.name}{suffix}", *(made.c[column.name] for column in index.columns), unique=index.unique)
    return made


def _wide(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    if isinstance(kind, _Decorated):
        return kind
    if isinstance(kind, String):
        return Text().with_variant(Text(collation="C"), "postgresql")
    if isinstance(kind, Integer):
        return BigInteger()
    return kind
