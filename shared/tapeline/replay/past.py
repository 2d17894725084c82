"""What was true at a position or a time: the events of one aggregate up to there, folded by its own code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from typing import Any, Protocol

import msgspec

from tapeline import names
from tapeline.clock import Clock, SystemClock
from tapeline.contracts.names import NAME_EVENTS
from tapeline.errors import TapelineError
from tapeline.log import EventLog, StoredCommit, wire
from tapeline.logs import get_logger
from tapeline.replay.reading import codec
from tapeline.subjects import Kind, Ref

DECIDERS = "tapeline.deciders"
"""Group of entry points: by kind of aggregate, the module that folds it. Shared code does not know services."""

AROUND = 500
"""How many commits before and after are looked at for times that step back."""
log_lines = get_logger()

_AGO = re.compile(r"([0-9]+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NAME_TYPES = frozenset(event.__name__ for event in NAME_EVENTS)


class Fold(Protocol):
    """The two functions of a decider that make a state of events."""

    def initial(self) -> Any:
        """The state before the first event."""
        ...

    def evolve(self, state: Any, event: Any, /) -> Any:
        """The state after one more event."""
        ...


@dataclass(frozen=True, slots=True)
class Past:
    """One aggregate as it was at a position; `changed_at` is the position of its last change until then."""

    ref: Ref
    position: int
    changed_at: int
    time: datetime
    sequence: int
    state: Any

    def to_json(self) -> dict[str, Any]:
        """The same with stable keys; `case` names the kind of state."""
        return {
            "aggregate": f"{self.ref.team}/{self.ref}",
            "position": self.position,
            "changed_at": self.changed_at,
            "time": wire.time_text(self.time),
            "sequence": self.sequence,
            "case": type(self.state).__name__,
            "state": msgspec.to_builtins(self.state, str_keys=True),
        }


def fold_of(kind: Kind) -> Fold:
    """The code that folds aggregates of a kind; `not_found` when no installed service has it."""
    for found in entry_points(group=DECIDERS, name=kind):
        fold: Fold = found.load()
        return fold
    raise TapelineError(
        f"no installed service folds aggregates of kind {kind}",
        code="not_found",
        hint="install tapeline with its services; make install, after the entry points have changed",
    )


async def at(log: EventLog, when: int | datetime, ref: Ref) -> Past:
    """One aggregate as it was at a position, or after the last commit not later than a time.

    Raises
    ------
    TapelineError
        `invalid` for a position past the end, `not_found` when the aggregate had no event by then.
    """
    position = await position_at(log, when) if isinstance(when, datetime) else when
    head = (await log.head()).position
    if not 0 <= position <= head:
        raise TapelineError(
            f"position {position} is past the end of the log ({head})", code="invalid", hint="tapeline log tail -n 1"
        )
    commits = await log.load(ref, upto=position)
    if not commits:
        raise TapelineError(
            f"{ref} had no event by position {position}", code="not_found", hint=f"tapeline log show {ref.team}/{ref}"
        )
    decoder = codec()
    events = [event for commit in commits for event in decoder.decode(commit)]
    fold: Fold = names if events[0].type in _NAME_TYPES else fold_of(ref.kind)
    state = fold.initial()
    for event in events:
        state = fold.evolve(state, event.data)
    return Past(ref, position, commits[-1].position, commits[-1].stored_at, events[-1].sequence, state)


async def position_at(log: EventLog, when: datetime) -> int:
    """The last position not later than a time, by bisection; 0 before the first.

    The time of a commit is the broker's, or that of its original when it was imported. Where times step back
    around the one asked for, several positions fit: the lowest is taken, and a warning says so.
    """
    head = (await log.head()).position
    before, after = 0, head + 1
    while after - before > 1:
        middle = (before + after) // 2
        if (await _around(log, middle, 1))[0].stored_at <= when:
            before = middle
        else:
            after = middle
    if head == 0:
        return 0
    begin = max(0, before - AROUND)
    near = await _around(log, begin + 1, min(before + AROUND, head) - begin)
    # Nothing lies before the first commit, and what ends the window counts as later.
    later = [begin > 0, *(commit.stored_at > when for commit in near), True]
    fits = [begin + i for i in range(len(later) - 1) if not later[i] and later[i + 1]]
    if near[-1].position < head and fits[-1:] == [near[-1].position]:
        fits.pop()
    if len(fits) > 1:
        log_lines.warning("times_step_back", at=wire.time_text(when), positions=fits, taken=fits[0])
    return fits[0] if fits else before


async def _around(log: EventLog, first: int, limit: int) -> list[StoredCommit]:
    found = await log.page(after=first - 1, limit=limit)
    if not found or found[0].position != first:
        raise TapelineError(f"there is no commit at position {first}", code="log_damaged", hint="tapeline log verify")
    return found


def parse_when(text: str, clock: Clock | None = None) -> int | datetime:
    """A position, a time as RFC 3339, or how long ago: `2h`, `3d`."""
    if text.isdigit():
        return int(text)
    if (ago := _AGO.fullmatch(text)) is not None:
        return (clock or SystemClock()).now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise TapelineError(
            f"{text!r} is no position and no time", code="invalid", hint="1040, 2026-11-20T10:00:00Z, 2h, 3d"
        ) from error
    if found.tzinfo is None:
        raise TapelineError(f"{text!r} has no zone", code="invalid", hint=f"{text}Z")
    return found.astimezone(UTC)
