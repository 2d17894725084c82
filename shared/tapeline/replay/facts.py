"""Events as the chain of causes needs them: by id, by aggregate, and by what they name.

Taken from one pass over the log, or from the index that the services keep of it and the few commits that are asked
for; what lies behind the index is always read from the log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.references import Makes, named_in
from tapeline.log import EventLog, StoredEvent
from tapeline.projections.standard.event_index import named_by
from tapeline.replay.index import EventIndex
from tapeline.replay.reading import codec
from tapeline.subjects import Ref


@dataclass(frozen=True, slots=True)
class Fact:
    """One event as the chain keeps it: who and when, what it names, and what it brings about."""

    position: int
    index: int
    id: str
    ref: Ref
    sequence: int
    type: str
    time: datetime
    actor: str
    command: str
    command_id: str
    cause: str | None
    names: tuple[tuple[str, str], ...]
    makes: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str], ...]
    version: str | None = None
    establishes: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands: position, and index in its commit."""
        return self.position, self.index


class Facts(Protocol):
    """Every event of a log, to be asked for."""

    async def event(self, id: str) -> Fact | None:
        """The event with this id."""
        ...

    async def of(self, ref: Ref) -> Sequence[Fact]:
        """The events of an aggregate, in order."""
        ...

    async def naming(self, kind: str, value: str) -> Sequence[tuple[Fact, bool]]:
        """The events of every team that name something, in order, each with whether it brings it about."""
        ...

    async def refs(self, place: str) -> Sequence[Ref]:
        """The aggregates that are written as `<kind>/<id>`."""
        ...


@dataclass(slots=True)
class Scanned:
    """The events that were read, in memory."""

    _by_id: dict[str, Fact] = field(default_factory=dict)
    _of: dict[Ref, list[Fact]] = field(default_factory=lambda: defaultdict(list))
    _naming: dict[tuple[str, str], list[tuple[Fact, bool]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, event: StoredEvent) -> None:
        """Take the next event of the log."""
        fact = fact_of(event)
        self._by_id[fact.id] = fact
        self._of[fact.ref].append(fact)
        for kind, value, made in named_by(event):
            self._naming[kind, value].append((fact, made))

    async def event(self, id: str) -> Fact | None:
        return self._by_id.get(id)

    async def of(self, ref: Ref) -> Sequence[Fact]:
        return self._of.get(ref, ())

    async def naming(self, kind: str, value: str) -> Sequence[tuple[Fact, bool]]:
        return self._naming.get((kind, value), ())

    async def refs(self, place: str) -> Sequence[Ref]:
        return [ref for ref in self._of if str(ref) == place]


@dataclass(slots=True)
class Looked:
    """The events of a log that has an index: only what is asked for is read."""

    log: EventLog
    index: EventIndex
    rest: Scanned
    head: int
    _of: dict[Ref, list[Fact]] = field(default_factory=dict)

    async def event(self, id: str) -> Fact | None:
        found = await self.index.event(id)
        return await self.rest.event(id) if found is None else await self._at(found.position, found.place)

    async def of(self, ref: Ref) -> Sequence[Fact]:
        if ref not in self._of:
            commits = await self.log.load(ref, upto=self.head)
            self._of[ref] = [fact_of(event) for commit in commits for event in codec().decode(commit)]
        return self._of[ref]

    async def naming(self, kind: str, value: str) -> Sequence[tuple[Fact, bool]]:
        found = [(await self._at(one.position, one.place), one.made) for one in await self.index.naming(kind, value)]
        return [*found, *await self.rest.naming(kind, value)]

    async def refs(self, place: str) -> Sequence[Ref]:
        return sorted({*await self.index.refs(place), *await self.rest.refs(place)})

    async def _at(self, position: int, place: int) -> Fact:
        [commit] = await self.log.page(after=position - 1, limit=1)
        return fact_of(codec().decode(commit)[place])


async def facts_of(log: EventLog, index: EventIndex | None = None) -> Facts:
    """Every event of a log up to its end: by its index as far as that goes, and by a pass over the rest."""
    rest, decoder, head = Scanned(), codec(), (await log.head()).position
    async for commits in log.read(after=0 if index is None else index.position, upto=head):
        for commit in commits:
            for event in decoder.decode(commit):
                rest.add(event)
    return rest if index is None else Looked(log, index, rest, head)


def fact_of(event: StoredEvent) -> Fact:
    """One event with what its fields name."""
    names: list[tuple[str, str]] = []
    makes: list[tuple[str, str]] = []
    for mark, value in named_in(event.data):
        (makes if isinstance(mark, Makes) else names).append((mark.kind, value))
    return Fact(
        position=event.position, index=event.index, id=event.id, ref=event.ref, sequence=event.sequence,
        type=event.type, time=event.created_at, actor=event.actor, command=event.command,
        command_id=event.command_id, cause=event.cause, names=tuple(names), makes=tuple(makes),
        files=tuple(_files(event.data)),
        version=getattr(event.data, "version", None) if event.ref.kind == "vault" else None,
        establishes=getattr(event.data, "ESTABLISHES", False),
    )  # fmt: skip


def _files(data: Any) -> Iterator[tuple[str, str]]:
    """The artifacts of an event, each with its name."""
    for each in (getattr(data, "manifest", None), getattr(data, "model", None), *(getattr(data, "files", None) or ())):
        if isinstance(each, Artifact):
            yield each.name, each.sha256
