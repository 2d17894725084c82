"""Every event of a team from a position on: complete, in order, resumable."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tapeline.sdk.arguments import given
from tapeline.sdk.client import Client

CHECK_S = 5.0
"""How often a watch looks without a hint."""
PAGE = 500


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event of the team's log.

    Events of one commit share a position and come together: `last_of_commit` says when the position is safe to
    keep, and to go on from.
    """

    position: int
    last_of_commit: bool
    id: str
    aggregate: str
    sequence: int
    type: str
    created_at: datetime
    actor: str
    command: str
    command_id: str
    cause: str | None
    data: dict[str, Any]


def watch(
    client: Client,
    since: int = 0,
    *,
    kinds: Collection[str] | None = None,
    types: Collection[str] | None = None,
    follow: bool = True,
) -> Iterator[LogEvent]:
    """Each event after a position; see `Client.watch`."""
    with client.hints("*") as heard:
        while True:
            heard.clear()
            page = client.query("log", "read", after=since, limit=PAGE, **given(kinds=list(kinds) if kinds else None))
            for commit in page["commits"]:
                chosen = [each for each in commit["events"] if not types or each["type"] in types]
                for each in chosen:
                    yield _event(commit, each, each is chosen[-1])
            if page["next"] > since:
                since = page["next"]
            elif not follow:
                return
            else:
                heard.wait(CHECK_S)


def _event(commit: dict[str, Any], event: dict[str, Any], is_last: bool) -> LogEvent:
    return LogEvent(
        position=commit["position"],
        last_of_commit=is_last,
        id=event["id"],
        aggregate=commit["aggregate"],
        sequence=event["sequence"],
        type=event["type"],
        created_at=datetime.fromisoformat(event["created_at"]),
        actor=commit["actor"],
        command=commit["command"],
        command_id=commit["command_id"],
        cause=commit["cause"],
        data=event["data"],
    )
