"""Features of bars against naive twins in plain loops, and against TA-Lib called directly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tapeline.assets.component import Instance
from tapeline.assets.components import registry
from tapeline.assets.sampling import sample_times
from tapeline.assets.view import Grid, Market, View

NAN = math.nan
EVERY = {"kind": "every", "unit": "min", "size": 1}
LAW = settings(max_examples=6, deadline=None)
MakeMarket = Callable[..., Market]
Bars = Sequence[Sequence[float]]
Naive = Callable[[Bars, int], list[float]]
"""The values of bar t from the rows `(open, high, low, close, count, volume, mean, max)` of all bars."""


def compute(market: Market, component: str, **params: Any) -> NDArray[np.float64]:
    known = registry()[component]
    times, _ = sample_times(market, EVERY, {date: i for i, date in enumerate(market.dates)}, "24/7")
    instance = Instance(component, known, known.params.model_validate(params))
    return np.asarray(instance.compute(View(market, times)), np.float64)


def over(a: float, b: float) -> float:
    return a / b if b else NAN


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def closes(bars: Bars, t: int, n: int) -> list[float]:
    return [bars[i][3] for i in range(t - n + 1, t + 1)]


def returns(bars: Bars, t: int, n: int) -> list[float]:
    return [math.log(bars[i][3] / bars[i - 1][3]) for i in range(t - n + 1, t + 1)]


def roc(bars: Bars, t: int) -> list[float]:
    return [bars[t][3] / bars[t - 4][3] - 1]


def kbar(bars: Bars, t: int) -> list[float]:
    o, h, low, c = bars[t][:4]
    e = h - low + 1e-12
    up, down = h - max(o, c), min(o, c) - low
    both = (2 * c - h - low) / o, (2 * c - h - low) / e
    return [(c - o) / o, (h - low) / o, (c - o) / e, up / o, up / e, down / o, down / e, *both]


def sma_ratio(bars: Bars, t: int) -> list[float]:
    return [mean(closes(bars, t, 6)) / bars[t][3] - 1]


def bb(bars: Bars, t: int) -> list[float]:
    window = closes(bars, t, 5)
    middle = mean(window)
    deviation = math.sqrt(mean([(c - middle) ** 2 for c in window]))
    if min(window) == max(window):
        return [NAN, 0.0]
    return [(bars[t][3] - middle + 2 * deviation) / (4 * deviation), 4 * deviation / middle]


def _place(bars: Bars, t: int, n: int) -> float:
    high, low = max(bars[i][1] for i in range(t - n + 1, t + 1)), min(bars[i][2] for i in range(t - n + 1, t + 1))
    return over(bars[t][3] - low, high - low)


def stoch(bars: Bars, t: int) -> list[float]:
    fast = [_place(bars, i, 5) for i in range(t - 3, t + 1)]
    slow = [mean(fast[i : i + 2]) for i in range(3)]
    return [slow[-1], mean(slow)]


def willr(bars: Bars, t: int) -> list[float]:
    return [_place(bars, t, 5) - 1]


def cci(bars: Bars, t: int) -> list[float]:
    typical = [sum(bars[i][1:4]) / 3 for i in range(t - 4, t + 1)]
    if max(typical) - min(typical) < 1e-9:
        return [NAN]
    deviation = mean([abs(p - mean(typical)) for p in typical])
    return [over(typical[-1] - mean(typical), 0.015 * deviation) / 100]


def aroonosc(bars: Bars, t: int) -> list[float]:
    highs, lows = [bars[i][1] for i in range(t - 6, t + 1)], [bars[i][2] for i in range(t - 6, t + 1)]
    last_high = max(i for i in range(7) if highs[i] == max(highs))
    last_low = max(i for i in range(7) if lows[i] == min(lows))
    return [(last_high - last_low) / 6]


def parkinson(bars: Bars, t: int) -> list[float]:
    squares = [math.log(bars[i][1] / bars[i][2]) ** 2 for i in range(t - 4, t + 1)]
    return [math.sqrt(mean(squares) / (4 * math.log(2)))]


def garman_klass(bars: Bars, t: int) -> list[float]:
    each = [
        0.5 * math.log(bars[i][1] / bars[i][2]) ** 2 - (2 * math.log(2) - 1) * math.log(bars[i][3] / bars[i][0]) ** 2
        for i in range(t - 4, t + 1)
    ]
    return [math.sqrt(max(mean(each), 0))]


def linreg(bars: Bars, t: int) -> list[float]:
    window = closes(bars, t, 6)
    slope, _ = np.polyfit(range(6), np.array(window) - window[0], 1)
    if min(window) == max(window):
        return [0.0, NAN]
    return [slope / bars[t][3], float(np.corrcoef(range(6), np.array(window) - window[0])[0, 1]) ** 2]


def rank(bars: Bars, t: int) -> list[float]:
    return [sum(bars[i][3] < bars[t][3] for i in range(t - 6, t)) / 6]


def rsv(bars: Bars, t: int) -> list[float]:
    high, low = max(bars[i][1] for i in range(t - 5, t + 1)), min(bars[i][2] for i in range(t - 5, t + 1))
    return [(bars[t][3] - low) / (high - low + 1e-12)]


def vwap_ratio(bars: Bars, t: int) -> list[float]:
    made = []
    for n in (3, 7):
        window = [bars[i] for i in range(t - n + 1, t + 1)]
        paid = math.fsum(row[3] * row[5] for row in window)
        made.append(over(paid, math.fsum(row[5] for row in window)) / bars[t][3] - 1)
    return made


def obv_slope(bars: Bars, t: int) -> list[float]:
    balance = [0.0]
    for i in range(t - 3, t + 1):
        change = bars[i][3] - bars[i - 1][3]
        balance.append(balance[-1] + ((change > 0) - (change < 0)) * bars[i][5])
    slope, _ = np.polyfit(range(5), balance, 1)
    return [over(slope, math.fsum(bars[i][5] for i in range(t - 4, t + 1)))]


def mfi(bars: Bars, t: int) -> list[float]:
    up = down = 0.0
    for i in range(t - 3, t + 1):
        now, before = sum(bars[i][1:4]) / 3, sum(bars[i - 1][1:4]) / 3
        up += now * bars[i][5] if now - before > 1e-9 else 0
        down += now * bars[i][5] if before - now > 1e-9 else 0
    return [(over(100 * up, up + down) - 50) / 50]


def tick_imbalance(bars: Bars, t: int) -> list[float]:
    signed = 0.0
    for i in range(t - 3, t + 1):
        # The sign of the bar's change, or of the last change up to four bars back.
        changes = [bars[j][3] - bars[j - 1][3] for j in range(i - 3, i + 1) if j > 0]
        last = next((change for change in reversed(changes) if change), 0.0)
        signed += ((last > 0) - (last < 0)) * bars[i][5]
    return [over(signed, math.fsum(bars[i][5] for i in range(t - 3, t + 1)))]


def amihud(bars: Bars, t: int) -> list[float]:
    moves = zip(range(t - 4, t + 1), returns(bars, t, 5), strict=True)
    each = [abs(r) / (bars[i][3] * bars[i][5]) for i, r in moves if bars[i][5]]
    return [math.log1p(mean(each)) if each else NAN]


def frac_diff(bars: Bars, t: int) -> list[float]:
    # The binomial series of (1 - B)^0.4, by the gamma function.
    series = [(-1) ** k * math.gamma(1.4) / (math.gamma(k + 1) * math.gamma(1.4 - k)) for k in range(9)]
    kept = [w for w in series if abs(w) >= 0.02]
    return [math.fsum(w * math.log(bars[t - k][3]) for k, w in enumerate(kept))]


NAIVE: list[tuple[Naive, int, dict[str, Any]]] = [
    (roc, 5, {"k": 4}),
    (kbar, 1, {}),
    (sma_ratio, 6, {"n": 6}),
    (bb, 5, {"n": 5}),
    (stoch, 8, {"n": 5, "slow_k": 2, "slow_d": 3}),
    (willr, 5, {"n": 5}),
    (cci, 5, {"n": 5}),
    (aroonosc, 7, {"n": 6}),
    (parkinson, 5, {"n": 5}),
    (garman_klass, 5, {"n": 5}),
    (linreg, 6, {"n": 6}),
    (rank, 7, {"n": 6}),
    (rsv, 6, {"n": 6}),
    (vwap_ratio, 7, {"windows": [3, 7]}),
    (obv_slope, 5, {"n": 5}),
    (mfi, 5, {"n": 4}),
    (tick_imbalance, 9, {"n": 4, "unit": "min"}),
    (amihud, 6, {"n": 5}),
    (frac_diff, 9, {"d": 0.4, "tau": 0.02}),
]


@pytest.mark.parametrize(("naive", "needs", "params"), NAIVE, ids=lambda each: getattr(each, "__name__", None))
@LAW
@given(seed=st.integers(0, 10_000), floats=st.booleans())
def test_a_feature_is_what_its_formula_says(
    market_of: MakeMarket, naive: Naive, needs: int, params: dict[str, Any], seed: int, floats: bool
) -> None:
    market = market_of(seed, trades=150, minutes=40, floats=floats)
    found = compute(market, naive.__name__, **params)
    grid = market.grid("min", 1)
    bars = grid.bars.tolist()
    first = next(i for i, row in enumerate(bars) if not math.isnan(row[3])) + needs - 1
    # Each sample lies at the end of a bar of this unit: sample t has bar t as its newest.
    expected = [naive(bars, t) for t in range(first, len(bars))]
    # %B and the like divide by a spread: rounding in the last place of a price of 100 is 1e-13 of it.
    np.testing.assert_allclose(found[first:], expected, rtol=2e-6, atol=1e-9)
    assert np.isnan(found[: max(first - needs + 1, 0)]).all()


def direct(name: str, grid: Grid, *columns: int, **periods: Any) -> Any:
    return getattr(talib, name)(*(np.ascontiguousarray(grid.bars[:, k]) for k in columns), **periods)


Direct = Callable[[Grid], list[NDArray[np.float64]]]


def close_of(grid: Grid) -> NDArray[np.float64]:
    return grid.bars[:, 3]


TALIB: dict[str, tuple[dict[str, Any], Direct]] = {
    "roc": ({}, lambda g: [direct("ROCP", g, 3, timeperiod=10)]),
    "sma_ratio": ({}, lambda g: [direct("SMA", g, 3, timeperiod=20) / close_of(g) - 1]),
    "ema_ratio": ({}, lambda g: [direct("EMA", g, 3, timeperiod=20) / close_of(g) - 1]),
    "macd": ({}, lambda g: [each / close_of(g) for each in direct("MACD", g, 3)]),
    "bb": ({}, lambda g: _bands(g)),
    "rsi": ({}, lambda g: [(direct("RSI", g, 3, timeperiod=14) - 50) / 50]),
    "stoch": (
        {},
        lambda g: [each / 100 for each in direct("STOCH", g, 1, 2, 3, fastk_period=14, slowk_period=3, slowd_period=3)],
    ),
    "willr": ({}, lambda g: [direct("WILLR", g, 1, 2, 3, timeperiod=14) / 100]),
    "cci": ({}, lambda g: [direct("CCI", g, 1, 2, 3, timeperiod=20) / 100]),
    "aroonosc": ({}, lambda g: [direct("AROONOSC", g, 1, 2, timeperiod=25) / 100]),
    "adx": (
        {},
        lambda g: [
            direct("ADX", g, 1, 2, 3, timeperiod=14) / 100,
            (direct("PLUS_DI", g, 1, 2, 3, timeperiod=14) - direct("MINUS_DI", g, 1, 2, 3, timeperiod=14)) / 100,
        ],
    ),
    "natr": ({}, lambda g: [direct("ATR", g, 1, 2, 3, timeperiod=14) / close_of(g) * 100]),
    "rank": ({}, lambda g: [direct("PERCENTRANK", g, 3, timeperiod=20) / 100]),
    "rsv": (
        {},
        lambda g: [
            (close_of(g) - direct("MIN", g, 2, timeperiod=20))
            / (direct("MAX", g, 1, timeperiod=20) - direct("MIN", g, 2, timeperiod=20) + 1e-12)
        ],
    ),
    "volume_ratio": ({}, lambda g: [g.bars[:, 5] / direct("SMA", g, 5, timeperiod=20) - 1]),
    "mfi": ({}, lambda g: [(direct("MFI", g, 1, 2, 3, 5, timeperiod=14) - 50) / 50]),
}


def _bands(grid: Grid) -> list[NDArray[np.float64]]:
    up, middle, low = direct("BBANDS", grid, 3, timeperiod=20)
    return [(close_of(grid) - low) / (up - low), (up - low) / middle]


@pytest.mark.parametrize("name", TALIB)
def test_an_indicator_is_what_talib_says(market_of: MakeMarket, name: str) -> None:
    # Many trades: no bar is empty and no window flat, where ours have no value and TA-Lib says 0.
    market = market_of(11, sessions=4, minutes=60, trades=6000)
    grid = market.grid("min", 1)
    filled = np.flatnonzero(np.isnan(grid.bars[:, 3])).size
    params, formula = TALIB[name]
    found, expected = compute(market, name, **params)[filled:], np.stack(formula(grid), axis=1)[filled:]
    known = np.isfinite(expected).all(axis=1)
    assert known.sum() > 50
    np.testing.assert_allclose(found[known], expected[known], rtol=1e-5, atol=1e-6)


def test_an_ema_and_macd_are_their_recursions(market_of: MakeMarket) -> None:
    market = market_of(4, sessions=4)
    close = market.grid("min", 1).bars[:, 3]
    start = int(np.flatnonzero(~np.isnan(close))[0])

    def ema(values: list[float], n: int) -> list[float]:
        made = [NAN] * (n - 1) + [mean(values[:n])]
        for value in values[n:]:
            made.append(made[-1] + 2 / (n + 1) * (value - made[-1]))
        return made

    values = close[start:].tolist()
    expected = [e / c - 1 for e, c in zip(ema(values, 5), values, strict=True)]
    np.testing.assert_allclose(compute(market, "ema_ratio", n=5)[start:, 0], expected, rtol=1e-9, atol=1e-12)
    # Seeds differ; after the warm-up nothing is left of them.
    fast, slow = ema(values, 3), ema(values, 6)
    line = [a - b for a, b in zip(fast[5:], slow[5:], strict=True)]
    signal = ema(line, 4)
    warm = registry()["macd"]
    needs = warm.warmup_bars(warm.params.model_validate({"fast": 3, "slow": 6, "signal": 4}))
    found = compute(market, "macd", fast=3, slow=6, signal=4)[start + 5 :]
    rows = slice(needs, None)
    np.testing.assert_allclose(found[rows, 0], np.array(line)[rows] / np.array(values[5:])[rows], atol=1e-13)
    np.testing.assert_allclose(found[rows, 1], np.array(signal)[rows] / np.array(values[5:])[rows], atol=1e-13)
    np.testing.assert_allclose(found[rows, 2], found[rows, 0] - found[rows, 1], atol=1e-15)


def test_natr_and_adx_are_wilders_recursions(market_of: MakeMarket) -> None:
    market = market_of(9, sessions=4, trades=3000)
    bars = market.grid("min", 1).bars
    bars = bars[int(np.flatnonzero(~np.isnan(bars[:, 3]))[0]) :]
    high, low, close = bars[:, 1], bars[:, 2], bars[:, 3]
    n, skipped = 3, len(market.grid("min", 1).bars) - len(bars)
    ranges = np.maximum(high[1:], close[:-1]) - np.minimum(low[1:], close[:-1])
    up, down = np.diff(high), -np.diff(low)
    plus, minus = np.where((up > down) & (up > 0), up, 0.0), np.where((down > up) & (down > 0), down, 0.0)

    def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
        made = [float(values[:n].mean())]
        for value in values[n:]:
            made.append((made[-1] * (n - 1) + float(value)) / n)
        return np.array(made)

    average = smooth(ranges)
    found = compute(market, "natr", n=n)[skipped + n :, 0]
    np.testing.assert_allclose(found, average / close[n:] * 100, rtol=1e-9)
    direction = (smooth(plus) - smooth(minus)) / average
    strength = smooth(np.abs(direction) * average / (smooth(plus) + smooth(minus)))
    adx = compute(market, "adx", n=n)[skipped + n :]
    # Wilder's sums begin a bar apart in TA-Lib; that is forgotten within the warm-up.
    np.testing.assert_allclose(adx[120:, 1], direction[120:], atol=1e-9)
    np.testing.assert_allclose(adx[122:, 0], strength[120:], atol=1e-9)


def test_gap_is_the_step_over_night(market_of: MakeMarket) -> None:
    market = market_of(2, sessions=3, trades=3000)
    bars, found = market.grid("min", 1).bars, compute(market, "gap")[:, 0]
    opens = {60, 120}
    for t in range(1, len(bars)):
        expected = bars[t][0] / bars[t - 1][3] - 1 if t in opens else 0.0
        assert found[t] == pytest.approx(expected, abs=1e-15)
    assert any(found[t] != 0 for t in opens)


@LAW
@given(seed=st.integers(0, 10_000), shift=st.integers(0, 3))
def test_session_averages_begin_at_the_open(market_of: MakeMarket, seed: int, shift: int) -> None:
    market = market_of(seed, sessions=3, minutes=20, trades=100)
    grid = market.grid("min", 1)
    vwap = compute(market, "vwap_ratio", anchor="session", shift=shift)[:, 0]
    rvol = compute(market, "rvol", d=1, shift=shift)[:, 0]
    for t in range(shift, len(grid.end)):
        k = t - shift
        own = [i for i in range(k + 1) if grid.session[i] == grid.session[k]]
        volume = math.fsum(grid.bars[i][5] for i in own)
        paid = math.fsum(grid.bars[i][3] * grid.bars[i][5] for i in own if grid.bars[i][5])
        np.testing.assert_allclose(vwap[t], over(paid, volume) / grid.bars[k][3] - 1, rtol=1e-9, atol=1e-12)
        before = [i for i in range(k) if grid.session[i] == grid.session[k] - 1]
        usual = math.fsum(grid.bars[i][5] for i in before[: len(own)])
        np.testing.assert_allclose(rvol[t], over(volume, usual) if before else NAN, rtol=1e-12)


def test_the_day_of_the_week_is_an_angle_or_a_column(market_of: MakeMarket) -> None:
    market = market_of(1)  # 2024-01-01 is a Monday
    days = np.array([date.fromisoformat(day).weekday() for day in market.dates])[market.grid("min", 1).session]
    angle, hot = compute(market, "day_of_week"), compute(market, "day_of_week", one_hot=True)
    np.testing.assert_allclose(angle, np.stack([np.sin(2 * np.pi * days / 5), np.cos(2 * np.pi * days / 5)], axis=1))
    assert hot.argmax(axis=1).tolist() == days.tolist()
    assert (hot.sum(axis=1) == 1).all()
    weekend = Market(market.symbol, market.trades, market.segments, market.session, ("2024-01-06",) * 3)
    assert not compute(weekend, "day_of_week").any()


def test_windows_are_divided_by_the_maxima_of_the_train_sessions(market_of: MakeMarket) -> None:
    market = market_of(6)
    border = int(market.segments[1, 0])
    component = registry()["bars"]
    params = component.params.model_validate({"count": 3, "norm": "max_values"})
    fitted = Instance("x", component, params).fit({market.symbol: market.until(border)})
    times, _ = sample_times(market, EVERY, {date: i for i, date in enumerate(market.dates)}, "24/7")
    found = fitted.compute(View(market, times))
    bars = market.grid("min", 1).bars
    most = np.nanmax(bars[market.grid("min", 1).end <= border], axis=0)
    np.testing.assert_allclose(found[50], bars[48:51] / most, rtol=1e-6)
    assert most.tolist() == fitted.fitted[market.symbol].tolist()


@LAW
@given(seed=st.integers(0, 10_000), size=st.integers(1, 9))
def test_tick_bars_are_groups_of_trades_that_have_happened(market_of: MakeMarket, seed: int, size: int) -> None:
    market = market_of(seed, trades=100, minutes=20)
    grid, trades = market.grid("tick", size), market.trades
    groups: list[list[int]] = []
    ends: list[int] = []
    for low, high in market.segments.tolist():
        rows = [i for i in range(len(trades.ts)) if low <= trades.ts[i] < high and trades.flags[i]]
        for start in range(0, len(rows), size):
            group = rows[start : start + size]
            groups.append(group)
            ends.append(int(trades.ts[group[-1]]) + 1 if len(group) == size else high)
    assert grid.end.tolist() == ends
    assert grid.bars[:, 4].tolist() == [len(group) for group in groups]
    volumes = [sum(int(trades.volume[i]) for i in group if trades.flags[i] & 4) for group in groups]
    assert grid.bars[:, 5].tolist() == volumes
    moment = int(market.segments[1, 0]) + 300 * 10**9
    newest = int(View(market, np.array([moment])).past("tick", size)[0]) - 1
    assert all(trades.ts[i] < moment for group in groups[: newest + 1] for i in group)
