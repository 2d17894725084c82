"""Kubernetes quantities are exact."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapeline import sdk as tl
from tapeline.sdk import quantities


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", Fraction(1, 2)), ("1", 1), ("5Gi", 5 * 1024**3), ("5000000Ki", 5_000_000 * 1024), ("1e3", 1000),
        ("5E", 5 * 10**18), ("5E3", 5000), ("1.5", Fraction(3, 2)), (".5", Fraction(1, 2)), ("2.", 2),
        ("3n", Fraction(3, 10**9)), ("7u", Fraction(7, 10**6)), ("2k", 2000), ("1Ei", 1024**6),
    ],
)  # fmt: skip
def test_a_quantity_is_read_exactly(text: str, value: Fraction) -> None:
    assert quantities.parse(text) == value


@pytest.mark.parametrize(
    "text", ["5K", "-1", "+1", "1 Gi", "", "m", "1e", "1gi", "1e-3", "1e99", "٣", "1.2.3", "1" * 100]
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantities.parse(text)


def test_memory_in_thousandths_is_a_slip() -> None:
    with pytest.raises(ValueError, match='did you mean "500Mi"'):
        tl.Resources(cpu="1", memory="500m")


def test_no_cores_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        tl.Resources(cpu="0", memory="1Gi")


def test_the_text_is_kept_as_given() -> None:
    resources = tl.Resources(cpu="500m", memory="1.5Gi", ephemeral_storage="20Gi", gpu=tl.Gpu(count=1, type="T4"))
    assert (resources.cpu, resources.memory, resources.ephemeral_storage) == ("500m", "1.5Gi", "20Gi")


def test_no_gpus_are_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        tl.Gpu(count=0, type="T4")


@given(st.integers(1, 10**6), st.sampled_from(["", "k", "M", "Ki", "Mi", "Gi"]))
def test_whole_numbers_of_a_unit_are_multiples_of_it(n: int, unit: str) -> None:
    assert quantities.parse(f"{n}{unit}") == n * quantities.parse(f"1{unit}")


@given(st.integers(1, 10**6))
def test_cores_round_up_to_a_thousandth(n: int) -> None:
    cores = quantities.cores(f"{n}u")
    assert cores * 1000 == -(-n // 1000)
