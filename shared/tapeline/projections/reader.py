"""Reading what was folded: a connection to tables that have reached the caller's position."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tapeline.projections.projector import Projector


class Reader:
    """Gives queries a connection to tables that have reached the caller's position."""

    def __init__(self, engine: AsyncEngine, projector: Projector) -> None:
        self._engine = engine
        self.projector = projector

    def is_stale(self, team: str, kind: str, id: str) -> bool:
        """Whether the rows of an aggregate tell of it as it was before a commit that could not be folded."""
        return f"{team}/{kind}/{id}" in self.projector.parked

    @asynccontextmanager
    async def at(self, min_position: int | None = None) -> AsyncIterator[AsyncConnection]:
        """A connection for reading, once the tables have reached `min_position`."""
        if min_position:
            await self.projector.wait_for(min_position)
        elif self.projector.fault is not None:
            await self.projector.wait_for(self.projector.position + 1)
        async with self._engine.connect() as connection:
            yield connection
