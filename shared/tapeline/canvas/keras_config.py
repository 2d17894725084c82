"""From the config of a Keras functional model to a canvas, where nothing is lost on the way.

Keras is not imported: the config is JSON, as `model.to_json()` gives it and as a `.keras` file holds it. A layer
is taken over when a node of a canvas builds the same layer again; anything else that it says is refused by its
name. What is left out on purpose: initial values (seeds), how the model was compiled, and its weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from tapeline.canvas.columns import LabelColumns
from tapeline.canvas.limits import SCHEMA
from tapeline.canvas.model import Activation
from tapeline.canvas.validate import Validation, validate
from tapeline.errors import TapelineError
from tapeline.security.model_config import scan_config

Node = dict[str, Any]


@dataclass(frozen=True)
class Imported:
    """A canvas made of a Keras model, and what it takes and gives.

    `shapes` has the shape of one sample of each input, `units` the width of each output, both by node id: an
    asset fits when its features and label columns have these.
    """

    document: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    units: dict[str, int]


def canvas_of(
    config: Mapping[str, Any],
    *,
    features: Sequence[Sequence[str]] = (),
    labels: Sequence[str | tuple[str, int]] = (),
    name: str = "",
) -> Imported:
    """The canvas that builds the layers of a functional model again.

    Parameters
    ----------
    config : Mapping
        The parsed JSON of the model; it may be hostile.
    features : sequence of sequence of str
        The features of each input, in the order of the model's inputs. Default: each input's own name.
    labels : sequence of str or (str, int)
        The label of each output, with its column. Default: each output's own name, column 0.
    name : str
        Of the canvas.

    Raises
    ------
    TapelineError
        `model_refused` for what may not be in a model at all; `unsupported`, naming the layer, for what has no
        place in a canvas; `invalid` for features or labels of another number.
    """
    scanned = scan_config(dict(config))
    try:
        layers = {layer.name: layer for layer in map(_Layer, config["config"]["layers"])}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise _refused("model", f"the config is damaged ({type(error).__name__})") from error
    for what, given, wanted in (("features", features, scanned.inputs), ("labels", labels, scanned.outputs)):
        if given and len(given) != len(wanted):
            raise TapelineError(
                f"{len(given)} {what} were given, the model has {len(wanted)}: {', '.join(wanted)}",
                code="invalid",
                hint="give one for each, in this order",
            )
    ids = _ids(list(layers))
    _check_ends(layers, scanned.inputs, scanned.outputs)
    shapes = {ids[each]: layers[each].batch_shape() for each in scanned.inputs}
    names = features or [[each] for each in scanned.inputs]
    nodes: list[Node] = [
        {"id": ids[each], "kind": "input", "features": list(chosen)}
        for each, chosen in zip(scanned.inputs, names, strict=True)
    ]
    results = {each: ids[each] for each in scanned.inputs}
    ends = set(scanned.outputs)
    left = [layer for layer in layers.values() if layer.kind != "InputLayer"]
    outputs: dict[str, Node] = {}
    for layer in left:
        made = _output(layer) if layer.name in ends else _nodes(layer)
        for i, node in enumerate(made):
            node_id = ids[layer.name] if i == 0 else _free(f"{ids[layer.name][:54]}_{node['kind'][:8]}", ids)
            inputs = [ids[source] for source in layer.sources] if i == 0 else [made[i - 1]["id"]]
            made[i] = {"id": node_id, "inputs": inputs, **node}
            if not layer.trainable:
                made[i]["is_trainable"] = False
        results[layer.name] = made[-1]["id"]
        if layer.name in ends:
            outputs[layer.name] = made[-1]
        else:
            nodes += made
    _relink(nodes, outputs.values(), ids, results)
    chosen_labels = [each if isinstance(each, tuple) else (each, 0) for each in labels or scanned.outputs]
    units = {}
    for output, (label, column) in zip(scanned.outputs, chosen_labels, strict=True):
        node = outputs[output]
        units[node["id"]] = node.pop("units")
        nodes.append({**node, "feature": label, "label_index": column})
    document = {"schema": SCHEMA, "nodes": nodes} | ({"name": name} if name else {})
    _check(document, shapes, units, scanned.parameters)
    return Imported(document, shapes, units)


def _relink(nodes: Sequence[Node], outputs: Any, ids: Mapping[str, str], results: Mapping[str, str]) -> None:
    # A layer may stand in the config before what it reads; a layer of two nodes gives the result of the second.
    given = {ids[layer]: result for layer, result in results.items() if ids[layer] != result}
    for node in (*nodes, *outputs):
        if "inputs" in node:
            own = node["id"]
            node["inputs"] = [
                source if given.get(source) == own else given.get(source, source) for source in node["inputs"]
            ]


def _check_ends(layers: Mapping[str, _Layer], inputs: Sequence[str], outputs: Sequence[str]) -> None:
    for name in (*inputs, *outputs):
        if name not in layers:
            raise _refused(name, "it is an end of the model and no layer of it")
    for layer in layers.values():
        if layer.kind == "InputLayer" and layer.name not in inputs:
            raise _refused(layer.name, "it is no input of the model")
        for source in layer.sources:
            if source not in layers:
                raise _refused(layer.name, f"it reads {source!r}, which is no layer of the model")
            if source in outputs:
                raise _refused(source, f"it is an output and {layer.name!r} reads it; an output ends a canvas")
    if len(set(outputs)) != len(outputs):
        raise _refused(outputs[0], "it is an output twice")


def _check(
    document: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], units: Mapping[str, int], parameters: int
) -> None:
    """The canvas is valid, and has as many parameters as the model."""
    nodes = [dict(node) for node in document["nodes"]]
    columns = {}
    for node in nodes:
        if node["kind"] == "input":
            node["features"] = [node["id"]]
        elif node["kind"] == "output":
            node |= {"feature": node["id"], "label_index": 0}
            wide = units[node["id"]]
            columns[node["id"]] = LabelColumns.of("regression" if wide == 1 else f"multiclass({wide})")
    found: Validation = validate(
        {**document, "nodes": nodes}, feature_shapes=shapes, labels=columns, max_parameters=max(parameters, 1)
    )
    validate(document).require()
    found.require()
    if found.parameters != parameters:
        raise TapelineError(
            f"the model has {parameters:,} parameters, its canvas would have {found.parameters:,}",
            code="unsupported",
            hint="build the canvas by hand",
        )


class _Layer:
    """A layer of the config; what is taken from it is gone, and what is left at the end is refused."""

    def __init__(self, layer: Mapping[str, Any]) -> None:
        self.kind = str(layer["class_name"])
        self.config = dict(layer["config"])
        self.name = str(self.config.pop("name"))
        self.trainable = self.config.pop("trainable", True) is not False
        nodes = layer.get("inbound_nodes") or []
        if len(nodes) > 1:
            raise _refused(self.name, f"it is used {len(nodes)} times; a node of a canvas stands once")
        self.sources: list[str] = []
        self.arguments: dict[str, Any] = {}
        if nodes:
            if not isinstance(nodes[0], dict):
                raise _refused(self.name, "its config is of Keras 2", hint="load and save the model with Keras 3")
            self.sources = _tensors(self.name, nodes[0]["args"])
            self.arguments = {key: value for key, value in nodes[0]["kwargs"].items() if value not in (None, False)}
        dtype = self.config.pop("dtype", "float32")
        policy = dtype["config"]["name"] if isinstance(dtype, dict) else dtype
        if policy != "float32":
            raise _refused(self.name, f"its precision is {policy}", hint="set training.dtype of the canvas instead")

    def take(self, field: str, otherwise: Any = None) -> Any:
        """A field that the node has too."""
        return self.config.pop(field, otherwise)

    def must(self, field: str, *allowed: Any) -> None:
        """A field that a canvas does not have, at one of the values that a canvas builds."""
        value = self.config.pop(field, allowed[0])
        if value not in allowed or (isinstance(value, bool) is not isinstance(allowed[0], bool) and value is not None):
            raise _refused(self.name, f"{field} {_short(value)} has no place in a canvas")

    def plain(self, *fields: str) -> None:
        """Fields that must be empty."""
        for field in fields:
            self.must(field, None)

    def begins(self, field: str, initializer: str, **config: Any) -> None:
        """An initialiser that a canvas builds too; its seed is left out."""
        value = self.config.pop(field, None)
        if value is None:
            return
        inner = dict(value.get("config") or {}) if isinstance(value, dict) else {}
        inner.pop("seed", None)
        kind = value.get("class_name") if isinstance(value, dict) else _camel(str(value))
        if kind != initializer or any(inner.get(key, config.get(key)) != config.get(key) for key in inner):
            raise _refused(self.name, f"{field} {_short(kind)} has no place in a canvas; it begins with {initializer}")

    def activation(self, field: str = "activation") -> str:
        """The name of an activation that a canvas has too."""
        value: Any = self.config.pop(field, "linear")
        if value not in get_args(Activation):
            raise _refused(self.name, f"{field} {_short(value)} has no place in a canvas")
        return str(value)

    def batch_shape(self) -> tuple[int, ...]:
        """The shape of one sample of an input."""
        if self.kind != "InputLayer":
            raise _refused(self.name, "it is an input of the model and no InputLayer")
        shape = self.take("batch_shape")
        self.must("sparse", False)
        self.must("ragged", False)
        self.must("optional", False)
        self.end()
        if not isinstance(shape, list) or len(shape) < 2 or not all(type(size) is int for size in shape[1:]):
            raise _refused(self.name, f"shape {_short(shape)} is not fixed", hint="give each Input its shape")
        return tuple(shape[1:])

    def end(self, *arguments: str) -> None:
        """Refuse what is left: a field, or an argument of the call."""
        self.config.pop("seed", None)
        self.plain(*[field for field in ("activity_regularizer", "quantization_config") if field in self.config])
        for field, value in self.config.items():
            raise _refused(self.name, f"{field} {_short(value)} has no place in a canvas")
        for argument in self.arguments:
            if argument not in arguments:
                raise _refused(self.name, f"it is called with {argument}, which has no place in a canvas")


def _tensors(name: str, arguments: Any) -> list[str]:
    """The names of the layers whose results are the arguments, in order."""
    found: list[str] = []
    for argument in arguments:
        for tensor in argument if isinstance(argument, list) else [argument]:
            if not isinstance(tensor, dict) or tensor.get("class_name") != "__keras_tensor__":
                raise _refused(name, f"it reads {_short(tensor)}, which is no layer")
            source, node, place = tensor["config"]["keras_history"]
            if node or place:
                raise _refused(name, f"it reads another result of {source!r} than its first")
            found.append(str(source))
    return found


def _nodes(layer: _Layer) -> list[Node]:
    rule = _RULES.get(layer.kind)
    if rule is None:
        raise _refused(layer.name, f"a {layer.kind} has no place in a canvas")
    made = rule(layer)
    layer.end("use_causal_mask" if layer.kind == "MultiHeadAttention" else "")
    return made


def _output(layer: _Layer) -> list[Node]:
    if layer.kind != "Dense":
        raise _refused(layer.name, f"it is an output and a {layer.kind}; a canvas ends with a Dense")
    (node,) = _dense(layer)
    layer.end()
    if node.pop("use_bias") is not True or node.pop("l1") or node.pop("l2"):
        raise _refused(layer.name, "an output of a canvas has a bias and no penalty")
    return [{"kind": "output", "activation": node["activation"], "units": node["units"]}]


def _dense(layer: _Layer) -> list[Node]:
    layer.begins("kernel_initializer", "GlorotUniform")
    layer.begins("bias_initializer", "Zeros")
    penalty = layer.take("kernel_regularizer") or {"class_name": "L1L2", "config": {}}
    if not isinstance(penalty, dict) or penalty.get("class_name") not in ("L1", "L2", "L1L2"):
        raise _refused(layer.name, f"kernel_regularizer {_short(penalty)} has no place in a canvas")
    layer.plain("bias_regularizer", "kernel_constraint", "bias_constraint")
    return [
        {
            "kind": "dense",
            "units": layer.take("units"),
            "activation": layer.activation(),
            "use_bias": layer.take("use_bias", True),
            "l1": float(penalty["config"].get("l1", 0.0)),
            "l2": float(penalty["config"].get("l2", 0.0)),
        }
    ]


def _conv(layer: _Layer) -> list[Node]:
    layer.begins("kernel_initializer", "GlorotUniform")
    layer.begins("bias_initializer", "Zeros")
    layer.plain("kernel_regularizer", "bias_regularizer", "kernel_constraint", "bias_constraint")
    layer.must("use_bias", True)
    layer.must("groups", 1)
    layer.must("data_format", "channels_last", None)
    node = {
        "kind": "conv1d",
        "filters": layer.take("filters"),
        "kernel_size": _one(layer.take("kernel_size")),
        "strides": _one(layer.take("strides", 1)),
        "padding": layer.take("padding", "valid"),
        "dilation": _one(layer.take("dilation_rate", 1)),
    }
    return [node, *_activated(layer.activation())]


def _activated(name: str) -> list[Node]:
    return [] if name == "linear" else [{"kind": "activation", "name": name}]


def _pool(mode: str) -> Callable[[_Layer], list[Node]]:
    def rule(layer: _Layer) -> list[Node]:
        layer.must("data_format", "channels_last", None)
        if mode.startswith("global"):
            layer.must("keepdims", False)
            return [{"kind": "pool1d", "mode": mode}]
        size = _one(layer.take("pool_size", 2))
        layer.must("strides", [size], size, None)
        layer.must("padding", "valid")
        return [{"kind": "pool1d", "mode": mode, "size": size}]

    return rule


def _recurrent(layer: _Layer) -> list[Node]:
    return [{**_state(layer), "bidirectional": False}]


def _state(layer: _Layer, *, backwards: bool = False) -> Node:
    if layer.kind not in ("LSTM", "GRU"):
        raise _refused(layer.name, f"a {layer.kind} has no place in a canvas")
    layer.begins("kernel_initializer", "GlorotUniform")
    layer.begins("recurrent_initializer", "Orthogonal", gain=1.0)
    layer.begins("bias_initializer", "Zeros")
    layer.plain("kernel_regularizer", "recurrent_regularizer", "bias_regularizer")
    layer.plain("kernel_constraint", "recurrent_constraint", "bias_constraint")
    layer.must("activation", "tanh")
    layer.must("recurrent_activation", "sigmoid")
    layer.must("use_bias", True)
    layer.must("recurrent_dropout", 0.0, 0)
    layer.take("zero_output_for_mask")  # nothing in a canvas makes a mask
    for field in ("return_state", "stateful", "unroll"):
        layer.must(field, False)
    layer.must("go_backwards", backwards)
    layer.must("unit_forget_bias" if layer.kind == "LSTM" else "reset_after", True)
    return {
        "kind": layer.kind.lower(),
        "units": layer.take("units"),
        "return_sequences": layer.take("return_sequences", False),
        "dropout": layer.take("dropout", 0.0),
    }


def _bidirectional(layer: _Layer) -> list[Node]:
    layer.must("merge_mode", "concat")
    ways = []
    for field, backwards in (("layer", False), ("backward_layer", True)):
        given = layer.take(field)
        if given is None:
            raise _refused(layer.name, f"{field} is missing")
        inner = _Layer(given)
        ways.append(_state(inner, backwards=backwards))
        inner.end()
    if ways[0] != ways[1]:
        raise _refused(layer.name, "its two directions differ; in a canvas they are alike")
    return [{**ways[0], "bidirectional": True}]


def _attention(layer: _Layer) -> list[Node]:
    if len(layer.sources) not in (2, 3) or len(set(layer.sources)) != 1:
        raise _refused(layer.name, "it does not attend to its own input; in a canvas it does")
    del layer.sources[1:]
    layer.begins("kernel_initializer", "GlorotUniform")
    layer.begins("bias_initializer", "Zeros")
    layer.plain("kernel_regularizer", "bias_regularizer", "kernel_constraint", "bias_constraint", "output_shape")
    layer.must("use_bias", True)
    layer.must("use_gate", False)
    layer.must("attention_axes", None, [1])
    layer.must("sliding_window", None)
    key_dim = layer.take("key_dim")
    layer.must("value_dim", key_dim, None)
    return [
        {
            "kind": "attention",
            "heads": layer.take("num_heads"),
            "key_dim": key_dim,
            "dropout": layer.take("dropout", 0.0),
            "causal": bool(layer.arguments.get("use_causal_mask", False)),
        }
    ]


def _batch_norm(layer: _Layer) -> list[Node]:
    layer.must("renorm", False)
    layer.must("synchronized", False)
    for field in ("renorm_clipping", "renorm_momentum"):
        layer.take(field)
    layer.begins("moving_mean_initializer", "Zeros")
    layer.begins("moving_variance_initializer", "Ones")
    return [{"kind": "batch_norm", "momentum": layer.take("momentum", 0.99), **_scaled(layer)}]


def _layer_norm(layer: _Layer) -> list[Node]:
    layer.must("rms_scaling", False)
    return [{"kind": "layer_norm", **_scaled(layer)}]


def _scaled(layer: _Layer) -> Node:
    layer.must("axis", -1, [-1])
    layer.must("center", True)
    layer.must("scale", True)
    layer.begins("beta_initializer", "Zeros")
    layer.begins("gamma_initializer", "Ones")
    layer.plain("beta_regularizer", "gamma_regularizer", "beta_constraint", "gamma_constraint")
    return {"epsilon": layer.take("epsilon", 0.001)}


def _flatten(layer: _Layer) -> list[Node]:
    layer.must("data_format", "channels_last", None)
    return [{"kind": "flatten"}]


def _dropout(layer: _Layer) -> list[Node]:
    layer.plain("noise_shape")
    return [{"kind": "dropout", "rate": layer.take("rate")}]


def _relu(layer: _Layer) -> list[Node]:
    layer.plain("max_value")
    layer.must("negative_slope", 0.0, 0)
    layer.must("threshold", 0.0, 0)
    return _activated("relu")


def _softmax(layer: _Layer) -> list[Node]:
    layer.must("axis", -1)
    return _activated("softmax")


def _fixed(name: str, field: str, value: float) -> Callable[[_Layer], list[Node]]:
    def rule(layer: _Layer) -> list[Node]:
        layer.must(field, value)
        return _activated(name)

    return rule


def _axis(layer: _Layer) -> int:
    axis = layer.take("axis", -1)
    if type(axis) is not int or axis == 0:
        raise _refused(layer.name, f"axis {_short(axis)} has no place in a canvas")
    return axis - 1 if axis > 0 else axis


_RULES: dict[str, Callable[[_Layer], list[Node]]] = {
    "Dense": _dense,
    "Conv1D": _conv,
    "MaxPooling1D": _pool("max"),
    "AveragePooling1D": _pool("avg"),
    "GlobalMaxPooling1D": _pool("global_max"),
    "GlobalAveragePooling1D": _pool("global_avg"),
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "Bidirectional": _bidirectional,
    "MultiHeadAttention": _attention,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Flatten": _flatten,
    "Dropout": _dropout,
    "GaussianNoise": lambda layer: [{"kind": "gaussian_noise", "stddev": layer.take("stddev")}],
    "Activation": lambda layer: [{"kind": "activation", "name": layer.activation()}],
    "ReLU": _relu,
    "LeakyReLU": _fixed("leaky_relu", "negative_slope", 0.2),
    "ELU": _fixed("elu", "alpha", 1.0),
    "Softmax": _softmax,
    "Reshape": lambda layer: [{"kind": "reshape", "target": list(layer.take("target_shape"))}],
    "Concatenate": lambda layer: [{"kind": "concat", "axis": _axis(layer)}],
    "Add": lambda _: [{"kind": "add"}],
    "Multiply": lambda _: [{"kind": "multiply"}],
    "SelectFields": lambda layer: [{"kind": "select", "columns": layer.take("columns"), "axis": _axis(layer)}],
    "WindowNorm": lambda layer: [{"kind": "window_norm", "mode": layer.take("mode")}],
}


def _ids(names: Sequence[str]) -> dict[str, str]:
    """A node id for each layer: its name in the letters of ids, numbered where two become one."""
    ids: dict[str, str] = {}
    for name in names:
        ids[name] = _free(re.sub(r"[^a-z0-9_-]", "_", name.lower()).lstrip("_-")[:58] or "layer", ids)
    return ids


def _free(wanted: str, ids: dict[str, str]) -> str:
    taken, number, found = set(ids.values()), 2, wanted
    while found in taken:
        found, number = f"{wanted}_{number}", number + 1
    # What stands for no layer is kept under its own name, so that it is not given twice.
    ids.setdefault(f"\0{found}", found)
    return found


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _camel(text: str) -> str:
    return "".join(word.capitalize() for word in text.split("_")) if text.islower() else text


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("class_name", "an object")
    return repr(value)[:60]


def _refused(layer: str, reason: str, *, hint: str | None = None) -> TapelineError:
    return TapelineError(
        f"layer {layer[:60]!r}: {reason}",
        code="unsupported",
        hint=hint or "change the layer, or build this part of the canvas by hand",
        data={"layer": layer[:128]},
    )
