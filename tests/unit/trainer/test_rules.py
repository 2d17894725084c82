"""Schedules and patience: pure, and their state goes through JSON."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeline.trainer.rules import Patience, scheduled

losses = st.lists(st.floats(0.01, 10), min_size=1, max_size=40)


def test_smartfit_halves_after_three_epochs_and_ends_after_ten() -> None:
    rule = Patience.smartfit(True)
    assert rule.epoch(1.0, 1)
    for number in range(2, 5):
        assert not rule.epoch(1.0, number)
    assert rule.factor == 0.5
    for number in range(5, 12):
        assert not rule.is_over
        rule.epoch(1.0, number)
    assert (rule.is_over, rule.factor, rule.best_epoch) == (True, 0.125, 1)


def test_an_improvement_below_the_relative_margin_is_none() -> None:
    rule = Patience.smartfit({"min_delta": 0.1})
    assert rule.epoch(1.0, 1)
    assert not rule.epoch(0.95, 2)
    assert rule.epoch(0.85, 3)


def test_a_loss_that_is_no_number_is_no_improvement() -> None:
    rule = Patience.early_stopping({"patience": 1})
    assert not rule.epoch(math.nan, 1)
    assert rule.is_over


@given(losses, st.integers(0, 40))
def test_a_rule_restored_from_json_goes_on_as_if_nothing_had_happened(values: list[float], cut: int) -> None:
    whole, first = Patience.smartfit(True), Patience.smartfit(True)
    for number, value in enumerate(values):
        whole.epoch(value, number)
    for number, value in enumerate(values[:cut]):
        first.epoch(value, number)
    second = Patience.smartfit(True)
    second.set_state(json.loads(json.dumps(first.get_state())))
    for number, value in enumerate(values[cut:], min(cut, len(values))):
        second.epoch(value, number)
    assert second == whole


@pytest.mark.parametrize("name", ["constant", "cosine", "exponential", "warmup_cosine"])
def test_a_schedule_stays_between_nothing_and_its_base(name: str) -> None:
    rates = [scheduled(name, 0.01, step, 200) for step in range(201)]
    assert all(0 <= rate <= 0.01 + 1e-12 for rate in rates)
    assert rates[0] == 0.01 or name == "warmup_cosine"
    assert rates[-1] <= rates[20]
