"""kill -9 of a projector's process at each named point: rows and position are of one moment, and none is missed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sqlalchemy import Connection, func, select

from tapeline.database import make_engine
from tapeline.projections import LogSource, Projector, positions
from tapeline.testing.server import NatsServer

from ..mortal import DIED, POINTS, Counting, counts
from .conftest import CODEC, open_till

PROGRAM = Path(__file__).parents[1] / "mortal.py"


async def ended(*arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), *arguments)
    return await asyncio.wait_for(process.wait(), 60)


async def test_rows_equal_the_position_whenever_the_process_dies(server: NatsServer, database_url: str) -> None:
    till = await open_till(server)
    engine = make_engine(database_url)
    written = 0

    async def write(count: int) -> None:
        nonlocal written
        for _ in range(count):
            written += 1
            await till.turn(f"c{written}", f"n{written % 5}")

    def found(connection: Connection) -> tuple[int, int]:
        position = connection.scalar(select(positions.c.position).where(positions.c.name == Counting.name))
        # Each commit of this log is one event.
        return position or 0, connection.scalar(select(func.sum(counts.c.events))) or 0

    before = 0
    # Before the fold nothing has happened yet.
    for passages, point in enumerate(POINTS[1:], 2):
        await write(40)
        killed = asyncio.create_task(ended(server.url, database_url, point, str(passages)))
        while not killed.done():
            # It is killed while more is coming.
            await write(1)
            await asyncio.sleep(0.01)
        assert killed.result() == DIED
        position, events = await engine.read(found)
        assert position == events >= before
        before = position
    projector = Projector(LogSource(till.log, CODEC, Counting.kinds), Counting(), engine)
    await projector.open()
    task = asyncio.create_task(projector.run())
    await projector.wait_for(written, 30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await engine.read(found) == (written, written)
    await engine.dispose()
    await till.close()
