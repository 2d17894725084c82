"""Bars and look-backs beside everything a user could pick instead, in one interleaved run on the same arrays.

`python tests/bench/bars.py [--trades 30_000_000] [--threads 1] [--rounds 5] [--out FOLDER]`, three to four minutes. All
contestants give equal bars first, or the run ends. They then take turns, one warm-up and some rounds; slow ones take
fewer rounds and, in look-backs, fewer places. Reading the same columns, on one and on two threads, is measured beside
each of them. Rates are medians; a ratio is the median over rounds of times taken within one round. `--threads` is what
the peers get; Tapeline runs on 1 and on 2. Load above the processors or a spread of the yardstick over 25 % marks a run
as noisy. The last table says of each target whether it was reached.
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
    times: dict[str, dict[int, float]] = field(default_factory=dict)  # by round
    cpu: dict[str, dict[int, float]] = field(default_factory=dict)  # processor time, of all threads
    reading: dict[str, dict[int, float]] = field(default_factory=dict)  # the yardstick beside each

    def enter(self, who: str, run: Run, work: int) -> None:
        """Add a contestant that does `work` a run."""
        self.runs[who], self.work[who], self.times[who], self.cpu[who], self.reading[who] = run, work, {}, {}, {}

    def rate(self, who: str, cpu: bool = False) -> float:
        """Units a second, or a second of processor time, by the median."""
        return self.work[who] / statistics.median((self.cpu if cpu else self.times)[who].values())

    def ahead(self, who: str, other: str, cpu: bool = False) -> float:
        """How many times as fast one is as the other: the median over the rounds that both ran in."""
        each, times = self.work[who] / self.work[other], self.cpu if cpu else self.times
        both = times[who].keys() & times[other].keys()
        return each * statistics.median(times[other][k] / times[who][k] for k in both)

    def of_reading(self, who: str, columns: int) -> float:
        """The share of the speed at which as many threads read the columns, measured just before."""
        return statistics.median(self.reading[who][k] * self.work[who] / columns / self.times[who][k]
                                 for k in self.times[who])  # fmt: skip


def ours(threads: int) -> str:
    """How Tapeline is called in the table."""
    return f"Tapeline, {threads} thread{'s' if threads > 1 else ''}"


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
    for k in (1, 2):
        yard.enter(ours(k), lambda k=k: bars.read_bandwidth(ts, price, volume, n_threads=k), n)  # type: ignore[misc]

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
    room, pairs = np.empty((max(n // 20, 30_000), 8)), np.empty((max(n // 20, 30_000), 2), np.int64)

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
    minute.enter(ours(1), cut, n)
    minute.enter(ours(2), lambda: cut(k=2), n)
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
    for k in (1, 2):
        tick.enter(ours(k), lambda k=k: bars.tick_bars(price, volume, size=100, n_threads=k), n)  # type: ignore[misc]
    tick.enter("Polars group_by row // 100", polars_ticks, n)
    tick.enter("numba, one pass", lambda: numba_groups(nothing, 100, price, volume, room), n)
    tick.enter(
        "DuckDB GROUP BY",
        lambda: table.execute(f"SELECT row // 100 m, {aggregates} FROM trades GROUP BY m").fetchnumpy(),
        n,
    )
    tick.enter("pandas groupby", pandas_ticks, n)
    contests = [minute, tick]
    counted = {"volume": "v", "dollar": "p * v"}
    for unit, limit in levels.items():
        contest = Contest(f"{unit} bars ({limit:,.0f})")
        mine = bars.threshold_bars(price, volume, limit=limit, unit=unit, n_threads=1)[0]  # type: ignore[arg-type]
        assert np.array_equal(mine, bars.threshold_bars(price, volume, limit=limit, unit=unit, n_threads=2)[0])  # type: ignore[arg-type]
        equal("numba", mine, room[: numba_threshold(price, volume, limit, unit == "dollar", room)])
        for k in (1, 2):
            contest.enter(
                ours(k),
                lambda unit=unit, limit=limit, k=k: bars.threshold_bars(  # type: ignore[misc]
                    price, volume, limit=limit, unit=unit, n_threads=k, room=(room, pairs)
                ),
                n,
            )
        contest.enter(
            "numba, one pass",
            lambda unit=unit, limit=limit: numba_threshold(price, volume, limit, unit == "dollar", room),  # type: ignore[misc]
            n,
        )
        # The others have nothing that begins anew when a limit is reached: they cut where a running sum passes
        # multiples of it, which gives other bars.
        what = {"volume": pl.col("v").cast(pl.Float64), "dollar": pl.col("p") * pl.col("v")}[unit]

        def polars_sums(what: Any = what, limit: float = limit) -> Any:
            key = (what.cum_sum() / limit).floor().cast(pl.Int64).alias("k")
            return frame.lazy().group_by(key, maintain_order=True).agg(columns).collect()

        def pandas_sums(unit: str = unit, limit: float = limit) -> Any:
            sums = np.cumsum(volume if unit == "volume" else price * volume, dtype=np.float64)
            groups = held.groupby((sums // limit).astype(np.int64), sort=False)
            return groups["p"].agg(["first", "max", "min", "last"]), groups["v"].agg(["count", "sum", "mean", "max"])

        def duck_sums(unit: str = unit, limit: float = limit) -> Any:
            inner = f"SELECT p, v, floor(sum({counted[unit]}) OVER (ORDER BY row) / {limit}) k FROM trades"
            return table.execute(f"SELECT k, {aggregates} FROM ({inner}) GROUP BY k").fetchnumpy()

        contest.enter("Polars, running sum (other bars)", polars_sums, n)
        contest.enter("DuckDB, running sum (other bars)", duck_sums, n)
        contest.enter("pandas, running sum (other bars)", pandas_sums, n)
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
        return bars.ranks(ends, ts[at], right=True)

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

    def truncated(k: int = 1) -> None:
        row = newest()
        begin = np.searchsorted(ts, starts)[row]
        run = bars.running_bars(marked, np.stack([begin, at], axis=1), grid[row - 1, 3], n_threads=k)
        for low in range(0, len(at), 1024):
            part = row[low : low + 1024] - COUNT + 1
            bars.lookback(grid, part, COUNT, out=batch[: len(part)], n_threads=k)
            batch[: len(part), -1] = run[low : low + 1024]

    def spans(indices: np.ndarray, cut_at_index: bool) -> list[tuple[int, int]]:
        """The trades of each window: whole minutes, or also those of the running one before the index."""
        floor = ts[indices] // MINUTE * MINUTE
        low = np.searchsorted(ts, floor - (COUNT - cut_at_index) * MINUTE)
        high = indices if cut_at_index else np.searchsorted(ts, floor)
        return list(zip(low.tolist(), high.tolist(), strict=True))

    def numba_windows(indices: np.ndarray, cut_at_index: bool = False) -> np.ndarray:
        """Each window by a pass over its trades."""
        found = np.empty((len(indices), COUNT, 8))
        for window, (a, b) in zip(found, spans(indices, cut_at_index), strict=True):
            numba_groups(ts[a:b], MINUTE, price[a:b], volume[a:b], window)
        return found

    def duck_windows(indices: np.ndarray, cut_at_index: bool = False) -> None:
        for a, b in spans(indices, cut_at_index):
            where = f"FROM trades WHERE row >= {a} AND row < {b} GROUP BY m ORDER BY m"
            table.execute(f"SELECT ts // {MINUTE} m, {aggregates} {where}").fetchnumpy()

    def by_polars(indices: np.ndarray, cut_at_index: bool = False) -> list[np.ndarray]:
        return [
            frame.slice(a, b - a).group_by_dynamic("ts", every="1m").agg(columns).select(names).to_numpy()
            for a, b in spans(indices, cut_at_index)
        ]

    def by_pandas(indices: np.ndarray, cut_at_index: bool = False) -> None:
        for a, b in spans(indices, cut_at_index):
            pieces = held.iloc[a:b].resample("min")
            pieces["p"].ohlc(), pieces["v"].agg(["count", "sum", "mean", "max"])

    few = draw.choice(at, 200)
    row = np.searchsorted(ends, ts[few], "right").astype(np.int64)
    equal("Polars", bars.lookback(grid, row - COUNT, COUNT).reshape(-1, 8), np.concatenate(by_polars(few)))
    equal("numba", bars.lookback(grid, row - COUNT, COUNT).reshape(-1, 8), numba_windows(few).reshape(-1, 8))
    complete = Contest("90 one-minute bars at 270,000 indices, complete", "samples")
    complete.enter(ours(1), windows, len(at))
    complete.enter(ours(2), lambda: windows(2), len(at))
    complete.enter("NumPy gather of the same grid", gathered, len(at))
    running = Contest("the same with the running bar cut at the index", "samples")
    running.enter(ours(1), truncated, len(at))
    running.enter(ours(2), lambda: truncated(2), len(at))
    for contest, cutting in ((complete, False), (running, True)):
        contest.enter("numba, a pass each", lambda c=cutting: numba_windows(few, c), len(few))  # type: ignore[misc]
        contest.enter("Polars slice + group_by_dynamic", lambda c=cutting: by_polars(few, c), len(few))  # type: ignore[misc]
        contest.enter("DuckDB WHERE + GROUP BY", lambda c=cutting: duck_windows(few[:20], c), 20)  # type: ignore[misc]
        contest.enter("pandas slice + resample", lambda c=cutting: by_pandas(few[:20], c), 20)  # type: ignore[misc]

    elapsed = ts - np.repeat(segments[:, 0] - 390 * MINUTE * np.arange(len(segments)), n // len(segments))
    anchored = bars.Anchored(marked, elapsed, 390 * MINUTE * len(segments))
    fewer = np.sort(draw.choice(at, 2_700))
    scanned = np.empty((len(fewer), COUNT, 8))
    numba_anchored(ts, price, volume, fewer, segments[:, 0], scanned)
    hanging = anchored.windows(fewer, elapsed[fewer], COUNT, MINUTE)
    traded = hanging[:, :, 4].ravel() > 0
    equal("numba", hanging.reshape(-1, 8)[traded], scanned.reshape(-1, 8)[traded])

    def hang(k: int) -> None:
        for low in range(0, len(at), 1024):
            part = at[low : low + 1024]
            anchored.windows(part, elapsed[part], COUNT, MINUTE, n_threads=k, out=batch[: len(part)])

    def by_scan(indices: np.ndarray) -> list[tuple[int, int]]:
        low = np.searchsorted(ts, ts[indices] - COUNT * MINUTE)
        return list(zip(low.tolist(), np.searchsorted(ts, ts[indices]).tolist(), strict=True))

    def polars_hung(indices: np.ndarray) -> None:
        for i, (a, b) in zip(indices.tolist(), by_scan(indices), strict=True):
            offset = f"{int(ts[i]) % MINUTE}ns"
            frame.slice(a, b - a).group_by_dynamic("ts", every="1m", offset=offset).agg(columns)

    def duck_hung(indices: np.ndarray) -> None:
        for i, (a, b) in zip(indices.tolist(), by_scan(indices), strict=True):
            where = f"FROM trades WHERE row >= {a} AND row < {b} GROUP BY m ORDER BY m"
            table.execute(f"SELECT (ts - {int(ts[i])}) // {MINUTE} m, {aggregates} {where}").fetchnumpy()

    def pandas_hung(indices: np.ndarray) -> None:
        for i, (a, b) in zip(indices.tolist(), by_scan(indices), strict=True):
            pieces = held.iloc[a:b].resample("min", origin=held.index[i])
            pieces["p"].ohlc(), pieces["v"].agg(["count", "sum", "mean", "max"])

    hung = Contest("90 one-minute bars that end at the index, at 270,000 indices", "samples")
    hung.enter(ours(1), lambda: hang(1), len(at))
    hung.enter(ours(2), lambda: hang(2), len(at))
    numba_run = lambda: numba_anchored(ts, price, volume, fewer, segments[:, 0], scanned)  # noqa: E731
    hung.enter("numba, scan back", numba_run, len(fewer))
    hung.enter("Polars slice + group_by_dynamic", lambda: polars_hung(few), len(few))
    hung.enter("DuckDB WHERE + GROUP BY", lambda: duck_hung(few[:20]), 20)
    hung.enter("pandas slice + resample", lambda: pandas_hung(few[:20]), 20)
    contests += [complete, running, hung]

    for turn in range(rounds + 1):
        for contest in contests:
            order = list(contest.runs)
            for who in order[turn % len(order) :] + order[: turn % len(order)]:
                slow = max(contest.times[who].values(), default=0.0)
                if slow > 1.0 and turn > (1 if slow > 4.0 else 2):
                    continue
                many = 2 if who == ours(2) else 1
                reading, read = seconds(yard.runs[ours(many)])
                spent, cpu = seconds(contest.runs[who])
                if turn or spent > 4.0:  # what is that slow needs no warming up
                    number = len(yard.times[ours(many)])
                    yard.times[ours(many)][number], yard.cpu[ours(many)][number] = reading, read
                    contest.times[who][turn], contest.cpu[who][turn] = spent, cpu
                    contest.reading[who][turn] = reading

    reading = list(yard.times[ours(1)].values())
    quartiles = statistics.quantiles(reading, n=4)
    spread = (quartiles[2] - quartiles[0]) / statistics.median(reading)
    load = os.getloadavg()[0]
    result = {
        "trades": n, "isa": bars.ISA, "cpu": processor(), "cores": os.cpu_count(), "load": round(load, 1),
        "yardstick_spread": round(spread, 3), "noisy": load > (os.cpu_count() or 1) or spread > 0.25,
        "threads_of_peers": threads, "date": time.strftime("%Y-%m-%d"), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "polars", "numba", "duckdb", "pandas")},
        "reading_M_per_s": [round(yard.rate(ours(k)) / 1e6) for k in (1, 2)],
        "contests": {
            c.name: {
                who: {
                    "per_s": round(c.rate(who)),
                    "per_cpu_s": round(c.rate(who, cpu=True)),
                    "of_reading": round(c.of_reading(who, n), 3),
                    "ms": [round(s * 1e3, 2) for s in c.times[who].values()],
                }
                for who in c.runs
            }
            for c in contests
        },
        "targets": targets(contests, n),
    }  # fmt: skip
    text = markdown(result, contests, yard)
    print(text)
    print(json.dumps(result))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"bars-{threads}.json").write_text(json.dumps(result, indent=1))
        (out / f"bars-{threads}.md").write_text(text)


def seconds(run: Run) -> tuple[float, float]:
    """How long a run takes, and how much processor time, which other work on the machine lengthens less."""
    began, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - began, time.process_time() - cpu


def targets(contests: list[Contest], columns: int) -> list[tuple[str, float, float, float | None]]:
    """What is to be reached, as text, the figure wanted, the figure found, and that by processor time."""
    minute, tick, volume, dollar, complete, _, hung = contests
    one, two = ours(1), ours(2)

    def ahead(contest: Contest, other: str) -> tuple[float, float]:
        return contest.ahead(one, other), contest.ahead(one, other, cpu=True)

    def millions(contest: Contest) -> tuple[float, float]:
        return contest.rate(one) / 1e6, contest.rate(one, cpu=True) / 1e6

    return [
        ("time bars, times Polars, 1 thread", 3.5, *ahead(minute, "Polars group_by_dynamic")),
        ("time bars, % of reading, 1 thread", 65, 100 * minute.of_reading(one, columns), None),
        ("time bars, % of reading on 2 threads, 2 threads", 90, 100 * minute.of_reading(two, columns), None),
        ("tick bars, times Polars, 1 thread", 15, *ahead(tick, "Polars group_by row // 100")),
        ("volume bars, M trades/s, 1 thread", 500, *millions(volume)),
        ("dollar bars, M trades/s, 1 thread", 500, *millions(dollar)),
        ("volume bars, times numba, 1 thread", 1, *ahead(volume, "numba, one pass")),
        ("dollar bars, times numba, 1 thread", 1, *ahead(dollar, "numba, one pass")),
        ("grid look-back, M samples/s, 1 thread", 3, *millions(complete)),
        ("grid look-back, times Polars, 1 thread", 500, *ahead(complete, "Polars slice + group_by_dynamic")),
        ("anchored look-back, times numba, 1 thread", 4, *ahead(hung, "numba, scan back")),
    ]


def markdown(result: dict[str, Any], contests: list[Contest], yard: Contest) -> str:
    """The tables of a run."""
    peers = result["threads_of_peers"]
    lines = [
        f"{result['trades']:,} trades, {result['cpu']}, {result['cores']} cores, kernels `{result['isa']}`, "
        f"load {result['load']}{', **noisy**' if result['noisy'] else ''}, peers on {peers} "
        f"thread{'s' if peers > 1 else ''}; reading the columns: {yard.rate(ours(1)) / 1e6:,.0f} M trades/s on one "
        f"thread, {yard.rate(ours(2)) / 1e6:,.0f} on two (spread of the first {result['yardstick_spread']:.0%}).",
        "",
        "| task | contestant | rate | by processor time | of reading | Tapeline (1 thread) is |",
        "|---|---|---|---|---|---|",
    ]
    for contest in contests:
        for who in contest.runs:
            one, unit = contest.unit == "trades", f"{contest.unit}/s"
            rate, cpu = (
                f"{x / 1e6:,.0f} M {unit}" if one else f"{x:,.0f} {unit}"
                for x in (contest.rate(who), contest.rate(who, cpu=True))
            )
            share = f"{contest.of_reading(who, result['trades']):.0%}" if one else ""
            ratio = "" if who.startswith("Tapeline") else f"{contest.ahead(ours(1), who):,.1f}x"
            lines.append(f"| {contest.name} | {who} | {rate} | {cpu} | {share} | {ratio} |")
    lines += ["", "| target | wanted | found | by processor time | |", "|---|---|---|---|---|"]
    for name, wanted, found, cpu in result["targets"]:
        verdict = "reached" if found >= wanted else "**missed**"
        if found < wanted and cpu is not None and cpu >= wanted:
            verdict = "**missed**, but for the wait for a processor"
        lines.append(f"| {name} | {wanted:g} | {found:,.1f} | {'' if cpu is None else f'{cpu:,.1f}'} | {verdict} |")
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
    options.add_argument("--rounds", type=int, default=5)
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
