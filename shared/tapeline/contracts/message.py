"""What every command, query, reply and view has in common.

A command or query is a JSON object sent to `tl.<user>.<service>.<verb>`; the reply is one of three:

* `{"view": ..., "sequence": 7, "position": 1041, "log_id": "...", "replayed": false}` to a command,
* `{"view": ..., "position": 1041, "log_id": "..."}` to a query,
* `{"error": {"code", "status", "message", "hint", "data"}}` to what is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

V = TypeVar("V")
UNSET_TIME = datetime(1970, 1, 1, tzinfo=UTC)

CommandId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Text255 = Annotated[str, Field(min_length=1, max_length=255)]
Notes = Annotated[str, Field(max_length=64 * 1024)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Sort = Literal["id:asc", "id:desc", "created_at:asc", "created_at:desc"]


class Message(BaseModel):
    """A frozen message that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)


class Told(Protocol):
    """What a stored event tells of the command that it came from."""

    @property
    def data(self) -> Any: ...
    @property
    def ref(self) -> Any: ...
    @property
    def actor(self) -> str: ...
    @property
    def command_id(self) -> str: ...


class Lossy(Exception):
    """The events of a commit do not tell what was asked for."""


class Command(Message):
    """A wish that may be refused.

    `command_id` names it: the same id again has no second effect and gets the same answer; without one
    the service makes one. `at` is stamped by the service, whatever a caller writes. `min_position` makes
    the service wait until its tables have reached that position before it looks anything up.
    """

    LOSSY: ClassVar[str | None] = None
    """Why no command of this class can be made again from its events; None when it can."""

    command_id: CommandId | None = None
    at: datetime = UNSET_TIME
    min_position: int | None = Field(default=None, ge=0)

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        """The command that led to the events of one commit, for trying other rules on a recorded log.

        `state` is the aggregate before them: what a command says that its events do not repeat was true of
        it, or the command would have been refused. Raises `Lossy` where even that does not tell.
        """
        raise Lossy(f"{cls.__name__} is not made again from its events")

    @classmethod
    def of(cls, told: Told, **more: Any) -> Self:
        """The command with the fields that an event shares with it, and `more`."""
        known = {name: value for name, value in asdict(told.data).items() if name in cls.model_fields}
        return cls(**known | more)


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
