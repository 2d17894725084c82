"""Each feature and label against a naive twin that reads trades in plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.assets.component import Instance, duration_ns
from tapeline.assets.components import BUILT_IN, registry
from tapeline.assets.samples import fill
from tapeline.assets.sampling import sample_times
from tapeline.assets.view import UNIT_NS, Market, View
from tapeline.errors import TapelineError

NAN = math.nan
EVERY = {"kind": "every", "unit": "min", "size": 1}
SEEDS = st.integers(0, 10_000)
MakeMarket = Callable[..., Market]
LAW = settings(max_examples=15, deadline=None)


def instance(component: str, **params: Any) -> Instance:
    known = registry()[component]
    return Instance(component, known, known.params.model_validate(params))


def view_of(market: Market) -> View:
    times, _ = sample_times(market, EVERY, {date: i for i, date in enumerate(market.dates)}, "24/7")
    return View(market, times)


def naive_bars(market: Market, width: int) -> list[tuple[int, int, list[float]]]:
    """(end, segment, the eight columns) of every bar, by looking at every trade of every bar."""
    trades, made, carry = market.trades, [], NAN
    for number, (low, high) in enumerate(market.segments.tolist()):
        start = low
        while start < high:
            end = min(start + width, high)
            rows = [i for i in range(len(trades.ts)) if start <= trades.ts[i] < end and trades.flags[i]]
            last = [float(trades.price[i]) for i in rows if trades.flags[i] & 2]
            extreme = [float(trades.price[i]) for i in rows if trades.flags[i] & 1]
            sizes = [float(trades.volume[i]) for i in rows if trades.flags[i] & 4]
            first, final = (last[0], last[-1]) if last else (carry, carry)
            known = [p for p in (*extreme, first, final) if not math.isnan(p)]
            highest, lowest = (max(known), min(known)) if known else (NAN, NAN)
            total = math.fsum(sizes)
            mean = total / len(rows) if rows else 0.0
            most = max(sizes, default=0.0)
            made.append((end, number, [first, highest, lowest, final, float(len(rows)), total, mean, most]))
            carry, start = final, end
    return made


def newest_before(bars: list[tuple[int, int, list[float]]], time: int) -> int:
    """Index of the newest bar that is complete at a time; -1 before the first."""
    return sum(end <= time for end, _, _ in bars) - 1


def close(values: np.ndarray, expected: list[Any]) -> None:
    np.testing.assert_allclose(np.asarray(values, np.float64), np.asarray(expected, np.float64), rtol=1e-6, atol=1e-9)


@LAW
@given(seed=SEEDS, size=st.integers(1, 7), count=st.integers(1, 9), shift=st.integers(0, 3))
def test_a_window_is_the_last_complete_bars(
    market_of: MakeMarket, seed: int, size: int, count: int, shift: int
) -> None:
    market = market_of(seed, trades=120, minutes=20)
    view, bars = view_of(market), naive_bars(market, size * UNIT_NS["min"])
    for norm in ("none", "last_price_pct"):
        found = instance("bars", unit="min", size=size, count=count, shift=shift, norm=norm).compute(view)
        for k in range(0, len(view.times), 5):
            stop = newest_before(bars, int(view.times[k])) + 1 - shift
            rows = [bars[i][2] if i >= 0 else [NAN] * 4 + [0.0] * 4 for i in range(stop - count, stop)]
            if stop < 0 or norm == "none":
                expected = rows if stop >= 0 else None
            else:
                most = [max(row[c] for row in rows) for c in range(8)]
                expected = [
                    [
                        (row[c] / rows[-1][3] - 1) * 100 if c < 4 else (row[c] / most[c] if most[c] else NAN)
                        for c in range(8)
                    ]
                    for row in rows
                ]
            if expected is not None:
                np.testing.assert_allclose(found[k], np.array(expected), rtol=1e-5, atol=1e-5)


@LAW
@given(seed=SEEDS, k=st.integers(1, 5), shift=st.integers(0, 3))
def test_log_return(market_of: MakeMarket, seed: int, k: int, shift: int) -> None:
    market = market_of(seed)
    view, bars = view_of(market), naive_bars(market, UNIT_NS["min"])
    found = instance("log_return", k=k, shift=shift).compute(view)
    expected = []
    for time in view.times.tolist():
        t = newest_before(bars, time) - shift
        expected.append([math.log(bars[t][2][3] / bars[t - k][2][3]) if t - k >= 0 else NAN])
    close(found, expected)


@LAW
@given(seed=SEEDS, n=st.integers(1, 12))
def test_realised_vol(market_of: MakeMarket, seed: int, n: int) -> None:
    market = market_of(seed)
    view, bars = view_of(market), naive_bars(market, UNIT_NS["min"])
    expected = []
    for time in view.times.tolist():
        t = newest_before(bars, time)
        returns = [math.log(bars[i][2][3] / bars[i - 1][2][3]) for i in range(t - n + 1, t + 1) if i >= 1]
        expected.append([math.sqrt(math.fsum(r * r for r in returns)) if t - n >= 0 else NAN])
    close(instance("realised_vol", n=n).compute(view), expected)


@LAW
@given(seed=SEEDS, n=st.integers(2, 12), floats=st.booleans())
def test_volumes_against_their_average(market_of: MakeMarket, seed: int, n: int, floats: bool) -> None:
    market = market_of(seed, floats=floats)
    view, bars = view_of(market), naive_bars(market, UNIT_NS["min"])
    ratios, sizes = [], []
    for time in view.times.tolist():
        t = newest_before(bars, time)
        window = [bars[i][2] for i in range(max(t - n + 1, 0), t + 1)]
        whole = len(window) == n
        volume, mean = math.fsum(row[5] for row in window) / n, math.fsum(row[6] for row in window) / n
        row = window[-1]
        ratios.append([row[5] / volume - 1 if whole and volume else NAN])
        sizes.append([row[6] / mean - 1 if whole and mean else NAN, row[7] / row[5] if row[5] else NAN])
    close(instance("volume_ratio", n=n).compute(view), ratios)
    close(instance("trade_size", n=n).compute(view), sizes)


def test_rsi_is_what_talib_says_and_its_own_formula(market_of: MakeMarket) -> None:
    market = market_of(3, sessions=4)
    view = view_of(market)
    closes = np.array([row[3] for _, _, row in naive_bars(market, UNIT_NS["min"])])
    found = instance("rsi", n=14).compute(view)[:, 0]
    close(found, ((talib.RSI(closes, 14) - 50) / 50).tolist())
    # Wilder's own recursion, in plain loops.
    n, gains, losses, expected = 14, 0.0, 0.0, [NAN]
    for i in range(1, len(closes)):
        up, down = max(closes[i] - closes[i - 1], 0.0), max(closes[i - 1] - closes[i], 0.0)
        if i <= n:
            gains, losses = gains + up / n, losses + down / n
        else:
            gains, losses = (gains * (n - 1) + up) / n, (losses * (n - 1) + down) / n
        expected.append((100 * gains / (gains + losses) - 50) / 50 if i >= n else NAN)
    close(found, expected)


@LAW
@given(seed=SEEDS)
def test_session_fraction(market_of: MakeMarket, seed: int) -> None:
    market = market_of(seed)
    view = view_of(market)
    expected = []
    for time in view.times.tolist():
        low, high = next((a, b) for a, b in market.segments.tolist() if a < time <= b)
        expected.append([(time - low) / (high - low)])
    close(instance("session_fraction").compute(view), expected)


@LAW
@given(
    seed=SEEDS,
    delay=st.integers(0, 3),
    horizon=st.integers(1, 9),
    eps=st.sampled_from([0.0, 0.0002]),
    cross=st.booleans(),
)
def test_updown(market_of: MakeMarket, seed: int, delay: int, horizon: int, eps: float, cross: bool) -> None:
    market = market_of(seed)
    view, bars = view_of(market), naive_bars(market, UNIT_NS["min"])
    label = instance("updown", horizon=f"{horizon * 60}s", entry_delay=delay, eps=eps, cross_session=cross)
    y, t1 = label.compute(view)
    expected, ends = [], []
    for time in view.times.tolist():
        t = newest_before(bars, time)
        entry, target = t + delay, t + delay + horizon
        here = next(k for k, (a, b) in enumerate(market.segments.tolist()) if a < time <= b)
        inside = target < len(bars) and (cross or (bars[entry][1] == here and bars[target][1] == here))
        move = bars[target][2][3] / bars[entry][2][3] - 1 if inside else NAN
        if math.isnan(move):
            expected.append([NAN] * 5)
            ends.append(-1)
        else:
            expected.append([move, move > 0, move < 0, move < -eps, move > eps])
            ends.append(bars[target][0])
    close(y, expected)
    assert t1.tolist() == ends


def test_holes_are_carried_for_five_rows_of_the_session() -> None:
    values = np.array([1, *[NAN] * 7, 2, NAN, NAN], np.float32)[:, None]
    session = np.array([0] * 10 + [1])
    carried = fill(values, session, carry=True)[:, 0]
    np.testing.assert_array_equal(carried, np.array([1, 1, 1, 1, 1, 1, NAN, NAN, 2, 2, NAN], np.float32))
    assert fill(values, session, carry=False)[1, 0] == 0


def test_the_built_in_specs_are_whole() -> None:
    components = registry()
    for name, spec in BUILT_IN.items():
        component = components[spec["component"]]
        made = Instance(name, component, component.params.model_validate(spec["params"]))
        assert made.columns.names
        assert len(made.columns.names) == made.columns.shape[-1]


@pytest.mark.parametrize("text", ["", "5", "5 weeks", "-5 min", "5min5", "1e3s"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(TapelineError, match="no length of time"):
        duration_ns(text)
