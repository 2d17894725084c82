"""What is wrong with a canvas: node, field, code, place in the user's JSON, sentence and remedy."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from tapeline.canvas.limits import SCHEMA
from tapeline.canvas.model import NODE_TYPES, kind_of

LONGEST, CLOSELY = 128, 6
KINDS = {kind_of(node_type): node_type for node_type in NODE_TYPES}


@dataclass(frozen=True)
class Fault:
    """One error or warning; `pointer` is RFC 6901 into the JSON that was given."""

    node: str | None
    field: str | None
    code: str
    pointer: str
    message: str
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fault as a reply carries it."""
        return asdict(self)


def pointer_to(*steps: str | int) -> str:
    """The RFC 6901 pointer with these steps.

    Examples
    --------
    >>> pointer_to("nodes", 3, "a/b")
    '/nodes/3/a~1b'
    """
    return "".join([f"/{step}" if isinstance(step, int) else "/" + _escaped(step) for step in steps])


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1") if "~" in step or "/" in step else step


class Nearest:
    """Near matches of misspelt names, as many as a fixed amount of comparing allows.

    A canvas may hold hundreds of errors against hundreds of names; the amount keeps the answer quick.
    """

    def __init__(self, comparisons: int = 600) -> None:
        self._left = comparisons

    def __call__(self, name: object, candidates: Collection[str], *, many: int = 3) -> str | None:
        """`did you mean 'x' or 'y'?`, or None when nothing is near."""
        if not isinstance(name, str) or len(name) > LONGEST or len(candidates) > self._left:
            return None
        self._left -= len(candidates)
        near = difflib.get_close_matches(name, _alike(name, candidates), n=many, cutoff=0.6)
        return f"did you mean {' or '.join(repr(match) for match in near)}?" if near else None


def _alike(name: str, candidates: Collection[str]) -> list[str]:
    """The few candidates that share most pairs of characters: comparing closely is dear, and dearest where all fit."""
    pairs = _pairs(name)

    def shared(candidate: str) -> float:
        others = _pairs(candidate)
        return len(pairs & others) / (len(pairs) + len(others))

    known = [candidate for candidate in candidates if len(candidate) <= LONGEST]
    return known if len(known) <= CLOSELY else heapq.nlargest(CLOSELY, known, key=shared)


def _pairs(text: str) -> set[tuple[str, str]]:
    return set(pairwise(f"\0{text}\0"))


_CODES = {
    "greater_than_equal": "greater_than",
    "less_than_equal": "less_than",
    "union_tag_invalid": "unknown_kind",
    "union_tag_not_found": "missing",
    "string_pattern_mismatch": "invalid_id",
    "literal_error": "unknown_value",
    "too_short": "too_few",
    "too_long": "too_many",
    "finite_number": "not_finite",
    "string_too_long": "too_long",
    "extra_forbidden": "unknown_field",
}

_FIELD_HINTS = {
    "dropout": "use a share such as 0.2",
    "rate": "use a share such as 0.2",
    "units": "use a whole number from 1 to 65536, or a list of them",
    "filters": "use a whole number from 1 to 65536",
    "class_weighting": "use a number from 0 to 1",
    "label_index": "use the number of the label's column, from 0",
    "id": "use lower-case letters, digits, '_' and '-', at most 63",
    "inputs": "name other nodes by their id",
    "schema": f'use "{SCHEMA}"',
}


def faults_of(error: ValidationError, content: Any, nearest: Nearest, *, most: int) -> list[Fault]:
    """What the models refused, each with its place in the content that was given.

    Parameters
    ----------
    error : pydantic.ValidationError
        Of `Canvas`.
    content : Any
        The parsed JSON that was given.
    nearest : Nearest
        Finds what a misspelt field may have meant.
    most : int
        How many faults are told at most.
    """
    nodes = content.get("nodes") if isinstance(content, dict) else None
    faults: dict[tuple[str, str], Fault] = {}
    others: set[tuple[str, str]] = set()
    for detail in error.errors(include_url=False, include_context=True):
        if len(faults) >= most:
            break
        location = list(detail["loc"])
        holder = None
        if len(location) > 1 and location[0] == "nodes" and isinstance(nodes, list) and isinstance(location[1], int):
            candidate = nodes[location[1]]
            holder = candidate if isinstance(candidate, dict) else None
            # The tag of the union is no step of the user's JSON.
            if len(location) > 2 and holder is not None and location[2] == holder.get("kind"):
                del location[2]
        steps = _resolve(location, content)
        fault = _fault(detail, steps, location, holder, nearest, content)
        place = (fault.pointer, fault.field or "")
        # A field that may be one of two types is refused once for each: told is the one of the type that was given.
        if place not in faults or place in others:
            faults[place] = fault
        if isinstance(detail["input"], list) and detail["type"] in ("int_type", "model_type"):
            others.add(place)
        else:
            others.discard(place)
    inner = {pointer.rpartition("/")[0] for pointer, _ in faults}
    return [fault for place, fault in faults.items() if place not in others or fault.pointer not in inner]


def _resolve(location: Sequence[str | int], content: Any) -> list[str | int]:
    """The steps of a location that exist in the content: names of union branches fall out."""
    steps: list[str | int] = []
    at: Any = content
    for step in location:
        if _has(at, step):
            steps.append(step)
            at = at[step]
    return steps


def _at(content: Any, steps: Sequence[str | int]) -> Any:
    for step in steps:
        content = content[step]
    return content


def _has(value: object, step: str | int) -> bool:
    if isinstance(value, dict):
        return step in value
    return isinstance(value, list) and step in range(len(value))


def _fault(
    detail: Any,
    steps: list[str | int],
    location: Sequence[str | int],
    holder: dict[str, Any] | None,
    nearest: Nearest,
    content: Any,
) -> Fault:
    kind = detail["type"]
    code = str(_CODES.get(kind, kind))
    node = holder.get("id") if holder is not None and isinstance(holder.get("id"), str) else None
    base = 2 if holder is not None else 0
    field = next((str(step) for step in location[base:] if isinstance(step, str)), None)
    hint = _FIELD_HINTS.get(field or "")
    given = _short(detail.get("input"))
    context = detail.get("ctx") or {}
    name = ".".join(str(step) for step in steps[base:]) or field or "canvas"
    match kind:
        case "missing":
            message = f"{field} is missing"
        case "union_tag_not_found":
            field, message = "kind", "kind is missing"
            hint = f"one of {', '.join(KINDS)}"
        case "union_tag_invalid":
            field, steps = "kind", [*steps, "kind"]
            tag = str(context.get("tag", ""))
            message = f"kind {_short(tag)} is not known"
            hint = nearest(tag, KINDS) or f"one of {', '.join(KINDS)}"
        case "extra_forbidden":
            wrong = str(location[-1])
            node_type = KINDS.get(str((holder or {}).get("kind")))
            known = _known_fields(node_type, location, base)
            field = wrong
            message = f"field {_short(wrong)} is not known" + (f" to {holder['kind']}" if holder and node_type else "")
            hint = nearest(wrong, known) or f"fields are: {', '.join(known)}"
        case "greater_than" | "less_than" | "greater_than_equal" | "less_than_equal":
            words = {
                "greater_than": ("above", "gt"),
                "less_than": ("below", "lt"),
                "greater_than_equal": ("at least", "ge"),
                "less_than_equal": ("at most", "le"),
            }
            word, key = words[kind]
            message = f"{name} must be {word} {_number(context[key])}, got {given}"
        case "literal_error":
            message = f"{name} {given} is not known; {name} is {context['expected']}"
            expected = str(context["expected"]).replace(" or ", ", ").split(", ")
            hint = nearest(detail.get("input"), [value.strip("'") for value in expected]) or hint
        case "string_pattern_mismatch":
            message = f"{name} {given} is no id"
            hint = _FIELD_HINTS["id"]
        case "too_short" | "too_long":
            bound = context.get("min_length") if kind == "too_short" else context.get("max_length")
            word = "at least" if kind == "too_short" else "at most"
            # What the models saw may have been cut; a text they count in characters.
            entries = _at(content, steps)
            count = len(entries) if isinstance(entries, list) else context.get("actual_length")
            message = f"{name} has {count} entries, needs {word} {bound}"
        case "invalid_name":
            message = str(detail["msg"])
        case _:
            message = f"{name}: {str(detail['msg'])[0].lower()}{str(detail['msg'])[1:]}, got {given}"
    return Fault(node, field, code, pointer_to(*steps), message, hint)


def _known_fields(node_type: Any, location: Sequence[str | int], base: int) -> list[str]:
    if node_type is not None and len(location) == base + 1:
        return list(node_type.model_fields)
    if base and len(location) > base + 1:
        return ["start", "stop", "step"]
    return ["schema", "name", "nodes", "training", "ui", "notes"]


def _short(value: Any) -> str:
    """A value for a message: its JSON-like text, cut to 60 characters."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    # repr of a huge int is refused by the interpreter, and of a long text is long.
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return "a number of more than 77 digits"
    text = repr(value) if not isinstance(value, str) else repr(value[:64])
    return text if len(text) <= 60 else text[:57] + "..."


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
