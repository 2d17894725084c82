"""What can happen to a tape, given / when / then."""

from __future__ import annotations

import pytest

from tapeline.assets.tape import aggregate
from tapeline.contracts.tapes import FailImport, ImportUploads, RemoveTape, TapeImportFailed, TapeRemoved
from tapeline.errors import TapelineError

IMPORT = ImportUploads(
    name="demo",
    content_sha256="a" * 64,
    manifest={"name": "manifest.json", "size_bytes": 10, "sha256": "b" * 64},
    files=[{"name": "SPY_2024-01-02.h5", "size_bytes": 20, "sha256": "c" * 64}],
    symbols=["SPY"],
    days=["2024-01-02"],
    rows=5,
    calendar="SIM",
    user="ann",
)


def given(*commands: aggregate.TapeCommand) -> aggregate.State:
    state = aggregate.initial()
    for command in commands:
        for event in aggregate.decide(state, command):
            state = aggregate.evolve(state, event)
    return state


def test_an_import_makes_a_tape() -> None:
    state = given(IMPORT)
    assert isinstance(state, aggregate.Tape)
    assert (state.name, state.rows, state.manifest.sha256) == ("demo", 5, "b" * 64)


def test_a_tape_is_imported_once() -> None:
    with pytest.raises(TapelineError, match="imported already") as refused:
        aggregate.decide(given(IMPORT), IMPORT)
    assert refused.value.code == "conflict"


def test_a_failed_import_is_recorded_and_leaves_no_tape() -> None:
    failed = FailImport(name="demo", code="tape_corrupt", message="no")
    assert aggregate.decide(given(), failed) == [TapeImportFailed(name="demo", code="tape_corrupt", message="no")]
    assert aggregate.decide(given(failed), failed) == []


def test_a_removed_tape_can_be_removed_again_and_a_missing_one_cannot() -> None:
    remove = RemoveTape(name="demo")
    assert aggregate.decide(given(IMPORT), remove) == [TapeRemoved()]
    assert aggregate.decide(given(IMPORT, remove), remove) == []
    with pytest.raises(TapelineError, match="there is no tape 'demo'"):
        aggregate.decide(given(), remove)
