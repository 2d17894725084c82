"""What can happen to namespaces and models, given / when / then."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from tapeline.contracts.models import (
    ClearModelParts,
    IterationCreated,
    ModelCreated,
    ModelDeleted,
    ModelMetricLogged,
    ModelPartRemoved,
    ModelPartsCleared,
    ModelStepped,
    ModelUpdated,
    ModuleLogged,
    NamespaceCreated,
    NamespaceDeleted,
    NamespaceRenamed,
    RemoveModelPart,
    SetModelStep,
)
from tapeline.errors import TapelineError
from tapeline.runs.model import aggregate
from tapeline.runs.model.commands import (
    AddIteration,
    AddMetric,
    AddModule,
    DescribeModel,
    EndModel,
    EndNamespace,
    MakeModel,
    MakeNamespace,
    NameNamespace,
)
from tapeline.sdk.models import decoded, encoded

MAKE = MakeModel(namespace_id="n", hash="a1", user="ann", name="mlp", description="two layers")
FIRST = "i1"
ITERATE = AddIteration(iteration_id=FIRST, step=5)


def given(*commands: Any) -> aggregate.State:
    state = aggregate.initial()
    for command in commands:
        for event in aggregate.decide(state, command):
            state = aggregate.evolve(state, event)
    return state


def refusal(state: aggregate.State, command: Any) -> str:
    with pytest.raises(TapelineError) as refused:
        aggregate.decide(state, command)
    assert refused.value.hint
    return str(refused.value.code)


def test_a_namespace_is_made_renamed_and_deleted() -> None:
    state = given(MakeNamespace(name="digits", user="ann"))
    assert state == aggregate.Namespace("digits")
    assert aggregate.decide(state, NameNamespace(name="numbers")) == [
        NamespaceRenamed(name="numbers", old_name="digits")
    ]
    assert aggregate.decide(state, EndNamespace()) == [NamespaceDeleted()]
    assert aggregate.decide(aggregate.initial(), MakeNamespace(name="x", user="ann")) == [
        NamespaceCreated(name="x", user="ann")
    ]


def test_a_namespace_that_has_its_name_already_is_not_renamed() -> None:
    assert aggregate.decide(given(MakeNamespace(name="digits", user="ann")), NameNamespace(name="digits")) == []


def test_what_is_gone_is_deleted_without_an_event() -> None:
    for commands in ((), (MAKE, EndModel()), (MakeNamespace(name="x", user="ann"), EndNamespace())):
        assert aggregate.decide(given(*commands), EndModel()) == []
        assert aggregate.decide(given(*commands), EndNamespace()) == []


def test_a_model_begins_without_a_step() -> None:
    made = ModelCreated(namespace_id="n", hash="a1", user="ann", name="mlp", description="two layers")
    assert aggregate.decide(aggregate.initial(), MAKE) == [made]
    state = given(MAKE)
    assert isinstance(state, aggregate.Model)
    assert state.step is None


def test_a_step_is_an_event_with_old_and_new_and_may_go_back() -> None:
    first = SetModelStep(id="m", step=10)
    assert aggregate.decide(given(MAKE), first) == [ModelStepped(step=10, old_step=None)]
    assert aggregate.decide(given(MAKE, first), first) == []
    assert aggregate.decide(given(MAKE, first), SetModelStep(id="m", step=3)) == [ModelStepped(step=3, old_step=10)]


def test_a_description_that_is_left_out_stays() -> None:
    assert aggregate.decide(given(MAKE), DescribeModel(name="cnn")) == [
        ModelUpdated(name="cnn", description="two layers")
    ]
    assert aggregate.decide(given(MAKE), DescribeModel(name="mlp")) == []


def test_the_same_step_again_is_the_same_iteration() -> None:
    assert aggregate.decide(given(MAKE), ITERATE) == [IterationCreated(iteration_id=FIRST, step=5)]
    assert aggregate.decide(given(MAKE, ITERATE), AddIteration(iteration_id="i2", step=5)) == []


def test_a_metric_is_logged_each_time() -> None:
    log = AddMetric(metric_id="m1", name="loss", value=0.5, step=1, phase="train")
    logged = ModelMetricLogged(metric_id="m1", name="loss", value=0.5, step=1, phase="train")
    assert aggregate.decide(given(MAKE, log), log) == [logged]


def test_a_module_of_an_iteration_goes_with_it() -> None:
    module = AddModule(module_id="o1", name="dense", attributes={"units": 8}, iteration_id=FIRST)
    own = AddModule(module_id="o2", name="loss")
    state = given(MAKE, ITERATE, module, own)
    removed = RemoveModelPart(id="m", part="iterations", part_id=FIRST)
    assert aggregate.decide(state, removed) == [ModelPartRemoved(part="iterations", id=FIRST)]
    after = given(MAKE, ITERATE, module, own, removed)
    assert isinstance(after, aggregate.Model)
    assert list(after.modules) == ["o2"]
    assert aggregate.decide(after, removed) == []


def test_a_module_of_an_unknown_iteration_is_refused() -> None:
    assert refusal(given(MAKE), AddModule(module_id="o", name="dense", iteration_id="?")) == "not_found"
    assert aggregate.decide(given(MAKE), AddModule(module_id="o", name="dense")) == [
        ModuleLogged(module_id="o", name="dense")
    ]


def test_what_is_empty_is_cleared_without_an_event() -> None:
    clear = ClearModelParts(id="m", part="iterations")
    assert aggregate.decide(given(MAKE), clear) == []
    assert aggregate.decide(given(MAKE, ITERATE), clear) == [ModelPartsCleared(part="iterations")]
    assert given(MAKE, ITERATE, clear) == given(MAKE)


@pytest.mark.parametrize(
    "command",
    [ITERATE, SetModelStep(id="m", step=1), DescribeModel(name="x"), ClearModelParts(id="m", part="metrics")],
    ids=lambda command: type(command).__name__,
)
def test_a_model_that_is_not_there_is_not_found(command: Any) -> None:
    assert refusal(given(), command) == "not_found"
    assert refusal(given(MAKE, EndModel()), command) == "not_found"
    assert aggregate.decide(given(MAKE), EndModel()) == [ModelDeleted()]


def test_a_model_keeps_so_many_parts_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "MOST_PARTS", 1)
    log = AddMetric(metric_id="a", name="loss", value=1)
    assert refusal(given(MAKE, log), AddMetric(metric_id="b", name="loss", value=1)) == "too_large"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@drawn(JSON)
def test_json_data_with_nan_and_infinities_comes_back(value: Any) -> None:
    import json

    if isinstance(value, dict) and set(value) == {"$float"}:
        return
    back = decoded(json.loads(json.dumps(encoded(value), allow_nan=False)))
    assert repr(back) == repr(value)


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {1}}, {"$float": 1}, b"x"])
def test_what_is_no_json_data_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encoded(value)
