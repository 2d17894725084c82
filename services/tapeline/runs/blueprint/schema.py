"""The JSON Schema that a blueprint brings along: what is refused, and what it is checked with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from tapeline.contracts.blueprints import MAX_SCHEMA_BYTES
from tapeline.errors import TapelineError

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_DEPTH = 32
MAX_PATTERN = 256
_UNSUPPORTED = ("patternProperties", "$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems")
_REFERENCES = ("$ref", "$id", "$schema")


def checked(schema: dict[str, Any]) -> None:
    """Refuse a schema that is not one, or that could reach or take more than it should.

    Raises
    ------
    TapelineError
        `too_large` beyond 256 KiB; `invalid` with the place of what is wrong.
    """
    size = len(json.dumps(schema, ensure_ascii=False).encode())
    if size > MAX_SCHEMA_BYTES:
        raise TapelineError(
            f"the schema is {size // 1024} KiB; the limit is {MAX_SCHEMA_BYTES // 1024} KiB",
            code="too_large",
            hint="leave examples and descriptions out",
        )
    for path, at in _objects(schema):
        _check_object(path, at)
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
        next(validator(schema).iter_errors({}), None)
    except SchemaError as error:
        raise _invalid(list(error.absolute_path), error.message[:300]) from error
    except RecursionError as error:
        raise _invalid([], "it refers to itself without end", hint="break the circle of $ref") from error
    except Exception as error:
        # What a reference that leads nowhere raises is the library's own.
        raise _invalid([], f"it cannot be used: {error!r}"[:300]) from error
    if schema.get("type") != "object":
        raise _invalid([], "the config of a run is an object", hint='set "type": "object"')


def _objects(schema: dict[str, Any]) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    stack: list[tuple[list[Any], Any]] = [([], schema)]
    while stack:
        path, at = stack.pop()
        if len(path) > MAX_DEPTH:
            raise _invalid(path, f"nested deeper than {MAX_DEPTH}")
        if isinstance(at, dict):
            yield path, at
            stack += [([*path, key], each) for key, each in at.items()]
        elif isinstance(at, list):
            stack += [([*path, i], each) for i, each in enumerate(at)]


def _check_object(path: list[Any], at: dict[str, Any]) -> None:
    if path and path[-1] in ("properties", "$defs", "default", "const", "enum", "examples"):
        # Its keys are names of properties or data, not words of the language.
        return
    for word in _UNSUPPORTED:
        if word in at:
            raise _invalid([*path, word], "is not supported", hint="name each property")
    for word in _REFERENCES:
        given = at.get(word)
        if isinstance(given, str) and not given.startswith("#") and word == "$ref":
            raise _invalid([*path, word], f"{given[:80]!r} is not inside the schema", hint="refer to #/$defs/...")
    if "$id" in at and path:
        raise _invalid([*path, "$id"], "changes what references mean", hint="leave it out")
    pattern = at.get("pattern")
    if isinstance(pattern, str):
        if len(pattern) > MAX_PATTERN:
            raise _invalid([*path, "pattern"], f"has {len(pattern)} characters; the limit is {MAX_PATTERN}")
        _compiled(pattern, [*path, "pattern"])


def _compiled(pattern: str, path: list[Any]) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise _invalid(path, f"{pattern!r} is not a pattern that is read in linear time: {error}") from error


def _invalid(path: list[Any], message: str, *, hint: str | None = None) -> TapelineError:
    place = ".".join(str(step) for step in path) or "the schema"
    faults = [{"path": path, "message": message, "value": None, "hint": hint}]
    return TapelineError(
        f"{place}: {message}",
        code="invalid",
        hint=hint or "write it as JSON Schema 2020-12",
        data={"errors": faults},
    )


def validator(schema: dict[str, Any]) -> Validator:
    """What checks configs by a schema; its patterns take time that is linear in the text."""
    # The text of a schema is made in microseconds, what checks by it in a hundred.
    return _made(json.dumps(schema))


@lru_cache(maxsize=256)
def _made(text: str) -> Validator:
    schema = json.loads(text)
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend

    if '"pattern"' not in text:
        return Draft202012Validator(schema)

    def pattern(_validator: Any, wanted: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not _compiled(wanted, ["pattern"]).search(instance):
            yield ValidationError(f"{instance[:80]!r} does not match {wanted!r}")

    return cast("Validator", cast(Any, extend)(Draft202012Validator, {"pattern": pattern})(schema))
