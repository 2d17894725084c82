"""Run configs against a blueprint's schema: every fault with its place, and the defaults filled in."""

from __future__ import annotations

import difflib
import json
import math
from typing import TYPE_CHECKING, Any

from tapeline.errors import TapelineError
from tapeline.runs.blueprint.builtin import Blueprint
from tapeline.runs.blueprint.schema import MAX_DEPTH, validator

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError as SchemaError

MAX_CONFIG_BYTES = 512 * 1024
MAX_FAULTS = 100


def checked(blueprint: Blueprint, config: dict[str, Any]) -> None:
    """Refuse a config that does not fit, with all its faults as `{path, message, value, hint}`.

    Raises
    ------
    TapelineError
        `too_large` beyond 512 KiB, else `invalid` with `data["errors"]`.
    """
    size = len(json.dumps(config, ensure_ascii=False).encode())
    if size > MAX_CONFIG_BYTES:
        raise TapelineError(
            f"the config is {size // 1024} KiB; the limit is {MAX_CONFIG_BYTES // 1024} KiB", code="too_large"
        )
    faults = _not_finite(config, [])
    try:
        found = list(validator(blueprint.config_schema).iter_errors(config))
    except RecursionError as error:
        raise TapelineError(
            f"the schema of blueprint {blueprint.name!r} refers to itself without end",
            code="invalid",
            hint="register a version of it that does not",
        ) from error
    for fault in sorted(found, key=lambda each: [str(step) for step in each.absolute_path]):
        faults += _faults(fault)
    if faults:
        first = faults[0]
        place = ".".join(str(step) for step in first["path"]) or "config"
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise TapelineError(
            f"{place}: {first['message']}{more}",
            code="invalid",
            hint=first["hint"],
            data={"errors": faults[:MAX_FAULTS]},
        )


def _not_finite(value: Any, path: list[str | int]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    stack: list[tuple[Any, list[str | int]]] = [(value, path)]
    while stack:
        at, steps = stack.pop()
        if len(steps) > MAX_DEPTH:
            found.append({"path": steps, "message": f"is nested deeper than {MAX_DEPTH}", "value": None, "hint": None})
            break
        if isinstance(at, dict):
            stack += [(item, [*steps, key]) for key, item in at.items()]
        elif isinstance(at, list):
            stack += [(item, [*steps, i]) for i, item in enumerate(at)]
        elif isinstance(at, float) and not math.isfinite(at):
            found.append({"path": steps, "message": "is not a finite number", "value": repr(at), "hint": None})
    return found


def _faults(error: SchemaError) -> list[dict[str, Any]]:
    path = list(error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", {})) if isinstance(error.schema, dict) else []
        return [
            {
                "path": [*path, key],
                "message": f"{key!r} is not known",
                "value": _short(error.instance[key]),
                "hint": near(key, known),
            }
            for key in error.instance
            if key not in known
        ]
    if error.validator == "required" and isinstance(error.instance, dict):
        missing = error.message.split("'")[1] if "'" in error.message else error.message
        return [{"path": [*path, missing], "message": "is missing", "value": None, "hint": f"give {missing}"}]
    hint = None
    if error.validator == "enum" and isinstance(error.validator_value, list):
        hint = f"one of {', '.join(json.dumps(value) for value in error.validator_value)}"
    return [{"path": path, "message": error.message[:400], "value": _short(error.instance), "hint": hint}]


def near(name: str, known: list[str], what: str = "known are") -> str:
    """What was probably meant, or all that there is."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if found:
        return f"did you mean {found[0]!r}?"
    return f"{what}: {', '.join(sorted(known)[:50])}" if known else f"{what}: none"


def _short(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | None) else repr(value)[:200]


def rendered(schema: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The config with every default of its schema filled in, also inside objects; nothing is shared."""
    full: dict[str, Any] = json.loads(json.dumps(config))
    for key, part in schema.get("properties", {}).items():
        if key not in full and "default" in part:
            full[key] = json.loads(json.dumps(part["default"]))
        if isinstance(full.get(key), dict):
            for branch in (part, *part.get("anyOf", [])):
                if branch.get("type") == "object" and "properties" in branch:
                    full[key] = rendered(branch, full[key])
    return full
