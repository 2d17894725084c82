"""What every command, query, reply and view has in common.

A command or query is a JSON object sent to `tl.<user>.<service>.<verb>`; the reply is one of three:

* `{"view": ..., "sequence": 7, "position": 1041, "log_id": "...", "replayed": false}` to a command,
* `{"view": ..., "position": 1041, "log_id": "..."}` to a query,
* `{"error": {"code", "status", "message", "hint", "data"}}` to what is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

V = TypeVar("V")
UNSET_TIME = datetime(1970, 1, 1, tzinfo=UTC)

CommandId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Text255 = Annotated[str, Field(min_length=1, max_length=255)]
Notes = Annotated[str, Field(max_length=64 * 1024)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Message(BaseModel):
    """A frozen message that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)


class Command(Message):
    """A wish that may be refused.

    `command_id` names it: the same id again has no second effect and gets the same answer; without one
    the service makes one. `at` is stamped by the service, whatever a caller writes. `min_position` makes
    the service wait until its tables have reached that position before it looks anything up.
    """

    command_id: CommandId | None = None
    at: datetime = UNSET_TIME
    min_position: int | None = Field(default=None, ge=0)


class Query(Message):
    """A question to the tables, answered once they have reached `min_position`."""

    min_position: int | None = Field(default=None, ge=0)


class View(BaseModel):
    """An answer; readers ignore fields that a newer service adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), defer_build=True)


class Accepted(View, Generic[V]):
    """A command is done: its events are on the log, on disk, at `position`."""

    view: V
    sequence: int
    position: int
    log_id: str
    replayed: bool = False


class Answer(View, Generic[V]):
    """The answer to a query, and the position of the tables that it was read from."""

    view: V
    position: int
    log_id: str


class Fault(View):
    """What was refused, why, and what helps."""

    code: str
    status: int
    message: str
    hint: str | None = None
    data: Any = None


class Rejected(View):
    """A command or query was refused; nothing was stored."""

    error: Fault


class Page(View, Generic[V]):
    """One page of a list; `next` continues it, and is absent on the last page."""

    items: list[V]
    next: str | None = None
