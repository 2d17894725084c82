"""The published language of the log itself: reading a team's commits, and asking about its past."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from tapeline.contracts.message import Query, View
from tapeline.subjects import Kind

MOST_COMMITS = 1000
MOST_BYTES = 512 * 1024


class ReadLog(Query):
    """Sent by the SDK to go through the log of its team, from a position on."""

    after: int = Field(default=0, ge=0)
    limit: int = Field(default=100, ge=1, le=MOST_COMMITS)
    kinds: list[Kind] | None = None
    aggregate: str | None = Field(default=None, max_length=255)


class AskPast(Query):
    """Sent by the SDK to have one of its queries answered as of a position or a time."""

    when: int | datetime
    service: str = Field(max_length=32)
    verb: str = Field(max_length=32)
    fields: dict[str, Any] = Field(default_factory=dict)


class LoggedEvent(View):
    """One event of a commit; `data` as the newest schema has it."""

    id: str
    sequence: int
    type: str
    schema_number: int
    created_at: datetime
    data: dict[str, Any]


class LoggedCommit(View):
    """One commit of the team: where it stands, who made it, and its events."""

    position: int
    stored_at: datetime
    aggregate: str
    actor: str
    command: str
    command_id: str
    cause: str | None = None
    correlation_id: str | None = None
    events: list[LoggedEvent]


class LogPage(View):
    """Some commits in order; `next` is the position to ask after, also when nothing fitted, `head` the log's last."""

    commits: list[LoggedCommit]
    next: int
    head: int
