"""An engine that dies at a named point of the projector, as often as it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import Dialect

from tapeline.database import Engine

T = TypeVar("T")
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
