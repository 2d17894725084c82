"""Bars and look-backs beside everything a user could pick instead, in one interleaved run on the same arrays.

`python tests/bench/bars.py [--trades 30_000_000] [--threads 1] [--rounds 7] [--out FOLDER]`. All contestants give
equal bars first, or the run ends. They then take turns, one warm-up and some rounds; slow ones take fewer and
look-backs of slow ones fewer places. Rates are medians. The yardstick is reading the same columns, measured between
the contestants. `--threads` is what the peers get; Tapeline runs on 1 and on 2. Load above the processors or a spread
of the yardstick over 25 % marks a run as noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

MINUTE = 60_000_000_000
COUNT = 90
Run = Callable[[], Any]


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


@dataclass
class Contest:
    """One task: who does it, how much a run does, and what it is counted in."""

    name: str
    unit: str = "trades"
    runs: dict[str, Run] = field(default_factory=dict)
    work: dict[str, int] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)

    def enter(self, who: str, run: Run, work: int) -> None:
        """Add a contestant that does `work` a run."""
        self.runs[who], self.work[who], self.times[who] = run, work, []

    def rate(self, who: str) -> float:
        """Units a second, by the median."""
        return self.work[who] / statistics.median(self.times[who])


def equal(who: str, ours: np.ndarray, theirs: np.ndarray, means: bool = True) -> None:
    """End the run unless two contestants agree: exactly, but for the means, whose sums have an order."""
    exact = [k for k in range(8) if k != 6]
    assert ours.shape == theirs.shape, f"{who} gives {theirs.shape}, not {ours.shape}"
    assert np.array_equal(ours[:, exact], theirs[:, exact]), f"{who} differs"
    assert not means or np.allclose(ours[:, 6], theirs[:, 6], rtol=1e-12), f"{who} differs in means"


def main(trades: int, threads: int, rounds: int, out: Path | None) -> None:
    """Measure, print a table, write JSON and Markdown."""
    import duckdb
    import numba
    import pandas as pd
    import polars as pl

    from tapeline import bars

    t = tape(trades)
    ts, price, volume, segments = t["ts"], t["price"], t["volume"], t["segments"]
    n, names = len(ts), [f"c{k}" for k in range(8)]
    yard = Contest("reading the columns")
    yard.enter("read_bandwidth", lambda: bars.read_bandwidth(ts, price, volume), n)

    frame = pl.DataFrame({"ts": ts.view("datetime64[ns]"), "p": price, "v": volume}).with_columns(
        pl.col("ts").set_sorted()
    )
    columns = [
        pl.col("p").first().alias("c0"), pl.col("p").max().alias("c1"), pl.col("p").min().alias("c2"),
        pl.col("p").last().alias("c3"), pl.len().alias("c4"), pl.col("v").cast(pl.Int64).sum().alias("c5"),
        pl.col("v").mean().alias("c6"), pl.col("v").max().alias("c7"),
    ]  # fmt: skip
    aggregates = "first(p) c0, max(p) c1, min(p) c2, last(p) c3, count(*) c4, sum(v) c5, avg(v) c6, max(v) c7"
    held = pd.DataFrame({"p": price, "v": volume}, index=pd.DatetimeIndex(ts.view("datetime64[ns]")))
    table = duckdb.connect()
    table.execute(f"SET threads TO {threads}")
    table.register("source", pd.DataFrame({"ts": ts, "p": price, "v": volume, "row": np.arange(n)}))
    table.execute("CREATE TABLE trades AS SELECT * FROM source")

    @numba.njit(inline="always")  # type: ignore[untyped-decorator]
    def put(row: Any, o: float, h: float, lo: float, c: float, k: int, s: int, m: int) -> None:
        row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7] = o, h, lo, c, k, s, s / k, m

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def numba_groups(key: Any, size: int, p: Any, v: Any, result: Any) -> int:
        """Bars of equal `key // size`, one pass."""
        row, last = -1, -1
        o = h = lo = c = 0.0
        k = s = m = 0
        for i in range(len(p)):
            now = key[i] // size if len(key) else i // size
            if now != last:
                if row >= 0:
                    put(result[row], o, h, lo, c, k, s, m)
                row, last, o, h, lo, k, s, m = row + 1, now, p[i], p[i], p[i], 0, 0, 0
            h, lo, c = max(h, p[i]), min(lo, p[i]), p[i]
            k, s, m = k + 1, s + v[i], max(m, v[i])
        if row >= 0:
            put(result[row], o, h, lo, c, k, s, m)
        return row + 1

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def numba_threshold(p: Any, v: Any, limit: float, dollar: bool, result: Any) -> int:
        row = 0
        o = h = lo = total = 0.0
        k = s = m = 0
        for i in range(len(p)):
            if k == 0:
                o, h, lo, total, s, m = p[i], p[i], p[i], 0.0, 0, 0
            h, lo = max(h, p[i]), min(lo, p[i])
            k, s, m = k + 1, s + v[i], max(m, v[i])
            total += p[i] * v[i] if dollar else float(v[i])
            if total >= limit:
                put(result[row], o, h, lo, p[i], k, s, m)
                row, k = row + 1, 0
        if k:
            put(result[row], o, h, lo, p[len(p) - 1], k, s, m)
            row += 1
        return row

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def numba_anchored(stamp: Any, p: Any, v: Any, at: Any, opened: Any, result: Any) -> None:
        """90 minutes up to the time of an index, its session being long enough, by a scan back."""
        for j in range(len(at)):
            i, when = at[j], stamp[at[j]]
            result[j, :, 4:] = 0.0
            while i > 0 and stamp[i - 1] == when:
                i -= 1
            i -= 1
            while i >= 0 and stamp[i] >= when - COUNT * MINUTE:
                r = COUNT - 1 - (when - stamp[i] - 1) // MINUTE
                if result[j, r, 4] == 0:
                    result[j, r, 1], result[j, r, 2], result[j, r, 3] = p[i], p[i], p[i]
                result[j, r, 0] = p[i]
                result[j, r, 1], result[j, r, 2] = max(result[j, r, 1], p[i]), min(result[j, r, 2], p[i])
                result[j, r, 4] += 1
                result[j, r, 5] += v[i]
                result[j, r, 7] = max(result[j, r, 7], v[i])
                i -= 1
            for r in range(COUNT):
                result[j, r, 6] = result[j, r, 5] / result[j, r, 4]

    nothing = np.empty(0, np.int64)
    room = np.empty((max(n // 50, 30_000), 8))

    # One-minute bars.
    minute = Contest("one-minute bars")
    grid = bars.session_bars(ts, price, volume, segments=segments, width_ns=MINUTE, n_threads=1)
    cells = np.empty_like(grid)

    def cut(v: Any = volume, flags: Any = None, k: int = 1) -> np.ndarray:
        return bars.session_bars(ts, price, v, flags, segments=segments, width_ns=MINUTE, n_threads=k, out=cells)

    def dynamic() -> Any:
        return frame.group_by_dynamic("ts", every="1m").agg(columns)

    def resampled() -> Any:
        pieces = held.resample("min")
        return pieces["p"].ohlc(), pieces["v"].agg(["count", "sum", "mean", "max"])

    def ducked() -> Any:
        return table.execute(f"SELECT ts // {MINUTE} m, {aggregates} FROM trades GROUP BY m").fetchnumpy()

    assert np.array_equal(cut(k=2), grid)
    some = grid[grid[:, 4] > 0]
    equal("Polars", some, dynamic().select(names).to_numpy())
    numba_groups(ts, MINUTE, price, volume, room)
    equal("numba", some, room[: len(some)])
    found = ducked()
    theirs = np.stack([np.asarray(found[name], np.float64) for name in names], axis=1)[np.argsort(found["m"])]
    if threads == 1:
        equal("DuckDB", some, theirs)
    assert np.array_equal(some[:, [1, 2, 4, 5, 7]], theirs[:, [1, 2, 4, 5, 7]]), "DuckDB differs"
    ohlc, rest = resampled()
    kept = np.asarray(rest["count"] > 0)
    equal("pandas", some, np.concatenate([ohlc.to_numpy()[kept], rest.to_numpy()[kept]], axis=1))
    decimal = volume.astype(np.float64)
    minute.enter("Tapeline, 1 thread", cut, n)
    minute.enter("Tapeline, 2 threads", lambda: cut(k=2), n)
    minute.enter("Tapeline, 0.5 % of flags not 7", lambda: cut(flags=t["flags"]), n)
    minute.enter("Tapeline, float64 volumes", lambda: cut(decimal), n)
    minute.enter("Polars group_by_dynamic", dynamic, n)
    minute.enter("numba, one pass", lambda: numba_groups(ts, MINUTE, price, volume, room), n)
    minute.enter("DuckDB GROUP BY", ducked, n)
    minute.enter("pandas resample", resampled, n)

    # Bars of 100 trades, of volume and of money.
    tick, levels = Contest("tick bars (100)"), {"volume": 50_000.0, "dollar": 5_000_000.0}

    def polars_ticks() -> Any:
        return frame.lazy().with_row_index("i").group_by(pl.col("i") // 100, maintain_order=True).agg(columns).collect()

    def pandas_ticks() -> Any:
        groups = held.groupby(np.arange(n) // 100)
        return groups["p"].agg(["first", "max", "min", "last"]), groups["v"].agg(["count", "sum", "mean", "max"])

    hundred = bars.tick_bars(price, volume, size=100)[0]
    equal("Polars", hundred, polars_ticks().select(names).to_numpy())
    numba_groups(nothing, 100, price, volume, room)
    equal("numba", hundred, room[: len(hundred)])
    equal("pandas", hundred, np.concatenate([part.to_numpy() for part in pandas_ticks()], axis=1))
    tick.enter("Tapeline, 1 thread", lambda: bars.tick_bars(price, volume, size=100), n)
    tick.enter("Polars group_by row // 100", polars_ticks, n)
    tick.enter("numba, one pass", lambda: numba_groups(nothing, 100, price, volume, room), n)
    tick.enter(
        "DuckDB GROUP BY",
        lambda: table.execute(f"SELECT row // 100 m, {aggregates} FROM trades GROUP BY m").fetchnumpy(),
        n,
    )
    tick.enter("pandas groupby", pandas_ticks, n)
    contests = [minute, tick]
    for unit, limit in levels.items():
        contest = Contest(f"{unit} bars ({limit:,.0f})")
        ours = bars.threshold_bars(price, volume, limit=limit, unit=unit)[0]  # type: ignore[arg-type]
        equal("numba", ours, room[: numba_threshold(price, volume, limit, unit == "dollar", room)])
        contest.enter(
            "Tapeline, 1 thread",
            lambda unit=unit, limit=limit: bars.threshold_bars(price, volume, limit=limit, unit=unit),  # type: ignore[misc]
            n,
        )
        contest.enter(
            "numba, one pass",
            lambda unit=unit, limit=limit: numba_threshold(price, volume, limit, unit == "dollar", room),  # type: ignore[misc]
            n,
        )
        contests.append(contest)

    # 90 one-minute bars before an index.
    draw = np.random.default_rng(3)
    late = np.flatnonzero((ts - np.repeat(segments[:, 0], n // len(segments))) > (COUNT + 2) * MINUTE)
    at = np.sort(draw.choice(late, 270_000))
    ends = np.concatenate([bars.grid_ends(a, b, MINUTE) for a, b in segments.tolist()])
    starts = ends - MINUTE
    marked = bars.marked(price, volume)
    batch = np.empty((1024, COUNT, 8))

    def newest() -> np.ndarray:
        return np.searchsorted(ends, ts[at], "right").astype(np.int64)

    def windows(k: int = 1) -> None:
        first = newest() - COUNT
        for low in range(0, len(at), 1024):
            part = first[low : low + 1024]
            bars.lookback(grid, part, COUNT, out=batch[: len(part)], n_threads=k)

    def gathered() -> None:
        first, steps = newest() - COUNT, np.arange(COUNT)
        for low in range(0, len(at), 1024):
            part = first[low : low + 1024, None] + steps
            batch[: len(part)] = grid[part]

    def truncated() -> None:
        row = newest()
        begin = np.searchsorted(ts, starts)[row]
        run = bars.running_bars(marked, np.stack([begin, at], axis=1), grid[row - 1, 3])
        for low in range(0, len(at), 1024):
            part = row[low : low + 1024] - COUNT + 1
            bars.lookback(grid, part, COUNT, out=batch[: len(part)])
            batch[: len(part), -1] = run[low : low + 1024]

    def by_polars(indices: np.ndarray) -> np.ndarray:
        floor = ts[indices] // MINUTE * MINUTE
        low, high = np.searchsorted(ts, floor - COUNT * MINUTE), np.searchsorted(ts, floor)
        return np.stack(
            [
                frame.slice(a, b - a).group_by_dynamic("ts", every="1m").agg(columns).select(names).to_numpy()
                for a, b in zip(low.tolist(), high.tolist(), strict=True)
            ]
        )

    def by_pandas(indices: np.ndarray) -> None:
        floor = ts[indices] // MINUTE * MINUTE
        low, high = np.searchsorted(ts, floor - COUNT * MINUTE), np.searchsorted(ts, floor)
        for a, b in zip(low.tolist(), high.tolist(), strict=True):
            pieces = held.iloc[a:b].resample("min")
            pieces["p"].ohlc(), pieces["v"].agg(["count", "sum", "mean", "max"])

    few = draw.choice(at, 200)
    row = np.searchsorted(ends, ts[few], "right").astype(np.int64)
    equal("Polars", bars.lookback(grid, row - COUNT, COUNT).reshape(-1, 8), by_polars(few).reshape(-1, 8))
    complete = Contest("90 one-minute bars at 270,000 indices, complete", "samples")
    complete.enter("Tapeline, 1 thread", windows, len(at))
    complete.enter("Tapeline, 2 threads", lambda: windows(2), len(at))
    complete.enter("NumPy gather of the same grid", gathered, len(at))
    complete.enter("Polars slice + group_by_dynamic", lambda: by_polars(few), len(few))
    complete.enter("pandas slice + resample", lambda: by_pandas(few[:20]), 20)
    running = Contest("the same with the running bar cut at the index", "samples")
    running.enter("Tapeline, 1 thread", truncated, len(at))

    elapsed = ts - np.repeat(segments[:, 0] - 390 * MINUTE * np.arange(len(segments)), n // len(segments))
    anchored = bars.Anchored(marked, elapsed, 390 * MINUTE * len(segments))
    many, fewer = np.sort(draw.choice(at, 27_000)), np.sort(draw.choice(at, 2_700))
    scanned = np.empty((len(fewer), COUNT, 8))
    numba_anchored(ts, price, volume, fewer, segments[:, 0], scanned)
    ours = anchored.windows(fewer, elapsed[fewer], COUNT, MINUTE)
    traded = ours[:, :, 4].ravel() > 0
    equal("numba", ours.reshape(-1, 8)[traded], scanned.reshape(-1, 8)[traded])
    hung = Contest("90 one-minute bars that end at the index", "samples")
    hung.enter("Tapeline, 1 thread", lambda: anchored.windows(many, elapsed[many], COUNT, MINUTE), len(many))
    hung.enter(
        "Tapeline, 2 threads",
        lambda: anchored.windows(many, elapsed[many], COUNT, MINUTE, n_threads=2),
        len(many),
    )
    hung.enter(
        "numba, scan back",
        lambda: numba_anchored(ts, price, volume, fewer, segments[:, 0], scanned),
        len(fewer),
    )
    contests += [complete, running, hung]

    for turn in range(rounds + 1):
        for contest in contests:
            order = list(contest.runs)
            for who in order[turn % len(order) :] + order[: turn % len(order)]:
                if turn > 3 and contest.times[who][0] > 1.0:
                    continue
                for one, name in ((yard, "read_bandwidth"), (contest, who)):
                    began = time.perf_counter()
                    one.runs[name]()
                    if turn:
                        one.times[name].append(time.perf_counter() - began)

    reading = yard.times["read_bandwidth"]
    quartiles = statistics.quantiles(reading, n=4)
    spread = (quartiles[2] - quartiles[0]) / statistics.median(reading)
    load = os.getloadavg()[0]
    result = {
        "trades": n, "isa": bars.ISA, "cpu": processor(), "cores": os.cpu_count(), "load": round(load, 1),
        "yardstick_spread": round(spread, 3), "noisy": load > (os.cpu_count() or 1) or spread > 0.25,
        "threads_of_peers": threads, "date": time.strftime("%Y-%m-%d"), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "polars", "numba", "duckdb", "pandas")},
        "reading_M_per_s": round(yard.rate("read_bandwidth") / 1e6),
        "contests": {
            c.name: {
                who: {"per_s": round(c.rate(who)), "ms": [round(s * 1e3, 2) for s in c.times[who]]} for who in c.runs
            }
            for c in contests
        },
    }  # fmt: skip
    text = markdown(result, contests, yard)
    print(text)
    print(json.dumps(result))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"bars-{threads}.json").write_text(json.dumps(result, indent=1))
        (out / f"bars-{threads}.md").write_text(text)


def markdown(result: dict[str, Any], contests: list[Contest], yard: Contest) -> str:
    """The table of a run."""
    reading = yard.rate("read_bandwidth")
    lines = [
        f"{result['trades']:,} trades, {result['cpu']}, {result['cores']} cores, kernels `{result['isa']}`, "
        f"load {result['load']}{', **noisy**' if result['noisy'] else ''}, peers on {result['threads_of_peers']} "
        f"thread{'s' if result['threads_of_peers'] > 1 else ''}; reading the columns: {reading / 1e6:,.0f} M trades/s.",
        "",
        "| task | contestant | rate | of reading | Tapeline (1 thread) is |",
        "|---|---|---|---|---|",
    ]
    for contest in contests:
        ours = contest.rate("Tapeline, 1 thread")
        for who in contest.runs:
            rate = contest.rate(who)
            shown = f"{rate / 1e6:,.0f} M trades/s" if contest.unit == "trades" else f"{rate:,.0f} samples/s"
            share = f"{rate / reading:.0%}" if contest.unit == "trades" else ""
            ratio = "" if who.startswith("Tapeline") else f"{ours / rate:,.1f}x"
            lines.append(f"| {contest.name} | {who} | {shown} | {share} | {ratio} |")
    return "\n".join(lines)


def processor() -> str:
    """The model of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--trades", type=lambda text: int(text.replace("_", "")), default=30_000_000)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    if os.environ.get("POLARS_MAX_THREADS") != str(given.threads):
        # Polars reads how many threads it may take when it is imported.
        sys.exit(
            subprocess.run(
                [sys.executable, *sys.argv], env=os.environ | {"POLARS_MAX_THREADS": str(given.threads)}, check=False
            ).returncode
        )
    main(given.trades, given.threads, given.rounds, given.out)
