"""Small markets to compute features on, and a small tape to build from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tapeline.assets.view import UNIT_NS, Market
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate
from tapeline.tape.trades import Trades

MINUTE = UNIT_NS["min"]
OPEN = 1_700_000_000_000_000_000 // MINUTE * MINUTE


def make_market(seed: int, *, sessions: int = 3, minutes: int = 60, trades: int = 400, floats: bool = False) -> Market:
    """A market with gaps, ties, void and ineligible trades; the last session closes early."""
    draw = np.random.default_rng(seed)
    segments, ts, numbers = [], [], []
    for day in range(sessions):
        low = OPEN + day * UNIT_NS["day"]
        length = minutes if day < sessions - 1 else minutes * 2 // 3
        segments.append([low, low + length * MINUTE])
        # Whole seconds: ties are common, and a fifth of the minutes stays empty.
        seconds = np.sort(draw.integers(0, length * 60, trades))
        kept = draw.random(length)[seconds // 60] > 0.2
        ts.append(low + seconds[kept] * UNIT_NS["sec"])
        numbers.append(day)
    times = np.concatenate(ts).astype(np.int64)
    n = len(times)
    price = 100.0 + np.cumsum(draw.integers(-3, 4, n)).astype(np.float64) * 0.01
    volume = draw.integers(1, 500, n).astype(np.int64)
    flags = draw.choice(np.array([7, 7, 7, 7, 7, 7, 4, 0], np.uint8), n)
    return Market(
        "SIM1",
        Trades(times, price, volume / 7.0 if floats else volume, flags),
        np.array(segments, np.int64),
        np.array(numbers, np.int64),
        tuple(f"2024-01-0{day + 1}" for day in range(sessions)),
    )


@pytest.fixture(scope="session")
def market_of() -> Callable[..., Market]:
    return make_market


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedTape:
    return simulate(tmp_path_factory.mktemp("tape"), days=4, trades_per_day=1500)
