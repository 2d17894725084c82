"""Canonical JSON of a canvas, the digests made from it, and the rendered form that a run keeps."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any

from tapeline.canvas.model import Canvas


def canonical_json(value: Any) -> bytes:
    """The one text of a JSON value: sorted keys, no blanks, strings in NFC, shortest form of floats.

    Examples
    --------
    >>> canonical_json({"b": 1.5, "a": [True, None]})
    b'{"a":[true,null],"b":1.5}'
    """
    text = _text(value)
    # Every part of a text in NFC is in NFC: most often nothing is to be done.
    return (text if unicodedata.is_normalized("NFC", text) else _text(_normal(value))).encode()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(canvas: Canvas) -> str:
    """SHA-256 of what the canvas says: nodes in order of id, and training; neither `ui`, names nor notes.

    Notes
    -----
    A field that holds its default counts as left out, so that spelling a default changes nothing and a
    later field with a default leaves digests as they are. Inside a node, the order of `inputs`,
    `features` and `columns` has a meaning and is kept.
    """
    content = {"schema": canvas.schema_, "nodes": _nodes(canvas), "training": canvas.training}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def model_digest(canvas: Canvas) -> str:
    """SHA-256 of the nodes alone, which is what weights depend on."""
    return hashlib.sha256(canonical_json(_nodes(canvas))).hexdigest()


def rendered(canvas: Canvas) -> dict[str, Any]:
    """The canvas as JSON with every default filled in."""
    return canvas.model_dump(mode="json", by_alias=True)


def _nodes(canvas: Canvas) -> list[dict[str, Any]]:
    nodes = [node.model_dump(mode="json", exclude_defaults=True, exclude={"notes"}) for node in canvas.nodes]
    return sorted(nodes, key=lambda node: str(node["id"]))


def _normal(value: Any) -> Any:
    # Recursion is safe here: what comes from users is at most 32 deep.
    match value:
        case str():
            return unicodedata.normalize("NFC", value)
        case dict():
            return {unicodedata.normalize("NFC", str(key)): _normal(item) for key, item in value.items()}
        case list() | tuple():
            return [_normal(item) for item in value]
        case _:
            return value
