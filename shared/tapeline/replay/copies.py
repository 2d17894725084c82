"""The copy of the log that the projection `commits` keeps in a database, read as a log to compare with."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from tapeline.errors import TapelineError
from tapeline.log import Head, StoredCommit

if TYPE_CHECKING:
    from sqlalchemy import ColumnClause, Connection

    from tapeline.database import Engine

TABLE = "commits"
PAGE = 1000
_COLUMNS = frozenset({"position", "subject", "header", "body"})
_EPOCH = datetime.fromtimestamp(0, UTC)


class CopiedLog:
    """The commits of a database's table `commits`; their times are not compared and not read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def head(self) -> Head:
        """The last position that was copied; the table does not say of which log."""
        last = await self._engine.read(_last)
        return Head(log_id="", position=last, size_bytes=0, max_bytes=0)

    async def read(self, *, after: int = 0, upto: int | None = None) -> AsyncGenerator[list[StoredCommit], None]:
        """The copied commits in order."""
        while found := await self._engine.read(partial(_page, after=after, upto=upto)):
            yield found
            after = found[-1].position


async def copy_in(engines: Mapping[str, Engine]) -> CopiedLog:
    """The first of these databases that has a copy of the log.

    Raises
    ------
    TapelineError
        `not_found` when none has.
    """
    for engine in engines.values():
        if await engine.read(_has_copy):
            return CopiedLog(engine)
    raise TapelineError(
        f"no database of this instance has a table {TABLE}",
        code="not_found",
        hint="it is kept where PostgreSQL is; compare with an export: tapeline log verify --against DIR",
    )


def _has_copy(connection: Connection) -> bool:
    from sqlalchemy import inspect

    found = inspect(connection)
    if TABLE not in {*found.get_table_names(), *found.get_view_names()}:
        return False
    return {column["name"] for column in found.get_columns(TABLE)} >= _COLUMNS


def _last(connection: Connection) -> int:
    from sqlalchemy import column, func, select, table

    return int(connection.execute(select(func.max(column("position"))).select_from(table(TABLE))).scalar() or 0)


def _page(connection: Connection, *, after: int, upto: int | None) -> list[StoredCommit]:
    from sqlalchemy import column, select, table

    position: ColumnClause[int] = column("position")
    wanted = [position, *map(column, ("subject", "header", "body"))]
    statement = select(*wanted).select_from(table(TABLE)).where(position > after).order_by(position).limit(PAGE)
    if upto is not None:
        statement = statement.where(position <= upto)
    found = map(tuple, connection.execute(statement))
    return [StoredCommit(at, subject, _bytes(header), _bytes(body), _EPOCH) for at, subject, header, body in found]


def _bytes(value: bytes | memoryview | str) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
