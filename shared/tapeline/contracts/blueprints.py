"""The published language of blueprints: kinds of training that a team brings along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from tapeline.contracts.message import Command, Query, Text255, Told, View

MAX_SCHEMA_BYTES = 256 * 1024
ENTRYPOINT = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueprintRegistered:
    """A kind of training has a name, a version and a schema of its config; the code is with the agents."""

    SCHEMA: ClassVar[int] = 1
    name: str
    version: str
    config_schema: dict[str, Any]
    entrypoint: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueprintRemoved:
    """No new run is made of it."""

    SCHEMA: ClassVar[int] = 1


BLUEPRINT_EVENTS = (BlueprintRegistered, BlueprintRemoved)
BlueprintEvent = BlueprintRegistered | BlueprintRemoved


class RegisterBlueprint(Command):
    """Sent by a user to make a kind of training known: `entrypoint` is `package.module:name` on the agents."""

    name: Text255
    version: Annotated[str, Field(min_length=1, max_length=64)]
    config_schema: dict[str, Any]
    entrypoint: Annotated[str, Field(max_length=255, pattern=ENTRYPOINT)]
    user: str = ""

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class RemoveBlueprint(Command):
    """Sent by a user so that no new run is made of a blueprint."""

    blueprint_id: Annotated[str, Field(min_length=1, max_length=255)]

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(blueprint_id=events[0].ref.id)


class BlueprintView(View):
    """A kind of training: its name, version and the JSON Schema of its config."""

    id: str
    name: str
    version: str
    config_schema: dict[str, Any]
    entrypoint: str | None = None
    created_at: datetime | None = None


class ValidateRunConfig(Query):
    """Sent by a user to check a config against a blueprint without making a run."""

    blueprint_id: str = Field(min_length=1, max_length=255)
    config: dict[str, Any]


class ListBlueprints(Query):
    """Sent by a user to see the kinds of training, newest first; `version_ilike` is a pattern."""

    name: str | None = None
    version_ilike: str | None = None
