"""What was once shipped is read for ever: golden events, and a recorded log of each release."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Table

from tapeline.assets.asset import projection as assets
from tapeline.assets.asset import users
from tapeline.assets.canvas import projection as canvases
from tapeline.assets.tape import projection as tapes
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.log import StoredCommit, wire
from tapeline.log.codec import Codec
from tapeline.projections import Projection
from tapeline.replay.chain import Walk
from tapeline.replay.segments import Line
from tapeline.runs import projection as runs
from tapeline.testing.golden import name_of, read_back, write_missing
from tapeline.vault import projection as vault
from tapeline.vault import sources

ASSETS = Path(__file__).parents[2] / "assets"
CODEC = Codec(EVENTS, UPCASTERS)
GOLDEN = sorted((ASSETS / "events").glob("*.json"))
LOGS = sorted((ASSETS / "logs").glob("*.jsonl"))
PROJECTIONS: tuple[Projection, ...] = (runs, assets, users, canvases, tapes, vault, sources)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_event_that_was_once_stored_reads_as_it_did(path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == name_of(golden["type"], golden["schema"])
    assert read_back(CODEC, golden["type"], golden["schema"], golden["data"]) == golden["read_as"]


def test_every_event_type_has_its_golden_file() -> None:
    missing = {name_of(*key) for key in EVENTS} - {path.name for path in GOLDEN}
    assert not missing, "make golden"


def test_a_golden_file_is_never_written_over(tmp_path: Path) -> None:
    assert len(write_missing(tmp_path)) == len(EVENTS)
    (tmp_path / name_of(*next(iter(EVENTS)))).write_text("{}")
    assert write_missing(tmp_path) == []
    assert (tmp_path / name_of(*next(iter(EVENTS)))).read_text() == "{}"


def recorded(path: Path) -> Iterator[StoredCommit]:
    for raw in path.read_bytes().splitlines():
        line = msgspec.json.decode(raw, type=Line)
        yield StoredCommit(
            position=line.p,
            subject=line.s,
            header=line.h.encode(),
            body=line.b.encode(),
            stored_at=wire.time_of(line.t),
        )


class Fold:
    """The rows of a projection in memory: the plainest way to fold one."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}

    def get(self, table: Table, *key: Any) -> dict[str, Any] | None:
        row = self.tables.get(table.name, {}).get(key)
        return dict(row) if row is not None else None

    def put(self, table: Table, row: dict[str, Any]) -> None:
        defaults = {column.name: getattr(column.default, "arg", None) for column in table.columns}
        whole = defaults | row
        key = tuple(whole[column.name] for column in table.primary_key.columns)
        self.tables.setdefault(table.name, {})[key] = whole

    def change(self, table: Table, *key: Any, **values: Any) -> None:
        if (row := self.get(table, *key)) is not None:
            self.put(table, row | values)

    def delete(self, table: Table, *key: Any) -> None:
        self.tables.get(table.name, {}).pop(key, None)


def folded(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Every table of every service after a recorded log, rows in the order of their keys."""
    rows = Fold()
    for commit in recorded(path):
        for event in CODEC.decode(commit):
            for projection in PROJECTIONS:
                if event.ref.kind in projection.kinds:
                    projection.apply(rows, event)  # type: ignore[arg-type]
    return {
        name: [msgspec.to_builtins(table[key]) for key in sorted(table, key=str)]
        for name, table in sorted(rows.tables.items())
    }


def test_there_is_a_recorded_log() -> None:
    assert LOGS


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_recorded_log_is_whole(path: Path) -> None:
    walk = Walk(CODEC)
    faults = [fault for commit in recorded(path) for fault in walk.add(commit)]
    assert faults == []
    assert walk.root.hex() == json.loads(path.with_suffix(".expected.json").read_text())["root"]


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_recorded_log_fills_the_tables_that_it_filled_then(path: Path) -> None:
    expected = json.loads(path.with_suffix(".expected.json").read_text())["tables"]
    found = json.loads(json.dumps(folded(path)))
    assert {name: len(rows) for name, rows in found.items()} == {name: len(rows) for name, rows in expected.items()}
    for name, rows in found.items():
        for row, then in zip(rows, expected[name], strict=True):
            # A column that came later is no difference; one that went, or has another value, is.
            assert {column: row.get(column) for column in then} == then, name
