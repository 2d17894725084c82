"""Hostile model files: each is refused by our own scan, with the member or layer that is wrong."""

import copy
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tapeline.errors import TapelineError
from tapeline.security import models

DTYPE = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}


def layer(name: str, kind: str, config: dict[str, Any], source: str | None, **more: Any) -> dict[str, Any]:
    shape = [None, 4]
    tensor = {"class_name": "__keras_tensor__", "config": {"shape": shape, "dtype": "float32"}}
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": {"name": name, "trainable": True, "dtype": DTYPE} | config,
        "registered_name": None,
        "build_config": {"input_shape": shape},
        "name": name,
        "inbound_nodes": [
            {"args": [tensor | {"config": tensor["config"] | {"keras_history": [source, 0, 0]}}], "kwargs": {}}
        ]
        if source
        else [],
    } | more


def good_config() -> dict[str, Any]:
    first = layer("input_a", "InputLayer", {"batch_shape": [None, 4]}, None)
    first["config"] = {"name": "input_a", "batch_shape": [None, 4], "dtype": "float32"}
    del first["build_config"]
    dense = layer("d1", "Dense", {"units": 3, "activation": "relu", "use_bias": True}, "input_a")
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {
            "name": "canvas",
            "trainable": True,
            "layers": [first, dense],
            "input_layers": [["input_a", 0, 0]],
            "output_layers": [["d1", 0, 0]],
        },
        "registered_name": "Functional",
        "build_config": {"input_shape": None},
    }


def good_weights(write: Callable[[Any], None] | None = None) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.attrs["name"] = "d1"
        group.create_dataset("0", data=np.ones((4, 3), "f4"))
        group.create_dataset("1", data=np.zeros(3, "f4"))
        if write:
            write(file)
    return buffer.getvalue()


def archive(
    path: Path,
    *,
    config: Any = None,
    weights: bytes | None = None,
    members: list[tuple[str, bytes]] | None = None,
    packed: int = zipfile.ZIP_STORED,
) -> Path:
    text = config if isinstance(config, bytes) else json.dumps(config if config is not None else good_config()).encode()
    whole = members or [
        ("metadata.json", b'{"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}'),
        ("config.json", text),
        ("model.weights.h5", weights if weights is not None else good_weights()),
    ]
    with zipfile.ZipFile(path, "w", packed) as target:
        for name, content in whole:
            target.writestr(name, content)
    return path


def test_the_good_model_passes_and_keras_loads_it(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras")
    found = models.scan(path)
    assert (found.inputs, found.outputs, found.layers) == (("input_a",), ("d1",), ("input_a", "d1"))
    assert found.parameters == 15
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(np.array(models.load(path, found.sha256)([x])), np.full((2, 3), 4.0))


def test_a_keras_2_model_is_converted_and_predicts_as_it_did(tmp_path: Path) -> None:
    files = Path(__file__).parents[2] / "assets" / "models"
    models.convert_here(files / "functional.keras2.h5", tmp_path / "m.keras")
    x = [np.linspace(-1, 1, 36), np.linspace(-1, 1, 4)]
    x = [each.reshape(2, *shape).astype("float32") for each, shape in zip(x, [(6, 3), (2,)], strict=True)]
    y = np.array(models.load(tmp_path / "m.keras")(x)).ravel()
    wanted = json.loads((files / "predictions.json").read_text())["functional"]
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-6)  # to the bit on the machine that stored them


def test_an_upload_is_saved_again_as_our_own_file(tmp_path: Path) -> None:
    import keras

    entry = keras.Input((4,), name="x")
    model = keras.Model(entry, keras.layers.Dense(3, name="y")(entry))
    model.compile("adam", "mse")
    x = np.linspace(-1, 1, 8, dtype="float32").reshape(2, 4)
    model.fit(x, np.zeros((2, 3)), verbose=0)
    # As it lies in the folder of uploads: under its digest, as Keras wrote it, with its optimizer.
    model.save(tmp_path / "raw.keras")
    upload = tmp_path / "0123abcd"
    (tmp_path / "raw.keras").rename(upload)
    first, second = tmp_path / "first.keras", tmp_path / "second.keras"
    models.convert_here(upload, first)
    models.convert_here(first, second)
    assert first.read_bytes() == second.read_bytes() != upload.read_bytes()
    assert np.array(models.load(first)([x])).tobytes() == np.array(model(x)).tobytes()
    with zipfile.ZipFile(first) as kept:
        assert b"adam" not in kept.read("config.json").lower()
    with pytest.raises(TapelineError) as refused:
        models.convert_here(archive(tmp_path / "bad.keras", config=b"{"), tmp_path / "none.keras")
    assert refused.value.code == "model_refused"
    assert not (tmp_path / "none.keras").exists()


def dense(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["config"]["layers"][1]
    return found


def set_in(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: dense(config)["config"].update(fields)


def set_on(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: dense(config).update(fields)


def replaced(name: str, kind: str, **config: Any) -> Callable[[dict[str, Any]], None]:
    return lambda model: model["config"]["layers"].append(layer(name, kind, config, "d1"))


FUNCTION = {"module": "builtins", "class_name": "function", "config": "system", "registered_name": "system"}
LAMBDA = {"class_name": "__lambda__", "config": {"value": "4wAAAA==", "defaults": None, "closure": None}}
CONFIGS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("lambda", replaced("lambda_1", "Lambda", function=LAMBDA), r"layer 'lambda_1' \(Lambda\) cannot be loaded; use"),
    ("lambda object", set_in(activation=LAMBDA), "__lambda__"),
    ("function object", set_in(activation=FUNCTION), "function"),
    ("tfsm", replaced("t", "TFSMLayer", filepath="/tmp/x"), "TFSMLayer"),
    ("lookup", replaced("lookup", "StringLookup", vocabulary="/etc/passwd"), "StringLookup"),
    ("vocabulary", set_in(vocabulary="/etc/passwd"), "layer 'd1': field 'vocabulary' may not name a file"),
    ("filepath", set_in(filepath="/etc/passwd"), "'filepath' may not name a file"),
    ("url", set_in(more={"deep": [{"url": "http://x"}]}), "'url' may not name a file"),
    ("activation", set_in(activation="os.system"), "layer 'd1': activation 'os.system' is not known"),
    ("initializer", set_in(kernel_initializer="os.system"), "kernel_initializer 'os.system' is not known"),
    ("os module", set_on(module="os", class_name="system"), "system"),
    ("other module", set_on(module="keras.src.utils"), "module 'keras.src.utils' is not known"),
    ("own module", set_on(module="tapeline.evil"), "module 'tapeline.evil' is not known"),
    ("registered name", set_on(registered_name="evil>Dense"), "registered name 'evil>Dense' does not agree"),
    ("own without name", set_on(class_name="WindowNorm", module="tapeline.canvas.transpile.layers"), "does not agree"),
    ("unknown class", set_on(class_name="Evil"), "Evil"),
    ("class is a number", set_on(class_name=7), "cannot be loaded"),
    ("optimizer as layer", set_on(class_name="Adam", module="keras.optimizers"), "Adam is no layer"),
    ("operation", set_on(class_name="Add", module="keras.src.ops.numpy"), "module 'keras.src.ops.numpy'"),
    ("bytes", set_in(bias={"class_name": "__bytes__", "config": {"value": "x"}}), "__bytes__"),
    ("numpy", set_in(bias={"class_name": "__numpy__", "config": {"value": [1], "dtype": "O"}}), "__numpy__"),
    ("layer name", lambda c: (dense(c).update(name="../d1"), dense(c)["config"].update(name="../d1")), "not allowed"),
    ("two of a name", lambda c: c["config"]["layers"].append(dense(c)), "used twice"),
    ("model inside", lambda c: c["config"]["layers"].append(copy.deepcopy(c)), "a model inside a model"),
    ("sequential", lambda c: c.update(class_name="Sequential"), "only Functional models are read"),
    ("unknown field", set_on(exec="1"), "field 'exec' is not known"),
    ("no config", set_on(config=None), "there is no config"),
    ("huge units", set_in(units=10**9), "4,000,000,000 parameters|5,000,000,000 parameters"),
    ("units text", set_in(units="3"), "size '3'"),
    ("units true", set_in(units=True), "size"),
    ("huge shape", set_on(build_config={"input_shape": [None, 10**9]}), "parameters; the limit is 50,000,000"),
    ("other shape", set_on(build_config={"input_shape": [None, 5]}), "does not match the layer"),
    ("no shape", set_on(build_config=None), "no input shape"),
    ("huge number", set_in(seed2=10**30), "too large"),
    ("long text", set_in(note="x" * 1000), "a text of 1,000 characters"),
]


@pytest.mark.parametrize(("change", "reason"), [case[1:] for case in CONFIGS], ids=[case[0] for case in CONFIGS])
def test_a_hostile_config_is_refused(change: Callable[[dict[str, Any]], Any], reason: str, tmp_path: Path) -> None:
    config = good_config()
    change(config)
    with pytest.raises(TapelineError, match=reason) as caught:
        models.scan(archive(tmp_path / "m.keras", config=config))
    assert caught.value.code == "model_refused"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, "config nested deeper than 64"),
        (b'{"a":' * 100_000, "config nested deeper than 64"),
        (b"[" + b"0," * 500_000 + b"0]", "more than 400,000 values"),
        (b" " * (8 * 1024 * 1024 + 1), "more than 8 MiB"),
        (b"[]", "no JSON object"),
        (b"{", "no JSON"),
        (b"\xff\xfe\xfd", "no JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "no JSON"),
        (b"{}", "only Functional models"),
        (b'{"class_name": "Functional"}', "module"),
    ],
)
def test_a_config_that_is_none_is_refused(text: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(TapelineError, match=reason) as caught:
        models.scan(archive(tmp_path / "m.keras", config=text))
    assert caught.value.code == "model_refused"


METADATA, CONFIG = ("metadata.json", b"{}"), ("config.json", json.dumps(good_config()).encode())
WEIGHTS = ("model.weights.h5", good_weights())


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([METADATA, CONFIG, WEIGHTS, ("x", b"")], "unexpected member 'x' in archive"),
        ([METADATA, CONFIG, WEIGHTS, ("../x", b"")], "unexpected member"),
        ([METADATA, CONFIG, WEIGHTS, ("/etc/x", b"")], "unexpected member"),
        ([METADATA, CONFIG, WEIGHTS, ("assets/x", b"")], "unexpected member"),
        ([METADATA, CONFIG], "'model.weights.h5' occurs 0 times"),
        ([CONFIG, WEIGHTS], "'metadata.json' occurs 0 times"),
        ([METADATA, CONFIG, CONFIG, WEIGHTS], "'config.json' occurs 2 times"),
        ([(str(i), b"") for i in range(65)], "more than 64 members"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_other_members_is_refused(
    members: list[tuple[str, bytes]], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(TapelineError, match=reason) as caught:
        models.scan(archive(tmp_path / "m.keras", members=members))
    assert caught.value.code == "model_refused"


def edited(edit: Callable[[bytearray], Any]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(archive(path).read_bytes())
        result = edit(content)
        path.write_bytes(result if isinstance(result, bytes | bytearray) else content)

    return change


@pytest.mark.parametrize(
    "change",
    [
        edited(lambda b: b""),
        edited(lambda b: b"PK\x03\x04"),
        edited(lambda b: b[: len(b) // 2]),
        edited(lambda b: b[:-1]),
        edited(lambda b: b + b"x"),
        edited(lambda b: b"PK\x03\x04" + b),
        edited(lambda b: b + b[-22:]),
        edited(lambda b: b.__setitem__(slice(len(b) - 10, len(b) - 6), b"\xff\xff\xff\x7f")),
        edited(lambda b: b.__setitem__(b.index(b"PK\x01\x02") + 8, 1)),  # encrypted
        edited(lambda b: b.__setitem__(b.index(b"PK\x01\x02") + 10, 14)),  # packed by LZMA
        edited(lambda b: b.__setitem__(40, b[40] ^ 1)),  # another local name
        edited(lambda b: b.__setitem__(60, b[60] ^ 1)),  # a wrong checksum
    ],
)
def test_a_damaged_archive_is_refused(change: Callable[[Path], None], tmp_path: Path) -> None:
    change(tmp_path / "m.keras")
    with pytest.raises(TapelineError) as caught:
        models.scan(tmp_path / "m.keras")
    assert caught.value.code == "model_refused"


def test_a_bomb_is_refused_while_it_is_unpacked(tmp_path: Path) -> None:
    bomb = b"\0" * (64 << 20)
    path = archive(tmp_path / "m.keras", weights=bomb, packed=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(TapelineError, match="archive unpacks to more than"):
        models.scan(path)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda f: f.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")), "/x: an external link"),
        (lambda f: f.__setitem__("x", h5py.SoftLink("/layers")), "/x: a soft link"),
        (lambda f: f.create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)]), "external storage"),
        (lambda f: f.create_dataset("layers/dense/vars/2", (10**9,), "f4"), "declared"),
        (lambda f: f.create_dataset("layers/dense_1/vars/0", data=np.zeros(3)), "belong to no layer"),
        (lambda f: f.__delitem__("layers/dense/vars/1"), "weights '/layers/dense/vars/1' are missing"),
        (lambda f: f.create_dataset("optimizer/vars/0", data=np.zeros(9999)), "optimizer's state is larger"),
    ],
)
def test_hostile_weights_are_refused(write: Callable[[Any], None], reason: str, tmp_path: Path) -> None:
    with pytest.raises(TapelineError, match=reason) as caught:
        models.scan(archive(tmp_path / "m.keras", weights=good_weights(write)))
    assert caught.value.code == "model_refused"


def test_another_kind_of_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(good_weights())
    (tmp_path / "model.keras").write_bytes(good_weights())
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04")
    for name, reason in (
        ("model.h5", "model.h5: legacy HDF5 models are not loaded; use convert=True"),
        ("model.keras", "legacy HDF5"),
        ("model.pkl", "not a .keras file"),
    ):
        with pytest.raises(TapelineError, match=reason):
            models.scan(tmp_path / name)


def test_a_missing_file_a_folder_a_link_and_a_pipe_are_not_found(tmp_path: Path) -> None:
    archive(tmp_path / "m.keras")
    (tmp_path / "link.keras").symlink_to(tmp_path / "m.keras")
    (tmp_path / "folder.keras").mkdir()
    os.mkfifo(tmp_path / "pipe.keras")
    for name in ("missing.keras", "link.keras", "folder.keras", "pipe.keras"):
        with pytest.raises(TapelineError) as caught:
            models.load(tmp_path / name)
        assert caught.value.code == "not_found"


def test_the_limit_of_the_team_counts(tmp_path: Path) -> None:
    with pytest.raises(TapelineError, match="model has 15 parameters; the limit is 14"):
        models.scan(archive(tmp_path / "m.keras"), max_parameters=14)


def test_a_refused_file_never_imports_keras(tmp_path: Path) -> None:
    config = good_config()
    replaced("lambda_1", "Lambda", function=LAMBDA)(config)
    archive(tmp_path / "m.keras", config=config)
    program = """
import sys
from tapeline.errors import TapelineError
from tapeline.security import models
for act in (models.scan, models.load):
    try:
        act(sys.argv[1])
    except TapelineError as error:
        assert error.code == "model_refused"
    else:
        raise AssertionError("it was loaded")
assert not [name for name in sys.modules if name.split(".")[0] in ("keras", "tensorflow")]
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "m.keras")], check=True, timeout=60)
