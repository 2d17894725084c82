"""A tape with more days: the same numbers as if all files had come at once, and the parent's day files as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline.errors import TapelineError
from tapeline.tape.extend import extend_tape
from tapeline.tape.imports import import_tape
from tapeline.tape.lineage import lacking
from tapeline.tape.manifest import parse
from tapeline.tape.options import ImportOptions
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate
from tapeline.tape.view import OpenTape

MAP = {"ts": "ts", "price": "px", "volume": "qty", "symbol": "s"}
DAY = 86_400


def file(folder: Path, name: str, days: list[int], symbols: str = "AB", volume: str = "{}") -> Path:
    """Trades of some symbols on some days after 2024-01-02."""
    draw = np.random.default_rng(days[0])
    rows = [
        f"{1_704_153_600 + day * DAY + k * 60},{10 + draw.integers(0, 9)},{volume.format(k + 1)},{symbol}"
        for day in days
        for k in range(20)
        for symbol in symbols
    ]
    path = folder / name
    path.write_text("ts,px,qty,s\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def work(tmp_path: Path) -> Any:
    """Imports into, and extends in, fresh folders."""

    def options(**more: Any) -> ImportOptions:
        return ImportOptions(**({"map": MAP} | more))

    def fresh() -> Path:
        return tmp_path / f"out{len(list(tmp_path.glob('out*')))}"

    class Work:
        folder = tmp_path

        def make(self, *paths: Path, **more: Any) -> PreparedTape:
            return import_tape(list(paths), "csv", out_dir=fresh(), options=options(**({"calendar": "24/7"} | more)))

        def extend(self, parent: PreparedTape, *paths: Path, **more: Any) -> PreparedTape:
            return extend_tape(parent.manifest, list(paths), "csv", out_dir=fresh(), options=options(**more))

    return Work()


@pytest.mark.parametrize(("first", "then"), [([0, 1], [3, 4]), ([5, 6], [0, 2]), ([0, 4], [2])])
def test_extending_gives_the_tape_of_all_files(work: Any, first: list[int], then: list[int]) -> None:
    one, two = file(work.folder, "one.csv", first), file(work.folder, "two.csv", then)
    parent, whole = work.make(one), work.make(one, two)
    child = work.extend(parent, two)
    assert child.content_sha256 == whole.content_sha256
    assert child.manifest["parent"] == parent.content_sha256
    assert child.report["missing_days"] == whole.report["missing_days"]
    assert (child.report["days_shared"], child.report["days_added"]) == (2 * len(first), 2 * len(then))
    assert parse(child.manifest_file.path.read_bytes()) == child.manifest
    assert lacking(child.manifest, parent.manifest) == []
    # Only the new days are to be stored; the others are the parent's, by content.
    shared = {file.sha256 for file in parent.files}
    assert not shared & {file.sha256 for file in child.files}
    assert {day["artifact"]["sha256"] for day in child.manifest["days"]} >= shared
    places = {file.sha256: file.path for file in (*parent.files, *child.files)}
    opened, all_at_once = OpenTape(child.manifest, places.__getitem__), OpenTape(whole.manifest, whole.path_of)
    assert np.array_equal(opened.minute_grid("A").bars, all_at_once.minute_grid("A").bars)


def test_a_day_that_is_there_is_shared_and_one_with_other_trades_refused(work: Any) -> None:
    one, both = file(work.folder, "one.csv", [0, 1]), file(work.folder, "both.csv", [0, 1, 2])
    parent = work.make(one)
    again = work.extend(parent, one)
    assert again.content_sha256 == parent.content_sha256
    assert (again.files, again.report["days_added"]) == ([], 0)
    assert work.extend(parent, both).days == ["2024-01-02", "2024-01-03", "2024-01-04"]
    other = file(work.folder, "other.csv", [1], volume="9{}")
    with pytest.raises(TapelineError, match="has A 2024-01-03 already, with other trades") as caught:
        work.extend(parent, other)
    assert caught.value.code == "conflict"


def test_a_new_symbol_may_come_with_any_day(work: Any) -> None:
    parent = work.make(file(work.folder, "one.csv", [0, 1]))
    child = work.extend(parent, file(work.folder, "two.csv", [1, 2], "C"))
    assert child.symbols == ["A", "B", "C"]


def test_whole_volumes_become_fractions_only_in_a_tape_of_fractions(work: Any) -> None:
    whole, half = file(work.folder, "one.csv", [0]), file(work.folder, "two.csv", [1], volume="{}.5")
    with pytest.raises(TapelineError, match="fractions in the new days") as caught:
        work.extend(work.make(whole), half)
    assert caught.value.code == "conflict"
    child = work.extend(work.make(half), whole)
    assert {each["volume_kind"] for each in child.manifest["symbols"]} == {"float64"}
    assert child.content_sha256 == work.make(whole, half).content_sha256


@pytest.mark.parametrize("wrong", [{"calendar": "SIM"}, {"currency": "USD"}, {"close_grace_s": 5}])
def test_what_days_share_is_the_parents(work: Any, wrong: dict[str, Any]) -> None:
    parent, two = work.make(file(work.folder, "one.csv", [0])), file(work.folder, "two.csv", [1])
    with pytest.raises(TapelineError, match="of the tape is") as caught:
        work.extend(parent, two, **wrong)
    assert caught.value.code == "conflict"
    assert work.extend(parent, two, calendar="24/7").days == ["2024-01-02", "2024-01-03"]


def test_a_synthetic_tape_is_not_extended(work: Any) -> None:
    parent = simulate(work.folder / "sim", days=1, trades_per_day=50)
    with pytest.raises(TapelineError, match="synthetic") as caught:
        work.extend(parent, file(work.folder, "two.csv", [1]))
    assert caught.value.code == "conflict"
