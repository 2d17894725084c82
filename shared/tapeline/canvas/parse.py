"""From what a user gave to parsed JSON, with its size, depth and amount bounded before it is parsed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from tapeline.canvas.limits import MAX_BYTES, MAX_DEPTH, MAX_TEXT, MAX_VALUES
from tapeline.errors import TapelineError
from tapeline.security.depth import is_deeper_than, outside_strings

_SURROGATE = re.compile("[\ud800-\udfff]")


def parsed(content: str | bytes | Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object that was given, as text or already parsed.

    Raises
    ------
    TapelineError
        `canvas_too_large`, `canvas_too_deep`, or `canvas_invalid` for what is no JSON object.
        `data["pointer"]` says where, as far as that can be known.
    """
    if isinstance(content, Mapping):
        content = _text_of(content)
    text = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    if len(text) > MAX_BYTES:
        raise _refusal("canvas_too_large", f"the canvas has {len(text):,} bytes, the limit is {MAX_BYTES:,}")
    structure = outside_strings(text)
    if is_deeper_than(structure, MAX_DEPTH):
        raise _refusal("canvas_too_deep", f"the canvas nests deeper than {MAX_DEPTH}")
    if structure.count(b",") >= MAX_VALUES:
        raise _refusal("canvas_too_large", f"the canvas holds more than {MAX_VALUES:,} values")
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _refusal("canvas_invalid", f"byte {error.start} is no UTF-8") from error
    except json.JSONDecodeError as error:
        raise _refusal(
            "canvas_invalid", f"line {error.lineno}, column {error.colno}: {error.msg}", hint="the text is no JSON"
        ) from error
    except ValueError as error:  # a constant such as NaN, or an integer of more than 4300 digits
        raise _refusal("canvas_invalid", f"a number is not allowed: {str(error)[:80]}") from error
    if not isinstance(value, dict):
        raise _refusal("canvas_invalid", "a canvas is a JSON object", hint='{"schema": ..., "nodes": [...]}')
    return value


def stray_values(value: Any, *steps: str | int, most: int) -> list[tuple[tuple[str | int, ...], str]]:
    """Texts that are too long or hold lone surrogates, and numbers that are not finite: so many, with their places."""
    if not _has_stray(value):
        return []
    found: list[tuple[tuple[str | int, ...], str]] = []
    left: list[Iterator[tuple[tuple[str | int, ...], Any]]] = [iter([(steps, value)])]
    while left and len(found) < most:
        at = next(left[-1], None)
        if at is None:
            left.pop()
            continue
        place, item = at
        match item:
            case str() if problem := _text_problem(item):
                found.append((place, problem))
            case float() if not math.isfinite(item):
                found.append((place, "number is not finite"))
            case dict():
                wrong = ((place, f"key: {problem}") for key in item if (problem := _text_problem(key)))
                found.extend(islice(wrong, most))
                left.append((((*place, key), inner) for key, inner in item.items() if not _text_problem(key)))
            case list():
                left.append((((*place, i), inner) for i, inner in enumerate(item)))
            case _:
                pass
    return found[:most]


def _has_stray(value: Any) -> bool:
    """Whether there is anything to find, without keeping track of places: most often there is not."""
    left = [value]
    while left:
        item = left.pop()
        inner: Collection[Any]
        if isinstance(item, str):
            if _text_problem(item):
                return True
            continue
        if isinstance(item, dict):
            # Keys are looked at together: there may be tens of thousands of them.
            is_odd = item and (max(map(len, item)) > MAX_TEXT or not "".join(item).isascii())
            if is_odd and any(map(_text_problem, item)):
                return True
            inner = item.values()
        elif isinstance(item, list):
            inner = item
        else:
            inner = (item,)
        if not all(map(math.isfinite, [each for each in inner if type(each) is float])):
            return True
        left += [each for each in inner if type(each) in (str, dict, list)]
    return False


def _text_problem(text: str) -> str | None:
    if len(text) > MAX_TEXT:
        return f"text of {len(text)} characters, the limit is {MAX_TEXT}"
    if not text.isascii() and _SURROGATE.search(text):
        return "text holds half of a character (a lone surrogate)"
    return None


def _text_of(content: Mapping[str, Any]) -> bytes:
    """The JSON text of a parsed value, walked first so that neither depth nor amount can hurt."""
    amount = 0
    level: list[Any] = [content]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            amount += len(item)
            if amount > MAX_VALUES:
                raise _refusal("canvas_too_large", f"the canvas holds more than {MAX_VALUES:,} values")
            values = item.values() if isinstance(item, Mapping) else item
            inner.extend(value for value in values if isinstance(value, Mapping | list | tuple))
        level = inner
        if not level:
            break
    else:
        raise _refusal("canvas_too_deep", f"the canvas nests deeper than {MAX_DEPTH}")
    try:
        return json.dumps(content, default=_no_json).encode()
    except (TypeError, ValueError) as error:
        raise _refusal("canvas_invalid", f"the canvas is no JSON: {str(error)[:120]}") from error


def _no_json(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _refusal(code: str, message: str, *, hint: str | None = None) -> TapelineError:
    hints = {
        "canvas_too_large": "split the network, or shorten notes and ui",
        "canvas_too_deep": "flatten ui and training",
    }
    return TapelineError(message, code=code, hint=hint or hints.get(code), data={"pointer": ""})
