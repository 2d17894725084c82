"""Why something is as it is: from a fact back over causes and references to who asked for it.

What the events name is found by the index that the services keep, or by one pass over the log where there is none
(`facts.py`). An edge is one of three: the `cause` that a commit records, a field of the event that names another
thing, or, where neither leads on, the event of the same aggregate before it; so every chain ends at a birth.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tapeline.contracts.references import ARTIFACT, ATTEMPT, CHECKPOINT, HOLDER, LEASE
from tapeline.errors import TapelineError
from tapeline.log import EventLog, wire
from tapeline.projections.standard.event_index import CALLED
from tapeline.replay.facts import Fact, Facts, facts_of
from tapeline.replay.index import EventIndex
from tapeline.subjects import KINDS, PLATFORM_TEAM, Ref, parse_ref

DEPTH = 50
TARGET, CAUSE, BEFORE = "target", "cause", "before"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WITHIN = frozenset({CAUSE, ATTEMPT, LEASE})
"""Edges that say why an event came when it did; without one the event before it does."""


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


async def why(
    log: EventLog, target: str, *, depth: int = DEPTH, team: str | None = None, index: EventIndex | None = None
) -> Chain:
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
    index : EventIndex, optional
        The index that the services keep of the log: with it only what is asked for is read.

    Raises
    ------
    TapelineError
        `not_found` for what no event names, `denied` for what is another team's, `invalid` for a name that
        several teams have and for a depth below 1.
    """
    if depth < 1:
        raise TapelineError(f"a depth of {depth} follows nothing", code="invalid", hint="--depth 50")
    return await _Search(await facts_of(log, index), team).chain(target, depth)


@dataclass(frozen=True, slots=True)
class _Search:
    """Walks from an event to those that explain it; `team` is whose question it is."""

    facts: Facts
    team: str | None

    async def chain(self, target: str, depth: int) -> Chain:
        """What leads to a target; see `why`."""
        first = _allowed(await self._target(target), self.team)
        links = {first.place: Link(first, TARGET, None, 0)}
        edges: list[Edge] = []
        waiting, is_cut = deque([first]), False
        while waiting:
            fact = waiting.popleft()
            step = links[fact.place].depth + 1
            for kind, by in await self._edges(fact):
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

    async def _edges(self, fact: Fact) -> list[tuple[str, Fact]]:
        found: list[tuple[str, Fact]] = []
        reached: set[tuple[int, int]] = {fact.place}
        led_on = False
        for kind, by in await self._named(fact):
            led_on = led_on or kind in _WITHIN
            if by.place not in reached:
                reached.add(by.place)
                found.append((kind, by))
        before = (await self.facts.of(fact.ref))[fact.sequence - 2] if fact.sequence > 1 else None
        is_of_one_commit = before is not None and before.position == fact.position
        if before is not None and (not led_on or is_of_one_commit) and before.place not in reached:
            found.append((BEFORE, before))
        return found

    async def _named(self, fact: Fact) -> list[tuple[str, Fact]]:
        named: list[tuple[str, Fact]] = []
        if fact.cause is not None:
            # By id: what came with a bundle names positions of the log that it was taken from.
            cause = await self.facts.event(fact.cause.partition("@")[0])
            if cause is not None:
                named.append((CAUSE, cause))
        # An artifact says least of how it is meant: a field that names the same event otherwise goes first.
        for kind, value in sorted(fact.names, key=lambda each: each[0] == ARTIFACT):
            by = await self._origin(kind, value, fact)
            if by is not None:
                named.append((kind if kind != HOLDER else fact.ref.kind, by))
        return named

    async def _origin(self, kind: str, value: str, fact: Fact) -> Fact | None:
        """The event that brought about what another one names, as it was then."""
        if kind == HOLDER or kind in KINDS:
            of = fact.ref.kind if kind == HOLDER else kind
            ref = Ref(PLATFORM_TEAM if of == "device" else fact.ref.team, of, value)  # type: ignore[arg-type]
            return await self._established(ref, fact.place)
        if kind in (ATTEMPT, LEASE):
            # These are counted within a run; all else within a team.
            made = [one for one in await self.facts.of(fact.ref) if (kind, value) in one.makes]
        else:
            made = [one for one in await self._made(kind, value) if one.ref.team == fact.ref.team]
        before = [one for one in made if one.place < fact.place]
        if not before:
            return None
        return before[0] if kind == ARTIFACT else before[-1]

    async def _made(self, kind: str, value: str) -> list[Fact]:
        return [one for one, made in await self.facts.naming(kind, value) if made]

    async def _established(self, ref: Ref, upto: tuple[int, int] | None = None) -> Fact | None:
        """The event that made an aggregate what it was: the last of those that say so, else its birth."""
        facts = await self.facts.of(ref)
        if not facts:
            return None
        found = [one for one in facts if one.establishes and (upto is None or one.place < upto)]
        return found[-1] if found else facts[0]

    # --- from what a person writes to an event --------------------------------------------------------

    async def _target(self, target: str) -> Fact:
        if _SHA256.fullmatch(target):
            return await self._artifact(target)
        if target.startswith("vault:"):
            return await self._vault_item(target)
        if "/" in target:
            return await self._aggregate(target)
        found = await self.facts.event(target)
        if found is None:
            made = await self._made(CHECKPOINT, target)
            if not made:
                raise _missing(f"no event has the id {target}")
            found = made[-1]
        return found

    async def _artifact(self, sha256: str) -> Fact:
        found = await self.facts.naming(ARTIFACT, sha256)
        facts = [(one, made) for one, made in found if self.team in (None, one.ref.team)]
        if not facts:
            raise _missing(f"no event names an artifact {sha256}")
        return next((one for one, made in facts if made), facts[0][0])

    async def _vault_item(self, target: str) -> Fact:
        name, _, version = target.removeprefix("vault:").partition("@")
        called = [
            one
            for one, _ in await self.facts.naming(CALLED, name)
            if not version or await self._version(one.ref) == version
        ]
        mine = [one for one in called if self.team in (None, one.ref.team)]
        if not called:
            raise _missing(f"no vault item was ever called {name}" + (f" in version {version}" if version else ""))
        if not mine:
            raise _denied(called[-1].ref)
        _one_team(target, mine)
        return mine[-1]

    async def _version(self, ref: Ref) -> str | None:
        return next((one.version for one in await self.facts.of(ref) if one.version is not None), None)

    async def _aggregate(self, target: str) -> Fact:
        if target.count("/") == 1 and self.team is None:
            refs = await self.facts.refs(target)
            if not refs:
                raise _missing(f"no event of {target}")
            _one_team(target, [(await self.facts.of(ref))[0] for ref in refs])
            ref = refs[0]
        else:
            ref = parse_ref(target, self.team)
        fact = await self._established(ref)
        if fact is None:
            raise _missing(f"no event of {target}")
        return fact


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
