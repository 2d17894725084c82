"""The dispatcher as a process manager that a dry run looks at from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tapeline.projections import Projector
from tapeline.runs.dispatcher import ACTOR, Dispatcher
from tapeline.runs.run.commands import ExpireLease, HoldBack

UNSEEN: Mapping[str, str] = {
    ExpireLease.__name__: "renewals of leases are no events",
    HoldBack.__name__: "which agents were heard is no event",
}


class Rehearsed:
    """A dispatcher that looks when it is told to. Leases count as renewed: what ends one is on the log."""

    actor = ACTOR
    unseen = UNSEEN

    def __init__(self, dispatcher: Dispatcher, projectors: Sequence[Projector]) -> None:
        self._dispatcher = dispatcher
        self.projectors = projectors

    async def look(self) -> None:
        """Ask for all that the tables say is to be done at the time of the clock."""
        self._dispatcher.leases.renew_all()
        await self._dispatcher.look()
