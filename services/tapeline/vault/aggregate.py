"""What can happen to a vault item: a model gets a name, another name, and is removed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.vault import (
    PromoteModel,
    RemoveVaultItem,
    RenameVaultItem,
    VaultEvent,
    VaultItemAdded,
    VaultItemRemoved,
    VaultItemRenamed,
)
from tapeline.errors import TapelineError

VaultCommand = PromoteModel | RenameVaultItem | RemoveVaultItem


@dataclass(frozen=True, slots=True)
class Unborn:
    """Nothing has been added."""


@dataclass(frozen=True, slots=True)
class Item:
    """A model under a name."""

    name: str
    added: VaultItemAdded


@dataclass(frozen=True, slots=True)
class Removed:
    """The item is gone from every view."""

    name: str


State = Unborn | Item | Removed


def initial() -> State:
    return Unborn()


def decide(state: State, command: VaultCommand) -> list[VaultEvent]:
    match command:
        case PromoteModel() if isinstance(state, Unborn):
            return [_added(command)]
        case PromoteModel():
            raise TapelineError(
                f"vault item {command.name!r} has been added already", code="conflict", hint="take another name"
            )
        case RenameVaultItem() if isinstance(state, Item):
            if command.new_name == state.name:
                raise TapelineError(
                    f"vault item {state.name!r} has that name already", code="already_exists", hint="take another name"
                )
            return [VaultItemRenamed(name=command.new_name, old_name=state.name)]
        case RemoveVaultItem() if isinstance(state, Item):
            return [VaultItemRemoved()]
        case RemoveVaultItem() if isinstance(state, Removed):
            return []
        case RenameVaultItem() | RemoveVaultItem():
            raise TapelineError(f"there is no vault item {command.name!r}", code="not_found", hint="tapeline vault ls")
        case _:
            assert_never(command)


def _added(command: PromoteModel) -> VaultItemAdded:
    return VaultItemAdded(
        name=command.name,
        version=command.version,
        summary=command.summary,
        model=Artifact(**command.model),
        model_file=command.model_file,
        project_id=command.project_id,
        user=command.user,
        host=command.host,
        run_id=command.run_id,
        run_number=command.run_number,
        checkpoint_id=command.checkpoint_id,
        global_step=command.global_step,
        training_epoch=command.training_epoch,
        canvas=command.canvas,
        asset_id=command.asset_id,
        asset_name=command.asset_name,
        lookahead=command.lookahead,
        features=command.features,
        input_shapes=command.input_shapes,
        value=command.value,
    )


def evolve(state: State, event: VaultEvent) -> State:
    match event:
        case VaultItemAdded():
            return Item(event.name, event)
        case VaultItemRenamed() if isinstance(state, Item):
            return replace(state, name=event.name)
        case VaultItemRemoved():
            return Removed(state.name if isinstance(state, Item) else "")
        case VaultItemRenamed():
            return state
        case _:
            assert_never(event)
