"""Logarithms: exact to the last place or nearly, and the same bits on every machine."""

from __future__ import annotations

import hashlib
import math
import re
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tapeline import logarithms
from tapeline.logarithms import reference

ODD = [0.0, -0.0, 1.0, -1.0, -2.0, math.inf, -math.inf, math.nan, 5e-324, 2.3e-308, 1.7e308, 2.0, 1e-17, -0.5, 0.41421]


def drawn(seed: int, rows: int = 4000) -> NDArray[np.float64]:
    """Numbers of all sizes, and many near 1 as ratios of prices are; raw draws and divisions alone."""
    bits = np.random.PCG64(seed).random_raw(2 * rows).astype(np.uint64)
    sizes = (bits[:rows] & np.uint64(0x7FEFFFFFFFFFFFFF)).view(np.float64)
    near = (bits[rows:] >> np.uint64(40)).astype(np.float64) / 2.0**24
    return np.concatenate([sizes, 0.99 + near / 50.0, near * 500.0, ODD])


@pytest.mark.parametrize("name", ["ln", "ln1p"])
def test_the_kernel_gives_the_bits_of_its_twin(name: str) -> None:
    values = drawn(1)
    fast, plain = getattr(logarithms, name)(values), getattr(reference, name)(values)
    np.testing.assert_array_equal(fast, plain)
    # Without a number that is none the loop takes another path.
    kept = values[np.isfinite(values) & (values > 1e-300)]
    assert getattr(logarithms, name)(kept).tobytes() == getattr(reference, name)(kept).tobytes()


@given(st.floats(min_value=5e-324, allow_infinity=False))
def test_a_logarithm_is_within_a_unit_of_the_last_place(value: float) -> None:
    found = float(logarithms.ln(np.array([value]))[0])
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(value).ln()
        assert abs(Decimal(found) - exact) <= Decimal(math.ulp(found))


@given(st.floats(min_value=-0.999999, max_value=1e300))
def test_a_logarithm_of_one_and_a_little_keeps_the_little(value: float) -> None:
    found = float(logarithms.ln1p(np.array([value]))[0])
    with localcontext() as context:
        context.prec = 90
        exact = (1 + Decimal(value)).ln() if abs(value) > 1e-30 else Decimal(value)
        assert abs(Decimal(found) - exact) <= Decimal(math.ulp(found))


def test_the_bits_are_those_of_every_other_machine() -> None:
    values = drawn(2)
    values = values[~np.isnan(values)]
    found = [logarithms.ln(values[values > 0]), logarithms.ln1p(values[values > -1])]
    digest = hashlib.sha256(b"".join(each.tobytes() for each in found)).hexdigest()
    assert digest == "936a0bab5a0a8f0c88ebf8469987224b95749b23d2f8317b58bea8d99d791715"


def test_shapes_are_kept() -> None:
    assert logarithms.ln(np.ones((2, 3, 4))[:, ::2]).shape == (2, 2, 4)
    assert logarithms.ln1p(np.empty((0, 2))).shape == (0, 2)


MACHINES_OWN = re.compile(
    r"\b(?:np|numpy)\.(?:log(?:1p|2|10|addexp)?|exp\w*|power|float_power|cbrt|hypot|dot|vdot|inner|matmul|einsum|tensordot|linalg|"
    r"sin\w*|cos\w*|tan\w*|arc\w+)\b(?!_)|\bmath\.(?:log\w+|exp\w*|pow)\b|\w \@ \w"
)
"""What NumPy, the C library and BLAS compute as the processor has it."""


def test_no_formula_of_an_asset_takes_what_differs_between_machines() -> None:
    services = Path(__file__).parents[3] / "services" / "tapeline" / "assets"
    measures = Path(__file__).parents[3] / "ext" / "tapeline" / "measures"
    modules = [*services.rglob("*.py"), measures / "__init__.py"]
    assert len(modules) > 40
    found = {str(path): MACHINES_OWN.findall(path.read_text("utf-8")) for path in modules}
    assert {path: words for path, words in found.items() if words} == {}
    for line in (
        "np.log(x)",
        "np.log1p(x)",
        "a = np.exp(x)",
        "np.linalg.norm(x)",
        "a @ b",
        "math.exp(x)",
        "np.power(x, 2)",
    ):
        assert MACHINES_OWN.search(line), line
    for line in ("np.logical_and(a, b)", "log.info(x)", "np.sqrt(x)", "@property", "math.log(2.0)"):
        assert not MACHINES_OWN.search(line), line
