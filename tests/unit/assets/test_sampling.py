"""When samples are taken, how much of each is its own, and what the warnings of a certificate say."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.assets.component import Instance
from tapeline.assets.components import registry
from tapeline.assets.edges import too_good
from tapeline.assets.samples import Samples
from tapeline.assets.sampling import sample_times
from tapeline.assets.soundness import gaps_of, soundness, traded, universe
from tapeline.assets.stats import of_train
from tapeline.assets.uniqueness import overlap, uniqueness
from tapeline.assets.view import UNIT_NS, Market
from tapeline.tape.trades import Trades

MakeMarket = Callable[..., Market]
MINUTE = UNIT_NS["min"]


def days_of(market: Market) -> dict[str, int]:
    return {day: i for i, day in enumerate(market.dates)}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.0002, 0.001, 0.01]))
def test_cusum_samples_where_returns_add_up(market_of: MakeMarket, seed: int, threshold: float) -> None:
    market = market_of(seed, minutes=30, trades=200)
    grid = market.grid("min", 1)
    sampling = {"kind": "cusum", "unit": "min", "size": 1, "threshold": threshold}
    times, session = sample_times(market, sampling, days_of(market), "24/7")
    expected = []
    for number in range(3):
        up = down = 0.0
        rows = np.flatnonzero(grid.session == number)
        for before, row in pairwise(rows):
            move = math.log(grid.bars[row, 3] / grid.bars[before, 3])
            move = 0.0 if math.isnan(move) else move
            up, down = max(0.0, up + move), min(0.0, down + move)
            if max(up, -down) > threshold:
                expected.append((int(grid.end[row]), number))
                up = down = 0.0
    assert list(zip(times.tolist(), session.tolist(), strict=True)) == expected


def test_times_of_day_are_those_of_the_exchange() -> None:
    # 2024-03-08 is winter in New York, 2024-03-11 summer: 10:00 is 15:00 and then 14:00 UTC.
    opens = [datetime(2024, 3, 8, 14, 30, tzinfo=UTC), datetime(2024, 3, 11, 13, 30, tzinfo=UTC)]
    segments = np.array([[int(at.timestamp()) * 10**9 + k for k in (0, 390 * MINUTE)] for at in opens], np.int64)
    empty = np.empty(0, np.int64)
    market = Market(
        "X",
        Trades(empty, empty.astype(np.float64), empty, empty.astype(np.uint8)),
        segments,
        np.arange(2),
        ("2024-03-08", "2024-03-11"),
    )
    sampling = {"kind": "at_times", "times": ["16:00", "10:00:30", "09:00", "09:30"]}
    times, session = sample_times(market, sampling, days_of(market), "SIM")
    found = [datetime.fromtimestamp(time / 1e9, UTC).strftime("%d %H:%M:%S") for time in times.tolist()]
    assert found == ["08 15:00:30", "08 21:00:00", "11 14:00:30", "11 20:00:00"]
    assert session.tolist() == [0, 0, 1, 1]


def test_bars_of_ticks_that_end_together_are_one_sample(market_of: MakeMarket) -> None:
    market = market_of(1)
    grid = market.grid("tick", 1)
    times, _ = sample_times(market, {"kind": "every", "unit": "tick", "size": 1}, days_of(market), "24/7")
    assert times.tolist() == sorted(set(grid.end.tolist()))
    assert len(times) < len(grid.end)


@settings(max_examples=50, deadline=None)
@given(spans=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), st.integers(0, 1)), min_size=1, max_size=25))
def test_uniqueness_is_the_mean_of_shares(spans: list[tuple[int, int, int]]) -> None:
    t0 = np.array([start for start, _, _ in spans], np.int64)
    t1 = t0 + np.array([length for _, length, _ in spans], np.int64)
    symbol = np.array([which for *_, which in spans], np.uint16)
    found = uniqueness(t0, t1, symbol)
    for i in range(len(spans)):
        own = [k for k in range(len(spans)) if symbol[k] == symbol[i]]
        points = {int(t) for k in own for t in (t0[k], t1[k])}
        inside = [point for point in points if t0[i] <= point <= t1[i]]
        shares = [1 / sum(t0[k] <= point <= t1[k] for k in own) for point in inside]
        assert found[i] == pytest.approx(sum(shares) / len(shares))


def test_overlapping_labels_are_warned_of_unless_weighed() -> None:
    t0 = np.arange(100, dtype=np.int64)
    own = uniqueness(t0, t0 + 9, np.zeros(100, np.uint16))
    assert own[50] == pytest.approx(0.1)
    assert overlap(own, is_weighed=False).verdict == "warned"
    assert "uniqueness: true" in overlap(own, is_weighed=False).warnings[0]
    assert overlap(own, is_weighed=True).verdict == "passed"
    assert overlap(np.ones(3), is_weighed=False).verdict == "passed"


def label(component: str, **params: Any) -> Instance:
    known = registry()[component]
    return Instance("up", known, known.params.model_validate(params))


def edges(values: Any, target: Any, component: str = "rr_atr") -> Any:
    n = len(target)
    return too_good(
        {"x": np.asarray(values, np.float32).reshape(n, -1)},
        {"up": np.asarray(target, np.float32).reshape(n, -1)},
        [label(component)],
        np.zeros(n, np.uint16),
        np.zeros(n, np.int64),
    )


def test_a_feature_that_knows_the_label_is_too_good() -> None:
    draw = np.random.default_rng(1)
    target = (draw.random(2000) > 0.5).astype(float)
    noise = draw.normal(size=2000)
    assert edges(noise, target).verdict == "passed"
    found = edges(np.stack([noise, -5 * target + noise], axis=1), target)
    assert "'x' column 1 has AUC" in found.warnings[0]
    assert "too good to be true" in found.warnings[0]
    returns = draw.normal(size=2000)
    assert "correlation 0.9" in edges(returns + 0.3 * noise, returns, "fwd_return").warnings[0]


def test_the_area_under_the_curve_counts_pairs() -> None:
    draw = np.random.default_rng(2)
    values, target = draw.integers(0, 5, 60).astype(float), (draw.random(60) > 0.6).astype(float)
    # The first row has none before it to be compared with a bar later.
    x, y = values[1:], target[1:]
    pairs = [(a > b) + 0.5 * (a == b) for a in x[y == 1] for b in x[y == 0]]
    (best,) = edges(values, target).numbers["edges"]
    assert best["edge"] == pytest.approx(2 * float(np.mean(pairs)) - 1, abs=1e-6)


def test_an_edge_of_the_newest_bar_alone_is_suspicious() -> None:
    draw = np.random.default_rng(3)
    target = (draw.random(3000) > 0.5).astype(float)
    found = edges(target + 1.2 * draw.normal(size=3000), target)
    assert "nearly none a bar later" in found.warnings[0]
    slow = np.repeat(target[::30], 30)
    assert edges(slow + 1.2 * draw.normal(size=3000), slow).warnings == []


def samples_of(market: Market, rows: int = 30) -> tuple[Samples, Any, Any]:
    grid = market.grid("min", 1)
    t0 = grid.end[:rows]
    x = np.arange(rows, dtype=np.float32)[:, None]
    made = Samples(t0, grid.session[:rows], {"x": x}, {"up": x * 0}, t0[:, None] + 1, np.ones(rows, np.float32))
    return made, np.zeros(rows, np.uint16), np.array([0] * (rows - 5) + [2] * 5, np.uint8)


def sound(market: Market, calendar: list[str] | None = None, **change: Any) -> Any:
    samples, symbol, part = samples_of(market)
    for name, value in change.items():
        object.__setattr__(samples, name, value)
    stats = of_train({"x": np.nan_to_num(samples.features["x"][:25], posinf=0)}, {}, [])
    days = days_of(market)
    gaps = {market.symbol: gaps_of(market, days, ("min", 1))}
    return soundness(samples, symbol, part, stats, gaps, days, calendar or list(market.dates), ("min", 1))


def test_what_cannot_be_right_fails_soundness(market_of: MakeMarket) -> None:
    market = market_of(1, trades=4000)
    samples, *_ = samples_of(market)
    assert sound(market).failure is None
    assert "do not ascend" in sound(market, t0=samples.t0[::-1]).failure["message"]
    broken = samples.features["x"].copy()
    broken[7] = np.inf
    failure = sound(market, features={"x": broken}).failure
    assert (failure["feature"], failure["row"]) == ("x", 7)


def test_what_teaches_nothing_is_warned_of(market_of: MakeMarket) -> None:
    market = market_of(1, trades=4000)
    same = np.ones((30, 1), np.float32)
    assert any("constant in train" in text for text in sound(market, features={"x": same}).warnings)
    assert any("equal a train row" in text for text in sound(market, features={"x": same}).warnings)
    assert any("left out 9 of 39 rows" in text for text in sound(market, dropped={"x": 9}).warnings)
    assert any("filled 9 of 30 rows" in text for text in sound(market, filled={"x": 9}).warnings)
    times = samples_of(market)[0].t0.copy()
    times[3] = times[2]
    assert any("1 duplicate times" in text for text in sound(market, t0=times).warnings)
    assert any("1 sessions of the calendar has no trades: 2024-01-09" in text
               for text in sound(market, [*market.dates, "2024-01-09"]).warnings)  # fmt: skip
    assert any("are not in the calendar" in text for text in sound(market, list(market.dates[:2])).warnings)


def without(market: Market, low: int, high: int) -> Market:
    t = market.trades
    kept = (t.ts < low) | (t.ts >= high)
    trades = Trades(t.ts[kept], t.price[kept], t.volume[kept], t.flags[kept])
    return Market(market.symbol, trades, market.segments, market.session, market.dates)


def test_a_hole_in_the_trades_is_a_gap(market_of: MakeMarket) -> None:
    whole = market_of(1, trades=4000)
    start = int(whole.segments[1, 0]) + 10 * MINUTE
    before = sound(whole).numbers["gaps"].get("SIM1", {}).get("count", 0)
    found = sound(without(whole, start, start + 9 * MINUTE)).numbers["gaps"]["SIM1"]
    assert found["count"] == before + 1
    assert found["longest"] >= 9


def test_a_universe_that_changes_is_warned_of(market_of: MakeMarket) -> None:
    market = market_of(1, trades=4000)
    samples, symbol, part = samples_of(market)
    days = days_of(market)
    seen = ("SIM1", traded(market, days))
    assert universe(samples, symbol, part, [seen], days | {"2024-01-08": 3}).warnings[0] == (
        "'SIM1' is absent on 1 of 4 sessions: 2024-01-08"
    )
    assert universe(samples, symbol, np.zeros(30, np.uint8), [seen], days).warnings == []
    two = universe(samples, symbol, part, [seen, seen], days)
    assert "'SIM1' has no rows in train and test" in two.warnings


def scaled(market: Market, before: int, factor: float) -> Market:
    price = market.trades.price.copy()
    price[market.trades.ts < before] *= factor
    return market.changed(price, market.trades.volume)


def test_prices_that_were_split_or_adjusted_are_suspicious(market_of: MakeMarket) -> None:
    market = market_of(1, trades=4000)
    samples, symbol, part = samples_of(market)
    border, days = int(market.segments[2, 0]), days_of(market)
    split = universe(samples, symbol, part, [("SIM1", traded(scaled(market, border, 2.0), days))], days).warnings
    assert any("a split as traded?" in text for text in split)
    adjusted = universe(samples, symbol, part, [("SIM1", traded(scaled(market, border, 0.98765), days))], days).warnings
    assert any("adjusted by what was known only later?" in text for text in adjusted)
