"""Speed of the kernels: one-minute bars in million trades a second, beside reading the same columns.

Run it with `python tests/bench/bars.py [trades]`. The contestants take turns in one process on the same
arrays, one warm-up and seven rounds; medians are printed, the last line is JSON. The yardstick is
`read_bandwidth` on the same columns, so figures of two machines can be compared as ratios.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from tapeline import bars
from tapeline.bars import reference

MINUTE = 60_000_000_000
ROUNDS = 7


def tape(trades: int, sessions: int = 60) -> dict[str, np.ndarray]:
    """Random trades in sessions of 390 minutes, 20 bytes each, about half of the stamps repeated."""
    draw = np.random.default_rng(7)
    each = trades // sessions
    opens = 1_704_205_800_000_000_000 + 86_400_000_000_000 * np.arange(sessions, dtype=np.int64)
    ts = np.sort(draw.integers(0, 390 * 60_000, (sessions, each)), axis=1) * 1_000_000 + opens[:, None]
    price = 100 + 0.01 * np.cumsum(draw.integers(-1, 2, each * sessions))
    volume = draw.integers(1, 1000, each * sessions).astype(np.int32)
    flags = np.full(each * sessions, 7, np.uint8)
    flags[draw.random(each * sessions) < 0.005] = 4
    segments = np.stack([opens, opens + 390 * MINUTE], axis=1)
    return {"ts": ts.ravel(), "price": price, "volume": volume, "flags": flags, "segments": segments}


def contestants(t: dict[str, np.ndarray]) -> dict[str, Callable[[], object]]:
    """What is measured, by name; each works on the same arrays."""
    ts, price, volume, segments = t["ts"], t["price"], t["volume"], t["segments"]
    out = np.empty((bars.session_bars(ts, price, volume, segments=segments, width_ns=MINUTE).shape[0], 8))
    wide, decimal = volume.astype(np.int64), volume.astype(np.float64)

    def cut(v: np.ndarray, flags: np.ndarray | None = None, n: int = 1, width: int = MINUTE) -> np.ndarray:
        rows = out if width == MINUTE else None
        return bars.session_bars(ts, price, v, flags, segments=segments, width_ns=width, n_threads=n, out=rows)

    grid = cut(volume)
    past = np.random.default_rng(3).integers(90, len(out), 27_000)
    windows = np.empty((len(past), 90, 8), np.float32)
    found: dict[str, Callable[[], object]] = {
        "read_bandwidth": lambda: bars.read_bandwidth(ts, price, volume),
        "minute": lambda: cut(volume),
        "minute, 2 threads": lambda: cut(volume, n=2),
        "minute, 0.5 % not all flags": lambda: cut(volume, t["flags"]),
        "minute, int64": lambda: cut(wide),
        "minute, float64": lambda: cut(decimal),
        "second": lambda: cut(volume, width=1_000_000_000),
        "tick 100": lambda: bars.tick_bars(price, volume, size=100),
        "volume 50,000": lambda: bars.threshold_bars(price, volume, limit=50_000, unit="volume"),
        "dollar 5,000,000": lambda: bars.threshold_bars(price, volume, limit=5e6, unit="dollar"),
        "gather 27,000 x 90, none": lambda: bars.gather(grid, past, 90, out=windows),
        "gather 27,000 x 90, last_price_pct": lambda: bars.gather(grid, past, 90, "last_price_pct", out=windows),
        "gather 27,000 x 90, zscore_window": lambda: bars.gather(grid, past, 90, "zscore_window", out=windows),
    }
    try:
        import pandas as pd
    except ImportError:
        return found
    frame = pd.DataFrame({"price": price, "volume": volume}, index=pd.to_datetime(ts, utc=True))

    def resample() -> object:
        pieces = frame.resample("min")
        return pieces["price"].ohlc(), pieces["volume"].agg(["count", "sum", "mean", "max"])

    check = resample()
    kept = np.asarray(check[1]["count"] > 0)  # type: ignore[index]
    ours = out[out[:, 4] > 0]
    assert np.array_equal(ours[:, :4], np.asarray(check[0])[kept]), "pandas and the kernel differ"  # type: ignore[index]
    found["pandas resample"] = resample
    return found


def main(trades: int = 6_000_000) -> None:
    """Measure, print a table and a line of JSON."""
    t = tape(trades)
    n = len(t["ts"])
    small = slice(0, 20_000)
    few = [t[k][small] for k in ("ts", "price", "volume")]
    open_ns, close_ns = t["segments"][0].tolist()
    twin, fault = np.empty((390, 8)), np.zeros(2, np.int64)
    began = time.perf_counter()
    ts, price, volume = few
    reference.time_bars(ts, price, volume, None, open_ns, close_ns, MINUTE, np.array([np.nan]), True, twin, fault)
    naive = len(ts) / (time.perf_counter() - began)
    runs = contestants(t)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS + 1):
        names = list(runs)[turn % len(runs) :] + list(runs)[: turn % len(runs)]
        for name in names:
            if name == "pandas resample" and turn > 3:
                continue
            began = time.perf_counter()
            runs[name]()
            if turn:
                times[name].append(time.perf_counter() - began)
    median = {name: statistics.median(each) for name, each in times.items()}
    yard = median["read_bandwidth"]
    spread = (max(times["read_bandwidth"]) - min(times["read_bandwidth"])) / yard
    noisy = os.getloadavg()[0] > (os.cpu_count() or 1) or spread > 0.25
    print(f"{n:,} trades, {bars.ISA}, load {os.getloadavg()[0]:.1f}{', noisy' if noisy else ''}")
    for name, seconds in median.items():
        windows = name.startswith("gather")
        rate = f"{27_000 / seconds:>12,.0f} samples/s" if windows else f"{n / seconds / 1e6:>9,.0f} M trades/s"
        share = "" if windows else f"{yard / seconds:>8.1%} of reading"
        print(f"{name:<38}{seconds * 1e3:>9.2f} ms {rate} {share}")
    print(f"{'naive twin':<38}{'':>12} {naive / 1e6:>9.2f} M trades/s")
    result = {"trades": n, "isa": bars.ISA, "cpu": platform.processor() or platform.machine(), "noisy": noisy}
    print(json.dumps(result | {"ms": {name: round(s * 1e3, 3) for name, s in median.items()}}))


if __name__ == "__main__":
    main(int(sys.argv[1].replace("_", "")) if len(sys.argv) > 1 else 6_000_000)
