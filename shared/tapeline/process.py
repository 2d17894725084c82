"""Process managers: they turn events and the passing of time into commands, and remember how far they have come.

What is to be asked for is decided by two pure functions, `react` and `tick`; who runs them carries it out. A
position is stored once the commands of all events up to it were answered: a crash in between repeats them, and a
command's id comes from the event that led to it, so that asking twice has one effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

from tapeline.database import Engine
from tapeline.log import StoredEvent
from tapeline.projections.state import ACTIVE, Known, Moved, Place, active, begin, make, move, write

S_contra = TypeVar("S_contra", contravariant=True)
W_co = TypeVar("W_co", covariant=True)


class ProcessManager(Protocol[S_contra, W_co]):
    """What a process manager asks for; a module is one. Both functions are pure.

    Attributes
    ----------
    start : where a new one begins to react: at the head of the log, or at its origin
    """

    name: str
    version: int
    start: Literal["head", "origin"]

    def react(self, state: S_contra, event: StoredEvent, /) -> Sequence[W_co]:
        """What follows from an event."""
        ...

    def tick(self, state: S_contra, now: datetime, /) -> Sequence[W_co]:
        """What is to be done by now, whatever led to it."""
        ...


class Progress:
    """How far a process manager has come, beside the tables that it looks at; `tapeline log lag` shows it."""

    def __init__(self, engine: Engine, process: ProcessManager[Any, Any]) -> None:
        self._engine = engine
        self._process = process
        self._known: Known | None = None

    @property
    def position(self) -> int:
        """The position that is stored; -1 before it was looked up."""
        return -1 if self._known is None else self._known.position

    async def open(self, log_id: str, head: int) -> int:
        """The position to go on from; that of another log, or past the end of this one, counts for nothing."""
        name, version = self._process.name, self._process.version

        def opened(connection: Any) -> Known:
            make(connection)
            found = active(connection, name)
            if found is None:
                at = head if self._process.start == "head" else 0
                found = Known(name, 1, ACTIVE, version, log_id, at, [], "EVENTS", None, None, 0)
                begin(connection, found, ())
            elif found.log_id != log_id or found.position > head:
                found = replace(found, log_id=log_id, position=head if self._process.start == "head" else 0)
                write(connection, found, log_id=log_id, position=found.position)
            return found

        self._known = await self._engine.write(opened)
        return self._known.position

    async def save(self, position: int) -> bool:
        """Store a position; False when another has moved it meanwhile, which is then gone on from."""
        known = self._known
        if known is None or position <= known.position:
            return True
        old, new = known.place, Place(position, known.parked)
        try:
            await self._engine.write(lambda connection: move(connection, known, old, new), is_short=True)
        except Moved:
            self._known = await self._engine.read(lambda connection: active(connection, known.name))
            return False
        self._known = replace(known, position=position)
        return True
