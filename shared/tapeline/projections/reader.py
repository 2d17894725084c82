"""Reading what was folded: questions asked of tables that have reached the caller's position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

from sqlalchemy import Connection

from tapeline.contracts.message import Page
from tapeline.database import Engine
from tapeline.projections.projector import Projector

P = ParamSpec("P")
T = TypeVar("T")


class Named(Protocol):
    """A view of an aggregate."""

    @property
    def id(self) -> str | None: ...

    def model_copy(self, *, update: Mapping[str, Any] | None = None) -> Self: ...


V = TypeVar("V", bound=Named)


class Reader:
    """Asks questions of tables that have reached the caller's position."""

    def __init__(self, engine: Engine, projector: Projector) -> None:
        self._engine = engine
        self.projector = projector

    def is_stale(self, team: str, kind: str, id: str) -> bool:
        """Whether the rows of an aggregate tell of it as it was before a commit that could not be folded."""
        return f"{team}/{kind}/{id}" in self.projector.parked

    def marked(self, team: str, kind: str, view: V) -> V:
        """A view that says so when it is stale."""
        if not (self.projector.parked and view.id and self.is_stale(team, kind, view.id)):
            return view
        return view.model_copy(update={"stale": True})

    def page(self, team: str, kind: str, page: Page[V]) -> Page[V]:
        """A page whose views say so when they are stale."""
        if not self.projector.parked:
            return page
        return page.model_copy(update={"items": [self.marked(team, kind, view) for view in page.items]})

    async def at(
        self,
        min_position: int | None,
        question: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """What a question finds, once the tables have reached `min_position`; all of it is of one moment.

        A question is a function of a connection and of the arguments that follow; it changes nothing, for
        it may be asked twice.
        """
        projector = self.projector
        if min_position and min_position > projector.position:
            await projector.wait_for(min_position)
        elif projector.fault is not None:
            await projector.wait_for(projector.position + 1)
        return await self._engine.read(lambda connection: question(connection, *args, **kwargs))
