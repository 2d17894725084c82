"""Models of Keras 2 in HDF5: translated and checked without Keras, refused by the name of what is wrong.

The files in `tests/assets/models` were written by tf_keras 2.21; `predictions.json` is what it predicted then.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tapeline.errors import TapelineError
from tapeline.security import conversion, legacy, models
from tapeline.security.hdf5 import legacy_model

FILES = Path(__file__).parents[2] / "assets" / "models"


def config_of(path: Path, replace: dict[str, Any] | None = None) -> Any:
    text, weights = legacy_model(path)
    shapes = {layer: [array.shape for array in arrays] for layer, arrays in weights.items()}
    return legacy.scanned(legacy.translated(text, shapes, replace=replace), shapes)


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], Any], name: str = "sequential") -> Path:
    """A copy of a stored model with another config."""
    path = tmp_path / "model.h5"
    shutil.copyfile(FILES / f"{name}.keras2.h5", path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config)
        file.attrs["model_config"] = json.dumps(config)
    return path


def layers(config: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = config["config"]["layers"]
    return found


def test_every_layer_and_weight_of_a_keras_2_model_is_found() -> None:
    found = config_of(FILES / "functional.keras2.h5")
    assert (found.inputs, found.outputs, found.parameters) == (("window", "now"), ("up",), 383)
    assert len(found.of_layer["multi_head_attention"]) == 8
    assert found.of_layer["bidirectional"][3] == "/layers/bidirectional/backward_layer/cell/vars/0"


def test_a_sequential_model_becomes_a_functional_one() -> None:
    found = config_of(FILES / "sequential.keras2.h5")
    assert (len(found.inputs), found.outputs, found.parameters) == (1, ("dense_2",), 29)


def set_lambda(config: dict[str, Any]) -> None:
    layers(config)[2].update(class_name="Lambda", config={"name": "pick", "function": ["4wEAAAA=", None, None]})


REFUSED: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (set_lambda, r"layer 'pick' \(Lambda\) cannot be loaded; use tapeline>SelectFields instead"),
    (lambda c: layers(c)[1].update(class_name="TFOpLambda"), "TFOpLambda"),
    (lambda c: layers(c)[1].update(class_name="os.system"), "os.system"),
    (lambda c: layers(c)[1]["config"].update(activation="os.system"), "activation 'os.system' is not known"),
    (lambda c: layers(c)[1]["config"].update(activation={"class_name": "function", "config": "x"}), "function"),
    (lambda c: layers(c)[1]["config"].update(vocabulary="/etc/passwd"), "'vocabulary' may not name a file"),
    (lambda c: layers(c)[1]["config"].update(units=10**9), "do not match the layer"),
    (lambda c: layers(c)[1].update(registered_name="evil>Dense", module="evil"), "module 'evil'"),
    (lambda c: layers(c)[1].update(name="../x"), "not allowed"),
    (lambda c: c.update(class_name="Evil"), "only functional and sequential are read"),
    (lambda c: c["config"].update(layers=[]), "IndexError"),
    (lambda c: c["config"].update(layers=7), "TypeError"),
    (lambda c: layers(c).append(json.loads(json.dumps(c))), r"\(Sequential\) cannot be loaded"),
    (lambda c: c.update(more=eval_depth(70)), "nested deeper than 64"),
]


def eval_depth(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(("change", "reason"), REFUSED)
def test_a_hostile_legacy_config_is_refused(change: Callable[[Any], Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(TapelineError, match=reason) as caught:
        config_of(changed(tmp_path, change))
    assert caught.value.code == "model_refused"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.attrs.__delitem__("model_config"), "it holds weights, but no model"),
        (lambda f: f["model_weights/dense_1/dense_1"].__delitem__("bias:0"), "damaged|do not match"),
        (lambda f: f.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")), "/x: an external link"),
        (lambda f: f.__setitem__("x", h5py.SoftLink("/model_weights")), "/x: a soft link"),
        (lambda f: f.create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)]), "external storage"),
        (lambda f: f.create_dataset("x", (10**9,), "f4"), "declared"),
    ],
)
def test_a_hostile_legacy_file_is_refused(change: Callable[[Any], Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    shutil.copyfile(FILES / "sequential.keras2.h5", path)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(TapelineError, match=reason) as caught:
        config_of(path)
    assert caught.value.code == "model_refused"


def test_one_of_our_layers_may_stand_in_for_a_lambda(tmp_path: Path) -> None:
    path = changed(tmp_path, set_lambda)
    name = legacy.translated(*_parts(path), replace={})["config"]["layers"][2]["name"]
    found = config_of(path, {name: {"class": "SelectFields", "columns": [0, 1, 2, 3], "axis": -1}})
    assert found.parameters == 29
    with pytest.raises(TapelineError, match="cannot be replaced by 'Lambda'"):
        config_of(path, {name: {"class": "Lambda"}})


def _parts(path: Path) -> tuple[str, dict[str, Any]]:
    text, weights = legacy_model(path)
    return text, {layer: [array.shape for array in arrays] for layer, arrays in weights.items()}


def test_no_hostile_file_imports_keras(tmp_path: Path) -> None:
    path = changed(tmp_path, set_lambda)
    program = """
import sys
from tapeline.errors import TapelineError
from tapeline.security import models
try:
    models.convert_here(sys.argv[1], sys.argv[1] + ".keras")
except TapelineError as error:
    assert error.code == "model_refused"
else:
    raise AssertionError("it was converted")
assert not [name for name in sys.modules if name.split(".")[0] in ("keras", "tensorflow")]
"""
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)


def test_a_refusal_comes_back_from_the_process_that_converts(tmp_path: Path) -> None:
    path = changed(tmp_path, set_lambda)
    with pytest.raises(TapelineError, match=r"mine\.h5: layer 'pick' \(Lambda\)") as caught:
        conversion.converted(path, tmp_path / "m.keras", name="mine.h5")
    assert caught.value.code == "model_refused"
    assert not (tmp_path / "m.keras").exists()
    with pytest.raises(TapelineError) as missing:
        conversion.converted(tmp_path / "nothing.h5", tmp_path / "m.keras")
    assert missing.value.code == "not_found"


@pytest.mark.long
@pytest.mark.parametrize("name", ["functional", "sequential"])
def test_a_converted_model_predicts_what_keras_2_predicted(name: str, tmp_path: Path) -> None:
    found = conversion.converted(FILES / f"{name}.keras2.h5", tmp_path / "m.keras")
    model = models.load(tmp_path / "m.keras", found.sha256)
    x = [
        np.linspace(-1, 1, 2 * int(np.prod(i.shape[1:]))).reshape(2, *i.shape[1:]).astype("float32")
        for i in model.inputs
    ]
    y = np.array(model(x if len(x) > 1 else x[0])).ravel().tolist()
    # To the bit on the machine that stored them.
    np.testing.assert_allclose(y, json.loads((FILES / "predictions.json").read_text())[name], rtol=0, atol=1e-6)
