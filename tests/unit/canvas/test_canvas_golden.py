"""Digests, layer names, shapes and parameters of thirty canvases, as stored; and what may not change them."""

import copy
import hashlib
import json
import random
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from tapeline.canvas import (
    EXAMPLES,
    LabelColumns,
    canonical_json,
    canvas_schema,
    diff,
    digest,
    example,
    get_available_components,
    model_digest,
    rendered,
    validate,
)
from tapeline.canvas.schema import schema_text
from tapeline.errors import TapelineError

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden.json").read_text())
ALWAYS = 13
BUILT = [pytest.param(name, marks=[pytest.mark.long] if i >= ALWAYS else []) for i, name in enumerate(GOLDEN)]
"""For tests that build a model, which takes a while: the first ones always, every one with the long tests."""
FEATURES = {
    "bars_20_1min": (20, 8),
    "log_return_1min": (1,),
    "trade_size_1min": (2,),
    "volume_ratio_1min": (1,),
}
LABELS = {
    "updown_5min": LabelColumns.of("regression", "binary", "binary", "binary", "binary"),
    "barrier": LabelColumns.of("multiclass(3)", "regression"),
}


def canvas_named(name: str) -> dict[str, Any]:
    return json.loads(example(name)) if name in EXAMPLES else GOLDEN[name]["canvas"]


def parsed(content: Any) -> Any:
    return validate(content, feature_shapes=FEATURES, labels=LABELS).require()


@pytest.mark.parametrize("name", list(GOLDEN))
def test_digest_shapes_and_parameters_stay_as_they_are(name: str) -> None:
    validation = validate(canvas_named(name), feature_shapes=FEATURES, labels=LABELS)
    stored = GOLDEN[name]
    assert validation.errors == ()
    assert validation.digest == stored["digest"]
    assert model_digest(validation.require()) == stored["model_digest"]
    assert {node: list(shape) for node, shape in validation.shapes.items()} == stored["shapes"]
    assert validation.parameters == stored["parameters"]


@pytest.mark.parametrize("name", list(GOLDEN))
def test_neither_order_nor_places_nor_names_nor_spelt_defaults_change_the_digest(name: str) -> None:
    content = canvas_named(name)
    stored = GOLDEN[name]["digest"]
    shuffled = copy.deepcopy(content)
    random.Random(7).shuffle(shuffled["nodes"])
    shuffled["nodes"] = [dict(reversed(node.items())) for node in shuffled["nodes"]]
    assert digest(parsed(shuffled)) == stored
    assert digest(parsed(content | {"name": "other", "notes": "n", "ui": {"a": {"x": 1}}})) == stored
    assert digest(parsed(rendered(parsed(content)))) == stored
    assert digest(parsed(json.dumps(content, indent=3))) == stored


def test_a_changed_unit_or_training_key_changes_the_digest() -> None:
    content = canvas_named("demo")
    other = copy.deepcopy(content)
    other["nodes"][5]["units"] = [32, 17]
    longer = content | {"training": content["training"] | {"epochs": 9}}
    assert digest(parsed(other)) != digest(parsed(content))
    assert model_digest(parsed(other)) != model_digest(parsed(content))
    assert digest(parsed(longer)) != digest(parsed(content))
    assert model_digest(parsed(longer)) == model_digest(parsed(content))


def test_canonical_json_is_one_text_per_value() -> None:
    composed, apart = "\u00e9", unicodedata.normalize("NFD", "\u00e9")
    assert canonical_json({"b": 1, "a": apart}) == canonical_json({"a": composed, "b": 1})
    assert canonical_json([0.1, 1e22, True, None]) == b"[0.1,1e+22,true,null]"


def test_a_difference_is_told_by_node_id() -> None:
    before = canvas_named("demo")
    after = copy.deepcopy(before)
    after["nodes"][5]["units"] = 8
    after["nodes"].insert(0, {"id": "noise", "kind": "gaussian_noise", "inputs": ["now"]})
    after["nodes"][5]["inputs"] = ["noise"]
    del after["training"]["epochs"]
    found = diff(parsed(before), parsed(after)).to_json()
    assert found["added"] == ["noise"]
    assert found["removed"] == []
    assert found["changed"] == {"trunk": {"units": [[32, 16], 8]}, "scaled": {"inputs": [["now"], ["noise"]]}}
    assert found["training"] == {"epochs": [8, None]}
    assert diff(parsed(before), parsed(before | {"ui": {}})).is_empty


def test_inputs_and_outputs_have_the_published_form() -> None:
    canvas = parsed(canvas_named("demo"))
    assert canvas.inputs == [["bars_20_1min"], ["log_return_1min", "trade_size_1min", "volume_ratio_1min"]]
    assert canvas.outputs == [
        {
            "component_name": "",
            "label_index": 1,
            "gaussian_noise": 0.05,
            "dropout": 0.1,
            "class_weighting": 1,
            "activation": "auto",
            "feature": "updown_5min",
        }
    ]


def test_the_published_schema_equals_the_models() -> None:
    published = HERE.parents[2] / "docs" / "schemas" / "canvas-1.json"
    assert published.read_text() == schema_text(), "write tapeline.canvas.schema.schema_text() to the file"
    jsonschema.Draft202012Validator.check_schema(canvas_schema())


@pytest.mark.parametrize("name", list(GOLDEN))
def test_the_published_schema_takes_every_good_canvas(name: str) -> None:
    jsonschema.validate(canvas_named(name), canvas_schema())


def test_the_catalogue_tells_every_component_with_its_parameters() -> None:
    found = get_available_components()
    assert len(found) == 21
    assert [(c["category"], c["type"]) for c in found] == sorted((c["category"], c["type"]) for c in found)
    dense = next(c for c in found if c["type"] == "dense")
    assert set(dense) == {"type", "title", "category", "inputs", "params", "doc"}
    assert dense["inputs"] == {"min": 1, "max": 64}
    assert dense["params"]["properties"]["dropout"]["default"] == 0.0
    assert dense["params"]["required"] == ["units"]
    for component in found:
        assert component["doc"]
        jsonschema.Draft202012Validator.check_schema(component["params"])
    assert json.loads(json.dumps(found)) == found


def test_an_unknown_example_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(TapelineError, match="no example canvas") as caught:
        example("dmeo")
    assert caught.value.hint == "examples are: demo, demo_wide"


# From here on Keras is imported.


def transpiled(name: str, **more: Any) -> Any:
    from tapeline.canvas.transpile import FeatureStats, transpile

    stats = {
        "bars_20_1min": FeatureStats([0.0] * 8, [1.0] * 8),
        "log_return_1min": FeatureStats([0.0], [1e-6]),
        "trade_size_1min": FeatureStats([0.1, 0.4], [0.5, 0.1]),
        "volume_ratio_1min": FeatureStats([0.0], [2.0]),
    }
    content = more.pop("content", None) or canvas_named(name)
    return transpile(content, feature_shapes=FEATURES, labels=LABELS, stats=stats, **more)


def weights_digest(model: Any) -> str:
    found = hashlib.sha256()
    for variable in sorted(model.weights, key=lambda v: v.path):
        found.update(variable.path.encode())
        found.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", BUILT)
def test_layer_names_shapes_and_parameters_of_the_model_are_those_computed(name: str) -> None:
    model = transpiled(name)
    stored = GOLDEN[name]
    assert sorted(layer.name for layer in model.layers) == stored["layers"]
    assert model.count_params() == stored["parameters"]
    outputs = [node["id"] for node in canvas_named(name)["nodes"] if node["kind"] == "output"]
    assert [tuple(output.shape[1:]) for output in model.outputs] == [tuple(stored["shapes"][o]) for o in outputs]
    assert model.output_names == [f"end_{o}" for o in outputs]
    assert not [layer for layer in model.layers if type(layer).__name__ == "Lambda"]


@pytest.mark.parametrize("name", ["demo", "demo_wide", "sequences"])
def test_the_order_of_nodes_does_not_change_initial_weights_and_the_seed_does(name: str) -> None:
    content = canvas_named(name)
    shuffled = copy.deepcopy(content)
    random.Random(3).shuffle(shuffled["nodes"])
    inputs = [n["id"] for n in shuffled["nodes"] if n["kind"] == "input"]
    assert weights_digest(transpiled(name)) == weights_digest(transpiled(name, content=shuffled))
    assert weights_digest(transpiled(name)) != weights_digest(transpiled(name, seed=1))
    assert [i.name for i in transpiled(name, content=shuffled).inputs] == [f"input_{i}" for i in inputs]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("outputs", "sequences", "convolutions") else [pytest.mark.long])
        for name in GOLDEN
        if "normalize" not in json.dumps(canvas_named(name))
    ],
)
def test_a_model_becomes_a_canvas_that_computes_the_same_bits(name: str) -> None:
    from tapeline.canvas.keras_config import canvas_of
    from tapeline.canvas.transpile import transpile

    model = transpiled(name)
    made = canvas_of(json.loads(model.to_json()))
    shapes = {node["features"][0]: made.shapes[node["id"]] for node in made.document["nodes"] if "features" in node}
    columns = {
        node["feature"]: LabelColumns.of(
            "binary" if made.units[node["id"]] == 1 else f"multiclass({made.units[node['id']]})"
        )
        for node in made.document["nodes"]
        if node["kind"] == "output"
    }
    again = transpile(made.document, feature_shapes=shapes, labels=columns)
    assert again.count_params() == model.count_params()
    for old, new in zip(model.layers, again.layers, strict=False):
        assert not old.weights or type(old) is type(new)
    weighted = [[layer for layer in each.layers if layer.weights] for each in (model, again)]
    for old, new in zip(*weighted, strict=True):
        new.set_weights(old.get_weights())
    rng = np.random.default_rng(2)
    x = [rng.normal(size=(4, *each.shape[1:])).astype("float32") for each in model.inputs]
    found, wanted = (
        np.concatenate([np.array(y).ravel() for y in (ys if isinstance(ys, list) else [ys])])
        for ys in (again(x), model(x))
    )
    np.testing.assert_array_equal(found, wanted)


def test_no_two_kernels_of_a_model_begin_equal() -> None:
    kernels = [v.numpy() for v in transpiled("sequences").trainable_variables if "kernel" in v.path]
    for i, kernel in enumerate(kernels):
        for other in kernels[i + 1 :]:
            assert kernel.shape != other.shape or not np.array_equal(kernel, other)


def test_outputs_are_stacks_of_noise_dropout_and_an_activation_by_column_type() -> None:
    model = transpiled("outputs")
    layers = {layer.name: layer for layer in model.layers}
    assert layers["end_number"].activation.__name__ == "linear"
    assert layers["end_class"].activation.__name__ == "softmax"
    assert layers["end_yes"].activation.__name__ == "sigmoid"
    assert layers["end_class"].units == 3
    assert layers["end_yes"].dtype == "float32"
    assert layers["end_yes_noise"].stddev == 0.5
    assert layers["end_yes_dropout"].rate == 0.5
    assert "end_number_noise" not in layers
    assert "end_number_dropout" not in layers
    losses = {name: type(loss).__name__ for name, loss in model.loss.items()}
    assert losses == {
        "end_number": "Huber",
        "end_class": "SparseCategoricalCrossentropy",
        "end_yes": "BinaryCrossentropy",
    }


def test_logs_of_keras_get_the_tags_of_a_run() -> None:
    from tapeline.canvas.transpile import metric_tags

    rng = np.random.default_rng(0)
    for name in ("demo", "outputs"):
        model = transpiled(name)
        x = [rng.normal(size=(16, *i.shape[1:])).astype("float32") for i in model.inputs]
        y = [np.zeros((16, 1), "float32") for _ in model.outputs]
        model.run_eagerly = True
        logs = model.fit(x, y, verbose=0, epochs=1).history
        assert set(metric_tags(parsed(canvas_named(name)), LABELS)) == set(logs)


def test_a_frozen_node_has_no_trainable_weights() -> None:
    content = canvas_named("demo")
    content["nodes"][5]["is_trainable"] = False
    model = transpiled("demo", content=content)
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {"batch_norm_scaled", "end_up"}


@pytest.mark.parametrize("mode", ["last", "zscore", "minmax"])
def test_a_window_norm_equals_its_formula_and_is_zero_where_it_divides_by_zero(mode: str) -> None:
    from tapeline.canvas.transpile.layers import registered_layers

    x = np.random.default_rng(1).normal(size=(3, 6, 2)).astype("float32")
    x[1, :, 0] = 0.0
    with np.errstate(all="ignore"):
        expected = {
            "last": x / x[:, -1:] - 1,
            "zscore": (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True),
            "minmax": (x - x.min(1, keepdims=True)) / (x.max(1, keepdims=True) - x.min(1, keepdims=True)),
        }[mode]
    found = np.asarray(registered_layers()["WindowNorm"](mode)(x))
    np.testing.assert_allclose(found, np.nan_to_num(expected), rtol=1e-4, atol=1e-5)


def test_select_takes_positions_in_the_order_given() -> None:
    from tapeline.canvas.transpile.layers import registered_layers

    x = np.arange(24, dtype="float32").reshape(1, 4, 6)
    found = np.asarray(registered_layers()["SelectFields"]([3, -1, 0], axis=-1)(x))
    np.testing.assert_array_equal(found, x[:, :, [3, -1, 0]])


def test_a_normalize_node_without_statistics_says_which_feature_lacks_them() -> None:
    from tapeline.canvas.transpile import transpile

    with pytest.raises(TapelineError, match="train statistics of feature 'log_return_1min'"):
        transpile(canvas_named("scaling"), feature_shapes=FEATURES, labels=LABELS)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"optimizer": {"name": "adamm"}}, "optimizer 'adamm' is not known"),
        ({"optimizer": {"name": "adam", "lr": 1}}, "optimizer field 'lr' is not known"),
        ({"optimizer": {"name": "adam", "learning_rate": -1}}, "learning_rate -1 is not allowed"),
        ({"seed": -1}, "seed -1 is not allowed"),
        ({"dtype": "float16"}, "dtype 'float16' is not known"),
    ],
)
def test_a_wrong_setting_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(TapelineError, match=message) as caught:
        transpiled("demo", **more)
    assert caught.value.code == "invalid"


def test_what_keras_refuses_is_told_with_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    from tapeline.canvas.transpile.build import Builder

    def refuse(*_: Any) -> Any:
        raise ValueError("bad initialiser")

    monkeypatch.setattr(Builder, "_kernel", refuse)
    with pytest.raises(TapelineError, match="trunk: ValueError: bad initialiser") as caught:
        transpiled("demo")
    assert caught.value.data["errors"][0]["pointer"] == "/nodes/5"


@pytest.mark.parametrize("name", BUILT)
def test_a_written_model_passes_the_scan_and_equal_models_give_equal_bytes(name: str, tmp_path: Path) -> None:
    from tapeline.security import models

    first = models.save(transpiled(name), tmp_path / "a.keras")
    again = models.save(transpiled(name), tmp_path / "b.keras")
    assert first == again
    found = models.scan(tmp_path / "a.keras")
    assert found.sha256 == first
    assert found.parameters == GOLDEN[name]["parameters"]
    assert sorted(found.layers) == GOLDEN[name]["layers"]


def test_a_fresh_process_loads_what_was_written_and_predicts_equal_bits(tmp_path: Path) -> None:
    from tapeline.security import models

    # The second is called without a compiled function, which takes longer than all the rest.
    rng = np.random.default_rng(5)
    for name, is_compiled in (("scaling", True), ("sequences", False)):
        model = transpiled(name)
        x = [rng.normal(size=(8, *i.shape[1:])).astype("float32") for i in model.inputs]
        y = model.predict(x, verbose=0) if is_compiled else np.array(model(x))
        np.savez(tmp_path / f"{name}_x.npz", *x)
        np.save(tmp_path / f"{name}_y.npy", y)
        models.save(model, tmp_path / f"{name}.keras")
    program = """
import sys
import numpy as np
from tapeline.security import models
for name, is_compiled in (("scaling", True), ("sequences", False)):
    with np.load(f"{sys.argv[1]}/{name}_x.npz") as stored:
        x = [stored[key] for key in stored.files]
    model = models.load(f"{sys.argv[1]}/{name}.keras")
    found = model.predict(x, verbose=0) if is_compiled else np.array(model(x))
    assert (found == np.load(f"{sys.argv[1]}/{name}_y.npy")).all(), name
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=180, capture_output=True)


def test_trained_weights_come_back_from_a_file(tmp_path: Path) -> None:
    from tapeline.security import models

    model = transpiled("demo")
    for variable in model.weights:
        variable.assign(variable.numpy() + 0.25)
    digest = models.save(model, tmp_path / "a.keras")
    loaded = models.load(tmp_path / "a.keras", digest)
    assert weights_digest(loaded) == weights_digest(model)
    with pytest.raises(TapelineError, match="expected") as caught:
        models.load(tmp_path / "a.keras", "0" * 64)
    assert caught.value.code == "corrupt"
