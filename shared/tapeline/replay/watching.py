"""Every event from a position on, for ever: in order, without a gap; the caller keeps the position."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapeline.errors import TapelineError
from tapeline.home import write_json
from tapeline.log import EventLog, StoredEvent
from tapeline.replay.reading import Line, codec
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
    async with aclosing(log.read(after=since, follow=follow)) as lists:
        async for commits in lists:
            for commit in commits:
                ref = ref_of(commit.subject)
                if (kinds and ref.kind not in kinds) or (team is not None and ref.team != team):
                    continue
                chosen = [event for event in decoder.decode(commit) if not types or event.type in types]
                for event in chosen:
                    yield Watched(event, event is chosen[-1])


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A file that keeps how far a watcher has come, and in which log."""

    path: Path

    def read(self, log_id: str) -> int | None:
        """The position; none without a file. `log_mismatch` when it belongs to another log."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            position, of = int(found["position"]), str(found["log_id"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise TapelineError(
                f"{self.path} holds no position: {error}", code="invalid", hint="remove it, and give --since"
            ) from error
        if of != log_id:
            raise TapelineError(
                f"{self.path} is a position of log {of}, this is log {log_id}",
                code="log_mismatch",
                hint="use another file for this log",
            )
        return position

    def write(self, log_id: str, position: int) -> None:
        """Keep a position, on disk before this returns."""
        write_json(self.path, {"log_id": log_id, "position": position})
