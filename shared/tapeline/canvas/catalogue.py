"""The components that a canvas can be made of, as plain dicts, without Keras."""

from __future__ import annotations

from typing import Any

from tapeline.canvas.model import NODE_TYPES, NodeBase, kind_of

_COMMON = frozenset({"id", "kind", "inputs", "notes"})


def get_available_components() -> list[dict[str, Any]]:
    """Each component as `{type, title, category, inputs, params, doc}`, by category and type.

    Returns
    -------
    list of dict
        `type` is a node's `kind`, `inputs` how many it takes as `{min, max}`, `params` the JSON Schema of
        its parameters with their defaults.

    Examples
    --------
    >>> [c["type"] for c in get_available_components() if c["category"] == "core"]
    ['activation', 'dense']
    """
    found = [_component(node_type) for node_type in NODE_TYPES]
    return sorted(found, key=lambda component: (component["category"], component["type"]))


def _component(node_type: type[NodeBase]) -> dict[str, Any]:
    schema = node_type.model_json_schema(by_alias=True)
    properties = {name: field for name, field in schema["properties"].items() if name not in _COMMON}
    params: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": [name for name in schema.get("required", ()) if name in properties],
        "additionalProperties": False,
    }
    if "$defs" in schema:
        params["$defs"] = schema["$defs"]
    return {
        "type": kind_of(node_type),
        "title": node_type.title,
        "category": node_type.category,
        "inputs": {"min": node_type.min_inputs, "max": node_type.max_inputs},
        "params": params,
        "doc": (node_type.__doc__ or "").strip(),
    }
