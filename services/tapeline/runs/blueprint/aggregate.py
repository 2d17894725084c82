"""What can happen to a blueprint that a team registers: it is made known, and removed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from tapeline.contracts.blueprints import (
    BlueprintEvent,
    BlueprintRegistered,
    BlueprintRemoved,
    RegisterBlueprint,
    RemoveBlueprint,
)
from tapeline.errors import TapelineError

BlueprintCommand = RegisterBlueprint | RemoveBlueprint


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A blueprint as of its last event; without `registered` it does not exist."""

    registered: BlueprintRegistered | None = None
    is_removed: bool = False


def initial() -> Blueprint:
    return Blueprint()


def decide(state: Blueprint, command: BlueprintCommand) -> list[BlueprintEvent]:
    known = state.registered
    match command:
        case RegisterBlueprint():
            if known is None or state.is_removed:
                return [_registered(command)]
            if (known.config_schema, known.entrypoint) == (command.config_schema, command.entrypoint):
                return []
            raise TapelineError(
                f"blueprint {known.name!r} {known.version} exists with another schema or entrypoint",
                code="already_exists",
                hint="what was registered does not change: take another version",
            )
        case RemoveBlueprint():
            if known is None:
                raise TapelineError(
                    f"no blueprint of this team has the id {command.blueprint_id!r}",
                    code="not_found",
                    hint="tapeline blueprint ls",
                    data={"kind": "blueprint", "id": command.blueprint_id},
                )
            return [] if state.is_removed else [BlueprintRemoved()]
        case _:
            assert_never(command)


def _registered(command: RegisterBlueprint) -> BlueprintRegistered:
    return BlueprintRegistered(
        name=command.name,
        version=command.version,
        config_schema=command.config_schema,
        entrypoint=command.entrypoint,
        user=command.user,
    )


def evolve(state: Blueprint, event: BlueprintEvent) -> Blueprint:
    match event:
        case BlueprintRegistered():
            return Blueprint(event)
        case BlueprintRemoved():
            return replace(state, is_removed=True)
        case _:
            assert_never(event)
