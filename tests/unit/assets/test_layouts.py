"""The two layouts: one content, read as memory maps, and written so that a full disk is an ordinary error."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tapeline.asset_files import AssetFile, model_inputs
from tapeline.assets import layout
from tapeline.assets.asset.spec import KnownTape, parse, resolve
from tapeline.assets.build import Built, build
from tapeline.assets.components import registry
from tapeline.assets.layout import Indexed, write
from tapeline.errors import TapelineError
from tapeline.indexed import IndexedColumn
from tapeline.sdk.assets import AssetFile as SdkFile
from tapeline.security.hdf5 import open_asset
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate
from tapeline.tape.view import open_tape

NORMS = ("none", "last_price_pct", "zscore_window", "max_values")
BARS: list[Any] = [
    {"name": f"bars_{norm}", "component": "bars", "params": {"count": 12, "norm": norm, "size": size, "shift": i}}
    for i, (norm, size) in enumerate(zip(NORMS, (1, 5, 5, 1), strict=True))
]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> PreparedTape:
    return simulate(tmp_path_factory.mktemp("two"), days=4, trades_per_day=900, symbols=2)


def cut(tape: PreparedTape, folder: Path, **change: Any) -> Built:
    known = KnownTape("t1", "demo", tape.content_sha256, tuple(tape.symbols), tuple(tape.days), "SIM")
    spec: dict[str, Any] = {"tapes": ["demo"], "features": [*BARS, "rsi_14_1min"], "labels": ["updown_5min"]}
    wanted = resolve(parse(spec | change), [known], registry())
    folder.mkdir()
    return build(
        wanted.spec,
        name="demo",
        team="contoso",
        spec_digest=wanted.digest,
        tapes={"t1": open_tape(tape.manifest, tape.path_of)},
        folder=folder,
        components=registry(),
        tell=lambda *progress: None,
    )


def test_an_indexed_asset_reads_as_the_bits_of_a_materialised_one(two: PreparedTape, tmp_path: Path) -> None:
    indexed = cut(two, tmp_path / "indexed")
    whole = cut(two, tmp_path / "whole", layout="materialised")
    for a, b in zip(indexed.files, whole.files, strict=True):
        one, other = AssetFile(a.path), AssetFile(b.path)
        assert one.names == other.names
        draw = np.random.default_rng(1)
        for name in [each["name"] for each in BARS]:
            column, expected = one.column(name), other.column(name)
            assert isinstance(column, IndexedColumn)
            assert (column.shape, column.ndim, column.dtype) == (expected.shape, expected.ndim, expected.dtype)
            mask = draw.random(len(one)) > 0.5
            rows: Any
            for rows in (slice(None), slice(3, 20, 4), draw.permutation(len(one)), mask, 7, -1, slice(0, 0)):
                np.testing.assert_array_equal(np.asarray(column[rows]), expected[rows])
            np.testing.assert_array_equal(column[2:9, -1], expected[2:9, -1])
            np.testing.assert_array_equal(column[4, -1, 3], expected[4, -1, 3])
            np.testing.assert_array_equal(np.asarray(column), expected)
        with open_asset(a.path) as raw:
            assert raw["bars_none"].dtype == np.int64
            assert raw["bars_none"].attrs["layout"] == b"indexed"
            assert set(raw["_grid"]) == {
                f"{grid}_{symbol}{end}" for grid in ("min_1", "min_5") for symbol in (0, 1) for end in ("", "_end")
            }
    assert [check["verdict"] for check in indexed.certificate["checks"]] == [
        check["verdict"] for check in whole.certificate["checks"]
    ]
    assert indexed.stats == whole.stats


def test_a_canvas_is_given_the_same_arrays_by_both_layouts(two: PreparedTape, tmp_path: Path) -> None:
    canvas = {
        "nodes": [
            {"id": "i", "kind": "input", "features": ["bars_none", "bars_max_values"]},
            {"id": "o", "kind": "output", "feature": "updown_5min", "label_index": 1},
        ]
    }
    x, y = (
        model_inputs(canvas, [AssetFile(file.path) for file in cut(two, tmp_path / layout, layout=layout).files], 0)
        for layout in ("indexed", "materialised")
    )
    np.testing.assert_array_equal(x[0][0], y[0][0])
    np.testing.assert_array_equal(x[1][0], y[1][0])


def test_an_indexed_file_is_a_twentieth_of_a_materialised_one(tmp_path: Path) -> None:
    tape = simulate(tmp_path / "tape", days=12, trades_per_day=900)
    long: dict[str, Any] = {
        "features": [{"name": "90_1_min", "component": "bars", "params": {"count": 90, "norm": "last_price_pct"}}]
    }
    sizes = [
        sum(file.path.stat().st_size for file in cut(tape, tmp_path / layout, layout=layout, **long).files)
        for layout in ("indexed", "materialised")
    ]
    assert sizes[0] <= 0.05 * sizes[1]


def test_a_file_holds_a_gibibyte_at_most_and_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "FILE_BYTES", 100)
    part = np.array([0] * 25 + [1] * 4 + [2] * 12, np.uint8)
    found = layout.file_rows(part, 10)
    assert [(ending, len(rows)) for ending, rows in found] == [
        ("test", 10), ("test_1", 2), ("train_0", 10), ("train_1", 10), ("train_2", 5), ("train_3", 4),
    ]  # fmt: skip
    assert all(len(set(part[rows].tolist())) == 1 for _, rows in found)
    assert sorted(np.concatenate([rows for _, rows in found]).tolist()) == list(range(len(part)))
    parts = [SdkFile(None, {"name": f"my_test_{ending}.h5"}).part for ending, _ in found]  # type: ignore[arg-type]
    assert parts == ["test", "test", "train", "train", "train", "train"]


def test_what_is_filled_is_stored_as_it_is(prepared: PreparedTape, tmp_path: Path) -> None:
    built = cut(prepared, tmp_path / "a", missing="zero")
    assert not isinstance(AssetFile(built.files[0].path).column("bars_none"), IndexedColumn)
    with pytest.raises(TapelineError, match="no longer the bars of a grid"):
        cut(prepared, tmp_path / "b", missing="zero", layout="indexed")


def test_every_data_set_has_a_place_and_equal_values_by_both_ways(prepared: PreparedTape, tmp_path: Path) -> None:
    for file in cut(prepared, tmp_path / "a").files:
        found: list[str] = []

        def look(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.size:
                offset = item.id.get_offset()
                assert offset is not None, name
                assert item.nbytes < 4096 or offset % 4096 == 0, name
                mapped = np.memmap(file.path, dtype=item.dtype, mode="r", offset=offset, shape=item.shape)  # noqa: B023
                np.testing.assert_array_equal(mapped, item[()])
                found.append(name)  # noqa: B023

        with open_asset(file.path) as raw:
            raw.visititems(look)
        assert {"_index/t0", "_grid/min_1_0", "_meta/spec", "rsi_14_1min", "bars_none"} <= set(found)


def test_places_outside_of_their_bars_are_refused(tmp_path: Path) -> None:
    def file(name: str, past: list[int], grids: tuple[str, ...] = ("g",), **change: Any) -> Path:
        n = len(past)
        indexed = Indexed(np.array(past, np.int64), grids, 2, "none", change.get("shape", (2, 8)))
        index: dict[str, Any] = {
            "part": np.zeros(n, np.uint8), "symbol": np.full(n, change.get("code", 0), np.uint16),
        }  # fmt: skip
        attributes: dict[str, str | int] = {"schema": "tapeline.asset/1"}
        write(
            tmp_path / name, attributes=attributes, datasets={"x": indexed}, index=index, meta={}, symbols=["S"],
            grids={"g": np.ones((5, 8))},
        )  # fmt: skip
        return tmp_path / name

    assert AssetFile(file("fine.h5", [2, 5])).read("x").shape == (2, 2, 8)
    broken = [
        file("beyond.h5", [2, 6]),
        file("before.h5", [-1, 2]),
        file("none.h5", [2, 3], ("h",)),
        file("empty.h5", [2, 3], code=3),
        file("wide.h5", [2, 3], shape=(2, 9)),
    ]
    for path in broken:
        with pytest.raises(TapelineError, match="speaks of bars that the file has not") as refused:
            AssetFile(path)
        assert refused.value.code == "asset_refused"


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with disk_of(100_000), pytest.raises(OSError, match="File too large"):
        write(
            tmp_path / "a.h5", attributes={}, datasets={"x": np.ones((50_000, 1))}, index={
                "symbol": np.zeros(50_000, np.uint16)}, meta={}, symbols=["S"],
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
