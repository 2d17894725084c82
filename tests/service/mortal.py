"""An engine that dies at a named point of the projector, a fold that forgives nothing, and a process of both.

`python mortal.py LOG_URL DATABASE_URL [POINT PASSAGES]` follows a log into a database and dies with exit code
137 when it passes that point so many times; without a point it ends at the end of the log.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Column, Connection, MetaData, String, Table
from sqlalchemy.engine import Dialect

from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.database import Engine, make_engine
from tapeline.log import StoredEvent
from tapeline.log.codec import Codec
from tapeline.log.jetstream import JetStreamLog
from tapeline.projections import LogSource, Projector, Rows
from tapeline.testing.server import connect, connector

T = TypeVar("T")
DIED = 137
POINTS = ("before the fold", "after the fold, before the commit", "after the commit, before the position is known")


class Killed(BaseException):
    """What a process feels of SIGKILL: nothing that it could catch."""


def perish() -> None:
    """Die within a test's own process."""
    raise Killed


class Mortal:
    """An engine that dies when `point` has been passed `passages` times; with no point it lives."""

    def __init__(self, inner: Engine, die: Callable[[], None] = perish) -> None:
        self.point: str | None = None
        self.passages = 0
        self.died_at = ""
        self._inner = inner
        self._die = die

    @property
    def dialect(self) -> Dialect:
        return self._inner.dialect

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._inner.read(work)

    async def write(self, work: Callable[[Connection], T], *, is_short: bool = False) -> T:
        def mortal(connection: Connection) -> T:
            self._pass(POINTS[0])
            found = work(connection)
            self._pass(POINTS[1])
            return found

        found = await self._inner.write(mortal, is_short=is_short)
        self._pass(POINTS[2])
        return found

    async def dispose(self) -> None:
        await self._inner.dispose()

    def _pass(self, point: str) -> None:
        if point != self.point:
            return
        self.passages -= 1
        if self.passages <= 0:
            self.point, self.died_at = None, point
            self._die()


counts = Table("counts", MetaData(), Column("id", String, primary_key=True), Column("events", BigInteger))


class Counting:
    """How many events each aggregate has: a fold that does not forgive what is folded twice."""

    name = "counts"
    version = 1
    kinds = frozenset({"run"})
    tables: Sequence[Table] = (counts,)

    def keys(self, event: StoredEvent, /) -> Iterable[tuple[Table, tuple[Any, ...]]]:
        yield counts, (event.ref.id,)

    def apply(self, rows: Rows, event: StoredEvent, /) -> None:
        known = rows.get(counts, event.ref.id)
        rows.put(counts, {"id": event.ref.id, "events": (known["events"] if known else 0) + 1})


async def main(log_url: str, database_url: str, point: str | None = None, passages: str = "0") -> None:
    """Follow a log as a process of its own."""
    client = await connect(log_url)
    codec = Codec(EVENTS, UPCASTERS)
    log = JetStreamLog(client, codec, connect=connector(log_url), role="apart")
    engine = Mortal(make_engine(database_url), lambda: os._exit(DIED))
    projector = Projector(LogSource(log, codec, Counting.kinds), Counting(), engine)
    await projector.open()
    engine.point, engine.passages = point, int(passages)
    task = asyncio.create_task(projector.run())
    await projector.wait_for((await log.head()).position, 30)
    if point is not None:
        # More comes until it has died.
        await asyncio.wait({task}, timeout=30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await engine.dispose()
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
