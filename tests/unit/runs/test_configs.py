"""Run configs, patterns, batches of measurements: what is checked before it is stored."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tapeline.errors import TapelineError
from tapeline.runs.blueprint.builtin import BUNDLED, CANVAS, SELFTEST, Blueprint
from tapeline.runs.blueprint.config import checked, rendered
from tapeline.runs.blueprint.schema import checked as check_schema
from tapeline.runs.metrics import batch as batches
from tapeline.runs.patterns import matches

NS = 10**9


def faults(blueprint: Any, config: dict[str, Any]) -> list[dict[str, Any]]:
    with pytest.raises(TapelineError) as refused:
        checked(blueprint, config)
    assert refused.value.code == "invalid"
    return refused.value.data["errors"]


@pytest.mark.parametrize("blueprint", BUNDLED, ids=lambda one: one.name)
def test_the_schemas_are_schemas_and_their_defaults_fit_them(blueprint: Any) -> None:
    Draft202012Validator.check_schema(blueprint.config_schema)
    least = {"canvas": "demo", "asset": "spy"} if blueprint is CANVAS else {}
    full = rendered(blueprint.config_schema, least)
    checked(blueprint, full)
    assert set(full) == set(blueprint.config_schema.get("properties", {}))
    assert rendered(blueprint.config_schema, full) == full


def test_every_fault_is_told_with_its_path() -> None:
    config = {"asset": "", "epochs": 0, "optimizer": {"name": "adamm", "lr": 1}, "batch_sise": 5, "seed": float("nan")}
    found = {tuple(fault["path"]): fault for fault in faults(CANVAS, config)}
    assert {
        ("canvas",), ("asset",), ("epochs",), ("optimizer", "name"), ("optimizer", "lr"), ("batch_sise",), ("seed",),
    } <= set(found)  # fmt: skip
    assert found["batch_sise",]["hint"] == "did you mean 'batch_size'?"


def test_a_config_that_is_too_large_is_refused() -> None:
    with pytest.raises(TapelineError) as refused:
        checked(SELFTEST, {"steps": 1, "x": "y" * 600_000})
    assert refused.value.code == "too_large"


def own(schema: dict[str, Any]) -> Blueprint:
    return Blueprint(name="own", version="1.0.0", config_schema=schema, team="contoso", entrypoint="own:train")


def test_a_pattern_takes_time_that_is_linear_in_the_text() -> None:
    schema = {"type": "object", "properties": {"tag": {"type": "string", "pattern": "^(a+)+$"}}}
    check_schema(schema)
    checked(own(schema), {"tag": "a" * 100_000})
    (fault,) = faults(own(schema), {"tag": "a" * 100_000 + "b"})
    assert fault["path"] == ["tag"]


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "objekt"}, "type"),
        ({"type": "string"}, "the schema"),
        ({"type": "object", "properties": {"a": {"$ref": "https://example.org/a"}}}, "properties.a.$ref"),
        ({"type": "object", "properties": {"a": {"pattern": "(?=b)"}}}, "properties.a.pattern"),
        ({"type": "object", "properties": {"a": {"pattern": "a" * 300}}}, "properties.a.pattern"),
        ({"type": "object", "patternProperties": {"a": {}}}, "patternProperties"),
        ({"type": "object", "allOf": [{"$ref": "#"}]}, "the schema"),
        ({"type": "object", "$ref": "#/$defs/none"}, "the schema"),
        ({"type": "object", "properties": {"a": {"$id": "b"}}}, "properties.a.$id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schema_that_reaches_out_or_is_none_is_refused_with_its_place(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(TapelineError) as refused:
        check_schema(schema)
    assert refused.value.code == "invalid"
    assert refused.value.hint
    assert refused.value.message.startswith(f"{place}: ")


def test_a_property_may_be_called_like_a_word_of_the_language() -> None:
    schema = {"type": "object", "properties": {"pattern": {"type": "integer"}, "$ref": {"type": "string"}}}
    check_schema(schema)
    checked(own(schema), {"pattern": 3, "$ref": "x"})


def test_a_schema_that_is_too_large_or_too_deep_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"items": deep}
    for schema, code in (({"type": "object", "description": "x" * 300_000}, "too_large"), ({"not": deep}, "invalid")):
        with pytest.raises(TapelineError) as refused:
            check_schema(schema)
        assert refused.value.code == code


def test_an_object_of_smartfit_is_filled_in() -> None:
    full = rendered(CANVAS.config_schema, {"canvas": "c", "asset": "a", "smartfit": {"patience": 5}})
    assert full["smartfit"] == {"patience": 5, "min_delta": 1e-4, "factor": 0.5, "floor": 0.001, "stop_after": 10}


PIECES = st.lists(st.sampled_from(["%", "_", "\\%", "\\_", "\\\\", "a", "B", "Ä", ".", "("]), max_size=6).map("".join)


@given(PIECES, st.text("aAbBäÄ.(%_\\", max_size=6))
def test_patterns_match_as_a_naive_reading_says(pattern: str, text: str) -> None:
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    regex = "".join(
        ".*" if part == "%" else "." if part == "_" else re.escape(part[-1].lower()) for part in parts
    )  # fmt: skip
    assert matches(pattern, text) == (re.fullmatch(regex, text.lower(), re.DOTALL) is not None)


@given(st.lists(st.integers(0, 50).map(lambda n: n * 500), max_size=30), st.integers(0, 20))
def test_times_increase_strictly_and_never_fall_below_what_was_told(times: list[int], last_us: int) -> None:
    column = {"tag": "a", "kind": "f8", "step": list(range(len(times))), "time": times, "value": [0.5] * len(times)}
    columns, last = batches.timed(batches.parse([column]), last_us)
    if not times:
        assert (columns, last) == ([], last_us)
        return
    told = columns[0].points().times
    found = np.sort(told)
    assert (np.diff(found) >= 1).all()
    assert found[0] > last_us
    assert last == found[-1]
    assert (told >= np.array(times) // 1000).all()


def test_a_batch_is_what_it_was_after_its_bytes() -> None:
    given_columns = [
        {"tag": "f", "kind": "f8", "step": [1, 2], "time": [NS, 2 * NS], "value": ["NaN", 0.1]},
        {"tag": "i", "kind": "i8", "step": [1], "time": [NS], "value": [2**53 + 1]},
    ]
    columns, last = batches.timed(batches.parse(given_columns), 0)
    made = batches.Batch(run="r", attempt=1, batch=1, epoch=1, last_us=last, columns=columns)
    again = batches.decode(batches.encode(made))
    assert again == made
    assert again.points == 3
    assert np.isnan(again.columns[0].points().values()[0])
    assert again.columns[1].points().values() == [2**53 + 1]


@pytest.mark.parametrize(
    "column",
    [
        {"tag": "", "step": [], "time": [], "value": []},
        {"tag": "a" * 251, "step": [], "time": [], "value": []},
        {"tag": "a", "kind": "f4", "step": [], "time": [], "value": []},
        {"tag": "a", "step": [1], "time": [], "value": []},
        {"tag": "a", "step": [-1], "time": [1], "value": [1]},
        {"tag": "a", "step": [1.5], "time": [1], "value": [1]},
        {"tag": "a", "step": [True], "time": [1], "value": [1]},
        {"tag": "a", "step": [1], "time": [1], "value": ["x"]},
        {"tag": "a", "step": [1], "time": [2**63], "value": [1]},
        {"tag": "a", "kind": "i8", "step": [1], "time": [1], "value": [0.5]},
        {"tag": "a", "step": 1, "time": 1, "value": 1},
    ],
)
def test_a_malformed_column_is_refused(column: dict[str, Any]) -> None:
    with pytest.raises(TapelineError) as refused:
        batches.parse([column])
    assert refused.value.code == "invalid"
