"""Today's rules on yesterday's commands: what a decider would decide now, against what is on the log.

Before each recorded commit the aggregate is folded, the command is made again from the commit's events, and
given to `decide`. Nothing is written. Time is that of the events, and what draws at random draws the same
each time, so that two rehearsals of one log say the same, byte for byte.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import UnionType
from typing import Any, Literal, Protocol, TypeAlias, get_args, get_type_hints

import msgspec

from tapeline import names
from tapeline.contracts.message import UNSET_TIME, Command, Lossy
from tapeline.contracts.names import NAME_EVENTS
from tapeline.errors import TapelineError
from tapeline.log import StoredEvent
from tapeline.replay.chain import Recorded
from tapeline.replay.diff import paths_of
from tapeline.replay.past import DECIDERS, fold_of
from tapeline.replay.reading import codec
from tapeline.subjects import KINDS, Kind, Ref, ref_of

NAMES = "names"
Told: TypeAlias = list[dict[str, Any]]
_NAME_TYPES = frozenset(event.__name__ for event in NAME_EVENTS)


class Rules(Protocol):
    """A decider: the module of an aggregate, or another one with its three functions."""

    def initial(self) -> Any:
        """The state before the first event."""
        ...

    def decide(self, state: Any, command: Any, /) -> Sequence[Any]:
        """The events that a command leads to."""
        ...

    def evolve(self, state: Any, event: Any, /) -> Any:
        """The state after one more event."""
        ...


@dataclass(frozen=True, slots=True)
class Dissent:
    """One commit that would be another today; `decided` is None where the command would be refused, with `why`."""

    position: int
    aggregate: str
    command: str
    recorded: Told
    decided: Told | None
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The same with stable keys."""
        return {
            "position": self.position,
            "aggregate": self.aggregate,
            "command": self.command,
            "result": "refused" if self.decided is None else "different",
            "recorded": self.recorded,
            "decided": self.decided,
            "why": self.why,
        }

    def __str__(self) -> str:
        result = f"refused: {self.why}" if self.decided is None else "different"
        lines = [f"{self.position}\t{self.aggregate}\t{self.command}\t{result}"]
        lines += [f"\trecorded\t{_text(event)}" for event in self.recorded]
        lines += [f"\tdecided\t{_text(event)}" for event in self.decided or []]
        return "\n".join(lines if self.decided != [] else [*lines, "\tdecided\tnothing"])


@dataclass(frozen=True, slots=True)
class Parted:
    """An aggregate whose state in the end is another once the new events are gone on with."""

    aggregate: str
    paths: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same with stable keys."""
        return {"aggregate": self.aggregate, "result": "parted", "paths": list(self.paths)}

    def __str__(self) -> str:
        return f"{self.aggregate}\tends otherwise: {'; '.join(self.paths)}"


@dataclass(slots=True)
class Rehearsal:
    """What became of a recorded log under today's rules.

    `lossy` counts the commits whose command could not be made again, with the reasons in `reasons`.
    """

    decider: str
    same: int = 0
    lossy: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    dissents: list[Dissent] = field(default_factory=list)
    parted: list[Parted] = field(default_factory=list)

    @property
    def different(self) -> int:
        """How many commits would hold other events."""
        return sum(one.decided is not None for one in self.dissents)

    @property
    def refused(self) -> int:
        """How many commits would not be, because their command is refused now."""
        return sum(one.decided is None for one in self.dissents)

    @property
    def ok(self) -> bool:
        """Whether all that could be tried came out as it is on the log."""
        return not self.dissents and not self.parted

    def to_json(self) -> dict[str, Any]:
        """The counts with stable keys."""
        return {
            "decider": self.decider,
            "same": self.same,
            "different": self.different,
            "refused": self.refused,
            "lossy": self.lossy,
            "parted": len(self.parted),
            "reasons": dict(sorted(self.reasons.items())),
        }

    def __str__(self) -> str:
        total = self.same + self.lossy + len(self.dissents)
        lines = [
            f"{self.decider}: {self.same} same, {self.different} different, {self.refused} refused, "
            f"{self.lossy} lossy of {total} commits"
        ]
        lines += [f"lossy, {count}: {reason}" for reason, count in sorted(self.reasons.items())]
        return "\n".join([*lines, "commands that were refused then left no event and are not covered"])


async def dry_run(
    log: Recorded,
    decider: str,
    *,
    after: int = 0,
    upto: int | None = None,
    branch: bool = False,
    rules: Rules | None = None,
) -> Rehearsal:
    """What a decider would decide today, commit by commit, against what is recorded.

    Parameters
    ----------
    decider : str
        A kind of aggregate or its plural, such as `runs`; `names` for the claims of names and numbers.
    after, upto : int
        Only commits with `after < position <= upto` are tried; the ones before are folded.
    branch : bool
        Go on with the events that would be decided today, instead of the recorded ones, and compare the
        states in the end.
    rules : Rules, optional
        Other rules than those of the installed service.

    Raises
    ------
    TapelineError
        `not_found` for a decider that no installed service has, `invalid` for a position past the end.
    """
    kind = kind_of(decider)
    own = names if kind is None else fold_of(kind)
    head = (await log.head()).position
    end = head if upto is None else upto
    if not 0 <= after <= end <= head:
        raise TapelineError(
            f"positions {after} to {end} are not within the log, which ends at {head}",
            code="invalid",
            hint="tapeline log tail -n 1",
        )
    stage = Stage(decider, rules or own, commands_of(own), branch=branch)  # type: ignore[arg-type]
    decoder = codec()
    async for commits in log.read(upto=end):
        for commit in commits:
            if kind is not None and ref_of(commit.subject).kind != kind:
                continue
            events = decoder.decode(commit)
            if (events[0].type in _NAME_TYPES) == (kind is None):
                stage.take(events, try_it=commit.position > after)
    return stage.close()


def kind_of(decider: str) -> Kind | None:
    """The kind of aggregates that a decider is about; None for the claims of names."""
    if decider == NAMES:
        return None
    known = sorted(found.name for found in entry_points(group=DECIDERS))
    for kind in known:
        if kind in KINDS and decider in (kind, f"{kind}s", f"{kind}es"):
            return kind  # type: ignore[return-value]
    raise TapelineError(
        f"no installed service has a decider {decider!r}", code="not_found", hint=f"{', '.join([*known, NAMES])}"
    )


def commands_of(rules: Any) -> Mapping[str, type[Command]]:
    """The commands that a decider takes, by name, as its `decide` declares them."""
    (_, taken), *_ = [item for item in get_type_hints(rules.decide).items() if item[0] == "command"]
    each = get_args(taken) if isinstance(taken, UnionType) else (taken,)
    return {command.__name__: command for command in each}


@dataclass(slots=True)
class Stage:
    """The aggregates of one decider while a log is played to them."""

    decider: str
    rules: Rules
    commands: Mapping[str, type[Command]]
    branch: bool = False
    _recorded: dict[Ref, Any] = field(default_factory=dict)
    _branched: dict[Ref, Any] = field(default_factory=dict)
    _result: Rehearsal = field(init=False)

    def __post_init__(self) -> None:
        self._result = Rehearsal(self.decider)

    def take(self, events: Sequence[StoredEvent], *, try_it: bool = True) -> None:
        """Play the events of one commit: try its command on the state before it, then fold."""
        ref = events[0].ref
        before = self._recorded[ref] if ref in self._recorded else self.rules.initial()
        state = self._branched.get(ref, before) if self.branch else before
        recorded = [event.data for event in events]
        decided = self._tried(events, before, state) if try_it else recorded
        self._recorded[ref] = self._folded(before, recorded)
        if self.branch:
            self._branched[ref] = self._folded(state, decided)

    def close(self) -> Rehearsal:
        """The result, once the log has ended."""
        for ref in sorted(self._branched):
            ours, theirs = _plain(self._recorded[ref]), _plain(self._branched[ref])
            if paths := tuple(paths_of(ours, theirs)):
                self._result.parted.append(Parted(f"{ref.team}/{ref}", paths))
        return self._result

    def _tried(self, events: Sequence[StoredEvent], before: Any, state: Any) -> list[Any]:
        """The events to go on with: those decided today, or the recorded ones where that cannot be said."""
        recorded = [event.data for event in events]
        try:
            command = self._rebuilt(events, before)
        except Lossy as reason:
            self._result.lossy += 1
            self._result.reasons[str(reason)] += 1
            return recorded
        first = events[0]
        dissent = Dissent(first.position, f"{first.ref.team}/{first.ref}", first.command, told_of(recorded), None)
        try:
            with _seeded(first.id):
                decided = list(self.rules.decide(state, command))
        except TapelineError as error:
            self._result.dissents.append(_refused(dissent, f"{error.code}: {error.message}"))
            return []
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError) as error:
            # Rules that break on what was once legal would answer `internal`, and append nothing.
            self._result.dissents.append(_refused(dissent, f"internal: {type(error).__name__}: {error}"))
            return []
        told = told_of(decided)
        if told == dissent.recorded:
            self._result.same += 1
        else:
            self._result.dissents.append(
                Dissent(dissent.position, dissent.aggregate, dissent.command, dissent.recorded, told)
            )
        return decided

    def _rebuilt(self, events: Sequence[StoredEvent], before: Any) -> Command:
        first = events[0]
        if any(event.is_erased for event in events):
            raise Lossy("something of the commit was erased")
        kind = self.commands.get(first.command)
        if kind is None:
            raise Lossy(f"no command is called {first.command} any more")
        if kind.LOSSY is not None:
            raise Lossy(kind.LOSSY)
        try:
            command = kind.from_events(events, before)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            said = str(error).partition("\n")[0]
            raise Lossy(f"{first.command} is not made again from its events: {type(error).__name__}: {said}") from error
        return command if command.at != UNSET_TIME else command.model_copy(update={"at": first.created_at})

    def _folded(self, state: Any, events: Sequence[Any]) -> Any:
        for event in events:
            state = self.rules.evolve(state, event)
        return state


class _seeded:
    """Whatever draws at random inside draws what the seed says, and nothing outside is moved by it."""

    def __init__(self, seed: str) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        self._before = random.getstate()
        random.seed(self._seed)

    def __exit__(self, *_: object) -> Literal[False]:
        random.setstate(self._before)
        return False


def _refused(dissent: Dissent, why: str) -> Dissent:
    return Dissent(dissent.position, dissent.aggregate, dissent.command, dissent.recorded, None, why)


def told_of(events: Sequence[Any]) -> Told:
    """Events as JSON, without ids and times: what two of them are compared by."""
    return [{"type": type(event).__name__, "data": _plain(event)} for event in events]


def _plain(value: Any) -> Any:
    # Sets in the order of their values: that of their hashes differs from process to process.
    return msgspec.to_builtins(value, str_keys=True, order="deterministic")


def _text(event: Mapping[str, Any]) -> str:
    return f"{event['type']} {msgspec.json.encode(event['data'], order='sorted').decode()}"


def lines_of(result: Rehearsal) -> Iterator[Dissent | Parted | Rehearsal]:
    """What a rehearsal has to say, in order, the counts last."""
    yield from result.dissents
    yield from result.parted
    yield result
