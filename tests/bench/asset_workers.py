"""Two processes that build one asset together, beside one of them alone.

`python tests/bench/asset_workers.py [--trades 100000] [--lean FOLDER] [--rounds 7] [--out FILE]`. Both go through files
of shards, as the service does: five sessions of four symbols, sixty sessions of one, and five days of SPY where their
files are at hand. The files must be equal to the byte. Ratios are medians over rounds of times taken within one round.
Both ways are told: each process with a core of its own, and with all cores for both, where one alone hashes on two.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from assets import spec_of
from tapeline.assets.asset.work import messages
from tapeline.assets.build import assemble
from tapeline.assets.components import registry
from tapeline.assets.plan import make_plan
from tapeline.assets.shard import compute_each, from_bytes, to_bytes
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.view import open_tape

TARGET = 1.6


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
        left = [shard for shard in left if not (shards / shard.key).exists()]
        for shard, made in zip(left, compute_each(plan, left), strict=True):
            draft = shards / f"{shard.key}.{os.getpid()}"
            draft.write_bytes(to_bytes(made))
            draft.replace(shards / shard.key)
    return wanted, plan


def helping(asked: Any, tape: PreparedTape, cores: set[int]) -> None:
    """A second process: makes shards of the folders that it is told, until it is told none."""
    os.sched_setaffinity(0, cores)
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


def main(tape: PreparedTape, rounds: int, folder: Path, *, alone: bool) -> dict[str, float]:
    """How long one process takes, and two together: medians, and of their ratio.

    Parameters
    ----------
    alone : whether each process has one core and no other; else one that hashes takes what it finds
    """
    every = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    helper = context.Process(target=helping, args=(there, tape, {every[-1]} if alone else set(every)), daemon=True)
    helper.start()
    os.sched_setaffinity(0, {every[0]} if alone else set(every))
    times: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(rounds + 1):
        made: dict[int, Path] = {}
        for workers in times:
            made[workers] = Path(tempfile.mkdtemp(dir=folder))
            began = time.perf_counter()
            by_workers(tape, made[workers], here if workers == 2 else None)
            if turn:  # the first is a warm-up
                times[workers].append(time.perf_counter() - began)
            if workers == 2:
                here.recv()  # what it was still at; not waited for within the build
        for path in made[1].glob("*.h5"):
            assert path.read_bytes() == (made[2] / path.name).read_bytes(), f"two workers give another {path.name}"
    here.send("")
    helper.join()
    os.sched_setaffinity(0, set(every))
    ratio = statistics.median(a / b for a, b in zip(times[1], times[2], strict=True))
    return {"1": statistics.median(times[1]), "2": statistics.median(times[2]), "ratio": ratio}


def tapes(trades: int, lean: Path | None, folder: Path) -> dict[str, PreparedTape]:
    """The tapes by what they are."""
    from tapeline.tape.imports import import_tape
    from tapeline.tape.simulate import simulate

    made = {
        "5 sessions of 4 symbols": simulate(folder / "four", days=5, trades_per_day=trades, symbols=4),
        "60 sessions of 1 symbol": simulate(folder / "one", days=60, trades_per_day=20_000),
    }
    if lean is not None and lean.exists():
        made["5 sessions of SPY"] = import_tape(sorted(lean.glob("*_trade.zip")), "lean", out_dir=folder / "spy")
    return made


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--trades", type=int, default=100_000, help="a day of each of the four symbols")
    arguments.add_argument("--lean", type=Path, default=None, help="folder with trades of SPY")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--out", type=Path, default=None, help="JSON file for what was found")
    chosen = arguments.parse_args()
    measured: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="tapeline-bench-") as place:
        for title, prepared in tapes(chosen.trades, chosen.lean, Path(place)).items():
            for alone in (True, False):
                work = Path(tempfile.mkdtemp(dir=place))
                name = f"{title}, {'a core each' if alone else 'all cores for both'}"
                found = measured[name] = main(prepared, chosen.rounds, work, alone=alone)
                print(f"{name:44} one {found['1']:.3f} s, two together {found['2']:.3f} s: x {found['ratio']:.2f} "
                      f"(target {TARGET})", flush=True)  # fmt: skip
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
