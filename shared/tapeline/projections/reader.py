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
KEPT = 256
"""Answers that are remembered at most."""


class Reader:
    """Asks questions of tables that have reached the caller's position."""

    def __init__(self, engine: Engine, projector: Projector) -> None:
        self._engine = engine
        self.projector = projector
        self._kept: dict[tuple[Any, ...], tuple[Any, Any]] = {}

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

    async def kept(
        self,
        min_position: int | None,
        table: str,
        question: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """As `at`, for a question about one table: its answer is remembered until a row of that table changes.

        What is found is the same for all who ask, and nobody's to change.
        """
        projector = self.projector
        key = (question, args, tuple(sorted(kwargs.items())))
        # As of before the question: what changes meanwhile is not taken for known.
        version = projector.version_of(table)
        if version is not None and projector.fault is None and (min_position or 0) <= projector.position:
            known = self._kept.get(key)
            if known is not None and known[0] == version:
                found: T = known[1]
                return found
        answer = await self.at(min_position, question, *args, **kwargs)
        # What was waited for may have changed the table: then the version is an old one, and of no use.
        if version is not None and version == projector.version_of(table):
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[key] = version, answer
        return answer
