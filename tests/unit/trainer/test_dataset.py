"""What a canvas trains on: rows by part, features joined, batches a pure function of seed, epoch and skip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeline.asset_files import TRAIN, VALIDATION, AssetFile, model_inputs
from tapeline.canvas.columns import LabelColumns
from tapeline.errors import TapelineError
from tapeline.security import hdf5
from tapeline.trainer import dataset

CANVAS = {
    "nodes": [
        {"id": "a", "kind": "input", "features": ["wide"]},
        {"id": "b", "kind": "input", "features": ["flat", "one"]},
        {"id": "up", "kind": "output", "inputs": ["a"], "feature": "label", "label_index": 1, "class_weighting": 1},
    ]
}
LABELS = {"label": LabelColumns.of("regression", "binary")}


def write(path: Path, first: int, part: list[int]) -> Path:
    rows = np.arange(first, first + len(part), dtype=np.float32)
    with hdf5.create(path) as file:
        file.attrs["schema"] = "tapeline.asset/1"
        file.create_dataset("wide", data=np.stack([rows, -rows], 1)[:, :, None])
        file.create_dataset("flat", data=rows)
        file.create_dataset("one", data=rows[:, None] * 10)
        file.create_dataset("label", data=np.stack([rows, rows % 4 == 0], 1).astype(np.float32))
        index = hdf5.add_group(file, "_index")
        index.create_dataset("part", data=np.array(part, np.uint8))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [
        write(tmp_path / "x_train_0.h5", 0, [0] * 6),
        write(tmp_path / "x_train_1.h5", 6, [0, 0, 1, 1]),
    ]


def test_rows_of_a_part_come_from_all_files_in_order(files: list[Path]) -> None:
    opened = [AssetFile(path) for path in files]
    x, y = model_inputs(CANVAS, opened, TRAIN)
    assert x[1].tolist() == [[i, 10 * i] for i in range(8)]
    assert x[0].shape == (8, 2, 1)
    assert y[0][:, 0].tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert model_inputs(CANVAS, opened[1:], VALIDATION)[0][1][:, 0].tolist() == [8, 9]


def test_a_slice_of_a_file_is_read_without_copying_the_rest(files: list[Path]) -> None:
    with AssetFile(files[0]) as file:
        assert len(file) == 6
        assert file.names == ["flat", "label", "one", "wide"]
        assert isinstance(file.read("flat"), np.memmap)
        assert file.read("flat", 1, 5, 2).tolist() == [1, 3]
        x, _ = model_inputs(CANVAS, file, start=2, stop=4)
        assert x[1][:, 0].tolist() == [2, 3]


def test_missing_columns_are_named(files: list[Path]) -> None:
    with AssetFile(files[0]) as file, pytest.raises(TapelineError, match="no column 'absent'") as caught:
        file.read("absent")
    assert caught.value.code == "not_found"
    assert caught.value.hint is not None
    assert "flat" in caught.value.hint


def test_a_file_that_is_no_asset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with hdf5.create(path) as file:
        file.create_dataset("a", data=np.zeros(3))
    with pytest.raises(TapelineError) as caught:
        AssetFile(path)
    assert caught.value.code == "asset_refused"


def test_rare_classes_weigh_more(files: list[Path]) -> None:
    data = dataset.load(CANVAS, files, LABELS, validate=True)
    assert data.class_weights == {"up": [8 / (2 * 6), 8 / (2 * 2)]}
    assert data.train.weights is not None
    assert data.train.weights[0].tolist() == pytest.approx([2, *[2 / 3] * 3, 2, *[2 / 3] * 3])
    assert data.validation is not None
    assert len(data.validation) == 2


def test_a_run_says_how_classes_weigh_and_which_of_them_it_never_sees(tmp_path: Path) -> None:
    labels = {"label": LabelColumns.of("regression", "multiclass(3)")}
    data = dataset.load(CANVAS, [write(tmp_path / "x_train_0.h5", 0, [0] * 8)], labels, validate=False)
    assert data.class_weights == {"up": [8 / (3 * 6), 8 / (3 * 2), 1.0]}
    warning = "class 2 of output 'up' has no train row: its weight is 1"
    assert data.said({"name": "spy"}) == {"class_weights": data.class_weights, "warnings": [warning]}


def test_a_run_says_that_its_asset_is_stale(files: list[Path]) -> None:
    nodes: Any = CANVAS["nodes"]
    plain = {"nodes": [node | {"class_weighting": 0} for node in nodes]}
    data = dataset.load(plain, files, LABELS, validate=True)
    assert data.said({"name": "spy"}) == {}
    (warning,) = data.said({"name": "spy", "stale": True})["warnings"]
    assert warning == "asset 'spy' is stale: a tape that it was cut from has been corrected"


def test_an_asset_without_train_rows_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x_train_0.h5", 0, [1, 1])
    with pytest.raises(TapelineError) as caught:
        dataset.load(CANVAS, [path], LABELS, validate=True)
    assert caught.value.code == "asset_refused"


@given(st.integers(0, 2**31 - 1), st.integers(0, 1000), st.integers(1, 300))
def test_the_order_of_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone(
    seed: int, epoch: int, rows: int
) -> None:
    first = dataset.order(seed, epoch, rows)
    assert (first == dataset.order(seed, epoch, rows)).all()
    assert sorted(first) == list(range(rows))
