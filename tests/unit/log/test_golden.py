"""What was once shipped is read for ever: golden events, and a recorded log of each release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapeline import names
from tapeline.assets.asset import aggregate as asset_decider
from tapeline.assets.asset import projection as assets
from tapeline.assets.asset import users
from tapeline.assets.canvas import aggregate as canvas_decider
from tapeline.assets.canvas import projection as canvases
from tapeline.assets.tape import aggregate as tape_decider
from tapeline.assets.tape import projection as tapes
from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.contracts.names import NAME_EVENTS
from tapeline.log.codec import Codec
from tapeline.projections import Projection
from tapeline.replay.chain import Walk
from tapeline.runs import projection as runs
from tapeline.runs.blueprint import aggregate as blueprint_decider
from tapeline.runs.device import aggregate as device_decider
from tapeline.runs.model import aggregate as model_decider
from tapeline.runs.model import projection as models
from tapeline.runs.run import aggregate as run_decider
from tapeline.testing.golden import name_of, read_back, write_missing
from tapeline.testing.recorded import folded, read_log
from tapeline.vault import aggregate as vault_decider
from tapeline.vault import projection as vault
from tapeline.vault import sources

DECIDERS = {
    "run": run_decider, "device": device_decider, "tape": tape_decider, "canvas": canvas_decider,
    "asset": asset_decider, "vault": vault_decider, "model": model_decider,
    "blueprint": blueprint_decider,
}  # fmt: skip
NAMED = {event.__name__ for event in NAME_EVENTS}
ASSETS = Path(__file__).parents[2] / "assets"
CODEC = Codec(EVENTS, UPCASTERS, TOMBSTONES)
GOLDEN = sorted((ASSETS / "events").glob("*.json"))
LOGS = sorted((ASSETS / "logs").glob("*.jsonl"))
PROJECTIONS: tuple[Projection, ...] = (runs, models, assets, users, canvases, tapes, vault, sources)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_event_that_was_once_stored_reads_as_it_did(path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == name_of(golden["type"], golden["schema"])
    found = read_back(CODEC, golden["type"], golden["schema"], golden["data"])
    assert within(found, golden["read_as"]) == golden["read_as"]


def within(found: Any, then: Any) -> Any:
    """What was there then of what is found now: a field that came later is no difference."""
    if isinstance(found, dict) and isinstance(then, dict):
        return {name: within(value, then[name]) for name, value in found.items() if name in then}
    if isinstance(found, list) and isinstance(then, list) and len(found) == len(then):
        return [within(value, known) for value, known in zip(found, then, strict=True)]
    return found


def test_every_event_type_has_its_golden_file() -> None:
    missing = {name_of(*key) for key in EVENTS} - {path.name for path in GOLDEN}
    assert not missing, "make golden"


def test_a_golden_file_is_never_written_over(tmp_path: Path) -> None:
    assert len(write_missing(tmp_path)) == len(EVENTS)
    (tmp_path / name_of(*next(iter(EVENTS)))).write_text("{}")
    assert write_missing(tmp_path) == []
    assert (tmp_path / name_of(*next(iter(EVENTS)))).read_text() == "{}"


def test_the_recorded_log_of_this_version_touches_every_event_type() -> None:
    newest = max(LOGS, key=lambda path: tuple(map(int, path.stem.split("."))))
    seen = {event.type for commit in read_log(newest) for event in CODEC.decode(commit)}
    assert {tag for tag, _ in EVENTS} - seen == set(), "tests/assets/logs/record.py"


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_recorded_log_is_whole(path: Path) -> None:
    walk = Walk(CODEC)
    faults = [fault for commit in read_log(path) for fault in walk.add(commit)]
    assert faults == []
    assert walk.root.hex() == json.loads(path.with_suffix(".expected.json").read_text())["root"]


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_every_aggregate_of_a_recorded_log_is_folded_by_those_who_decide_about_it(path: Path) -> None:
    states: dict[str, Any] = {}
    for commit in read_log(path):
        for event in CODEC.decode(commit):
            decider: Any = names if event.type in NAMED else DECIDERS[event.ref.kind]
            states[commit.subject] = decider.evolve(states.get(commit.subject, decider.initial()), event.data)
    assert len(states) > 20


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_recorded_log_fills_the_tables_that_it_filled_then(path: Path) -> None:
    expected = json.loads(path.with_suffix(".expected.json").read_text())["tables"]
    found = folded(read_log(path), PROJECTIONS, CODEC)
    assert {name: len(rows) for name, rows in found.items()} == {name: len(rows) for name, rows in expected.items()}
    for name, rows in found.items():
        for row, then in zip(rows, expected[name], strict=True):
            # A column that came later is no difference; one that went, or has another value, is.
            assert {column: row.get(column) for column in then} == then, name
