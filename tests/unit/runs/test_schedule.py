"""Which run goes to which device."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeline.errors import TapelineError
from tapeline.runs.quantities import Wanted, quantity, wanted
from tapeline.runs.schedule import Device, Waiting, check_selector, match

SELFTEST = ("selftest", "1.0.0")
CPU = Device(
    agent="a1", name="cpu0", kind="cpu", cores=4, memory=8 * 2**30, teams=frozenset({"main"}),
    backends=frozenset({"tensorflow"}), blueprints=frozenset({SELFTEST}),
)  # fmt: skip
GPU = replace(CPU, name="gpu0", kind="gpu", type="NVIDIA H200")
NEED = Wanted(cpu=Fraction(1), memory=2**20)


def run(name: str = "r", **changes: Any) -> Waiting:
    fields = {
        "team": "main", "run": name, "attempt": 1, "submitted_us": 1, "selector": "any", "wanted": NEED,
        "blueprint": SELFTEST,
    } | changes  # fmt: skip
    return Waiting(**fields)


def pairs(waiting: list[Waiting], devices: list[Device], busy: Counter[str] | None = None) -> list[tuple[str, str]]:
    return [(one.run.run, one.device.name) for one in match(waiting, devices, busy or Counter())[0]]


def unmatched(waiting: Waiting, devices: list[Device]) -> tuple[str, str]:
    ((one),) = match([waiting], devices, Counter())[1]
    return one.reason, one.nearest


def test_the_highest_priority_comes_first_then_the_oldest() -> None:
    waiting = [run("young", submitted_us=9), run("old", submitted_us=1), run("urgent", submitted_us=10, priority=3)]
    assert pairs(waiting, [CPU]) == [("urgent", "cpu0")]
    assert pairs(waiting[:2], [CPU]) == [("old", "cpu0")]


def test_the_team_with_the_fewest_busy_devices_comes_first() -> None:
    both = replace(CPU, teams=frozenset({"main", "other"}))
    waiting = [run("a", submitted_us=1), run("b", submitted_us=2), run("c", team="other", submitted_us=3)]
    assert pairs(waiting, [both], Counter(main=1)) == [("c", "cpu0")]
    assert pairs(waiting, [both, replace(both, name="cpu1")]) == [("a", "cpu0"), ("c", "cpu1")]


@pytest.mark.parametrize(
    ("selector", "device"),
    [("any", "gpu0"), ("cpu", "cpu0"), ("gpu", "gpu0"), ("cpu0", "cpu0"), ("a1/cpu0", "cpu0"), ("a2/cpu0", None)],
)
def test_selectors(selector: str, device: str | None) -> None:
    assert pairs([run(selector=selector)], [CPU, GPU]) == ([("r", device)] if device else [])


def test_a_busy_an_offline_and_a_resting_device_are_waited_for() -> None:
    for device in (replace(CPU, is_free=False), replace(CPU, is_online=False)):
        assert unmatched(run(), [device]) == ("busy", "waits for a1/cpu0")
    assert unmatched(run(resting=frozenset({("a1", "cpu0")})), [CPU])[0] == "busy"


def test_what_fits_nowhere_says_what_is_nearest() -> None:
    need = replace(NEED, gpu_count=2, gpu_type="H200")
    assert unmatched(run(selector="gpu", wanted=need), [CPU, GPU]) == (
        "no_device",
        'no device has gpu type "H200" x 2; gpu0 of a1 has 1',
    )
    assert unmatched(run(wanted=replace(NEED, cpu=Fraction(8))), [CPU])[1].endswith("cpu0 of a1 has 4 cores")
    assert unmatched(run(backend="jax"), [CPU])[1].endswith("has no backend 'jax'")
    assert unmatched(run(blueprint=("canvas", "1.0.0")), [CPU])[1].endswith("has no blueprint canvas 1.0.0")
    assert unmatched(run(team="other"), [CPU])[1] == "no agent has announced a device for this team"


def test_a_device_that_nobody_has_is_refused_and_one_that_several_have_is_ambiguous() -> None:
    check_selector("any", [])
    check_selector("cpu0", [CPU, GPU])
    with pytest.raises(TapelineError) as unknown:
        check_selector("tpu0", [CPU, GPU])
    assert unknown.value.code == "unknown_device"
    assert "live devices are: a1/cpu0, a1/gpu0" in str(unknown.value.hint)
    with pytest.raises(TapelineError) as ambiguous:
        check_selector("cpu0", [CPU, replace(CPU, agent="a2")])
    assert (ambiguous.value.code, ambiguous.value.hint) == ("ambiguous_device", "name one of: a1/cpu0, a2/cpu0")


@given(
    st.lists(
        st.tuples(st.integers(-2, 2), st.integers(0, 5), st.sampled_from(["any", "cpu", "gpu", "cpu0"])), max_size=12
    ),
    st.integers(0, 4),
)
def test_no_device_is_given_twice_and_none_is_left_free_that_fits(
    wishes: list[tuple[int, int, str]], devices: int
) -> None:
    waiting = [
        run(f"r{i}", priority=priority, submitted_us=at, selector=selector)
        for i, (priority, at, selector) in enumerate(wishes)
    ]
    known = [replace(GPU if i % 2 else CPU, name=f"{'gpu' if i % 2 else 'cpu'}{i}") for i in range(devices)]
    matches, left = match(waiting, known, Counter())
    taken = [one.device.key for one in matches]
    assert len(taken) == len(set(taken))
    assert {one.run.run for one in matches} | {one.run.run for one in left} == {one.run for one in waiting}
    for one in left:
        assert one.reason == "no_device" or all(device.key in taken for device in known if one.run.selector == "any")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", Fraction(1, 2)), ("1", 1), ("5Gi", 5 * 2**30), ("5000000Ki", 5_000_000 * 1024), ("1e3", 1000),
        ("5E", 5 * 10**18), ("5E3", 5000), (".5", Fraction(1, 2)), ("1.5Mi", 3 * 2**19), ("100n", Fraction(1, 10**7)),
    ],
)  # fmt: skip
def test_quantities_are_exact(text: str, value: Fraction | int) -> None:
    assert quantity(text, "cpu") == value


@pytest.mark.parametrize("text", ["5K", "-1", "1 Gi", "", "1e", "Gi", "0x1", "1GiB", "+1", "1" * 100])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(TapelineError) as refused:
        quantity(text, "memory")
    assert refused.value.code == "invalid"


@pytest.mark.parametrize(
    "resources",
    [
        {}, {"cpu": 1, "memory": "1Gi"}, {"cpu": "0", "memory": "1Gi"}, {"cpu": "1", "memory": "500m"},
        {"cpu": "1", "memory": "1Gi", "disk": "1"}, {"cpu": "1", "memory": "1Gi", "gpu": {"count": 0, "type": "x"}},
        {"cpu": "0.1m", "memory": "1Gi"},
    ],
)  # fmt: skip
def test_malformed_resources_are_refused(resources: dict[str, Any]) -> None:
    with pytest.raises(TapelineError) as refused:
        wanted(resources)
    assert refused.value.code == "invalid"
    assert refused.value.hint
