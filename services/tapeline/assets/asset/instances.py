"""Features and labels by name or spelled out: each part looked up, and refused with its place and a near match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pydantic

from tapeline.assets.component import Component, FeatureSpec, Instance, LabelParams
from tapeline.assets.components import BUILT_IN, Registry, newest, of_version
from tapeline.errors import TapelineError
from tapeline.security.names import feature_name

Known = Mapping[str, Mapping[str, Any]]
"""Features and labels by name, spelled out."""


def refusal(code: str, pointer: str, message: str, hint: str | None = None, value: Any = None) -> TapelineError:
    """A refused field of a spec, with its JSON pointer."""
    path = [int(step) if step.isdecimal() else step for step in pointer.split("/")[1:]]
    return TapelineError(
        f"{pointer or 'spec'}: {message}",
        code=code,
        hint=hint,
        data={"errors": [{"path": path, "pointer": pointer, "message": message, "value": value, "hint": hint}]},
    )


_BOUNDS = {
    "greater_than": ("above", "gt"),
    "less_than": ("below", "lt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
}


def sentence(fault: Any, what: str, known: Iterable[str]) -> tuple[str, str]:
    """What a model refused, for people: a sentence and a remedy.

    Parameters
    ----------
    fault : one of the errors of a `ValidationError`, with its context
    what : what the field is called where there is no such one
    known : the fields that there are
    """
    kind, context = fault["type"], fault.get("ctx") or {}
    name = str(fault["loc"][-1]) if fault["loc"] else "the spec"
    given = repr(fault.get("input"))
    given = given if len(given) <= 60 else f"{given[:57]}..."
    fields = sorted(known)
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"{name} must be {word} {context[key]:g}, got {given}", f"use a number {word} {context[key]:g}"
    match kind:
        case "missing":
            return f"{name} is missing", f"give {name}: it has no default"
        case "extra_forbidden":
            return f"there is no {what} {name!r}", near(name, fields) or f"there are {', '.join(fields)}"
        case "literal_error":
            return f"{name} must be {context['expected']}, got {given}", f"use {context['expected']}"
        case "union_tag_invalid":
            tag, expected = str(context["tag"]), str(context["expected_tags"])
            hint = near(tag, [each.strip(" '") for each in expected.split(",")]) or f"use one of {expected}"
            return f"kind must be one of {expected}, got {tag[:60]!r}", hint
        case "too_short" | "too_long":
            least = context.get("min_length") if kind == "too_short" else context.get("max_length")
            word = "at least" if kind == "too_short" else "at most"
            return f"{name} has {context.get('actual_length')} entries, needs {word} {least}", f"name {word} {least}"
        case "date_from_datetime_parsing" | "date_parsing" | "date_type" | "date_from_datetime_inexact":
            return f"{given} is no date", "write YYYY-MM-DD, as 2013-10-07"
        case "string_pattern_mismatch":
            return f"{given} is not written as it must be", "write a time of day as HH:MM or HH:MM:SS"
        case "value_error":
            return str(fault["msg"]).removeprefix("Value error, "), f"parameters are {', '.join(fields)}"
        case _:
            message = str(fault["msg"])
            return f"{message[0].lower()}{message[1:]}, got {given}", f"give {name} another value"


def near(word: str, known: Iterable[str]) -> str | None:
    """Up to three near matches as a question, or None."""
    found = difflib.get_close_matches(word, list(known), 3, 0.5)
    return f"did you mean {', '.join(map(repr, found))}?" if found else None


def instances_of(specs: Sequence[Mapping[str, Any]], components: Registry) -> list[Instance]:
    """The features or labels of a resolved spec.

    Raises
    ------
    TapelineError
        `unknown_component` when this version has no such component any more.
    """
    return [_instance_of(spec, components) for spec in specs]


def not_rebuildable(spec: Mapping[str, Any], components: Registry) -> str | None:
    """Why a resolved spec can no longer be built: a component that is not there any more; None when it can."""
    try:
        instances_of([*spec["features"], *spec["labels"]], components)
    except TapelineError as error:
        return f"{error.message}, which is not installed"
    except pydantic.ValidationError as error:
        return f"a component has other parameters than the recipe gives it: {error.errors()[0]['msg']}"
    return None


def _instance_of(spec: Mapping[str, Any], components: Registry) -> Instance:
    component = of_version(components, spec["component"], spec["component_version"])
    if component is None:
        raise TapelineError(
            f"{spec['name']!r} needs component {spec['component']!r} version {spec['component_version']}",
            code="unknown_component",
            hint="install the version of tapeline that built it",
        )
    params = component.params.model_validate(spec["params"])
    read = component.inputs(params) or {}
    inputs = {key: _instance_of(each.model_dump(), components) for key, each in read.items()}
    return Instance(spec["name"], component, params, inputs=inputs)


def looked_up(wanted: Sequence[FeatureSpec | str], kind: str, components: Registry, known: Known) -> list[Instance]:
    """The features or labels that a spec names or spells out, in its order."""
    return [instance(item, kind, f"/{kind}s/{i}", components, known) for i, item in enumerate(wanted)]


def instance(
    item: FeatureSpec | str, kind: str, pointer: str, components: Registry, known: Known = BUILT_IN
) -> Instance:
    """A feature or label by name or spelled out, every part of it looked up and checked.

    Parameters
    ----------
    pointer : where in the user's JSON it stands
    known : features and labels by name

    Raises
    ------
    TapelineError
        `unknown_feature`, `unknown_label`, `unknown_component` or `invalid`, with near matches.
    """
    if isinstance(item, str):
        kinds = {
            name: components[spec["component"]].kind for name, spec in known.items() if spec["component"] in components
        }
        if kinds.get(item) != kind:
            if item in kinds:
                raise refusal(
                    f"unknown_{kind}", pointer, f"{item!r} is a {kinds[item]}, not a {kind}", f"name a {kind}", item
                )
            names = sorted(name for name, each in kinds.items() if each == kind)
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            hint = near(item, names) or f"{kind}s with a name are {shown}; or spell it out"
            raise refusal(f"unknown_{kind}", pointer, f"there is no {kind} {item!r}", hint, item)
        found = known[item]
        item = FeatureSpec.model_validate({key: found[key] for key in FeatureSpec.model_fields if key in found})
    name = feature_name(item.name, field=f"{pointer}/name")
    component = components.get(item.component)
    if component is None or component.kind != kind:
        ids = [each.id for each in newest(components) if each.kind == kind]
        hint = near(item.component, ids) or f"components of {kind}s are {', '.join(sorted(ids))}"
        message = f"there is no {kind} component {item.component!r}"
        raise refusal("unknown_component", f"{pointer}/component", message, hint, item.component)
    wanted = of_version(components, item.component, item.component_version)
    if wanted is None:
        message = f"component {component.id!r} has version {component.version}, not {item.component_version}"
        raise refusal("unknown_component", f"{pointer}/component_version", message, "leave it out")
    component = wanted
    given, inputs = dict(item.params), {}
    for key, field in component.params.model_fields.items():
        if field.annotation is FeatureSpec and isinstance(given.get(key), str | Mapping):
            read = given[key] if isinstance(given[key], str) else _spelled(given[key], f"{pointer}/params/{key}")
            inputs[key] = instance(read, "feature", f"{pointer}/params/{key}", components, known)
            given[key] = inputs[key].to_spec()
    return Instance(name, component, _params(component, given, pointer), inputs=inputs)


def _spelled(given: Mapping[str, Any], pointer: str) -> FeatureSpec:
    try:
        return FeatureSpec.model_validate(given)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "/".join([pointer, *(str(step) for step in first["loc"])])
        raise refusal("invalid", place, *sentence(first, "field", FeatureSpec.model_fields)) from error


def _params(component: Component, given: Mapping[str, Any], pointer: str) -> Any:
    try:
        params = component.params.model_validate(given)
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False)
        # A misspelt parameter explains that another one is missing.
        faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
        refused = []
        for fault in faults:
            place = "".join(f"/{step}" for step in fault["loc"])
            message, hint = sentence(fault, f"parameter of {component.id!r} named", component.params.model_fields)
            value = repr(fault.get("input"))[:200]
            refused.append(refusal("invalid", f"{pointer}/params{place}", message, hint, value))
        refused[0].data = {"errors": [each.data["errors"][0] for each in refused]}
        raise refused[0] from error
    if isinstance(params, LabelParams):
        try:
            _ = params.horizon_bars
        except TapelineError as error:
            raise refusal("invalid", f"{pointer}/params/horizon", error.message, error.hint, params.horizon) from error
    return params
