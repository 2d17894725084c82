"""The kernels against their naive twin, to the bit, and the laws of bars."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from typing import Any
from unittest import mock

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tapeline import bars
from tapeline.bars import BarsError, _kernels, reference

BUILDS = [_kernels]
if _kernels.has_v3():
    from tapeline.bars import _kernels_v3

    BUILDS.append(_kernels_v3)

EXAMPLES = int(os.environ.get("TAPELINE_EXAMPLES", "40"))  # thousands in a nightly run
OPEN = 1_381_152_600_000_000_000
SECOND = 1_000_000_000


@st.composite
def trades(draw: st.DrawFn, span: int = 120 * SECOND, most: int = 90) -> dict[str, Any]:
    """Trades of one segment of 2 minutes: ties, gaps, void and ineligible ones, any kind of volume."""
    n = draw(st.integers(0, most))
    step = draw(st.sampled_from([1, SECOND // 3, SECOND, 7 * SECOND]))
    ts = np.sort(draw(hnp.arrays(np.int64, n, elements=st.integers(0, (span - 1) // step))) * step) + OPEN
    price = draw(hnp.arrays(np.float64, n, elements=st.floats(0.0625, 1e6, width=32)))
    kind = draw(st.sampled_from([np.int32, np.int64, np.float64]))
    numbers = st.floats(0, 1e16) if kind is np.float64 else st.integers(0, 2**31 - 1)
    volume = draw(hnp.arrays(kind, n, elements=numbers))
    marks = st.sampled_from([7] * draw(st.sampled_from([1, 8, 60])) + [0, 1, 2, 3, 4, 5, 6])
    flags = None if draw(st.booleans()) else draw(hnp.arrays(np.uint8, n, elements=marks))
    return {"ts": ts, "price": price, "volume": volume, "flags": flags}


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Equal to the bit, except that any NaN equals any NaN."""
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=True))


def by(run: Any, t: dict[str, Any], width: int, carry: float, fill: bool) -> NDArray[np.float64]:
    out = np.full((bars.grid_rows(OPEN, OPEN + 120 * SECOND, width), 8), -1.0)
    segment, edges = np.array([[OPEN, OPEN + 120 * SECOND]]), np.array([[0, len(t["ts"])]])
    args = (t["ts"], t["price"], t["volume"], t["flags"], segment, edges, width, fill)
    assert run.time_bars(*args, np.array([carry]), out, np.zeros(2, np.int64)) == 0
    return out


carries = st.sampled_from([math.nan, 99.5])
widths = st.sampled_from([SECOND, 7 * SECOND, 60 * SECOND, 300 * SECOND])


@settings(max_examples=EXAMPLES, deadline=None)
@given(t=trades(), width=widths, carry=carries, fill=st.booleans())
def test_time_bars_equal_the_reference(t: dict[str, Any], width: int, carry: float, fill: bool) -> None:
    expected = by(reference, t, width, carry, fill)
    for build in BUILDS:
        assert same(by(build, t, width, carry, fill), expected)


grids = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 12), st.just(8)),
    elements=st.one_of(st.floats(0, 1e6, width=32), st.just(0.0)),
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    grid=grids,
    count=st.integers(1, 9),
    norm=st.sampled_from(list(bars.Norm)),
    hole=st.integers(0, 12),
    data=st.data(),
)
def test_gather_equals_the_reference(
    grid: NDArray[np.float64], count: int, norm: bars.Norm, hole: int, data: st.DataObject
) -> None:
    grid[:hole, :4] = np.nan
    past = np.array(data.draw(st.lists(st.integers(0, len(grid)), max_size=5)), np.int64)
    scale = np.array([1.0, 2.0, 3.0, 0.0, 5.0, 0.0, 7.0, 8.0])
    found = []
    for run in [reference, *BUILDS]:
        out = np.zeros((len(past), count, 8), np.float32)
        with np.errstate(over="ignore"):
            assert run.gather(grid, past, count, int(norm), scale, out, np.zeros(2, np.int64)) == 0
        found.append(out)
    assert all(same(out, found[0]) for out in found)


@settings(max_examples=EXAMPLES, deadline=None)
@given(t=trades(), width=widths, seed=st.integers(0, 99), many=st.integers(1, 9))
def test_threads_and_segments_do_not_change_bars(t: dict[str, Any], width: int, seed: int, many: int) -> None:
    rng = np.random.default_rng(seed)
    times = OPEN + np.sort(rng.integers(0, 121, 2 * int(rng.integers(1, 4)))) * SECOND
    segments = times.astype(np.int64).reshape(-1, 2)
    edges = np.searchsorted(t["ts"], segments)
    rows = [bars.grid_rows(low, high, width) for low, high in segments.tolist()]
    for empty in ("carry", "nan"):
        expected, closes, row = np.zeros((sum(rows), 8)), np.array([3.0]), 0
        for k, height in enumerate(rows):
            args = (t["ts"], t["price"], t["volume"], t["flags"], segments[k : k + 1], edges[k : k + 1], width)
            part, fault = expected[row : row + height], np.zeros(2, np.int64)
            assert reference.time_bars(*args, empty == "carry", closes, part, fault) == 0
            row += height
        with mock.patch.object(bars.front, "ONE_THREAD", 1):
            found = bars.session_bars(
                **t,
                segments=segments,
                width_ns=width,
                carry=3.0,
                empty=empty,
                n_threads=many,  # type: ignore[arg-type]
            )
        assert same(found, expected)


@settings(max_examples=EXAMPLES, deadline=None)
@given(t=trades(), seed=st.integers(0, 2**32 - 1), width=widths)
def test_a_fault_is_found_where_the_reference_finds_it(t: dict[str, Any], seed: int, width: int) -> None:
    rng, n = np.random.default_rng(seed), len(t["ts"])
    if n == 0:
        return
    at, kind = int(rng.integers(0, n)), rng.choice(["time", "volume", "sum", "outside"])
    if kind == "time":
        t["ts"][at] = OPEN
    elif kind == "outside":
        t["ts"][at:] = OPEN + 120 * SECOND
    elif t["volume"].dtype == np.int64:
        t["volume"][at:] = -1 if kind == "volume" else 2**52
    segment, edges = np.array([[OPEN, OPEN + 120 * SECOND]]), np.array([[0, n]])
    found = []
    for run in (reference, *BUILDS):
        out, fault = np.zeros((bars.grid_rows(OPEN, OPEN + 120 * SECOND, width), 8)), np.zeros(2, np.int64)
        args = (t["ts"], t["price"], t["volume"], t["flags"], segment, edges, width, True, np.array([math.nan]))
        found.append((int(run.time_bars(*args, out, fault)), fault.tolist()))
    assert all(one == found[0] for one in found)


def test_many_threads_give_the_bars_of_one() -> None:
    draw = np.random.default_rng(1)
    n = 240_000
    ts = np.sort(draw.integers(0, 20 * 3600, n)) * SECOND + OPEN
    price, volume = draw.random(n) + 1, draw.integers(0, 99, n)
    opens = OPEN + np.arange(0, 20, 2) * 3600 * SECOND
    segments = np.stack([opens, opens + 3500 * SECOND], axis=1)
    one, two, eight = (
        bars.session_bars(ts, price, volume, segments=segments, width_ns=60 * SECOND, n_threads=k) for k in (1, 2, 8)
    )
    assert same(one, two)
    assert same(one, eight)


@settings(max_examples=EXAMPLES, deadline=None)
@given(t=trades(), width=widths)
def test_bars_of_a_session_hold_every_trade_once(t: dict[str, Any], width: int) -> None:
    flags = np.full(len(t["ts"]), 7, np.uint8) if t["flags"] is None else t["flags"]
    found = bars.time_bars(**t, open_ns=OPEN, close_ns=OPEN + 120 * SECOND, width_ns=width)
    exact = sum((Fraction(v.item()) for v in t["volume"][flags & 4 > 0]), Fraction(0))
    assert found[:, 4].sum() == (flags != 0).sum()
    assert math.isclose(float(sum((Fraction(v) for v in found[:, 5].tolist()), Fraction(0))), float(exact))
    if t["volume"].dtype != np.float64:
        assert found[:, 5].sum() == exact
    ranged = t["price"][flags & 1 > 0]
    if len(ranged):
        ends = found[:, [0, 3]][~np.isnan(found[:, [0, 3]])]
        assert np.nanmax(found[:, 1]) == np.append(ends, ranged.max()).max()
        assert np.nanmin(found[:, 2]) == np.append(ends, ranged.min()).min()
    lasts = t["price"][flags & 2 > 0]
    if len(lasts):
        opens = found[(found[:, 4] > 0) & ~np.isnan(found[:, 0]), 0]
        assert opens[0] == lasts[0]
        assert found[-1, 3] == lasts[-1]
    known = found[~np.isnan(found[:, 3])]
    assert (known[:, 2] <= known[:, [0, 3]].min(axis=1)).all()
    assert (known[:, 1] >= known[:, [0, 3]].max(axis=1)).all()


@settings(max_examples=EXAMPLES, deadline=None)
@given(t=trades(), times=st.integers(2, 5))
def test_wide_bars_are_folds_of_narrow_ones(t: dict[str, Any], times: int) -> None:
    narrow = bars.time_bars(**t, open_ns=OPEN, close_ns=OPEN + 120 * SECOND, width_ns=10 * SECOND)
    wide = bars.time_bars(**t, open_ns=OPEN, close_ns=OPEN + 120 * SECOND, width_ns=10 * times * SECOND)
    for row, first in zip(wide, range(0, 12, times), strict=True):
        part = narrow[first : first + times]
        assert row[4] == part[:, 4].sum()
        assert math.isclose(row[5], part[:, 5].sum(), rel_tol=1e-12)
        assert row[7] == part[:, 7].max()
        assert row[3] == part[-1, 3] or math.isnan(row[3])
        traded = part[part[:, 4] > 0]
        if len(traded) and t["flags"] is None:  # a bar without LAST trades is widened to a carried close
            assert (row[1], row[2]) == (traded[:, 1].max(), traded[:, 2].min())


@settings(max_examples=EXAMPLES, deadline=None)
@given(t=trades(), row=st.integers(0, 11), count=st.integers(1, 6), data=st.data())
def test_a_window_does_not_change_when_later_trades_do(
    t: dict[str, Any], row: int, count: int, data: st.DataObject
) -> None:
    def window() -> NDArray[np.float32]:
        grid = bars.time_bars(**t, open_ns=OPEN, close_ns=OPEN + 120 * SECOND, width_ns=10 * SECOND)
        return bars.gather(grid, np.array([row]), count, data.draw(st.shared(norms, key="norm")))

    norms = st.sampled_from(["none", "last_price_pct", "zscore_window"])
    before = window()
    later = t["ts"] >= OPEN + row * 10 * SECOND
    t["price"] = np.where(later, t["price"] * 3 + 1, t["price"])
    t["volume"] = np.where(later, t["volume"] // 2, t["volume"])
    if t["flags"] is not None:
        t["flags"] = np.where(later, 7 - t["flags"], t["flags"]).astype(np.uint8)
    assert same(before, window())


def minute(**columns: Any) -> NDArray[np.float64]:
    return bars.time_bars(**columns, open_ns=OPEN, close_ns=OPEN + 60 * SECOND, width_ns=60 * SECOND)


def test_an_empty_bar_carries_the_close_before_it() -> None:
    found = bars.time_bars(
        np.array([OPEN + 61 * SECOND]), np.array([5.0]), np.array([2]),
        open_ns=OPEN, close_ns=OPEN + 150 * SECOND, width_ns=60 * SECOND, carry=4.0,
    )  # fmt: skip
    assert found.tolist() == [
        [4, 4, 4, 4, 0, 0, 0, 0],
        [5, 5, 5, 5, 1, 2, 2, 2],
        [5, 5, 5, 5, 0, 0, 0, 0],
    ]


def test_an_unsorted_trade_is_named() -> None:
    ts = np.arange(100) * 1000 + OPEN
    ts[57] = OPEN
    with pytest.raises(BarsError, match="trade 57 is earlier") as caught:
        minute(ts=ts, price=np.ones(100), volume=np.ones(100, np.int64))
    assert (caught.value.code, caught.value.index) == ("tape_unsorted", 57)


def test_trades_outside_of_the_segment_are_refused() -> None:
    for ts in ([OPEN - 1], [OPEN + 60 * SECOND]):
        with pytest.raises(BarsError, match="trade 0 lies outside"):
            minute(ts=np.array(ts), price=np.ones(1), volume=np.ones(1, np.int64))


def test_whole_volumes_are_added_exactly_or_refused() -> None:
    ts, price = np.full(3, OPEN), np.ones(3)
    assert minute(ts=ts, price=price, volume=np.full(3, 2**31 - 1, np.int32))[0, 5] == 3 * (2**31 - 1)
    assert minute(ts=ts, price=price, volume=np.full(3, 2**31, np.int64))[0, 5] == 3 * 2**31
    with pytest.raises(BarsError, match="more than 2\\*\\*53") as caught:
        minute(ts=ts, price=price, volume=np.full(3, 2**62, np.int64))
    assert caught.value.code == "overflow"
    with pytest.raises(BarsError, match="trade 1 has a negative volume"):
        minute(ts=ts, price=price, volume=np.array([1, -1, 1]))


def test_float_volumes_are_added_in_eight_lanes() -> None:
    volume = np.ones(20)
    volume[3] = 1e16
    found = minute(ts=np.full(20, OPEN), price=np.ones(20), volume=volume)
    assert found[0, 5] == reference.lane_sum(volume.tolist()) != sum(volume.tolist())


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"ts": np.zeros(1, np.int32)}, "ts is int32; it must be int64"),
        ({"price": np.zeros(1, np.float32)}, "price is float32; it must be float64"),
        ({"price": np.zeros(2)}, "2 prices but 1 volumes"),
        ({"volume": np.zeros(1, np.int16)}, "int32 or int64 or float64"),
        ({"flags": np.zeros(2, np.uint8)}, "1 prices but 2 flags"),
        ({"ts": np.zeros((1, 1), np.int64)}, "ts must be one-dimensional and contiguous"),
    ],
)
def test_a_wrong_array_is_refused(columns: dict[str, Any], text: str) -> None:
    good = {"ts": np.zeros(1, np.int64), "price": np.zeros(1), "volume": np.zeros(1, np.int64)}
    with pytest.raises(BarsError, match=text):
        minute(**(good | columns))


def test_a_window_outside_of_the_grid_is_refused() -> None:
    with pytest.raises(BarsError, match="row 1 of `past`"):
        bars.gather(np.ones((3, 8)), np.array([3, 4]), 2)
    with pytest.raises(BarsError, match="none, last_price_pct, zscore_window, max_values"):
        bars.gather(np.ones((3, 8)), np.array([3]), 2, "percent")
