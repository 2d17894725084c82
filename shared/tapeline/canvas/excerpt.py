"""As much of a canvas as its models need to see, to say what is wrong with it: they would count every fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tapeline.canvas.faults import KINDS
from tapeline.canvas.limits import MAX_COLUMNS, MAX_FAULTS
from tapeline.canvas.model import Canvas, Node

_MOST = 64
"""Entries that any list but `columns` may have."""
_MANY = 4096
"""Entries of all nodes together from which on they are looked at one by one, until there are faults enough."""
_NODE_FIELDS = frozenset(name for node_type in KINDS.values() for name in node_type.model_fields)
_FIELDS = frozenset(field.alias or name for name, field in Canvas.model_fields.items())
_NODE: TypeAdapter[Any] = TypeAdapter(Node)


def excerpt(value: Mapping[str, Any]) -> dict[str, Any]:
    """The canvas, its lists cut after the entry that is too many, and left where there are faults enough to tell.

    Every place in it is a place in the canvas, and it is refused where the canvas is.
    """
    cut = _some_of(value, _FIELDS)
    nodes = cut.get("nodes")
    if isinstance(nodes, list):
        few = [_of_node(node) if isinstance(node, dict) else node for node in nodes]
        cut["nodes"] = few if sum(map(_entries, few)) <= _MANY else _up_to_enough(few)
    return cut


def _of_node(node: dict[str, Any]) -> dict[str, Any]:
    cut = _some_of(node, _NODE_FIELDS) if len(node) > _MOST else node
    for field, given in cut.items():
        if isinstance(given, list | dict) and len(given) > _MOST:
            most = MAX_COLUMNS if field == "columns" and isinstance(given, list) else _MOST
            cut = cut | {field: given[: most + 1] if isinstance(given, list) else _some_of(given, frozenset())}
    return cut


def _some_of(value: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The known fields, and so many others that not all of them can be told of."""
    if len(value) <= _MOST:
        return dict(value)
    others = [key for key in value if key not in known][: MAX_FAULTS + 1]
    return {key: given for key, given in value.items() if key in known} | {key: value[key] for key in others}


def _entries(node: Any) -> int:
    if not isinstance(node, dict):
        return 1
    return len(node) + sum([len(given) for given in node.values() if isinstance(given, list | dict)])


def sound_nodes(nodes: Iterable[Any]) -> Iterator[tuple[int, Node]]:
    """The nodes of which every field is right, with their places, whatever the others are."""
    for i, node in enumerate(nodes):
        try:
            yield i, _NODE.validate_python(node)
        except ValidationError:
            continue  # its faults are told with those of the canvas


def _up_to_enough(nodes: list[Any]) -> list[Any]:
    """The first nodes, of which there are as many faults as are told."""
    found = 0
    for i, node in enumerate(nodes):
        try:
            _NODE.validate_python(node)
        except ValidationError as error:
            found += error.error_count()
            if found > 2 * MAX_FAULTS:  # a value that may be of two types has two
                return nodes[: i + 1]
    return nodes
