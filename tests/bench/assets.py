"""The build of an asset beside the same asset by pandas, and by Polars with TA-Lib, in one interleaved run.

`python tests/bench/assets.py [--days 60] [--trades 20000] [--lean FOLDER] [--rounds 5] [--out FILE]`. Each contestant
reads the same trades from disk (Tapeline its tape, whose digests it checks; the others Parquet without compression) and
writes the same features and labels, in two files. What they give is compared first, or the run ends. An asset is more
than its columns: statistics of train, digests, and a certificate of ten checks. So two pairs are measured: the whole
asset by each (`peers/proofs.py`), and the columns alone by the others (`peers/columns.py`) beside a build without the
experiments of the certificate. Then training data is read in shuffled blocks of rows, from an asset and from a raw
`.npy` memory map. Ratios are medians over rounds of times taken within one round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from peers.columns import FEATURES, LABELS, TEST_FRACTION, Pandas, Polars, columns_alone
from peers.proofs import whole_asset

from tapeline.asset_files import TRAIN, AssetFile
from tapeline.assets.asset.spec import KnownTape, parse, resolve
from tapeline.assets.build import build, carried_out
from tapeline.assets.components import registry
from tapeline.assets.plan import make_plan
from tapeline.tape.manifest import sessions_of
from tapeline.tape.prepared import PreparedTape, TapeWriter
from tapeline.tape.sessions import Calendar
from tapeline.tape.view import OpenTape, open_tape

LAYOUT = "materialised"
"""What the others write, too; an indexed asset would be a twentieth of the bytes."""
TARGETS = {"pandas": 20.0, "Polars, TA-Lib": 3.0}


def spec_of(tape: PreparedTape, opened: OpenTape) -> Any:
    """The resolved spec of the asset."""
    calendar = str(tape.manifest["symbols"][0]["calendar"])
    known = KnownTape("t", "bench", tape.content_sha256, tuple(tape.symbols), tuple(tape.days), calendar)
    wanted = {
        "tapes": ["bench"], "features": FEATURES, "labels": LABELS, "layout": LAYOUT,
        "split": {"test_fraction": TEST_FRACTION, "validation_fraction": 0, "embargo": "auto"},
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


def compare(folder: Path, other: Path, who: str) -> int:
    """How many samples two folders share, all of them equal; the run ends if they are not."""
    mine: dict[int, Any] = {}
    joined: list[AssetFile] = [AssetFile(path) for path in sorted(folder.glob("*.h5"))]
    for file in joined:
        mine |= {int(t): (file, i) for i, t in enumerate(file.t0)}
    shared = 0
    labels = 0
    for path in sorted(other.glob("*.hdf5")):
        with h5py.File(path) as held:
            theirs = {name: np.asarray(held[name]) for name in held}
            kept = [(k, *mine[int(t)]) for k, t in enumerate(theirs["t0"]) if int(t) in mine]
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
    sessions = (opens, closes)
    runs: dict[str, Callable[[Path], Path]] = {
        "Tapeline": lambda out: ours(tape, out, proved=True),
        "Tapeline, no experiments": lambda out: ours(tape, out, proved=False),
    }
    for peer in (Pandas(), Polars()):
        runs |= {
            peer.name: partial(whole_asset, peer, source, sessions),
            f"{peer.name}: columns alone": partial(columns_alone, peer, source, sessions),
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
            made.setdefault(name, out)
    shared = {
        name: compare(made["Tapeline"], made[name], name) for name in runs if name.startswith(("pandas", "Polars"))
    }
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
            f"{name:30} {median:8.3f} s {row['samples_s']:12,.0f} samples/s {row['mb_s']:8.1f} MB/s   "
            f"Tapeline x {row['Tapeline is faster by']:.2f}, without experiments x "
            f"{row['Tapeline, no experiments is faster by']:.2f}"
        )
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
        print("\nhow many times as fast as the others Tapeline builds the whole asset (and, without the experiments of "
              "the certificate, as the others compute and write the columns alone):")  # fmt: skip
        for title, found in measured.items():
            for name, target in TARGETS.items() if title != "machine" else ():
                whole, alone = found["build"][name], found["build"][f"{name}: columns alone"]
                print(f"{title:20} {name:16} x {whole['Tapeline is faster by']:5.2f} "
                      f"({alone['Tapeline, no experiments is faster by']:.2f}), target {target:.0f}")  # fmt: skip
        if chosen.out is not None:
            chosen.out.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
