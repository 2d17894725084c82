"""The look-back kernels against their naive twins, to the bit, on every build."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline import bars
from tapeline.bars import _kernels, reference

BUILDS: list[Any] = [_kernels]
if _kernels.has_v3():
    from tapeline.bars import _kernels_v3

    BUILDS.append(_kernels_v3)

EXAMPLES = int(os.environ.get("TAPELINE_EXAMPLES", "40"))
SEEDS = st.integers(0, 2**32 - 1)


def trades(rng: np.random.Generator, most: int = 400) -> tuple[Any, Any, Any]:
    n = int(rng.integers(0, most))
    price = np.round(rng.uniform(1, 9, n), 2)
    kind = rng.choice(["int32", "int64", "float64"])
    volume = rng.integers(0, 1000, n).astype(kind) if kind != "float64" else rng.uniform(0, 1e9, n)
    if rng.random() < 0.4:
        return price, volume, None
    flags = np.full(n, 7, np.uint8)
    odd = rng.random(n) < rng.choice([0.01, 0.5])
    flags[odd] = rng.integers(0, 8, int(odd.sum()))
    return price, volume, flags


def same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    ordered=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=40),
    values=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=40),
    rising=st.booleans(),
    right=st.booleans(),
)
def test_ranks_equal_the_reference(ordered: list[int], values: list[int], rising: bool, right: bool) -> None:
    column, wanted = np.array(sorted(ordered), np.int64), np.array(sorted(values) if rising else values, np.int64)
    expected = np.empty(len(wanted), np.int64)
    assert reference.ranks(column, wanted, right, expected) == 0
    for build in BUILDS:
        found = np.empty_like(expected)
        assert build.ranks(column, wanted, right, found) == 0
        assert same(found, expected)
    assert same(bars.ranks(column, wanted, right=right), expected)
    assert same(np.searchsorted(column, wanted, "right" if right else "left").astype(np.int64), expected)


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, kind=st.sampled_from([np.float64, np.float32]))
def test_windows_of_a_grid_equal_the_reference(seed: int, kind: Any) -> None:
    rng = np.random.default_rng(seed)
    grid, count = rng.uniform(0, 9, (int(rng.integers(0, 20)), 8)), int(rng.integers(1, 9))
    first = rng.integers(-count, len(grid) + 1, int(rng.integers(0, 9)))
    expected = np.empty((len(first), count, 8), kind)
    assert reference.lookback(grid, first, count, expected, np.zeros(2, np.int64)) == 0
    for build in BUILDS:
        found = np.empty_like(expected)
        assert build.lookback(grid, first, count, found, np.zeros(2, np.int64)) == 0
        assert same(found, expected)
    assert same(bars.lookback(grid, first, count, out=np.empty_like(expected), n_threads=2), expected)


def test_a_window_beyond_the_grid_is_refused() -> None:
    for first in (-3, 6):
        with pytest.raises(bars.BarsError, match="row 0"):
            bars.lookback(np.zeros((5, 8)), np.array([first]), 2)


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, fill=st.booleans())
def test_running_bars_equal_the_reference(seed: int, fill: bool) -> None:
    rng = np.random.default_rng(seed)
    price, volume, flags = trades(rng, 60)
    pairs = np.sort(rng.integers(0, len(price) + 1, (12, 2)), axis=1)
    pairs[rng.random(12) < 0.2, 0] = -1
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0] // 9))]
    pairs[:, 0] = np.where(pairs[:, 0] >= 0, np.minimum(pairs[:, 0] // 9 * 9, pairs[:, 1]), -1)
    carry = rng.choice([np.nan, 5.0], 12)
    expected = np.empty((12, 8))
    args = (price, volume, flags, pairs, carry, fill)
    assert reference.running_bars(*args, expected, np.zeros(2, np.int64)) == 0
    for build in BUILDS:
        found = np.empty((12, 8))
        assert build.running_bars(*args, found, np.zeros(2, np.int64)) == 0
        assert same(found, expected)


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, dollar=st.booleans(), limit=st.sampled_from([1.0, 900.0, 1e4, 1e12]))
def test_threshold_bars_ahead_equal_the_reference(seed: int, dollar: bool, limit: float) -> None:
    rng = np.random.default_rng(seed)
    price, volume, flags = trades(rng, 60)
    spans = np.sort(rng.integers(0, len(price) + 1, (6, 2)), axis=1)
    expected = np.empty((6, 5, 3), np.int64)
    reference.threshold_ahead(price, volume, flags, spans, limit, dollar, expected)
    for build in BUILDS:
        found = np.empty_like(expected)
        build.threshold_ahead(price, volume, flags, spans, limit, dollar, found)
        assert same(found, expected)


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, future=st.booleans(), fill=st.booleans())
def test_anchored_windows_equal_the_reference(seed: int, future: bool, fill: bool) -> None:
    rng = np.random.default_rng(seed)
    price, volume, flags = trades(rng)
    n, total = len(price), 1000
    clock = np.sort(rng.integers(0, total, n))
    ready = bars.marked(price, volume, flags)
    at = np.sort(rng.integers(0, n, 7)) if n else np.zeros(7, np.int64)
    when = clock[at] if n else np.sort(rng.integers(0, total, 7))
    blocks = n // 64
    work = np.empty((blocks, 2)), np.empty((blocks, 4), np.int64)
    found = []
    for run in (reference, *BUILDS):
        run.blocks(price, volume, ready.flags, *work)
        out = np.empty((7, 4, 8))
        args = (clock, clock[::64].copy(), price, volume, ready.flags, ready.before, *work, at, when, np.arange(7))
        status = run.anchored(*args, 90, total, future, fill, np.empty(5, np.int64), out, np.zeros(2, np.int64))
        assert status == 0
        found.append(out)
    assert all(same(out, found[0]) for out in found)
    mixed = rng.permutation(7)
    front = bars.Anchored(ready, clock, total).windows(
        at[mixed], when[mixed], 4, 90, future=future, fill=fill, n_threads=2
    )
    assert same(front, found[0][mixed])
