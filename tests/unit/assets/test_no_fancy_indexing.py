"""h5py is asked for whole data sets or stretches of them alone: it takes lists of rows a hundred times slower.

Who wants scattered rows takes them from a memory map.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tapeline import cold
from tapeline.asset_files import AssetFile, model_inputs
from tapeline.assets.asset.spec import KnownTape, parse, resolve
from tapeline.assets.build import build
from tapeline.assets.components import registry
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.view import open_tape

ROOT = Path(__file__).parents[3]
DOORS = ("h5py", "tapeline.security.hdf5", "tapeline.security.walk")
DATA_SETS = frozenset({"dataset", "data", "item", "data_set"})
"""What modules that open HDF5 call a data set of it."""


def is_stretch(index: ast.expr) -> bool:
    """Whether an index is `()`, `...`, a number, a slice, or several of them."""
    if isinstance(index, ast.Tuple):
        return all(map(is_stretch, index.elts))
    return isinstance(index, ast.Slice | ast.Constant | ast.UnaryOp)


def fancy(source: str) -> list[int]:
    """The lines at which a module that can open HDF5 takes rows by anything but a stretch."""
    if not any(door.rpartition(".")[2] in source for door in DOORS):
        return []
    tree = ast.parse(source)
    named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    named += [f"{node.module}.{each.name}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
              for each in node.names]  # fmt: skip
    named += [each.name for node in ast.walk(tree) if isinstance(node, ast.Import) for each in node.names]
    if not set(named) & set(DOORS):
        return []
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id in DATA_SETS
        and not is_stretch(node.slice)
    ]


def test_no_module_takes_scattered_rows_from_hdf5() -> None:
    modules = [path for root in ("services", "shared") for path in (ROOT / root / "tapeline").rglob("*.py")]
    assert len(modules) > 200
    assert {str(path): found for path in modules if (found := fancy(path.read_text("utf-8")))} == {}


@pytest.mark.parametrize("index", ["rows", "[1, 2]", "values > 0", "rows, :", "np.flatnonzero(part)", "order[3:]"])
def test_a_module_that_did_would_be_found(index: str) -> None:
    assert fancy(f"import h5py\nx = dataset[{index}]") == [2]
    assert fancy(f"from tapeline.security import hdf5\nx = item[{index}]") == [2]
    assert fancy("import h5py\nx = dataset[()], dataset[3:stop], data[-1], item[..., 2:4]") == []
    assert fancy(f"import numpy\nx = dataset[{index}]") == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What h5py was asked for."""
    found: list[Any] = []
    plain: Callable[..., Any] = h5py.Dataset.__getitem__

    def watched(self: h5py.Dataset, args: Any, *more: Any, **options: Any) -> Any:
        found.append(args)
        return plain(self, args, *more, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    yield found
    for index in found:
        for each in index if isinstance(index, tuple) else (index,):
            assert isinstance(each, slice | int | type(...)), index


def test_reading_packing_and_training_take_stretches(prepared: PreparedTape, tmp_path: Path, asked: list[Any]) -> None:
    known = KnownTape("t1", "demo", prepared.content_sha256, tuple(prepared.symbols), tuple(prepared.days), "SIM")
    wanted = resolve(
        parse({"tapes": ["demo"], "features": ["bars_20_1min", "rsi_14_1min"], "labels": ["updown_5min"]}),
        [known],
        registry(),
    )
    built = build(
        wanted.spec,
        name="demo",
        team="contoso",
        spec_digest=wanted.digest,
        tapes={"t1": open_tape(prepared.manifest, prepared.path_of)},
        folder=tmp_path,
        components=registry(),
        tell=lambda *progress: None,
    )
    canvas = {
        "nodes": [
            {"id": "i", "kind": "input", "features": ["bars_20_1min"]},
            {"id": "o", "kind": "output", "feature": "updown_5min", "label_index": 1},
        ]
    }
    hot = built.files[1].path
    cold.pack(hot, tmp_path / "cold.h5")
    cold.thaw(tmp_path / "cold.h5", tmp_path / "thawed.h5")
    for path in (hot, tmp_path / "cold.h5", tmp_path / "thawed.h5"):
        file = AssetFile(path)
        scattered = np.random.default_rng(1).permutation(len(file))
        assert file.column("rsi_14_1min")[scattered].shape == (len(file), 1)
        model_inputs(canvas, [file], 0, start=1, stop=50, step=3)
        cold.content_digest(path)
    assert len(asked) > 5
