"""The build of an asset beside the same asset by pandas, and by Polars with TA-Lib, in one interleaved run.

`python tests/bench/assets.py [--days 60] [--trades 20000] [--lean FOLDER] [--rounds 5] [--out FILE]`. Each contestant
reads the same trades from disk (Tapeline its tape, whose digests it checks; the others Parquet without compression) and
writes the same features and labels, in two files. What they give is compared first, or the run ends. Tapeline is
measured twice: as users get it, and without the experiments of the certificate, which no other has. Then training data
is read in shuffled blocks of rows, from an asset and from a raw `.npy` memory map. Ratios are medians over rounds of
times taken within one round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tapeline.asset_files import TRAIN, AssetFile
from tapeline.assets.asset.spec import KnownTape, parse, resolve
from tapeline.assets.asset.work import messages
from tapeline.assets.build import assemble, build, carried_out
from tapeline.assets.components import registry
from tapeline.assets.plan import make_plan
from tapeline.assets.shard import compute, from_bytes, to_bytes
from tapeline.tape.manifest import sessions_of
from tapeline.tape.prepared import PreparedTape, TapeWriter
from tapeline.tape.sessions import Calendar
from tapeline.tape.view import OpenTape, open_tape

MINUTE = 60_000_000_000
COUNT, N, RSI, AHEAD, FAR, ATR = 20, 20, 14, 5, 30, 14
LAYOUT = "materialised"
"""What the others write, too; an indexed asset would be a twentieth of the bytes."""
FEATURES: list[Any] = [
    {"name": "bars", "component": "bars", "params": {"count": COUNT, "norm": "last_price_pct"}},
    {"name": "log_return", "component": "log_return", "params": {"k": 1}},
    {"name": "sma_ratio", "component": "sma_ratio", "params": {"n": N}},
    {"name": "rsi", "component": "rsi", "params": {"n": RSI}},
    {"name": "realised_vol", "component": "realised_vol", "params": {"n": N}},
    {"name": "volume_ratio", "component": "volume_ratio", "params": {"n": N}},
]
LABELS: list[Any] = [
    {"name": "updown", "component": "updown", "params": {"horizon": AHEAD}},
    {"name": "rr", "component": "rr_atr", "params": {"horizon": FAR, "n": ATR}},
]
ALSO = (
    "the digest of every column that it reads and of all data that it writes, purge and embargo, uniqueness, "
    "statistics of train, experiments and checks of the certificate"
)
TARGETS = {"pandas": 20.0, "Polars, TA-Lib": 3.0}
Columns = dict[str, NDArray[Any]]
Frame = dict[str, NDArray[np.float64]]


def spec_of(tape: PreparedTape, opened: OpenTape) -> Any:
    """The resolved spec of the asset."""
    calendar = str(tape.manifest["symbols"][0]["calendar"])
    known = KnownTape("t", "bench", tape.content_sha256, tuple(tape.symbols), tuple(tape.days), calendar)
    wanted = {
        "tapes": ["bench"], "features": FEATURES, "labels": LABELS, "layout": LAYOUT,
        "split": {"test_fraction": 0.2, "validation_fraction": 0, "embargo": "auto"},
    }  # fmt: skip
    return resolve(parse(wanted), [known], registry())


def ours(tape: PreparedTape, folder: Path, *, proved: bool) -> Path:
    """The asset by Tapeline; not `proved`: without the experiments of the certificate."""
    opened = open_tape(tape.manifest, tape.path_of)
    wanted = spec_of(tape, opened)
    named: dict[str, Any] = {
        "name": "bench", "team": "bench", "spec_digest": wanted.digest, "folder": folder,
        "tell": lambda *progress: None,
    }  # fmt: skip
    if proved:
        build(wanted.spec, tapes={"t": opened}, components=registry(), **named)
    else:
        plan = make_plan(wanted.spec, {"t": opened}, registry())
        carried_out(replace(plan, shards=tuple(replace(shard, cuts=()) for shard in plan.shards)), **named)
    return folder


def shared_out(tape: PreparedTape, folder: Path, *, from_end: bool) -> Any:
    """The spec and plan of the asset, its shards made in a folder from one end on, but for those that are there."""
    opened = open_tape(tape.manifest, tape.path_of)
    wanted = spec_of(tape, opened)
    plan = make_plan(wanted.spec, {"t": opened}, registry())
    shards = folder / "shards"
    shards.mkdir(exist_ok=True)
    for part in messages(plan, set(range(len(plan.shards))))[:: -1 if from_end else 1]:
        left = [plan.shards[i] for i in part if not (shards / plan.shards[i].key).exists()]
        plan.expect(left)
        for shard in left:
            if not (shards / shard.key).exists():
                draft = shards / f"{shard.key}.{os.getpid()}"
                draft.write_bytes(to_bytes(compute(plan, shard)))
                draft.replace(shards / shard.key)
    return wanted, plan


def helping(asked: Any, tape: PreparedTape) -> None:
    """A second process: makes shards of the folders that it is told, until it is told none."""
    while folder := asked.recv():
        shared_out(tape, Path(folder), from_end=False)
        asked.send("done")


def by_workers(tape: PreparedTape, folder: Path, helper: Any = None) -> Path:
    """The asset by way of files of shards, as the service builds it: alone, or together with a second process."""
    if helper is not None:
        helper.send(str(folder))
    wanted, plan = shared_out(tape, folder, from_end=True)
    parts = [from_bytes((folder / "shards" / shard.key).read_bytes(), shard.key) for shard in plan.shards]
    named: dict[str, Any] = {"name": "bench", "team": "bench", "spec_digest": wanted.digest, "folder": folder}
    assemble(plan, parts, tell=lambda *progress: None, **named)
    return folder


def finished(bars: Frame, session: NDArray[np.int64], values: Columns, atr: NDArray[np.float64], folder: Path) -> None:
    """What pandas and Polars users do in NumPy: windows, labels, rows that are whole, two files."""
    close, n = bars["close"], len(session)
    table = np.stack([bars[k] for k in ("open", "high", "low", "close", "count", "sum", "mean", "max")], axis=1)
    windows = np.moveaxis(sliding_window_view(table, COUNT, axis=0), 2, 1)
    normed = np.empty((len(windows), COUNT, 8), np.float32)
    normed[:, :, :4] = (windows[:, :, :4] / windows[:, -1:, 3:4] - 1) * 100
    normed[:, :, 4:] = windows[:, :, 4:] / windows[:, :, 4:].max(axis=1, keepdims=True)
    x: Columns = {"bars": np.full((n, COUNT, 8), np.nan, np.float32)}
    x["bars"][COUNT - 1 :] = normed
    x |= {name: column.astype(np.float32)[:, None] for name, column in values.items()}
    row = np.arange(n)
    entry, ends = np.minimum(row + 1, n - 1), {"updown": row + 1 + AHEAD, "rr": row + 1 + FAR}
    inside = {k: (last < n) & (session[np.minimum(last, n - 1)] == session) for k, last in ends.items()}
    move = close[np.minimum(ends["updown"], n - 1)] / close[entry] - 1
    x["updown"] = np.stack([move, move > 0, move < 0, move < 0, move > 0], axis=1).astype(np.float32)
    up, down = close[entry] * (1 + 2 * atr), close[entry] * (1 - 2 * atr)
    how, open_ = np.zeros(n), np.ones(n, bool)
    for step in range(1, FAR + 1):
        at = np.minimum(entry + step, n - 1)
        stopped, hit = bars["low"][at] <= down, bars["high"][at] >= up
        how[open_ & hit & ~stopped] = 1
        open_ &= ~(hit | stopped)
    x["rr"] = how.astype(np.float32)[:, None]
    whole = inside["updown"] & inside["rr"] & ~np.isnan(atr)
    for name in ("bars", *values):
        whole &= ~np.isnan(x[name]).reshape(n, -1).any(axis=1)
    sessions = np.unique(session)
    test = session >= sessions[len(sessions) - max(1, round(len(sessions) * 0.2))]
    for part, rows in (("train", whole & ~test), ("test", whole & test)):
        np.savez(folder / f"{part}.npz", row=row[rows], **{name: column[rows] for name, column in x.items()})


def by_pandas(source: Path, opens: NDArray[np.int64], closes: NDArray[np.int64], folder: Path) -> Path:
    """The asset by pandas."""
    import pandas as pd

    trades = pd.read_parquet(source)
    session = np.searchsorted(opens, trades["ts"].to_numpy(), "right") - 1
    inside = (session >= 0) & (trades["ts"].to_numpy() < closes[np.maximum(session, 0)])
    trades, session = trades[inside], session[inside]
    minute = (trades["ts"] - opens[session]) // MINUTE
    grouped = trades.groupby([session, minute], sort=False)
    price, volume = grouped["price"], grouped["volume"]
    bars = pd.DataFrame(
        {
            "open": price.first(), "high": price.max(), "low": price.min(), "close": price.last(),
            "count": volume.count(), "sum": volume.sum(), "mean": volume.mean(), "max": volume.max(),
        }
    )  # fmt: skip
    whole = pd.MultiIndex.from_tuples(
        [(s, m) for s in range(len(opens)) for m in range(int(-(-(closes[s] - opens[s]) // MINUTE)))]
    )
    bars = bars.reindex(whole)
    bars["close"] = bars["close"].ffill()
    for name in ("open", "high", "low"):
        bars[name] = bars[name].fillna(bars["close"])
    bars = bars.fillna(0.0)
    close = bars["close"]
    log_return: Any = np.log(close / close.shift(1))
    change = close.diff()
    gain = change.clip(lower=0).ewm(alpha=1 / RSI, adjust=False, min_periods=RSI).mean()
    loss = (-change).clip(lower=0).ewm(alpha=1 / RSI, adjust=False, min_periods=RSI).mean()
    before = close.shift(1)
    reach = pd.concat([bars["high"] - bars["low"], (bars["high"] - before).abs(), (bars["low"] - before).abs()], axis=1)
    true_range: Any = reach.max(axis=1)
    atr = true_range.ewm(alpha=1 / ATR, adjust=False, min_periods=ATR).mean() / close
    values = {
        "log_return": log_return,
        "sma_ratio": close.rolling(N).mean() / close - 1,
        "rsi": (100 - 100 / (1 + gain / loss) - 50) / 50,
        "realised_vol": np.sqrt((log_return**2).rolling(N).sum()),
        "volume_ratio": bars["sum"] / bars["sum"].rolling(N).mean() - 1,
    }
    finished(
        {str(name): bars[name].to_numpy(np.float64) for name in bars},
        np.asarray(bars.index.get_level_values(0), np.int64),
        {name: column.to_numpy() for name, column in values.items()},
        atr.to_numpy(),
        folder,
    )
    return folder


def by_polars(source: Path, opens: NDArray[np.int64], closes: NDArray[np.int64], folder: Path) -> Path:
    """The asset by Polars, its indicators by TA-Lib."""
    import polars as pl
    import talib

    sessions = pl.LazyFrame({"opened": opens, "closed": closes, "session": np.arange(len(opens))}).set_sorted("opened")
    price, volume = pl.col("price"), pl.col("volume")
    cut = (
        pl.scan_parquet(source)
        .set_sorted("ts")
        .join_asof(sessions, left_on="ts", right_on="opened")
        .filter(pl.col("ts") < pl.col("closed"))
        .with_columns(minute=(pl.col("ts") - pl.col("opened")) // MINUTE)
        .group_by("session", "minute", maintain_order=True)
        .agg(
            price.first().alias("open"), price.max().alias("high"), price.min().alias("low"),
            price.last().alias("close"), pl.len().alias("count"), volume.sum().alias("sum"),
            volume.mean().alias("mean"), volume.max().alias("max"),
        )
    )  # fmt: skip
    lengths = -(-(closes - opens) // MINUTE)
    grid = pl.LazyFrame(
        {
            "session": np.repeat(np.arange(len(opens)), lengths),
            "minute": np.concatenate([np.arange(each) for each in lengths]),
        }
    )
    bars = (
        grid.join(cut, on=["session", "minute"], how="left", maintain_order="left")
        .with_columns(pl.col("close").forward_fill())
        .with_columns(pl.col("open", "high", "low").fill_null(pl.col("close")))
        .fill_null(0)
        .collect()
    )
    held = {
        name: bars[name].to_numpy().astype(np.float64) for name in bars.columns if name not in ("session", "minute")
    }
    close = held["close"]
    log_return = np.log(close / np.concatenate([[np.nan], close[:-1]]))
    values = {
        "log_return": log_return,
        "sma_ratio": talib.SMA(close, N) / close - 1,
        "rsi": (talib.RSI(close, RSI) - 50) / 50,
        "realised_vol": np.sqrt(talib.SUM(log_return**2, N)),
        "volume_ratio": held["sum"] / talib.SMA(held["sum"], N) - 1,
    }
    atr = talib.NATR(held["high"], held["low"], close, ATR) / 100
    finished(held, bars["session"].to_numpy().astype(np.int64), values, atr, folder)
    return folder


def compare(folder: Path, other: Path, who: str, ends: NDArray[np.int64]) -> int:
    """How many samples two folders share, all of them equal; the run ends if they are not."""
    mine: dict[int, Any] = {}
    joined: list[AssetFile] = [AssetFile(path) for path in sorted(folder.glob("*.h5"))]
    for file in joined:
        mine |= {int(t): (file, i) for i, t in enumerate(file.t0)}
    shared = 0
    labels = 0
    for path in sorted(other.glob("*.npz")):
        with np.load(path, allow_pickle=False) as theirs:
            kept = [(k, *mine[int(ends[row])]) for k, row in enumerate(theirs["row"]) if int(ends[row]) in mine]
            # Averages that forget begin elsewhere: they agree once they have forgotten.
            late = [each for each in kept if theirs["row"][each[0]] > 400]
            shared += len(kept)
            for name in [each["name"] for each in FEATURES] + ["updown"]:
                a = np.stack([file.column(name)[i] for _, file, i in late])
                b = theirs[name][[k for k, *_ in late]]
                assert np.allclose(a, b, rtol=2e-3, atol=2e-5), f"{who} differs in {name}: {np.abs(a - b).max()}"
            labels += sum(float(file.column("rr")[i, 0]) != theirs["rr"][k, 0] for k, file, i in late)
    assert labels <= 0.002 * shared, f"{who} differs in {labels} of {shared} labels"
    return shared


def reading(folder: Path, rounds: int) -> dict[str, float]:
    """Shuffled blocks of rows for training: from the asset, and from a raw memory map of the same array."""
    file = max((AssetFile(path) for path in folder.glob("*.h5")), key=len)
    assert (file.part == TRAIN).any()
    raw_path = folder / "raw.npy"
    np.save(raw_path, np.asarray(file.column("bars")))
    raw, column = np.load(raw_path, mmap_mode="r"), file.column("bars")
    block = 1024
    starts = np.random.default_rng(1).permutation(np.arange(0, len(file) - block, block))
    rates: dict[str, list[float]] = {"asset": [], "raw": []}
    for _ in range(4 * rounds):
        for name, source in (("asset", column), ("raw", raw)):
            began = time.perf_counter()
            for start in starts.tolist():
                np.ascontiguousarray(source[start : start + block], np.float32).sum()
            rates[name].append(len(starts) * block * column[:1].nbytes / (time.perf_counter() - began) / 1e6)
    ratio = statistics.median(a / b for a, b in zip(rates["asset"], rates["raw"], strict=True))
    return {"mb_s": statistics.median(rates["asset"]), "raw_mb_s": statistics.median(rates["raw"]), "ratio": ratio}


def main(tape: PreparedTape, rounds: int, folder: Path) -> dict[str, Any]:
    """Measure one tape and print what was found."""
    import pandas as pd

    opened = open_tape(tape.manifest, tape.path_of)
    (symbol,) = tape.symbols
    trades = opened.all_trades(symbol)
    source = folder / "trades.parquet"
    pd.DataFrame({"ts": trades.ts, "price": trades.price, "volume": trades.volume}).to_parquet(source, compression=None)
    segments = np.concatenate([opened.segments(date) for date in opened.days(symbol)])
    opens, closes = np.ascontiguousarray(segments[:, 0]), np.ascontiguousarray(segments[:, 1])
    ends = opened.minute_grid(symbol, "min", 1).end_ns
    runs: dict[str, Callable[[Path], Path]] = {
        "Tapeline": lambda out: ours(tape, out, proved=True),
        "Tapeline, no experiments": lambda out: ours(tape, out, proved=False),
        "pandas": lambda out: by_pandas(source, opens, closes, out),
        "Polars, TA-Lib": lambda out: by_polars(source, opens, closes, out),
    }
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    helper = context.Process(target=helping, args=(there, tape), daemon=True)
    helper.start()
    runs |= {
        "1 worker, shard files": lambda out: by_workers(tape, out),
        "2 workers, shard files": lambda out: by_workers(tape, out, here),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    made: dict[str, Path] = {}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            out = Path(tempfile.mkdtemp(dir=folder))
            began = time.perf_counter()
            run(out)
            if turn:  # the first is a warm-up
                times[name].append(time.perf_counter() - began)
            if name.startswith("2 workers"):
                here.recv()  # what it was still at; not waited for within the build
            made.setdefault(name, out)
    here.send("")
    helper.join()
    for name in ("1 worker, shard files", "2 workers, shard files"):
        for path in made["Tapeline"].glob("*.h5"):
            assert path.read_bytes() == (made[name] / path.name).read_bytes(), f"{name} gives another {path.name}"
    shared = {name: compare(made["Tapeline"], made[name], name, ends) for name in ("pandas", "Polars, TA-Lib")}
    samples = sum(len(AssetFile(path)) for path in made["Tapeline"].glob("*.h5"))
    size = sum(path.stat().st_size for path in made["Tapeline"].glob("*.h5"))
    found: dict[str, Any] = {"trades": len(trades), "samples": samples, "bytes": size, "shared": shared, "build": {}}
    print(f"\n{len(trades):,} trades, {samples:,} samples, {size / 1e6:.1f} MB")
    for name, each in times.items():
        median = statistics.median(each)
        row: dict[str, Any] = {"s": median, "samples_s": samples / median, "mb_s": size / median / 1e6}
        for ahead in ("Tapeline", "Tapeline, no experiments"):
            row[f"{ahead} is faster by"] = statistics.median(a / b for a, b in zip(each, times[ahead], strict=True))
        found["build"][name] = row
        print(
            f"{name:26} {median:8.3f} s {row['samples_s']:12,.0f} samples/s {row['mb_s']:8.1f} MB/s   "
            f"Tapeline x {row['Tapeline is faster by']:.2f}, without experiments x "
            f"{row['Tapeline, no experiments is faster by']:.2f}"
        )
    print(f"Tapeline also does: {ALSO}.")
    pair = [times[f"{k} worker{'s' * (k > 1)}, shard files"] for k in (1, 2)]
    found["two_workers"] = statistics.median(a / b for a, b in zip(*pair, strict=True))
    print(f"two processes building one asset together: x {found['two_workers']:.2f} of one (target 1.6)")
    found["reading"] = reading(made["Tapeline"], rounds)
    print(
        f"reading for training: {found['reading']['mb_s']:,.0f} MB/s, {found['reading']['ratio']:.2f} of a raw memmap "
        "(target 0.9)"
    )
    return found


def plain(tape: PreparedTape, folder: Path) -> PreparedTape:
    """The tape without trades that count for the volume alone, which the others would need more work for."""
    opened = open_tape(tape.manifest, tape.path_of, view="all")
    writer = TapeWriter(folder / "plain", Calendar("SIM"))
    for symbol in tape.symbols:
        for date in opened.days(symbol):
            trades = opened.trades(symbol, date)
            writer.add(symbol, date, trades.take(trades.flags == 7))
    return writer.finish(sessions_of(tape.manifest), {})


def tapes(days: int, trades: int, lean: Path | None, folder: Path) -> dict[str, PreparedTape]:
    """The tapes: a synthetic one, and five days of SPY where their files are at hand."""
    from tapeline.tape.imports import import_tape
    from tapeline.tape.simulate import simulate

    made = {f"synthetic, {days} days": plain(simulate(folder / "whole", days=days, trades_per_day=trades), folder)}
    if lean is not None and lean.exists():
        made["SPY, five days"] = import_tape(sorted(lean.glob("*_trade.zip")), "lean", out_dir=folder / "spy")
    return made


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--days", type=int, default=60)
    arguments.add_argument("--trades", type=int, default=20_000, help="a day, of the synthetic tape")
    arguments.add_argument("--lean", type=Path, default=None, help="folder with trades of SPY")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--out", type=Path, default=None, help="JSON file for what was found")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="tapeline-bench-") as place:
        measured: dict[str, Any] = {
            "machine": {"python": sys.version.split()[0], "cpu": platform.processor(), "cores": os.cpu_count(),
                        "load": os.getloadavg()[0]},
        }  # fmt: skip
        for title, prepared in tapes(chosen.days, chosen.trades, chosen.lean, Path(place)).items():
            print(f"\n{title}")
            work = Path(tempfile.mkdtemp(dir=place))
            measured[title] = main(prepared, chosen.rounds, work)
        print("\nhow many times as fast as the others Tapeline builds, certificate included (and without experiments):")
        for title, found in measured.items():
            for name, target in TARGETS.items() if title != "machine" else ():
                row = found["build"][name]
                print(f"{title:20} {name:16} x {row['Tapeline is faster by']:5.2f} "
                      f"({row['Tapeline, no experiments is faster by']:.2f}), target {target:.0f}")  # fmt: skip
        if chosen.out is not None:
            chosen.out.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
