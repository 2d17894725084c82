"""Claims of unique names and numbers: a small decider whose stream is the fence.

A service appends the claim together with the birth or renaming of what bears the name
(`Deciders.handle_together`), so either both are on the log or neither is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, assert_never

from tapeline.contracts.message import Command, Told
from tapeline.contracts.names import NameClaimed, NameEvent, NameReleased, NumberTaken
from tapeline.errors import TapelineError
from tapeline.ids import derived_id
from tapeline.subjects import Kind, Ref


@dataclass(frozen=True, slots=True)
class Claim:
    """Who holds a name, or where a counter stands."""

    holder: str | None = None
    number: int = 0


class ClaimName(Command):
    """Give a name to a holder; already its own is no change."""

    name: str
    holder: str
    what: str

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], what=events[0].ref.kind)


class ReleaseName(Command):
    """Free a name that the holder has."""

    name: str
    holder: str

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class TakeNumber(Command):
    """Move a counter from `number - 1` to `number`."""

    number: int
    holder: str

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class TakeNumbers(Command):
    """Move a counter on from `first - 1`, a number for each holder in order."""

    first: int
    holders: list[str]

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(first=events[0].data.number, holders=[each.data.holder for each in events])


ClaimCommand = ClaimName | ReleaseName | TakeNumber | TakeNumbers


def name_ref(team: str, kind: Kind, name: str) -> Ref:
    """The stream on which a name of a kind is claimed."""
    return Ref(team, kind, derived_id(team, kind, "name", name))


def counter_ref(team: str, kind: Kind) -> Ref:
    """The stream on which a team's numbers of a kind are taken."""
    return Ref(team, kind, derived_id(team, kind, "counter"))


def initial() -> Claim:
    return Claim()


def decide(claim: Claim, command: ClaimCommand) -> list[NameEvent]:
    match command:
        case ClaimName() if claim.holder == command.holder:
            return []
        case ClaimName() if claim.holder is not None:
            raise TapelineError(
                f"{command.what} {command.name!r} exists already",
                code="already_exists",
                hint="take another name",
                data={"holder": claim.holder},
            )
        case ClaimName():
            return [NameClaimed(name=command.name, holder=command.holder)]
        case ReleaseName():
            if claim.holder != command.holder:
                return []
            return [NameReleased(name=command.name, holder=command.holder)]
        case TakeNumber():
            return _taken(claim, command.number, [command.holder])
        case TakeNumbers():
            return _taken(claim, command.first, command.holders)
        case _:
            assert_never(command)


def _taken(claim: Claim, first: int, holders: list[str]) -> list[NameEvent]:
    if claim.number != first - 1:
        raise TapelineError(
            f"the counter stands at {claim.number}, not at {first - 1}", code="conflict", hint="repeat the command"
        )
    return [NumberTaken(number=number, holder=holder) for number, holder in enumerate(holders, start=first)]


def evolve(claim: Claim, event: NameEvent) -> Claim:
    match event:
        case NameClaimed():
            return replace(claim, holder=event.holder)
        case NameReleased():
            return replace(claim, holder=None)
        case NumberTaken():
            return replace(claim, number=event.number)
        case _:
            assert_never(event)
