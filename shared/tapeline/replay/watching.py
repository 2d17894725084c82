"""Every event from a position on, for ever: in order, without a gap; the caller keeps the position."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from tapeline.errors import TapelineError
from tapeline.log import EventLog, StoredEvent
from tapeline.replay.past import parse_when, position_at
from tapeline.replay.reading import Line, codec, find_ref
from tapeline.subjects import ref_of


@dataclass(frozen=True, slots=True)
class Watched:
    """One event. Events of one commit share a position: it is safe to keep once `last_of_commit` came."""

    event: StoredEvent
    last_of_commit: bool

    @property
    def position(self) -> int:
        """The place of its commit in the log."""
        return self.event.position

    def to_json(self) -> dict[str, Any]:
        """All of the event, with stable keys."""
        return Line(self.event).to_json() | {"last_of_commit": self.last_of_commit}


async def watch(
    log: EventLog,
    *,
    since: int = 0,
    kinds: Collection[str] = (),
    types: Collection[str] = (),
    team: str | None = None,
    follow: bool = True,
) -> AsyncGenerator[Watched, None]:
    """Each event after a position, once, in order.

    Parameters
    ----------
    kinds, types, team
        Only events of these; all when empty.
    follow : bool
        Go on for ever, or end at what is now the last position.

    Raises
    ------
    TapelineError
        `invalid` for a position past the end of the log.
    """
    head = (await log.head()).position
    if not 0 <= since <= head:
        raise TapelineError(
            f"position {since} is past the end of the log ({head})",
            code="invalid",
            hint="pass the position of the last event that was seen, of this log",
        )
    decoder = codec()
    async with aclosing(log.read(after=since, upto=None if follow else head, follow=follow)) as lists:
        async for commits in lists:
            for commit in commits:
                ref = ref_of(commit.subject)
                if (kinds and ref.kind not in kinds) or (team is not None and ref.team != team):
                    continue
                chosen = [event for event in decoder.decode(commit) if not types or event.type in types]
                for event in chosen:
                    yield Watched(event, event is chosen[-1])


async def since_of(log: EventLog, text: str) -> int:
    """The position that a watch begins after: a position, a time, or the one before an aggregate's birth.

    Raises
    ------
    TapelineError
        `not_found` for an aggregate without events, `invalid` for what is none of the three.
    """
    if "/" in text:
        ref = await find_ref(log, text)
        commits = await log.load(ref)
        if not commits:
            raise TapelineError(f"no event of {text}", code="not_found", hint="tapeline log tail")
        return commits[0].position - 1
    when = parse_when(text)
    return when if isinstance(when, int) else await position_at(log, when)
