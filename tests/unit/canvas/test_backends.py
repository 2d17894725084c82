"""A canvas on each backend: built, saved, loaded in safe mode by a fresh process, it predicts the same bits.

Keras takes its backend from `KERAS_BACKEND` when it is imported, so every step is a process of its own, which
takes some seconds: the form that is always on is TensorFlow's in `test_canvas_golden.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
GOLDEN = sorted(json.loads((HERE / "golden.json").read_text()))
BACKENDS = ("tensorflow", "jax")

PROGRAM = """
import json, sys
import numpy as np
act, folder, backend, *names = sys.argv[1:]
import keras
from tapeline.canvas import EXAMPLES, LabelColumns, example
from tapeline.canvas.transpile import FeatureStats, transpile
from tapeline.security import models

assert keras.backend.backend() == backend
features = {"bars_20_1min": (20, 8), "log_return_1min": (1,), "trade_size_1min": (2,), "volume_ratio_1min": (1,)}
labels = {
    "updown_5min": LabelColumns.of("regression", "binary", "binary", "binary", "binary"),
    "barrier": LabelColumns.of("multiclass(3)", "regression"),
}
stats = {name: FeatureStats([0.25] * shape[-1], [0.5] * shape[-1]) for name, shape in features.items()}
golden = json.load(open(sys.path[0] + "/golden.json")) if act == "write" else {}
for name in names:
    path = f"{folder}/{name}.keras"
    if act == "write":
        content = json.loads(example(name)) if name in EXAMPLES else golden[name]["canvas"]
        model = transpile(content, feature_shapes=features, labels=labels, stats=stats, seed=3)
        models.save(model, path)
        rng = np.random.default_rng(11)
        x = [rng.normal(size=(8, *each.shape[1:])).astype("float32") for each in model.inputs]
        np.savez(f"{folder}/{name}.x.npz", *x)
    else:
        model = models.load(path)
        with np.load(f"{folder}/{name}.x.npz") as stored:
            x = [stored[key] for key in stored.files]
    y = model.predict_on_batch(x)
    np.savez(f"{folder}/{name}.{act}.{backend}.npz", *(y if isinstance(y, list) else [y]))
"""


def process(act: str, folder: Path, backend: str, names: list[str]) -> None:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    (folder / "golden.json").write_bytes((HERE / "golden.json").read_bytes())
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(program), act, str(folder), backend, *names],
        env=environment,
        timeout=280,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def predictions(folder: Path, name: str, act: str, backend: str) -> list[np.ndarray]:
    with np.load(folder / f"{name}.{act}.{backend}.npz") as stored:
        return [stored[key] for key in stored.files]


def predicts_the_same_bits(folder: Path, backend: str, names: list[str]) -> None:
    process("write", folder, backend, names)
    process("load", folder, backend, names)
    for name in names:
        wrote, loaded = (predictions(folder, name, act, backend) for act in ("write", "load"))
        assert len(wrote) == len(loaded) > 0
        for one, other in zip(wrote, loaded, strict=True):
            assert one.dtype == other.dtype == np.float32
            assert one.tobytes() == other.tobytes(), name


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_canvas_predicts_the_same_bits_in_a_fresh_process(tmp_path: Path, backend: str) -> None:
    predicts_the_same_bits(tmp_path, backend, GOLDEN)


@pytest.mark.long
@pytest.mark.parametrize(("first", "second"), [BACKENDS, BACKENDS[::-1]])
def test_a_model_of_one_backend_predicts_the_same_on_the_other(tmp_path: Path, first: str, second: str) -> None:
    process("write", tmp_path, first, GOLDEN)
    process("load", tmp_path, second, GOLDEN)
    for name in GOLDEN:
        wrote, loaded = predictions(tmp_path, name, "write", first), predictions(tmp_path, name, "load", second)
        for one, other in zip(wrote, loaded, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6, err_msg=name)
