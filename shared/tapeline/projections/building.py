"""A generation built beside the one that is served, and shown in its place when it has caught up."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.ids import new_id
from tapeline.logs import get_logger
from tapeline.projections.generation import Generation
from tapeline.projections.parked import listed
from tapeline.projections.state import (
    BUILDING,
    KEPT,
    Known,
    Moved,
    active,
    begin,
    discard,
    hand,
    known,
    make,
    switch,
    take_back,
    write,
)
from tapeline.projections.turns import gathered

if TYPE_CHECKING:
    from tapeline.projections.projector import Projector

log = get_logger()

BEAT_S = 2.0
SILENT_S = 10.0
"""A builder that was not heard of for so long is dead, and another goes on where it was."""
TOGETHER = 32_000
"""So many events are folded in one transaction where they come faster than they are folded."""
BREATH_S = 0.002
"""Between two stretches, so that who writes to the same file gets a turn."""


class Builder:
    """Builds one generation of a projection, from where it was left if it was begun before.

    Parameters
    ----------
    projector
        Has the projection, its source and its engine; it need not run.
    told
        Called with the position and the end, as the build goes on.
    """

    def __init__(self, projector: Projector, told: Callable[[int, int], None] | None = None) -> None:
        self._projector = projector
        self._source = projector.source
        self._engine = projector.engine
        self._told = told
        self._me = f"{socket.gethostname()}:{os.getpid()}:{new_id()}"
        self._generation: Generation | None = None

    @property
    def generation(self) -> Generation:
        """What is built."""
        if self._generation is None:
            raise TapelineError(f"no generation of {self._projector.name} is being built", code="internal")
        return self._generation

    async def build(self, end: int | None = None, *, back: bool = False) -> None:
        """Fold the log into the next generation; with `back`, go on with the one that was kept.

        Parameters
        ----------
        end
            The position to build up to, the end of the log by default.

        Raises
        ------
        TapelineError
            `conflict` while another builds the same projection, or when what was kept is of another version;
            `not_found` when nothing was kept; `log_mismatch` when it is of another log.
        """
        log_id = await self._source.identity()
        of = await self._engine.write(lambda connection: self._claimed(connection, log_id, back))
        parked = await self._engine.read(lambda connection: listed(connection, of.name, of.generation))
        self._generation = Generation(self._source, self._projector.projection, self._engine, of, parked)
        beating = asyncio.create_task(self._beat())
        try:
            await self.catch_up(await self._source.head() if end is None else end)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def catch_up(self, end: int) -> None:
        """Fold the log up to a position, and no further."""
        built = self.generation
        if built.position >= end:
            return
        async with (
            aclosing(self._source.read(built.position, end)) as read,
            # Rows that many commits touch are written once for all of them.
            aclosing(gathered(read, TOGETHER)) as stretches,
        ):
            async for position, events in stretches:
                if position > end:
                    position, events = end, [event for event in events if event.position <= end]
                try:
                    with _no_collection():
                        await built.fold(position, events)
                except Moved:
                    raise self._conflict("another process") from None
                if self._told is not None:
                    self._told(position, end)
                if position >= end:
                    break
                await asyncio.sleep(BREATH_S)
        if built.position < end:
            # All that is there was read: what lacks at the end was purged.
            if not await self._source.missing():
                raise TapelineError(
                    f"{self._source.stream} could be read up to position {built.position} only, not to {end}",
                    code="unavailable",
                    hint="repeat the rebuild: it goes on from there",
                )
            built.skip(end)
        try:
            await built.save()
        except Moved:
            raise self._conflict("another process") from None

    async def switch(self, *, keep: int = 1) -> None:
        """Show what was built under the plain names, and keep the last `keep` generations before it.

        What is served comes to rest for the moment that it takes to fold its last commits here; who asks for
        a later position waits that long.
        """
        name = self._projector.name
        served = await self._engine.read(lambda connection: active(connection, name))
        if served is not None:
            # Most of the way while it still moves.
            await self.catch_up(served.position)
        served = await self._engine.write(lambda connection: hand(connection, name, time.time()))
        try:
            if served is not None:
                await self.catch_up(served.position)
            passed("rebuild.before_switch")
            await self._engine.write(lambda connection: switch(connection, self.generation.known))
        except BaseException as error:
            await self._engine.write(lambda connection: take_back(connection, name))
            if isinstance(error, Moved):
                raise self._conflict("another process") from None
            raise
        passed("rebuild.after_switch")
        await self._engine.write(lambda connection: _swept(connection, name, keep))
        log.info("generation_shown", projection=name, generation=self.generation.known.generation)

    async def leave(self) -> None:
        """Let go of what was built without showing it; the next builder goes on with it."""
        await self._engine.write(lambda connection: write(connection, self.generation.known, writer=None, beat=None))

    def _claimed(self, connection: Connection, log_id: str, back: bool) -> Known:
        make(connection)
        name, version = self._projector.name, self._projector.projection.version
        rows = known(connection, name)
        building = [each for each in rows if each.state == BUILDING]
        for each in building:
            if _is_alive(each):
                raise self._conflict(each.writer or "another process")
        if back:
            kept = [each for each in rows if each.state == KEPT]
            if not kept:
                raise TapelineError(f"no earlier generation of {name} is kept", code="not_found", hint="rebuild it")
            found = kept[-1]
            if found.version != version:
                raise TapelineError(
                    f"generation {found.generation} of {name} is of version {found.version}, this code folds {version}",
                    code="conflict",
                    hint="run the version of tapeline that built it",
                )
        else:
            for each in building:
                if each.version != version or each.log_id != log_id:
                    discard(connection, each)
            left = [each for each in building if each.version == version and each.log_id == log_id]
            number = max((each.generation for each in rows), default=0) + 1
            found = left[-1] if left else self._begun(connection, number, log_id)
        if found.log_id != log_id:
            raise TapelineError(
                f"generation {found.generation} of {name} was filled from log {found.log_id}, this is log {log_id}",
                code="log_mismatch",
                hint="tapeline rebuild all",
            )
        write(connection, found, state=BUILDING, writer=self._me, beat=time.time())
        return replace(found, state=BUILDING, writer=self._me)

    def _begun(self, connection: Connection, number: int, log_id: str) -> Known:
        new = replace(self._projector.first(number, BUILDING), log_id=log_id)
        begin(connection, new, self._projector.projection.tables)
        return new

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await self._engine.write(lambda connection: write(connection, self.generation.known, beat=time.time()))

    def _conflict(self, who: str) -> TapelineError:
        return TapelineError(
            f"{self._projector.name} is being rebuilt by {who.rpartition(':')[0] or who}",
            code="conflict",
            hint="wait for it; a rebuild that was killed can be repeated after 10 s",
        )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without looking for cycles: rows have none, and looking at a hundred thousand of them again and again costs."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _is_alive(of: Known) -> bool:
    if of.writer is None or of.beat is None or time.time() - of.beat > SILENT_S:
        return False
    host, pid, *_ = of.writer.split(":")
    if host == socket.gethostname() and int(pid) != os.getpid():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
    return True


def _swept(connection: Connection, name: str, keep: int) -> None:
    kept = [each for each in known(connection, name) if each.state == KEPT]
    for each in kept[: max(0, len(kept) - keep)]:
        discard(connection, each)
