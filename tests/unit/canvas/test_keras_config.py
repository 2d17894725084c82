"""Keras functional configs as canvases: what maps, and what is refused with the name of its layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tapeline.canvas import validate
from tapeline.canvas.keras_config import canvas_of
from tapeline.errors import TapelineError

DTYPE = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}
SHAPES = {"window": [None, 20, 8], "now": [None, 3]}


def initializer(kind: str, **config: Any) -> dict[str, Any]:
    return {"module": "keras.initializers", "class_name": kind, "config": config, "registered_name": None}


def tensor(source: str) -> dict[str, Any]:
    inner = {"shape": [None, 1], "dtype": "float32", "keras_history": [source, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": inner}


def layer(name: str, kind: str, shape: list[Any], *sources: str, listed: bool = False, **config: Any) -> dict[str, Any]:
    read: list[Any] = [tensor(source) for source in sources]
    return {
        "module": "keras.layers", "class_name": kind, "registered_name": None, "name": name,
        "config": {"name": name, "trainable": True, "dtype": DTYPE} | config,
        "build_config": {"input_shape": shape},
        "inbound_nodes": [{"args": [read] if listed else read, "kwargs": {}}],
    }  # fmt: skip


def entry(name: str) -> dict[str, Any]:
    config = {"batch_shape": SHAPES[name], "dtype": "float32", "sparse": False, "ragged": False, "name": name}
    return {
        "module": "keras.layers", "class_name": "InputLayer", "config": config, "registered_name": None, "name": name,
        "inbound_nodes": [],
    }  # fmt: skip


DENSE = {
    "units": 4, "activation": "relu", "use_bias": True, "kernel_initializer": initializer("GlorotUniform", seed=None),
    "bias_initializer": initializer("Zeros"), "kernel_regularizer": None, "bias_regularizer": None,
    "kernel_constraint": None, "bias_constraint": None,
}  # fmt: skip


def good() -> dict[str, Any]:
    convolution = {
        "filters": 4, "kernel_size": [3], "strides": [1], "padding": "causal", "data_format": "channels_last",
        "dilation_rate": [1], "groups": 1, "activation": "tanh", "use_bias": True,
        "kernel_initializer": initializer("GlorotUniform", seed=7), "bias_initializer": initializer("Zeros"),
    }  # fmt: skip
    layers = [
        entry("window"),
        entry("now"),
        layer("Conv.1", "Conv1D", [None, 20, 8], "window", **convolution),
        layer("pool", "GlobalMaxPooling1D", [None, 20, 4], "Conv.1", data_format="channels_last", keepdims=False),
        layer("join", "Concatenate", [None, 4], "pool", "now", listed=True, axis=-1),
        layer("trunk", "Dense", [None, 7], "join", **DENSE),
        layer("up", "Dense", [None, 4], "trunk", **DENSE | {"units": 1, "activation": "sigmoid"}),
    ]
    config = {
        "name": "m", "trainable": True, "layers": layers, "input_layers": [["window", 0, 0], ["now", 0, 0]],
        "output_layers": [["up", 0, 0]],
    }  # fmt: skip
    return {
        "module": "keras.src.models.functional", "class_name": "Functional", "config": config,
        "registered_name": "Functional", "build_config": {"input_shape": None},
    }  # fmt: skip


def of(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in config["config"]["layers"] if each["name"] == name)


def test_a_functional_model_becomes_a_canvas() -> None:
    made = canvas_of(good(), features=[["bars"], ["ret", "size"]], labels=[("updown", 1)], name="mine")
    canvas = validate(made.document).require()
    assert canvas.inputs == [["bars"], ["ret", "size"]]
    assert [(node.id, node.kind) for node in canvas.nodes] == [
        ("window", "input"), ("now", "input"), ("conv_1", "conv1d"), ("conv_1_activati", "activation"),
        ("pool", "pool1d"), ("join", "concat"), ("trunk", "dense"), ("up", "output"),
    ]  # fmt: skip
    by_id = {node["id"]: node for node in made.document["nodes"]}
    assert by_id["pool"]["inputs"] == ["conv_1_activati"]
    assert (by_id["up"]["feature"], by_id["up"]["label_index"], by_id["up"]["activation"]) == ("updown", 1, "sigmoid")
    assert made.shapes == {"window": (20, 8), "now": (3,)}
    assert made.units == {"up": 1}


def test_names_of_inputs_and_outputs_stand_for_features_and_labels_by_default() -> None:
    made = canvas_of(good())
    assert validate(made.document).require().inputs == [["window"], ["now"]]


def test_a_layer_may_stand_before_what_it_reads() -> None:
    config = good()
    config["config"]["layers"].reverse()
    by_id = {node["id"]: node for node in canvas_of(config).document["nodes"]}
    assert by_id["pool"]["inputs"] == ["conv_1_activati"]


def test_a_frozen_layer_is_a_frozen_node() -> None:
    config = good()
    of(config, "trunk")["config"]["trainable"] = False
    frozen = [node["id"] for node in canvas_of(config).document["nodes"] if node.get("is_trainable") is False]
    assert frozen == ["trunk"]


def put(name: str, **fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: of(config, name)["config"].update(fields)


def call(name: str, **kwargs: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: of(config, name)["inbound_nodes"][0]["kwargs"].update(kwargs)


def swap(name: str, kind: str, **config: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda model: of(model, name).update(class_name=kind, config={"name": name, **config})


REFUSED: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (put("trunk", kernel_initializer=initializer("HeNormal", seed=None)), "'trunk': kernel_initializer 'HeNormal'"),
    (put("trunk", bias_initializer=initializer("Ones")), "layer 'trunk': bias_initializer 'Ones'"),
    (put("trunk", lora_rank=4), "layer 'trunk': lora_rank 4 has no place"),
    (put("trunk", dtype=DTYPE | {"config": {"name": "mixed_bfloat16"}}), "'trunk': its precision is mixed"),
    (put("Conv.1", groups=2), "layer 'Conv.1': groups 2|weights|parameters"),
    (put("Conv.1", use_bias=False), "layer 'Conv.1': use_bias False"),
    (put("pool", keepdims=True), "layer 'pool': keepdims True"),
    (put("join", axis=0), "layer 'join': axis 0"),
    (put("trunk", activation="mish"), "layer 'trunk': activation 'mish'"),
    (put("up", use_bias=False), "layer 'up': an output of a canvas has a bias"),
    (call("trunk", training=True), "layer 'trunk': it is called with training"),
    (swap("pool", "Permute", dims=[2, 1]), "layer 'pool': a Permute has no place"),
    (swap("up", "Flatten", data_format="channels_last"), "layer 'up': it is an output and a Flatten"),
    (lambda c: of(c, "trunk")["inbound_nodes"].append(of(c, "trunk")["inbound_nodes"][0]), "'trunk': it is used 2"),
    (lambda c: of(c, "now")["config"].update(batch_shape=[None, None]), "layer 'now': shape .* is not fixed"),
    (lambda c: of(c, "pool")["inbound_nodes"][0]["args"][0]["config"].update(keras_history=["Conv.1", 0, 1]), "'pool'"),
    (lambda c: c["config"]["output_layers"].append(["trunk", 0, 0]), "'trunk': it is an output and 'up' reads"),
    (lambda c: c["config"]["output_layers"].append(["up", 0, 0]), "layer 'up': it is an output twice"),
    (lambda c: of(c, "trunk").update(inbound_nodes=[[["join", 0, 0, {}]]]), "'trunk': its config is of Keras 2"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), REFUSED)
def test_what_has_no_place_in_a_canvas_is_refused_by_name(change: Callable[[Any], Any], reason: str) -> None:
    config = good()
    change(config)
    with pytest.raises(TapelineError, match=reason) as caught:
        canvas_of(config)
    assert caught.value.code in ("unsupported", "canvas_invalid", "model_refused")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (swap("trunk", "Lambda", function="x"), "model_refused"),
        (put("trunk", activation="os.system"), "model_refused"),
        (lambda c: c.update(class_name="Sequential"), "model_refused"),
        (lambda c: c["config"].update(layers=7), "model_refused"),
        (lambda c: of(c, "pool")["inbound_nodes"][0].update(args=7), "unsupported"),
        (lambda c: of(c, "trunk")["config"].update(units=10**8), "canvas_invalid"),
    ],
)
def test_a_hostile_config_is_refused(change: Callable[[Any], Any], code: str) -> None:
    config = good()
    change(config)
    with pytest.raises(TapelineError) as caught:
        canvas_of(config)
    assert caught.value.code == code


def test_wrong_numbers_of_features_and_labels_are_told() -> None:
    with pytest.raises(TapelineError, match="1 features were given, the model has 2: window, now"):
        canvas_of(good(), features=[["a"]])
    with pytest.raises(TapelineError, match="2 labels were given, the model has 1: up"):
        canvas_of(good(), labels=["a", "b"])


def test_a_cycle_is_told_and_not_followed() -> None:
    config = good()
    of(config, "pool")["inbound_nodes"][0]["args"] = [tensor("trunk")]
    with pytest.raises(TapelineError) as caught:
        canvas_of(config)
    assert "cycle" in [each["code"] for each in caught.value.data["errors"]]


def test_the_canvas_is_plain_json() -> None:
    document = canvas_of(good()).document
    assert json.loads(json.dumps(document)) == document
