"""Labels against naive twins in plain loops, and against hand-computed tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.assets.component import Instance
from tapeline.assets.components import registry
from tapeline.assets.sampling import sample_times
from tapeline.assets.view import UNIT_NS, Market, View
from tapeline.tape.trades import Trades

NAN = math.nan
EVERY = {"kind": "every", "unit": "min", "size": 1}
LAW = settings(max_examples=8, deadline=None)
MakeMarket = Callable[..., Market]
MINUTE = UNIT_NS["min"]


def instance(component: str, **params: Any) -> Instance:
    known = registry()[component]
    chosen = known.params.model_validate(params)
    read = known.inputs(chosen) or {}
    inputs = {key: instance(each.component, **each.params) for key, each in read.items()}
    return Instance(component, known, chosen, inputs=inputs)


def compute(market: Market, component: str, **params: Any) -> tuple[list[list[float]], list[int]]:
    times, _ = sample_times(market, EVERY, {date: i for i, date in enumerate(market.dates)}, "24/7")
    y, t1 = instance(component, **params).compute(View(market, times))
    return y.tolist(), t1.tolist()


def priced(*bars: tuple[float, float, float, float]) -> Market:
    """One session whose minutes have these opens, highs, lows and closes."""
    ts, price = [], []
    for k, (opened, high, low, close) in enumerate(bars):
        for second, value in enumerate((opened, high, low, close)):
            ts.append(k * MINUTE + second * 10**9)
            price.append(value)
    n = len(ts)
    return Market(
        "X",
        Trades(np.array(ts), np.array(price, np.float64), np.ones(n, np.int64), np.full(n, 7, np.uint8)),
        np.array([[0, len(bars) * MINUTE]], np.int64),
        np.zeros(1, np.int64),
        ("2024-01-02",),
    )


def flat(price: float) -> tuple[float, float, float, float]:
    return price, price, price, price


@LAW
@given(seed=st.integers(0, 10_000), h=st.integers(1, 9), d=st.integers(0, 2), eps=st.sampled_from([0.0, 0.0003]))
def test_returns_and_their_classes(market_of: MakeMarket, seed: int, h: int, d: int, eps: float) -> None:
    market = market_of(seed, minutes=30, trades=150)
    grid = market.grid("min", 1)
    returns, t1 = compute(market, "fwd_return", horizon=h, entry_delay=d)
    classes, _ = compute(market, "three_class", horizon=h, entry_delay=d, eps=eps)
    for t in range(len(grid.end)):
        last = t + d + h
        inside = last < len(grid.end) and grid.segment[last] == grid.segment[t]
        move = grid.bars[last, 3] / grid.bars[t + d, 3] - 1 if inside else NAN
        if math.isnan(move):
            assert (math.isnan(returns[t][0]), math.isnan(classes[t][0]), t1[t]) == (True, True, -1)
        else:
            assert (returns[t][0], t1[t]) == (move, grid.end[last])
            assert classes[t][0] == (2 if move > eps else 0 if move < -eps else 1)


def walk(rows: Any, t: int, d: int, h: int, up: float, down: float, side: int = 1) -> tuple[int, float, int]:
    """The barriers one bar at a time: class, price at the end, bars to it."""
    for k in range(1, h + 1):
        opened, high, low, _ = rows[t + d + k][:4]
        stop = low <= down if side > 0 else high >= up
        if stop:
            return 0, (min(opened, down) if side > 0 else max(opened, up)), k
        if high >= up if side > 0 else low <= down:
            return 2, (up if side > 0 else down), k
    return 1, rows[t + d + h][3], h


@LAW
@given(
    seed=st.integers(0, 10_000),
    h=st.integers(1, 12),
    measure=st.sampled_from(["atr", "pct", "sigma"]),
    tp=st.floats(0.2, 3),
    sl=st.floats(0.2, 3),
)
def test_barriers(market_of: MakeMarket, seed: int, h: int, measure: str, tp: float, sl: float) -> None:
    market = market_of(seed, minutes=30, trades=300)
    grid, n = market.grid("min", 1), 3
    rows = grid.bars.tolist()
    start = next(i for i, row in enumerate(rows) if not math.isnan(row[3]))
    high, low, close = np.ascontiguousarray(grid.bars[start:, 1:4].T)
    atr = [NAN] * start + talib.ATR(high, low, close, timeperiod=n).tolist()
    if measure == "pct":
        tp, sl = tp / 30, sl / 30
    chosen: dict[str, Any] = {"horizon": h, "tp": tp, "sl": sl, "measure": measure, "n": n}
    found, t1 = compute(market, "triple_barrier", **chosen)
    first, _ = compute(market, "rr_atr", **chosen)
    for t in range(len(rows)):
        last = t + 1 + h
        inside = last < len(rows) and grid.segment[last] == grid.segment[t]
        entry = rows[t + 1][3] if inside else NAN
        returns = [math.log(rows[i][3] / rows[i - 1][3]) if i > start else NAN for i in range(t - n + 1, t + 1)]
        sigma = math.sqrt(math.fsum(r * r for r in returns) / n) if t >= n else NAN
        one = entry * {"atr": atr[t] / rows[t][3], "pct": 0.01, "sigma": sigma}[measure] if inside else NAN
        if math.isnan(one):
            assert (math.isnan(found[t][0]), math.isnan(first[t][0]), t1[t]) == (True, True, -1)
            continue
        how, price, after = walk(rows, t, 1, h, entry + tp * one, entry - sl * one)
        assert found[t] == pytest.approx([how, price / entry - 1, after], rel=1e-9, abs=1e-12)
        assert first[t] == [how == 2]
        # The whole horizon was read, whenever a barrier was touched.
        assert t1[t] == grid.end[last]


@pytest.mark.parametrize(
    ("bars", "expected"),
    [
        ([flat(100), flat(102)], [2, 0.01, 2]),
        ([(100, 100.5, 99.5, 100), flat(101)], [2, 0.01, 2]),
        ([(100, 101, 99, 100), flat(101)], [0, -0.01, 1]),  # both inside one bar: which came first is not known
        ([flat(95), flat(95)], [0, -0.05, 1]),  # jumped over: filled at the open
        ([flat(100.9), flat(99.1)], [1, -0.009, 2]),
        ([flat(101), flat(90)], [2, 0.01, 1]),
    ],
)
def test_a_table_of_barriers(bars: list[Any], expected: list[float]) -> None:
    # The sample is asked at the end of minute 0, entered at the close of minute 1.
    market = priced(flat(100), flat(100), *bars)
    found, t1 = compute(market, "triple_barrier", horizon=2, tp=1, sl=1, measure="pct")
    assert found[0] == pytest.approx(expected)
    assert t1[0] == 4 * MINUTE
    assert t1[1:] == [-1, -1, -1]


@LAW
@given(seed=st.integers(0, 10_000), h=st.integers(1, 8), barrier=st.booleans(), cost=st.sampled_from([0.0, 0.0004]))
def test_a_bet_that_paid(market_of: MakeMarket, seed: int, h: int, barrier: bool, cost: float) -> None:
    market = market_of(seed, minutes=30, trades=200)
    grid = market.grid("min", 1)
    rows = grid.bars.tolist()
    start = next(i for i, row in enumerate(rows) if not math.isnan(row[3]))
    ends = {"tp": 0.02, "sl": 0.03, "measure": "pct"} if barrier else {}
    side = {"name": "side", "component": "roc", "component_version": 1, "params": {"k": 2}}
    found, t1 = compute(market, "meta_label", horizon=h, side=side, cost=cost, **ends)
    for t in range(len(rows)):
        last = t + 1 + h
        inside = last < len(rows) and grid.segment[last] == grid.segment[t]
        change = rows[t][3] - rows[t - 2][3] if t - 2 >= start else 0.0
        if not inside or change == 0:
            assert t1[t] == -1
            continue
        sign, entry = (1 if change > 0 else -1), rows[t + 1][3]
        ahead, behind = (entry * 0.0002, entry * 0.0003) if barrier else (math.inf, math.inf)
        up, down = (entry + ahead, entry - behind) if sign > 0 else (entry + behind, entry - ahead)
        _, price, _ = walk(rows, t, 1, h, up, down, sign)
        assert found[t] == [sign * (price / entry - 1) > cost]


@LAW
@given(seed=st.integers(0, 10_000), h=st.integers(1, 8))
def test_volatility_to_come(market_of: MakeMarket, seed: int, h: int) -> None:
    market = market_of(seed, minutes=30, trades=200)
    grid = market.grid("min", 1)
    close = grid.bars[:, 3].tolist()
    found, t1 = compute(market, "fwd_vol", horizon=h)

    def vol(t: int) -> float:
        if t - h < 0:
            return NAN
        moves = [math.log(close[i] / close[i - 1]) for i in range(t - h + 1, t + 1)]
        return math.sqrt(math.fsum(r * r for r in moves))

    for t in range(len(close)):
        inside = t + 1 + h < len(close) and grid.segment[t + 1 + h] == grid.segment[t]
        last = vol(t) if inside else NAN
        if math.isnan(last) or last == 0:
            assert t1[t] == -1
        else:
            assert found[t] == pytest.approx([vol(t + 1 + h) / last, float(vol(t + 1 + h) > last)], rel=1e-9)


@LAW
@given(seed=st.integers(0, 10_000), longest=st.integers(3, 9))
def test_the_steepest_trend(market_of: MakeMarket, seed: int, longest: int) -> None:
    market = market_of(seed, minutes=25, trades=150)
    grid = market.grid("min", 1)
    close = grid.bars[:, 3]
    found, t1 = compute(market, "trend_scan", horizon=longest)
    for t in range(0, len(close), 3):
        last = t + 1 + longest
        if last >= len(close) or grid.segment[last] != grid.segment[t] or np.isnan(close[t + 1]):
            assert t1[t] == -1
            continue
        values = []
        for k in range(3, longest + 1):
            x, y = np.arange(k + 1.0), close[t + 1 : t + 2 + k] - close[t + 1]
            design = np.stack([np.ones(k + 1), x], axis=1)
            (_, slope), *_ = np.linalg.lstsq(design, y, rcond=None)
            rest = float(np.square(y - design @ np.linalg.lstsq(design, y, rcond=None)[0]).sum())
            if y.max() == y.min():
                values.append(0.0)
            elif rest <= 1e-12 * float(np.square(y).sum()):
                values.append(math.copysign(1000.0, slope))
            else:
                error = math.sqrt(rest / (k - 1) / float(np.square(x - x.mean()).sum()))
                values.append(float(np.clip(slope / error, -1000, 1000)))
        steepest = max(values, key=abs)
        assert abs(found[t][0]) == pytest.approx(abs(steepest), rel=1e-5, abs=1e-7)
        assert t1[t] == grid.end[last]


def test_trends_of_a_table() -> None:
    rising = priced(*(flat(100 + k) for k in range(8)))
    assert compute(rising, "trend_scan", horizon=4)[0][0] == [1000.0, 1.0]
    falling = priced(*(flat(100 - k) for k in range(8)))
    assert compute(falling, "trend_scan", horizon=4)[0][0] == [-1000.0, 0.0]
    still = priced(*(flat(100) for _ in range(8)))
    assert compute(still, "trend_scan", horizon=4)[0][0] == [0.0, 0.0]
