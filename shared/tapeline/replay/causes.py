"""Why something is as it is: from a fact back over causes and references to who asked for it.

The index is made in memory by one pass over the log. An edge is one of three: the `cause` that a commit
records, a field of the event that names another thing, or, where neither leads on, the event of the same
aggregate before it; so every chain ends at a birth.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.references import ARTIFACT, ATTEMPT, CHECKPOINT, HOLDER, LEASE, Makes, named_in
from tapeline.errors import TapelineError
from tapeline.log import EventLog, StoredEvent, wire
from tapeline.replay.reading import codec
from tapeline.subjects import KINDS, PLATFORM_TEAM, Ref, parse_ref

DEPTH = 50
TARGET, CAUSE, BEFORE = "target", "cause", "before"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WITHIN = frozenset({CAUSE, ATTEMPT, LEASE})
"""Edges that say why an event came when it did; without one the event before it does."""
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """One event as the index keeps it: who and when, what it names, and what it brings about."""

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
    name: str | None = None
    version: str | None = None
    establishes: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands: position, and index in its commit."""
        return self.position, self.index


@dataclass(frozen=True, slots=True)
class Edge:
    """One event explains another: `kind` is `cause`, `before`, or what the field names."""

    kind: str
    of: tuple[int, int]
    by: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Link:
    """One event of a chain: `edge` is how it was reached first, `of` the position that it explains."""

    fact: Fact
    edge: str
    of: int | None
    depth: int

    def to_json(self) -> dict[str, Any]:
        """The link with stable keys."""
        fact = self.fact
        return {
            "position": fact.position,
            "index": fact.index,
            "id": fact.id,
            "time": wire.time_text(fact.time),
            "actor": fact.actor,
            "type": fact.type,
            "edge": self.edge,
            "of": self.of,
            "depth": self.depth,
            "aggregate": f"{fact.ref.team}/{fact.ref}",
            "sequence": fact.sequence,
            "command": fact.command,
            "command_id": fact.command_id,
            "artifacts": [{"name": name, "sha256": sha256} for name, sha256 in fact.files],
        }

    def __str__(self) -> str:
        fact = self.fact
        edge = self.edge if self.of is None else f"{self.edge} of {self.of}"
        what = f"{fact.type} of {fact.ref.team}/{fact.ref} by {fact.command}"
        lines = [f"{fact.position}\t{wire.time_text(fact.time)}\t{fact.actor}\t{what}\t{edge}"]
        return "\n".join([*lines, *(f"\t{sha256}  {name}" for name, sha256 in fact.files)])


@dataclass(frozen=True, slots=True)
class Chain:
    """The events that lead to a target, newest first, and every edge between them.

    `is_cut` says that the depth was reached before every chain had ended.
    """

    target: str
    links: tuple[Link, ...]
    edges: tuple[Edge, ...]
    is_cut: bool = False

    def dot(self) -> str:
        """The same as a graph for Graphviz."""
        lines = ["digraph why {", "  rankdir=BT;", "  node [shape=box];"]
        for link in self.links:
            fact = link.fact
            label = f"{fact.position} {fact.type}\\n{fact.ref}\\n{fact.actor}"
            lines.append(f'  "{fact.position}.{fact.index}" [label="{label}"];')
        for edge in self.edges:
            lines.append(
                f'  "{edge.of[0]}.{edge.of[1]}" -> "{edge.by[0]}.{edge.by[1]}" [label="{edge.kind}"];'
            )  # fmt: skip
        return "\n".join([*lines, "}"])


async def why(log: EventLog, target: str, *, depth: int = DEPTH, team: str | None = None) -> Chain:
    """The chain of causes and references from a target back to who asked for it.

    Parameters
    ----------
    target : str
        An event id, an aggregate `<kind>/<id>` or `<team>/<kind>/<id>`, the SHA-256 of an artifact, or
        `vault:<name>@<version>`.
    depth : int
        How many edges to follow at most from the target.
    team : str, optional
        Answer as for this team: what belongs to another is `denied`.

    Raises
    ------
    TapelineError
        `not_found` for what no event names, `denied` for what is another team's, `invalid` for a name that
        several teams have and for a depth below 1.
    """
    if depth < 1:
        raise TapelineError(f"a depth of {depth} follows nothing", code="invalid", hint="--depth 50")
    return (await indexed(log)).chain(target, depth=depth, team=team)


async def indexed(log: EventLog) -> Index:
    """The index of a whole log, by one pass over it."""
    index, decoder = Index(), codec()
    async for commits in log.read(upto=(await log.head()).position):
        for commit in commits:
            for event in decoder.decode(commit):
                index.add(event)
    return index


@dataclass(slots=True)
class Index:
    """Which event brought each thing about, and what each event names."""

    _by_id: dict[str, Fact] = field(default_factory=dict)
    _of: dict[Ref, list[Fact]] = field(default_factory=lambda: defaultdict(list))
    _made: dict[Key, list[Fact]] = field(default_factory=lambda: defaultdict(list))
    _artifacts: dict[str, list[Fact]] = field(default_factory=lambda: defaultdict(list))
    _called: dict[str, list[Fact]] = field(default_factory=lambda: defaultdict(list))

    def add(self, event: StoredEvent) -> None:
        """Take the next event of the log."""
        fact = _fact(event)
        self._by_id[fact.id] = fact
        self._of[fact.ref].append(fact)
        for kind, value in fact.makes:
            self._made[_key(kind, value, fact.ref)].append(fact)
        for kind, value in (*fact.makes, *fact.names):
            if kind == ARTIFACT:
                self._artifacts[value].append(fact)
        if fact.ref.kind == "vault" and fact.name is not None and fact.type.startswith("VaultItem"):
            self._called[fact.name].append(fact)

    def chain(self, target: str, *, depth: int = DEPTH, team: str | None = None) -> Chain:
        """What leads to a target; see `why`."""
        first = self._target(target, team)
        links = {first.place: Link(first, TARGET, None, 0)}
        edges: list[Edge] = []
        waiting, is_cut = deque([first]), False
        while waiting:
            fact = waiting.popleft()
            step = links[fact.place].depth + 1
            for kind, by in self._edges(fact):
                if step > depth:
                    is_cut = is_cut or by.place not in links
                    continue
                edges.append(Edge(kind, fact.place, by.place))
                if by.place not in links:
                    links[by.place] = Link(by, kind, fact.position, step)
                    waiting.append(by)
        newest_first = sorted(links.values(), key=lambda link: link.fact.place, reverse=True)
        return Chain(target, tuple(newest_first), tuple(edges), is_cut)

    # --- from an event to those that explain it -------------------------------------------------------

    def _edges(self, fact: Fact) -> Iterator[tuple[str, Fact]]:
        reached: set[tuple[int, int]] = {fact.place}
        led_on = False
        for kind, by in self._named(fact):
            led_on = led_on or kind in _WITHIN
            if by.place not in reached:
                reached.add(by.place)
                yield kind, by
        before = self._of[fact.ref][fact.sequence - 2] if fact.sequence > 1 else None
        is_of_one_commit = before is not None and before.position == fact.position
        if before is not None and (not led_on or is_of_one_commit) and before.place not in reached:
            yield BEFORE, before

    def _named(self, fact: Fact) -> Iterator[tuple[str, Fact]]:
        if fact.cause is not None:
            # By id: what came with a bundle names positions of the log that it was taken from.
            found = self._by_id.get(fact.cause.partition("@")[0])
            if found is not None:
                yield CAUSE, found
        # An artifact says least of how it is meant: a field that names the same event otherwise goes first.
        for kind, value in sorted(fact.names, key=lambda named: named[0] == ARTIFACT):
            by = self._origin(kind, value, fact)
            if by is not None:
                yield kind if kind != HOLDER else fact.ref.kind, by

    def _origin(self, kind: str, value: str, fact: Fact) -> Fact | None:
        """The event that brought about what another one names, as it was then."""
        if kind == HOLDER or kind in KINDS:
            of = fact.ref.kind if kind == HOLDER else kind
            ref = Ref(PLATFORM_TEAM if of == "device" else fact.ref.team, of, value)  # type: ignore[arg-type]
            return self._established(ref, fact.place)
        if kind == ARTIFACT:
            made = [one for one in self._made.get(_key(kind, value, fact.ref), []) if one.place < fact.place]
            return made[0] if made else None
        made = self._made.get(_key(kind, value, fact.ref), [])
        return next((one for one in reversed(made) if one.place < fact.place), None)

    def _established(self, ref: Ref, upto: tuple[int, int] | None = None) -> Fact | None:
        """The event that made an aggregate what it was: the last of those that say so, else its birth."""
        facts = self._of.get(ref)
        if not facts:
            return None
        found = [one for one in facts if one.establishes and (upto is None or one.place < upto)]
        return found[-1] if found else facts[0]

    # --- from what a person writes to an event --------------------------------------------------------

    def _target(self, target: str, team: str | None) -> Fact:
        if _SHA256.fullmatch(target):
            return self._artifact(target, team)
        if target.startswith("vault:"):
            return self._vault_item(target, team)
        if "/" in target:
            return self._aggregate(target, team)
        found = self._by_id.get(target)
        if found is None:
            made = [facts[-1] for key, facts in self._made.items() if key[0] == CHECKPOINT and key[-1] == target]
            if not made:
                raise _missing(f"no event has the id {target}")
            found = made[-1]
        return _allowed(found, team)

    def _artifact(self, sha256: str, team: str | None) -> Fact:
        facts = [one for one in self._artifacts.get(sha256, []) if team in (None, one.ref.team)]
        if not facts:
            raise _missing(f"no event names an artifact {sha256}")
        made = [one for one in facts if (ARTIFACT, sha256) in one.makes]
        return (made or facts)[0]

    def _vault_item(self, target: str, team: str | None) -> Fact:
        name, _, version = target.removeprefix("vault:").partition("@")
        called = [one for one in self._called.get(name, []) if not version or self._version(one.ref) == version]
        mine = [one for one in called if team in (None, one.ref.team)]
        if not called:
            raise _missing(f"no vault item was ever called {name}" + (f" in version {version}" if version else ""))
        if not mine:
            raise _denied(called[-1].ref)
        _one_team(target, mine)
        return mine[-1]

    def _version(self, ref: Ref) -> str | None:
        return next((one.version for one in self._of[ref] if one.version is not None), None)

    def _aggregate(self, target: str, team: str | None) -> Fact:
        if target.count("/") == 1 and team is None:
            found = [facts[0] for ref, facts in self._of.items() if str(ref) == target]
            if not found:
                raise _missing(f"no event of {target}")
            _one_team(target, found)
            ref = found[0].ref
        else:
            ref = parse_ref(target, team)
        fact = self._established(ref)
        if fact is None:
            raise _missing(f"no event of {target}")
        return _allowed(fact, team)


def _fact(event: StoredEvent) -> Fact:
    names: list[tuple[str, str]] = []
    makes: list[tuple[str, str]] = []
    for mark, value in named_in(event.data):
        (makes if isinstance(mark, Makes) else names).append((mark.kind, value))
    return Fact(
        position=event.position, index=event.index, id=event.id, ref=event.ref, sequence=event.sequence,
        type=event.type, time=event.created_at, actor=event.actor, command=event.command,
        command_id=event.command_id, cause=event.cause, names=tuple(names), makes=tuple(makes),
        files=tuple(_files(event.data)), name=getattr(event.data, "name", None),
        version=getattr(event.data, "version", None) if event.ref.kind == "vault" else None,
        establishes=getattr(event.data, "ESTABLISHES", False),
    )  # fmt: skip


def _files(data: Any) -> Iterator[tuple[str, str]]:
    """The artifacts of an event, each with its name."""
    for each in (getattr(data, "manifest", None), getattr(data, "model", None), *(getattr(data, "files", None) or ())):
        if isinstance(each, Artifact):
            yield each.name, each.sha256


def _key(kind: str, value: str, ref: Ref) -> Key:
    """What a value names: attempts and leases are counted within a run, all else within a team."""
    return (kind, ref, value) if kind in (ATTEMPT, LEASE) else (kind, ref.team, value)


def _allowed(fact: Fact, team: str | None) -> Fact:
    if team not in (None, fact.ref.team):
        raise _denied(fact.ref)
    return fact


def _one_team(target: str, facts: Sequence[Fact]) -> None:
    teams = sorted({one.ref.team for one in facts})
    if len(teams) > 1:
        raise TapelineError(
            f"{target} is in the teams {', '.join(teams)}", code="invalid", hint="give --team, or <team>/<kind>/<id>"
        )


def _missing(message: str) -> TapelineError:
    return TapelineError(message, code="not_found", hint="tapeline log tail")


def _denied(ref: Ref) -> TapelineError:
    return TapelineError(
        f"{ref} belongs to another team", code="denied", hint="ask as its own team, or as the operator"
    )
