"""The scan of a model's `config.json`: every object on the list, nothing that names a file or code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import prod
from typing import Any

from tapeline.errors import TapelineError
from tapeline.security import layers as allowed
from tapeline.security.depth import is_deeper_than, outside_strings

MAX_JSON_BYTES = 8 * 1024 * 1024
MAX_JSON_DEPTH = 64
MAX_JSON_VALUES = 400_000
MAX_SIZE = 1 << 31

_NAME = re.compile(r"[A-Za-z0-9_.>-]{1,128}")
_DTYPE = re.compile(r"[a-z0-9_]{1,32}")
_OBJECT_FIELDS = frozenset(
    {
        "module",
        "class_name",
        "config",
        "registered_name",
        "build_config",
        "name",
        "inbound_nodes",
        "compile_config",
        "shared_object_id",
    }
)


def refusal(message: str, *, hint: str | None = None) -> TapelineError:
    """A `model_refused` error."""
    return TapelineError(
        message, code="model_refused", hint=hint or "save the model again with layers that are on the list"
    )


@dataclass(frozen=True)
class ModelConfig:
    """What a scanned config says: names of inputs and outputs, layers, and weights by path with shapes."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    weights: dict[str, tuple[int, ...]]
    of_layer: dict[str, tuple[str, ...]]
    """The paths of the weights of each layer that has some, in the order of the layer."""

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(prod(shape) for shape in self.weights.values())


def parsed_json(text: bytes, name: str) -> dict[str, Any]:
    """The object in a JSON member, with its size, depth and amount bounded first."""
    if len(text) > MAX_JSON_BYTES:
        raise refusal(f"{name} has more than {MAX_JSON_BYTES >> 20} MiB")
    structure = outside_strings(text)
    if is_deeper_than(structure, MAX_JSON_DEPTH):
        raise refusal(f"{name.removesuffix('.json')} nested deeper than {MAX_JSON_DEPTH}")
    if structure.count(b",") >= MAX_JSON_VALUES:
        raise refusal(f"{name} holds more than {MAX_JSON_VALUES:,} values")
    try:
        value = json.loads(text)
    except ValueError as error:  # also bytes that are no UTF-8
        raise refusal(f"{name} is no JSON", hint="the archive is damaged") from error
    if not isinstance(value, dict):
        raise refusal(f"{name} is no JSON object", hint="the archive is damaged")
    return value


def scan_config(config: dict[str, Any]) -> ModelConfig:
    """What the config says, when everything in it is allowed.

    Raises
    ------
    TapelineError
        `model_refused`, naming the layer and what is wrong with it.
    """
    kind = config.get("class_name")
    if kind != "Functional":
        hint = allowed.INSTEAD.get(str(kind), "build the model with keras.Model(inputs, outputs)")
        raise refusal(f"the model is a {_short(kind)}, only Functional models are read", hint=hint)
    _check_objects(config)
    try:
        return _structure(config["config"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise refusal(f"config: {type(error).__name__} {str(error)[:100]}", hint="the config is damaged") from error


def _check_objects(config: dict[str, Any]) -> None:
    left: list[tuple[Any, str, str]] = [(config, "", "model")]
    functionals = 0
    while left:
        value, key, layer = left.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                layer = _check_object(value, layer)
                functionals += value["class_name"] == "Functional"
                if functionals > 1:
                    raise refusal(f"layer {layer!r}: a model inside a model is not read")
            for inner_key, inner in value.items():
                if not isinstance(inner, dict | list):
                    _check_scalar(inner_key, inner, layer)
                left.append((inner, inner_key, layer))
        elif isinstance(value, list):
            for inner in value:
                if not isinstance(inner, dict | list):
                    _check_scalar(key, inner, layer)
                left.append((inner, key, layer))


def _check_object(value: dict[str, Any], layer: str) -> str:
    """The name of the layer that an object belongs to, when its class may be loaded."""
    name, module, registered = value["class_name"], value.get("module"), value.get("registered_name")
    if name == "__keras_tensor__":
        if set(value) != {"class_name", "config"}:
            raise refusal(f"layer {layer!r}: a tensor with unknown fields")
        return layer
    inner = value.get("config")
    own = value.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
    where = own if isinstance(own, str) and name not in allowed.INITIALIZERS else layer
    if not isinstance(name, str) or name not in allowed.CLASSES:
        hint = allowed.INSTEAD.get(str(name))
        more = f"; {hint}" if hint else ""
        raise refusal(f"layer {_short(where)} ({_short(name, quoted=False)}) cannot be loaded{more}", hint=hint)
    if module not in allowed.CLASSES[name]:
        raise refusal(f"layer {_short(where)} ({name}): module {_short(module)} is not known")
    expected = f"tapeline>{name}" if name in allowed.OWN_LAYERS else name
    if (registered is not None and registered != expected) or (registered is None and name in allowed.OWN_LAYERS):
        raise refusal(f"layer {_short(where)} ({name}): registered name {_short(registered)} does not agree")
    unknown = set(value) - _OBJECT_FIELDS
    if unknown or not isinstance(inner, dict):
        what = f"field {_short(min(unknown))} is not known" if unknown else "there is no config"
        raise refusal(f"layer {_short(where)} ({name}): {what}")
    for text in (value.get("name"), inner.get("name")):
        if text is not None and (not isinstance(text, str) or not _NAME.fullmatch(text) or ".." in text):
            raise refusal(f"layer {_short(text)}: the name is not allowed", hint="letters, digits, '_', '-', '.'")
    return str(where)


def _check_scalar(key: str, value: Any, layer: str) -> None:
    if isinstance(value, str):
        if key in allowed.PLACES:
            raise refusal(f"layer {layer!r}: field {key!r} may not name a file")
        if key.endswith("activation") and value not in allowed.ACTIVATIONS:
            raise refusal(f"layer {layer!r}: activation {_short(value)} is not known")
        for ending, known in (
            ("_initializer", allowed.INITIALIZERS),
            ("_regularizer", allowed.REGULARIZERS),
            ("_constraint", allowed.CONSTRAINTS),
        ):
            plain = {name.lower() for name in known}
            if key.endswith(ending) and value.replace("_", "").lower() not in plain:
                raise refusal(f"layer {layer!r}: {key} {_short(value)} is not known")
        if key == "dtype" and not _DTYPE.fullmatch(value):
            raise refusal(f"layer {layer!r}: dtype {_short(value)} is not known")
        if len(value) > 256:
            raise refusal(f"layer {layer!r}: field {_short(key)} has a text of {len(value):,} characters")
    elif isinstance(value, int) and key not in ("shared_object_id", "seed") and abs(value) > MAX_SIZE:
        raise refusal(f"layer {layer!r}: {key} {_short(value)} is too large")


def _structure(config: dict[str, Any]) -> ModelConfig:
    names: list[str] = []
    weights: dict[str, tuple[int, ...]] = {}
    of_layer: dict[str, tuple[str, ...]] = {}
    used: dict[str, int] = {}
    for layer in config["layers"]:
        kind, name = layer["class_name"], layer["config"]["name"]
        if name != layer.get("name", name) or name in names:
            raise ValueError(f"layer name {name!r} is used twice")
        names.append(name)
        # Keras files weights under the class name in snake case, numbered from the second on.
        stem = _snake(kind)
        used[stem] = used.get(stem, -1) + 1
        group = f"{stem}_{used[stem]}" if used[stem] else stem
        if kind in allowed.WEIGHTED:
            found = allowed.WEIGHTED[kind](layer["config"], _built_shape(layer))
            weights |= {f"/layers/{group}/{path}": shape for path, shape in found.items()}
            of_layer[name] = tuple(f"/layers/{group}/{path}" for path in found)
        elif kind not in allowed.WEIGHTLESS and kind not in allowed.OWN_LAYERS:
            raise ValueError(f"{kind} is no layer")
    return ModelConfig(_ends(config["input_layers"]), _ends(config["output_layers"]), tuple(names), weights, of_layer)


def _built_shape(layer: dict[str, Any]) -> tuple[int, ...]:
    """The input shape that a layer is built with; the batch axis and open axes count as 0."""
    build = layer.get("build_config") or {}
    shape = build.get("input_shape")
    if shape is None:
        shapes = build.get("shapes_dict") or {}
        shape = shapes.get("query_shape") or shapes.get("input_shape")
    if not isinstance(shape, list) or not 2 <= len(shape) <= 8:
        raise ValueError(f"layer {layer['config']['name']!r} has no input shape")
    if any(size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0) for size in shape):
        raise ValueError(f"layer {layer['config']['name']!r} has a wrong input shape")
    return tuple(size or 0 for size in shape)


def _ends(value: Any) -> tuple[str, ...]:
    """Names of the layers at an end of the model: one `[name, 0, 0]` or a list or dict of them."""
    if isinstance(value, dict):
        value = list(value.values())
    ends = [value] if value and isinstance(value[0], str) else value
    return tuple(str(end[0]) for end in ends)


def _snake(name: str) -> str:
    """The name in snake case, as Keras makes it."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _short(value: object, *, quoted: bool = True) -> str:
    text = str(value)[:60]
    return repr(text) if quoted else text
