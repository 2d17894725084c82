"""The loops of the asset build against their twins in plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline import measures
from tapeline.measures import NOISE, reference

few = settings(max_examples=40, deadline=None)
shapes = st.tuples(st.integers(1, 2100), st.integers(1, 3), st.integers(1, 9))


def floats(seed: int, *shape: int, odd: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    values = draw.choice([-1e6, -1.5, -0.0, 0.0, 1e-30, 2.0, 3.5, 1e8], shape).astype(np.float32)
    values[draw.random(shape) < odd] = draw.choice([np.nan, np.inf, -np.inf])
    return values


@few
@given(shape=shapes, seed=st.integers(0, 1000))
def test_moments_are_those_of_two_plain_passes(shape: tuple[int, ...], seed: int) -> None:
    values = floats(seed, *shape)
    found = measures.moments(values)
    mean, second, low, high = reference.moments(values)
    assert found.count == shape[0] * shape[1]
    np.testing.assert_allclose(found.mean, mean, rtol=1e-10, atol=1e-6)
    np.testing.assert_allclose(found.second, second, rtol=1e-10)
    assert np.array_equal(found.low, low)
    assert np.array_equal(found.high, high)


@few
@given(shape=shapes, seed=st.integers(0, 1000))
def test_deviations_are_those_of_a_plain_pass(shape: tuple[int, ...], seed: int) -> None:
    values = floats(seed, *shape)
    about = np.random.default_rng(seed).normal(size=shape[-1])
    for found, expected in zip(measures.deviations(values, about), reference.deviations(values, about), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-3)


def test_the_moments_of_nothing_are_zero() -> None:
    found = measures.moments(np.empty((0, 3, 2), np.float32))
    assert (found.count, found.mean.tolist(), found.second.tolist()) == (0, [0.0, 0.0], [0.0, 0.0])


@few
@given(shape=shapes, seed=st.integers(0, 1000), odd=st.sampled_from([0.0, 0.0005, 0.3]))
def test_what_is_not_a_number_is_found(shape: tuple[int, ...], seed: int, odd: float) -> None:
    values = floats(seed, *shape, odd=odd)
    assert measures.first_not_finite(values) == reference.first_not_finite(values)
    assert np.array_equal(measures.has_nan(values), reference.has_nan(values))


@few
@given(rows=st.integers(1, 60), width=st.integers(1, 9), seed=st.integers(0, 1000))
def test_words_are_weighed_and_added_up(rows: int, width: int, seed: int) -> None:
    values = floats(seed, rows, width, odd=0.1)
    weights = np.random.default_rng(seed).integers(0, 2**64, width, dtype=np.uint64)
    out = np.full(rows, 7, np.uint64)
    measures.weigh(values, weights, out)
    assert np.array_equal(out, reference.weigh(values, weights) + np.uint64(7))


@few
@given(rows=st.integers(1, 80), width=st.integers(1, 5), marks=st.integers(0, 9), seed=st.integers(0, 1000))
def test_equal_values_share_their_rank(rows: int, width: int, marks: int, seed: int) -> None:
    values = floats(seed, rows, width)
    chosen = np.random.default_rng(seed).integers(0, 2, (marks, rows)).astype(np.float64)
    assert np.array_equal(measures.rank_sums(values, chosen), reference.rank_sums(values, chosen))


@few
@given(rows=st.integers(1, 80), width=st.integers(1, 5), marks=st.integers(0, 3), seed=st.integers(0, 1000))
def test_products_are_those_of_deviations(rows: int, width: int, marks: int, seed: int) -> None:
    values = (floats(seed, rows, width) % 100).astype(np.float32)
    about = np.random.default_rng(seed).normal(size=(marks, rows))
    for found, expected in zip(measures.products(values, about), reference.products(values, about), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-7)


@few
@given(rows=st.integers(0, 1200), n=st.integers(1, 30), seed=st.integers(0, 1000))
def test_a_window_has_the_same_sum_wherever_it_lies(rows: int, n: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=rows)
    found = measures.window_sums(values, n)
    assert found.tolist() == reference.window_sums(values, n)
    assert measures.window_sums(values[5:], n).tolist() == found[5:].tolist()


@few
@given(rows=st.integers(0, 60), seed=st.integers(0, 1000))
def test_prices_in_whole_cents_are_counted(rows: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    price = np.round(draw.uniform(1, 100, rows), 3)
    flags = draw.integers(0, 8, rows).astype(np.uint8)
    assert measures.price_marks(price, flags) == reference.price_marks(price, flags)


@few
@given(rows=st.integers(0, 80), seed=st.integers(0, 2**63), whole=st.booleans())
def test_noise_changes_every_trade_and_is_that_of_its_place(rows: int, seed: int, whole: bool) -> None:
    draw = np.random.default_rng(rows)
    price, volume = draw.uniform(1, 100, rows), draw.integers(0, 10_000, rows)
    kept = volume if whole else volume.astype(np.float64)
    prices, volumes = measures.disturb(price, kept, seed)
    expected = reference.disturb(price, kept, seed, NOISE)
    assert (prices.tolist(), volumes.tolist()) == expected
    assert volumes.dtype == kept.dtype


def test_noise_deviates_by_a_twentieth() -> None:
    prices, volumes = measures.disturb(np.ones(100_000), np.full(100_000, 1000.0), 1)
    assert prices.std() == pytest.approx(0.05, rel=0.02)
    assert volumes.std() == pytest.approx(50, rel=0.02)
    assert prices.mean() == pytest.approx(1, abs=0.001)
    assert (prices != 1).mean() > 0.999
    assert abs(np.corrcoef(prices, volumes)[0, 1]) < 0.02


@few
@given(rows=st.integers(2, 60), seed=st.integers(0, 1000))
def test_barriers_end_a_window_as_a_plain_search_says(rows: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    price = 100 + draw.integers(-5, 6, (rows, 4)).cumsum(axis=0).astype(np.float64)
    bars = np.zeros((rows, 8))
    bars[:, 0], bars[:, 1], bars[:, 2], bars[:, 3] = price[:, 0], price.max(axis=1), price.min(axis=1), price[:, 1]
    entry = draw.integers(0, rows - 1, 40)
    last = np.minimum(entry + draw.integers(0, 20, 40), rows - 1)
    up = bars[entry, 3] + draw.choice([2.0, 8.0, np.inf, np.nan], 40)
    down = bars[entry, 3] - draw.choice([2.0, 8.0, np.inf, np.nan], 40)
    side = draw.choice([1.0, -1.0], 40)
    how, at, after = measures.touches(bars, entry, last, up, down, side)
    expected = reference.touches(bars, entry, last, up, down, side)
    assert list(zip(how.tolist(), at.tolist(), after.tolist(), strict=True)) == expected


def test_a_window_outside_of_the_bars_is_refused() -> None:
    one, two = np.zeros(1, np.int64), np.ones(1)
    with pytest.raises(ValueError, match="outside of the bars"):
        measures.touches(np.zeros((1, 8)), one, one + 1, two, two, two)
