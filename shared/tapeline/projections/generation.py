"""One generation of a projection's tables: where it is, and how events get into it, each exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tapeline.database import Engine, is_of_data, physical
from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.logs import get_logger
from tapeline.projections.folding import FOLD_FAULTS, fold, said
from tapeline.projections.parked import MOST, Parked, listed, released, set_aside, tried
from tapeline.projections.rows import Rows
from tapeline.projections.source import Projection, Source
from tapeline.projections.state import Known, Moved, Place, move, place_of, suffix

log = get_logger()

SHORT_EVENTS = 16
"""So few events are folded where they arrive; more of them, beside."""


class Generation:
    """Tables of one generation, and who writes to them.

    Attributes
    ----------
    known : what the database says of it, but for the position
    position : where its rows are; ahead of what is stored while nothing that it folds happens
    parked : what could not be folded and was set aside, by `<team>/<kind>/<id>`
    """

    def __init__(
        self, source: Source, projection: Projection, engine: Engine, known: Known, parked: Sequence[Parked] = ()
    ) -> None:
        self._source = source
        self._projection = projection
        self._engine = engine
        self._tables = {table.name: physical(table, suffix(known.generation)) for table in projection.tables}
        self._rows = Rows(self._tables, is_whole=known.position == 0)
        self._stored = known.place
        self._changes: dict[str, int] = {}
        self.known = known
        self.position = known.position
        self.parked = {one.aggregate: one for one in parked}

    @property
    def is_saved(self) -> bool:
        """Whether the database knows the position too."""
        return self.position <= self._stored.position

    def look(self, connection: Connection) -> tuple[Place | None, list[Parked]]:
        """Where the database says that it is, and what somebody asks to fold again."""
        wishes: list[Parked] = []
        if self.parked:
            wishes = [one for one in listed(connection, self.known.name, self.known.generation) if one.wanted]
        return self.place(connection), wishes

    def place(self, connection: Connection) -> Place | None:
        """Where the database says that it is; None when it is not what it was any more."""
        return place_of(connection, self.known.name, self.known.generation, self.known.state)

    def is_as_left(self, place: Place | None) -> bool:
        """Whether what the database says is what this writer left, or another's progress."""
        return place is not None and place.position >= self._stored.position and place.parked == self._stored.parked

    async def fold(self, position: int, events: Sequence[Any]) -> bool:
        """Fold a stretch that ends at a position; says whether there was anything to write.

        Raises `Moved` when another has written since, and leaves all as it was.
        """
        if position <= self.position:
            return True
        # What overlaps with an earlier stretch is folded already.
        aggregate, last = self._source.aggregate, self.position
        new = events if events and events[0].position > last else [one for one in events if one.position > last]
        if self.parked:
            new = [event for event in new if aggregate(event) not in self.parked]
        if not new:
            self.skip(position)
            return False
        await self._fold_or_part(position, new)
        return True

    def skip(self, position: int) -> None:
        """Be at a position up to which no row changes: the tables are there as they stand."""
        self.position = max(self.position, position)

    async def save(self) -> None:
        """Store a position that no rows went with."""
        if not self.is_saved:
            place = Place(self.position, self._stored.parked)
            await self._engine.write(lambda connection: self._move(connection, place), is_short=True)
            self._stored = place

    async def _fold_or_part(self, position: int, events: Sequence[Any]) -> None:
        """Fold a stretch; one that holds a value which the database refuses in halves, down to the commit."""
        try:
            await self._commit(position, events)
            return
        except (DBAPIError, ArithmeticError, ValueError) as error:
            places = sorted({event.position for event in events})
            if not places or not is_of_data(error):
                raise
            if len(places) == 1:
                event = events[0]
                await self._commit(position, [], {self._source.aggregate(event): self._park(event, error)})
                return
        middle = places[len(places) // 2]
        await self._fold_or_part(middle - 1, [event for event in events if event.position < middle])
        await self._fold_or_part(position, [event for event in events if event.position >= middle])

    async def _commit(self, position: int, events: Sequence[Any], given: Mapping[str, Parked] | None = None) -> None:
        rows, known = self._rows, {**self.parked, **(given or {})}
        # Until it has succeeded nobody knows what the rows are worth.
        self._rows = Rows(self._tables)

        def work(connection: Connection) -> dict[str, Parked]:
            passed("proj.before_effect")
            folded = fold(connection, self._projection, rows, events, known, self._park, self._source.aggregate)
            new = {**(given or {}), **folded}
            if len(self.parked) + len(new) > MOST:
                raise self._too_many(new)
            passed("proj.after_effect")
            set_aside(connection, list(new.values()))
            self._move(connection, Place(position, self._stored.parked + bool(new)))
            passed("proj.before_commit")
            return new

        parked = await self._engine.write(work, is_short=len(events) <= SHORT_EVENTS)
        passed("proj.after_commit")
        self._note(rows)
        rows.trim()
        self._rows = rows
        self.parked |= parked
        self._stored = Place(position, self._stored.parked + bool(parked))
        self.position = position
        for one in parked.values():
            log.error("aggregate_parked", projection=self.known.name, aggregate=one.aggregate, why=one.error)

    def changes(self, table: str) -> int:
        """How often rows of a table were written since this generation is at hand."""
        return self._changes.get(table, 0)

    def _note(self, rows: Rows) -> None:
        for name in rows.written:
            self._changes[name] = self.changes(name) + 1
        rows.written.clear()

    def _move(self, connection: Connection, to: Place) -> None:
        move(connection, self.known, self._stored, to)

    async def retry(self, one: Parked) -> None:
        """Fold a parked aggregate from its first event to our position, and strike it off the list."""
        self._rows = Rows(self._tables)
        place = Place(self.position, self._stored.parked + 1)
        # It may grow beyond our position meanwhile; what is up to there does not change.
        events = await self._source.load(one.aggregate, place.position)

        rows = Rows(self._tables)

        def work(connection: Connection) -> None:
            for event in events:
                for table, key in self._projection.keys(event):
                    rows.expect(table, [key])
                self._projection.apply(rows, event)
            rows.store(connection)
            released(connection, one)
            self._move(connection, place)

        try:
            await self._engine.write(work)
        except Moved:
            raise
        except (*FOLD_FAULTS, DBAPIError) as error:
            if isinstance(error, DBAPIError) and not is_of_data(error):
                raise
            why = said(error)
            await self._engine.write(lambda connection: tried(connection, one, why))
            return
        self._note(rows)
        self._stored = place
        self.parked.pop(one.aggregate, None)
        log.info("aggregate_unparked", projection=self.known.name, aggregate=one.aggregate)

    def _park(self, event: Any, error: Exception) -> Parked:
        at = getattr(event, "created_at", None) or event.stored_at
        return Parked(
            self.known.name, self.known.generation, self._source.aggregate(event), event.position, said(error),
            at.isoformat(),
        )  # fmt: skip

    def _too_many(self, parked: Mapping[str, Parked]) -> TapelineError:
        last = next(iter(parked.values()))
        return TapelineError(
            f"projection {self.known.name} cannot fold more than {MOST} aggregates; {last.aggregate} at position "
            f"{last.position}: {last.error}",
            code="internal",
            hint="mend the projection, then tapeline rebuild it",
        )
