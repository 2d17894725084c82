"""What can happen to a vault item, given / when / then."""

from __future__ import annotations

import pytest

from tapeline.contracts.vault import (
    PromoteModel,
    RemoveVaultItem,
    RenameVaultItem,
    VaultItemAdded,
    VaultItemRemoved,
    VaultItemRenamed,
)
from tapeline.errors import TapelineError
from tapeline.vault import aggregate

ADD = PromoteModel(
    name="A",
    model={"name": "model.1.keras", "size_bytes": 5, "sha256": "a" * 64},
    model_file="model.1.keras",
    user="ann",
)
REMOVE = RemoveVaultItem(name="A")


def given(*commands: aggregate.VaultCommand) -> aggregate.State:
    state = aggregate.initial()
    for command in commands:
        for event in aggregate.decide(state, command):
            state = aggregate.evolve(state, event)
    return state


def refusal(state: aggregate.State, command: aggregate.VaultCommand) -> str:
    with pytest.raises(TapelineError) as refused:
        aggregate.decide(state, command)
    assert refused.value.hint
    return str(refused.value.code)


def test_a_model_gets_a_name_once() -> None:
    (event,) = aggregate.decide(given(), ADD)
    assert isinstance(event, VaultItemAdded)
    assert (event.name, event.model.sha256, event.model_file) == ("A", "a" * 64, "model.1.keras")
    assert refusal(given(ADD), ADD) == "conflict"


def test_an_item_is_renamed_and_keeps_its_model() -> None:
    rename = RenameVaultItem(name="A", new_name="B")
    assert aggregate.decide(given(ADD), rename) == [VaultItemRenamed(name="B", old_name="A")]
    state = given(ADD, rename)
    assert isinstance(state, aggregate.Item)
    assert (state.name, state.added.model.sha256) == ("B", "a" * 64)


def test_its_own_name_is_taken_too() -> None:
    assert refusal(given(ADD), RenameVaultItem(name="A", new_name="A")) == "already_exists"


def test_a_missing_item_can_be_neither_renamed_nor_removed() -> None:
    assert refusal(given(), RenameVaultItem(name="A", new_name="B")) == "not_found"
    assert refusal(given(), REMOVE) == "not_found"
    assert refusal(given(ADD, REMOVE), RenameVaultItem(name="A", new_name="B")) == "not_found"


def test_a_removed_item_can_be_removed_again() -> None:
    assert aggregate.decide(given(ADD), REMOVE) == [VaultItemRemoved()]
    assert aggregate.decide(given(ADD, REMOVE), REMOVE) == []
