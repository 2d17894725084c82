"""Bars of trades, volume and money against their naive twins, to the bit, on every build and on many threads."""

from __future__ import annotations

import math
import os
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapeline import bars
from tapeline.bars import _kernels, reference

BUILDS: list[Any] = [_kernels]
if _kernels.has_v3():
    from tapeline.bars import _kernels_v3

    BUILDS.append(_kernels_v3)

EXAMPLES = int(os.environ.get("TAPELINE_EXAMPLES", "60"))
SEEDS = st.integers(0, 2**32 - 1)
UNITS = ("volume", "dollar")


def trades(rng: np.random.Generator, most: int = 300) -> dict[str, Any]:
    """Trades of any kind, also such whose sums meet a limit exactly, differ by one rounding, or fall."""
    n = int(rng.integers(0, most))
    price = rng.choice([np.round(rng.uniform(0.01, 9, n), 2), np.full(n, 0.1), np.full(n, 4.0)])
    kind = rng.choice(["int32", "int64", "float64"])
    volume = rng.choice([rng.integers(0, 1000, n), np.full(n, 100), rng.integers(0, 2, n)]).astype(kind)
    if kind == "float64" and rng.random() < 0.7:
        volume = rng.choice([rng.uniform(0, 1000, n), rng.uniform(0, 1, n) ** 40, np.full(n, 0.1)])
    if kind == "int64" and n and rng.random() < 0.2:
        volume[rng.integers(0, n, 3)] = rng.choice([2**31, 2**47 - 1, 2**47, 2**52 - 1])
    odd = rng.random()
    if n and odd < 0.15:
        price[rng.integers(0, n, 1 + n // 30)] *= -1
    elif n and odd < 0.25 and kind != "float64":
        volume[rng.integers(0, n)] = -5
    flags = None
    if rng.random() < 0.6:
        flags = np.full(n, 7, np.uint8)
        some = rng.random(n) < rng.choice([0.01, 0.1, 0.7])
        flags[some] = rng.integers(0, 8, int(some.sum()))
    return {"price": price, "volume": volume, "flags": flags}


def limit_for(rng: np.random.Generator, t: dict[str, Any], dollar: bool) -> float:
    """A limit, often one that the sum of the first trades meets, misses or passes by one rounding."""
    total, stop = 0.0, int(rng.integers(1, 90))
    for p, v in zip(t["price"][:stop].tolist(), t["volume"][:stop].tolist(), strict=True):
        total += p * float(v) if dollar else float(v)
    near = [total, np.nextafter(total, math.inf), np.nextafter(total, 0.0), total * (1 + 1e-12), total / 3]
    limit = float(rng.choice([*near, 1.0, 777.7, 5e4, 1e9]))
    return limit if 0 < limit < math.inf else float(rng.choice([5e-324, 1e-300, 1e308, 2.0**52, 2.0**53 + 2]))


def cut(
    run: Any, t: dict[str, Any], limit: float, dollar: bool, first: int, until: int, rows: int, carry: float
) -> Any:
    out, edges = np.zeros((rows, 8)), np.zeros((rows, 2), np.int64)
    found, fault, close = np.zeros(3, np.int64), np.zeros(2, np.int64), np.array([carry])
    args = (t["price"], t["volume"], t["flags"], limit, dollar, first, until, close, out, edges, found, fault)
    status = int(run.threshold_bars(*args))
    if status:
        return status, fault.tolist()
    return out[: found[0]].tobytes(), edges[: found[0]].tolist(), found.tolist(), close.tobytes()


def meets(*_: object) -> bool:
    return True


def same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


@settings(max_examples=EXAMPLES * 4, deadline=None)
@given(seed=SEEDS, dollar=st.booleans())
def test_threshold_bars_equal_the_reference(seed: int, dollar: bool) -> None:
    rng = np.random.default_rng(seed)
    t = trades(rng)
    n, limit = len(t["price"]), limit_for(rng, t, dollar)
    first = int(rng.integers(0, n + 1)) if rng.random() < 0.3 else 0
    until = int(rng.integers(0, n + 1)) if rng.random() < 0.3 else n
    rows = int(rng.choice([3, n + 1]))
    carry = float(rng.choice([math.nan, 9.5]))
    with np.errstate(all="ignore"):
        expected = cut(reference, t, limit, dollar, first, until, rows, carry)
    for build in BUILDS:
        assert cut(build, t, limit, dollar, first, until, rows, carry) == expected


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, unit=st.sampled_from(UNITS), many=st.integers(2, 9))
@example(seed=0, unit="volume", many=2)
def test_threads_do_not_change_threshold_bars(seed: int, unit: Any, many: int) -> None:
    rng = np.random.default_rng(seed)
    t = trades(rng, 3000)
    limit = limit_for(rng, t, unit == "dollar") * float(rng.choice([0.2, 1.0, 7.0])) or 1.0
    answers: list[Any] = []
    for threads, least in ((1, 1), (many, 40), (many, 250)):
        with mock.patch.object(bars.front, "ONE_THREAD", least), mock.patch.object(bars.groups, "_meet_soon", meets):
            try:
                answers.append(bars.threshold_bars(**t, limit=limit, unit=unit, carry=3.0, n_threads=threads))
            except bars.BarsError as error:
                answers.append((error.code, error.index, error.row))
    for one in answers[1:]:
        assert all(same(np.asarray(a), np.asarray(b)) for a, b in zip(one, answers[0], strict=True))


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, unit=st.sampled_from(UNITS), many=st.integers(1, 4))
def test_threshold_bars_of_sessions_are_those_of_each(seed: int, unit: Any, many: int) -> None:
    rng = np.random.default_rng(seed)
    t = trades(rng)
    n = len(t["price"])
    if n and ((t["volume"] < 0).any() or t["volume"].max() > 2**46):
        return
    firsts = np.array([0, *np.sort(rng.integers(0, n + 1, 4)), n], np.int64)
    limit, carry = limit_for(rng, t, unit == "dollar"), 3.0
    with mock.patch.object(bars.front, "ONE_THREAD", 1):
        out, edges, complete = bars.session_threshold_bars(
            **t, firsts=firsts, limit=limit, unit=unit, carry=carry, n_threads=many
        )
    row = 0
    for low, high in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True):
        part = {name: None if column is None else column[low:high] for name, column in t.items()}
        mine, pairs = bars.threshold_bars(**part, limit=limit, unit=unit, carry=carry)
        assert same(out[row : row + len(mine)], mine)
        assert same(edges[row : row + len(mine)], pairs + low)
        rest = bars.threshold_ahead(
            bars.marked(t["price"], t["volume"], t["flags"]), np.array([[low, high]]), limit=limit,
            dollar=unit == "dollar", count=len(mine) + 1,
        )[0]  # fmt: skip
        assert complete[row : row + len(mine)].tolist() == (rest[: len(mine), 2] == 1).tolist()
        carry, row = (carry if not len(mine) else float(mine[-1, 3])), row + len(mine)
    assert row == len(out)


def test_sessions_must_lie_in_the_trades() -> None:
    with pytest.raises(bars.BarsError, match="firsts lie outside of the 2 trades"):
        bars.session_threshold_bars(np.ones(2), np.ones(2), firsts=np.array([0, 3]), limit=1.0, unit="volume")


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, size=st.integers(1, 40), backward=st.booleans(), many=st.integers(1, 9))
def test_tick_bars_equal_the_reference(seed: int, size: int, backward: bool, many: int) -> None:
    rng = np.random.default_rng(seed)
    t = trades(rng)
    if t["volume"].dtype != np.float64:
        t["volume"] = np.abs(t["volume"]) % 2**30
    carry = float(rng.choice([math.nan, 9.5]))
    counted = len(t["price"]) if t["flags"] is None else int((t["flags"] != 0).sum())
    rows, lead = (counted // size, counted % size) if backward else (-(-counted // size), 0)
    found = []
    for run in [reference, *BUILDS]:
        out, edges = np.zeros((rows, 8)), np.zeros((rows, 2), np.int64)
        args = (t["price"], t["volume"], t["flags"], size, lead, np.array([carry]))
        assert run.tick_bars(*args, out, edges, np.zeros(2, np.int64)) == 0
        found.append((out, edges))
    assert all(same(out, found[0][0]) and same(edges, found[0][1]) for out, edges in found)
    with mock.patch.object(bars.front, "ONE_THREAD", 1), mock.patch.object(bars.groups, "STRETCH", 16):
        front = bars.tick_bars(**t, size=size, backward=backward, carry=carry, n_threads=many)
    assert same(front[0], found[0][0])
    assert same(front[1], found[0][1])


def test_equal_trades_close_bars_where_their_sum_meets_the_limit_exactly() -> None:
    price, volume = np.full(1000, 0.1), np.full(1000, 10)
    total = 0.0
    for _ in range(100):  # 0.1 * 10 added a hundred times is not 100
        total += 0.1 * 10
    edges = bars.threshold_bars(price, volume, limit=total, unit="dollar")[1]
    assert (np.diff(edges, axis=1) == 100).all()
    edges = bars.threshold_bars(price, volume, limit=np.nextafter(total, 1e9), unit="dollar")[1]
    assert (np.diff(edges[:-1], axis=1) == 101).all()


def test_long_bars_are_cut_by_one_thread() -> None:
    rng = np.random.default_rng(1)
    price, volume = rng.uniform(1, 9, 300_000), rng.integers(1, 99, 300_000)
    with mock.patch.object(bars.groups, "share", side_effect=AssertionError):
        few = bars.threshold_bars(price, volume, limit=50_000.0, unit="volume", n_threads=2)
    with mock.patch.object(bars.front, "ONE_THREAD", 1):
        many = bars.threshold_bars(price, volume, limit=300.0, unit="volume", n_threads=2)
    assert len(few[0]) == pytest.approx(300, rel=0.02)
    assert same(many[1], bars.threshold_bars(price, volume, limit=300.0, unit="volume", n_threads=1)[1])


def test_bars_are_written_into_the_room_that_is_given() -> None:
    rng = np.random.default_rng(2)
    price, volume = rng.uniform(1, 9, 3000), rng.integers(1, 99, 3000)
    wanted = bars.threshold_bars(price, volume, limit=300.0, unit="volume", n_threads=1)
    for least, threads in ((10_000, 1), (1, 3)):
        with mock.patch.object(bars.front, "ONE_THREAD", least), mock.patch.object(bars.groups, "_meet_soon", meets):
            for rows in (0, 1, 40, 5000):  # also where it does not suffice
                room = np.empty((rows, 8)), np.empty((rows, 2), np.int64)
                found = bars.threshold_bars(price, volume, limit=300.0, unit="volume", n_threads=threads, room=room)
                assert same(found[0], wanted[0])
                assert same(found[1], wanted[1])
                assert np.shares_memory(found[0], room[0]) == (rows == 5000)
    wrong: Any = np.empty((9, 8)), np.empty((9, 2), np.int32)
    with pytest.raises(bars.BarsError, match="edges are int32"):
        bars.threshold_bars(price, volume, limit=300.0, unit="volume", room=wrong)
