"""Models of Keras 2 and of its HDF5 format, translated to the config that our scan reads.

Nothing is loaded here: a config is a tree of plain values, and so is what is made of it. Whatever it says that is
not on the list of `layers.py` is refused by the scan that follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tapeline.security import layers as allowed
from tapeline.security.model_config import ModelConfig, parsed_json, refusal, scan_config

Config = dict[str, Any]
Shapes = Mapping[str, Sequence[tuple[int, ...]]]

# What Keras 2 says and Keras 3 has no field for; none of it changes what a layer computes.
_DEAD = frozenset(
    {
        "time_major", "implementation", "batch_input_shape", "input_length", "virtual_batch_size", "fused",
        "query_shape", "key_shape", "value_shape", "autocast", "softmax_robust_masking",
    }
)  # fmt: skip
_RENAMED: dict[tuple[str, str], str] = {("LeakyReLU", "alpha"): "negative_slope"}


def translated(text: str, shapes: Shapes, *, replace: Mapping[str, Mapping[str, Any]] | None = None) -> Config:
    """The config of a functional Keras 3 model that says the same, each object with the module of its class.

    Parameters
    ----------
    text : str
        The JSON of `model_config`, of a functional or a sequential model.
    shapes : Mapping of str to sequence of tuple of int
        The shapes of the stored weights of each layer, in their order.
    replace : Mapping, optional
        By the name of a layer, `{"class": "SelectFields", ...}`: one of our own layers in its place.

    Raises
    ------
    TapelineError
        `model_refused`, for what is damaged.
    """
    given = parsed_json(text.encode("utf-8", "replace"), "model_config")
    try:
        inner = given["config"]
        listed = _listed(inner)
        if given["class_name"] == "Sequential":
            return _functional(str(_name(inner, "sequential")), *_chained(listed, inner, shapes, replace or {}))
        if given["class_name"] not in ("Functional", "Model"):
            raise refusal(f"the model is a {str(given['class_name'])[:60]!r}, only functional and sequential are read")
        made = [_layer(each, shapes, replace or {}) for each in listed]
        return _functional(str(_name(inner, "model")), made, inner["input_layers"], inner["output_layers"])
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise refusal(f"model_config: {type(error).__name__} {str(error)[:100]}", hint="the file is damaged") from error


def scanned(config: Config, shapes: Shapes) -> ModelConfig:
    """What a translated config says, when all of it is allowed and the stored weights fit it.

    Raises
    ------
    TapelineError
        `model_refused`, naming the layer.
    """
    found = scan_config(config)
    for layer, stored in shapes.items():
        if stored and layer not in found.of_layer:
            raise refusal(f"weights of {layer!r} belong to no layer that has some")
    for layer, paths in found.of_layer.items():
        expected, stored = [found.weights[path] for path in paths], list(shapes.get(layer, ()))
        if stored != expected:
            raise refusal(f"weights of {layer!r}: shapes {stored} do not match the layer, which has {expected}")
    return found


def without_shapes(config: Config) -> Config:
    """The config as Keras shall read it: it builds each layer on what the layer really gets."""
    layers = [
        {key: value for key, value in layer.items() if key != "build_config"} for layer in config["config"]["layers"]
    ]
    return config | {"config": config["config"] | {"layers": layers}}


def _functional(name: str, layers: list[Config], inputs: Any, outputs: Any) -> Config:
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {
            "name": name, "trainable": True, "layers": layers, "input_layers": inputs, "output_layers": outputs
        },
        "registered_name": "Functional",
    }  # fmt: skip


def _listed(inner: Any) -> Any:
    return inner if isinstance(inner, list) else inner["layers"]


def _name(inner: Any, otherwise: str) -> str:
    return inner.get("name", otherwise) if isinstance(inner, dict) else otherwise


def _chained(
    listed: Sequence[Any], inner: Any, shapes: Shapes, replace: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Config], list[Any], list[Any]]:
    """The layers of a sequential model with their edges; its input is made where it has none of its own."""
    first = listed[0]["config"]
    entry = None
    if listed[0]["class_name"] != "InputLayer":
        shape = first.get("batch_input_shape") or first.get("batch_shape")
        shape = shape or (inner.get("build_input_shape") if isinstance(inner, dict) else None)
        if not shape:
            raise refusal("the model does not say the shape of its input", hint="give it an Input and save it again")
        entry = {"class_name": "InputLayer", "config": {"name": "input", "batch_shape": shape, "dtype": "float32"}}
    made: list[Config] = []
    for each in [entry, *listed] if entry else listed:
        layer = _layer({**each, "inbound_nodes": []}, shapes, replace)
        if made:
            layer["inbound_nodes"] = [{"args": [_tensor(made[-1]["name"])], "kwargs": {}}]
        made.append(layer)
    return made, [[made[0]["name"], 0, 0]], [[made[-1]["name"], 0, 0]]


def _layer(layer: Any, shapes: Shapes, replace: Mapping[str, Mapping[str, Any]]) -> Config:
    name = str(layer.get("name") or layer["config"]["name"])
    if name in replace:
        chosen = dict(replace[name])
        kind = str(chosen.pop("class", ""))
        if kind not in allowed.OWN_LAYERS:
            raise refusal(f"layer {name!r} cannot be replaced by {kind!r}", hint=f"by {', '.join(allowed.OWN_LAYERS)}")
        made = _object(kind, {"name": name, "trainable": True, "dtype": "float32", **chosen})
    else:
        made = _modern(layer)
        made["config"] = {**made["config"], "name": name}
    made["name"] = name
    made["inbound_nodes"] = [_node(each) for each in layer.get("inbound_nodes") or []]
    made["build_config"] = {"input_shape": _input_shape(made, [tuple(shape) for shape in shapes.get(name, ())])}
    return made


def _modern(value: Any) -> Any:
    """A value with every object in it as Keras 3 writes it."""
    if isinstance(value, list):
        return [_modern(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "class_name" not in value:
        return {key: _modern(each) for key, each in value.items()}
    kind, inner = value["class_name"], value.get("config") or {}
    if kind in ("Policy", "DTypePolicy"):
        return str(inner["name"])
    if value.get("registered_name") not in (None, kind) or not isinstance(inner, dict):
        return value  # the scan refuses it by its name
    if inner.get("time_major"):
        raise ValueError(f"layer {inner.get('name')!r} puts time first")
    config: Config = {
        _RENAMED.get((str(kind), str(key)), str(key)): _modern(each) for key, each in inner.items() if key not in _DEAD
    }
    if kind == "InputLayer" and "batch_input_shape" in inner:
        config["batch_shape"] = inner["batch_input_shape"]
    if kind == "BatchNormalization" and isinstance(config.get("axis"), list) and len(config["axis"]) == 1:
        config["axis"] = config["axis"][0]
    return _object(kind, config)


def _object(kind: Any, config: Config) -> Config:
    modules = allowed.CLASSES.get(kind, frozenset()) if isinstance(kind, str) else frozenset()
    return {
        "module": min(modules) if modules else None,
        "class_name": kind,
        "config": config,
        "registered_name": f"tapeline>{kind}" if kind in allowed.OWN_LAYERS else None,
    }


def _node(node: Any) -> Config:
    """One call of a layer: of Keras 3 as it is, of Keras 2 as arguments by name."""
    if isinstance(node, dict):
        return node
    tensors = [_tensor(*each[:3]) for each in node]
    kwargs = dict(node[0][3]) if len(node[0]) > 3 else {}
    for key, value in kwargs.items():
        if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
            kwargs[key] = _tensor(*value)
    return {"args": [tensors[0] if len(tensors) == 1 else tensors], "kwargs": kwargs}


def _tensor(source: str, node: int = 0, place: int = 0) -> Config:
    # Keras takes the history and finds the shape anew.
    config = {"shape": [None, 1], "dtype": "float32", "keras_history": [source, node, place]}
    return {"class_name": "__keras_tensor__", "config": config}


def _input_shape(layer: Config, stored: list[tuple[int, ...]]) -> list[int | None]:
    """An input shape that the stored weights would follow from; the scan compares all of them with it."""
    kind, config = layer["class_name"], layer["config"]
    if not stored:
        return [None, 1]
    match kind:
        case "Conv1D" | "Conv2D":
            return [None, None, stored[0][-2] * int(config.get("groups") or 1)]
        case "BatchNormalization" | "LayerNormalization":
            axis = config.get("axis", -1)
            axis = axis[0] if isinstance(axis, list) else axis
            shape: list[int | None] = [None] * (max(axis, 1) + 1)
            shape[axis] = stored[0][0]
            return shape
        case _:
            return [None, None, stored[0][0]]
