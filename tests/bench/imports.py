"""Importing trades from CSV: rows and bytes a second and peak memory, beside readers that only read.

`python tests/bench/imports.py [--gb 0.2] [--rounds 3] [--out FOLDER]`. A file of synthetic trades is written to a
temporary folder. Contestants take turns, each in a process of its own, so that the peak of its memory is its own.
Tapeline does the whole import: it reads, checks, sorts into days, looks for outliers and equal rows, writes day files
and hashes every column. pandas, Polars and PyArrow only read the file into memory. A file of half the size is imported
once more, to show that memory does not grow with the file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

A_DAY = 400_000
DAY_NS = 86_400_000_000_000
START = 1_704_067_200_000_000_000


def write(path: Path, size: int) -> int:
    """Write trades as CSV until the file has `size` bytes; how many rows it has."""
    import pyarrow as pa
    from pyarrow import csv

    draw = np.random.default_rng(7)
    rows, day, price = 0, 0, 100.0
    with path.open("wb") as file:
        while file.tell() < size:
            ts = START + day * DAY_NS + np.sort(draw.integers(0, 86_400_000, A_DAY)) * 1_000_000
            prices = np.maximum(price + 0.01 * np.cumsum(draw.integers(-1, 2, A_DAY)), 1.0).round(2)
            table = pa.table({"time": ts, "price": prices, "size": draw.integers(1, 1000, A_DAY)})
            csv.write_csv(table, file, csv.WriteOptions(include_header=day == 0))
            rows, day, price = rows + A_DAY, day + 1, float(prices[-1])
    return rows


def tapeline(path: Path) -> int:
    """The whole import, into day files and a manifest."""
    from tapeline.tape.imports import import_tape
    from tapeline.tape.options import ImportOptions

    options = ImportOptions(calendar="24/7", map={"ts": "time", "price": "price", "volume": "size"})
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        return import_tape([path], "csv", symbol="X", out_dir=Path(folder), options=options).rows


def pandas(path: Path) -> int:
    """A frame in memory, by the default parser."""
    import pandas

    return len(pandas.read_csv(path))


def polars(path: Path) -> int:
    """A frame in memory, on all processors."""
    import polars

    return polars.read_csv(path).height


def pyarrow(path: Path) -> int:
    """A table in memory, on all processors."""
    from pyarrow import csv

    return int(csv.read_csv(path).num_rows)


CONTESTANTS: dict[str, Callable[[Path], int]] = {
    "Tapeline, whole import": tapeline,
    "pandas.read_csv": pandas,
    "Polars read_csv": polars,
    "PyArrow read_csv": pyarrow,
}
MODULES = {"pandas.read_csv": "pandas", "Polars read_csv": "polars", "PyArrow read_csv": "pyarrow.csv"}


def peak_bytes() -> int:
    """The most memory that this process has held (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this needs /proc")


def child(who: str, path: Path) -> None:
    """Run one contestant and print what it took; loading its library does not count."""
    __import__(MODULES.get(who, "tapeline.tape.sources.delimited"))
    begun = time.perf_counter()
    rows = CONTESTANTS[who](path)
    print(json.dumps({"s": time.perf_counter() - begun, "rows": rows, "peak": peak_bytes()}))


def measured(who: str, path: Path) -> dict[str, Any]:
    """What a contestant took, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", who, str(path)], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def main(gb: float, rounds: int, out: Path | None) -> None:
    """Measure, print a table, write JSON."""
    with tempfile.TemporaryDirectory(prefix="tapeline-bench-") as folder:
        whole, half = Path(folder) / "trades.csv", Path(folder) / "half.csv"
        rows = write(whole, int(gb * 1e9))
        write(half, int(gb * 5e8))
        size = whole.stat().st_size
        found: dict[str, list[dict[str, Any]]] = {who: [] for who in CONTESTANTS}
        names = list(CONTESTANTS)
        for turn in range(rounds):
            for k in range(len(names)):
                who = names[(turn + k) % len(names)]
                found[who].append(measured(who, whole))
                assert found[who][-1]["rows"] == rows, f"{who} found {found[who][-1]['rows']} rows, not {rows}"
        smaller = measured(names[0], half)
    ours = statistics.median(each["s"] for each in found[names[0]])
    load = os.getloadavg()[0]
    print(
        f"{size / 1e9:.2f} GB, {rows:,} rows, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {load:.1f}\n\n| who | s | MB/s | M rows/s | peak memory | Tapeline takes |\n|---|---|---|---|---|---|"
    )
    lines = []
    for who, each in found.items():
        s, peak = statistics.median(one["s"] for one in each), max(one["peak"] for one in each)
        lines.append({"who": who, "s": s, "mb_s": size / s / 1e6, "rows_s": rows / s, "peak": peak, "times": ours / s})
        print(
            f"| {who} | {s:.2f} | {size / s / 1e6:,.0f} | {rows / s / 1e6:.1f} "
            f"| {peak / 1e6:,.0f} MB | {ours / s:.1f}x |"
        )
    print(f"\nPeak memory of Tapeline for half the file: {smaller['peak'] / 1e6:,.0f} MB.")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        versions = {name: version(name) for name in ("pandas", "polars", "pyarrow", "numpy")}
        report = {"bytes": size, "rows": rows, "load": load, "versions": versions, "results": lines, "half": smaller}
        (out / "imports.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--gb", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("WHO", "FILE"))
    given = parser.parse_args()
    if given.child:
        child(given.child[0], Path(given.child[1]))
    else:
        main(given.gb, given.rounds, given.out)
