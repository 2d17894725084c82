"""The metrics path beside MLflow, Trackio, TensorBoard's writer and W&B offline: `python tests/bench/metrics.py`.

Every library has an environment of its own under `--folder`, made on demand by `venv` and `pip`. Each figure is
taken in rounds, one library after the other within a round, and the median of the rounds is told; what a peer
cannot do is told as none. Ours run on a whole embedded instance, with fsync on.

    --points N     points of the sustained part and of the reads; 1,000,000 by default
    --rounds N     rounds; 3 by default
    --only NAMES   some of tapeline, mlflow, trackio, tensorboard, wandb
    --json FILE    the figures as JSON
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "mlflow": ["mlflow>=3"],
    "trackio": ["trackio"],
    "tensorboard": ["tensorboard", "tensorboardX", "setuptools<81"],
    "wandb": ["wandb"],
}
NAMES = ("tapeline", *PACKAGES)
TARGETS = {
    "log_p50_us": 1.5, "log_p99_us": 15.0, "durable_points_s": 200_000, "visible_ms": 20.0, "read_columns_s": 0.3,
    "read_metrics_s": 2.5, "bytes_point": 20.0,
}  # fmt: skip
IN_LOOP = 20_000

PROLOGUE = """
import json, os, random, sys, time
folder, count, in_loop, server = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
clock = time.perf_counter_ns
found = {}

def in_the_loop(log, most=in_loop):
    # As a training does: a step of work, then a point.
    took, dice = [0] * most, random.Random(1)
    values = [dice.random() for _ in range(most)]
    for step in range(most):
        value = values[step]
        began = clock()
        log(value, step)
        took[step] = clock() - began
    took.sort()
    found["log_p50_us"], found["log_p99_us"] = took[most // 2] / 1e3, took[most * 99 // 100] / 1e3

def size_of(*places):
    return sum(os.stat(os.path.join(at, name)).st_blocks * 512
               for place in places for at, _, names in os.walk(place) for name in names)

def told():
    print("FOUND " + json.dumps(found), flush=True)
"""

TAPELINE = """
os.environ["TAPELINE_HOME"] = server
import subprocess
from pathlib import Path
from tapeline import sdk as tl
SEES = '''
import sys, time
from tapeline import sdk as tl
run = tl.Run.from_id(sys.argv[1])
run.latest()
print("ready", flush=True)
for line in sys.stdin:
    while (seen := run.latest().get("seen")) is None or seen.value != float(line):
        pass
    print(time.perf_counter_ns(), flush=True)
'''
home = Path(server)
with tl.start("loop") as run:
    log = run.log
    log({"loss": 0.5}, 0)
    in_the_loop(lambda value, step: log({"loss": value}, step))
    run.flush(60)
    # Another process looks for what this one has logged, and says when it saw it, on the clock of both.
    other = subprocess.Popen(
        [sys.executable, "-c", SEES, run.id], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert other.stdout.readline() == "ready\\n"
    took, after = [], []
    for i in range(30):
        other.stdin.write(f"{i}\\n")
        began = clock()
        run.log({"seen": float(i)}, step=i)
        assert run.flush(10)
        flushed = clock()
        seen = int(other.stdout.readline())
        took.append((seen - began) / 1e6)
        after.append(max(0, seen - flushed) / 1e6)
    other.stdin.close()
    other.wait(20)
    found["visible_ms"], found["logged_to_visible_ms"] = sorted(after)[15], sorted(took)[15]
dice = random.Random(2)
values = [dice.random() for _ in range(count)]
with tl.start("sustained") as run:
    run.log({"warm": 1.0}, 0)
    run.flush(30)
    log, began = run.log, clock()
    for step in range(count):
        log({"loss": values[step]}, step)
    assert run.flush(600) and not run.dropped
    found["durable_points_s"] = count / ((clock() - began) / 1e9)
run.latest()
time.sleep(1)
began = clock()
columns = run.get_columns("loss")
found["read_columns_s"] = (clock() - began) / 1e9 * 1e6 / count
assert columns.values.tolist() == values and columns.steps.tolist() == list(range(count))
began = clock()
metrics = run.get_metrics(tags=["loss"], limit=count)
found["read_metrics_s"] = (clock() - began) / 1e9 * 1e6 / count
assert len(metrics) == count
del metrics
took = []
for _ in range(9):
    began = clock()
    run.get_series("loss")
    took.append((clock() - began) / 1e6)
found["series_1000_ms"] = sorted(took)[4]
import sqlite3
with sqlite3.connect(home / "db" / "runs.db") as rows:
    # With what a row and its keys take besides.
    size, points = rows.execute(
        "SELECT sum(length(body) + ifnull(length(thin), 0) + length(tag) + length(run_id) + 120), sum(points)"
        " FROM metric_segments"
    ).fetchone()
found["bytes_point"] = size / points
told()
"""

MLFLOW = """
import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric
mlflow.set_tracking_uri(server)
client = MlflowClient()
experiment = client.create_experiment(f"bench-{time.time_ns()}")
run = client.create_run(experiment).info.run_id
in_the_loop(lambda value, step: client.log_metric(run, "loss", value, step=step), min(in_loop, 300))
took = []
for i in range(10):
    client.log_metric(run, "seen", float(i), step=i)
    began = clock()
    while client.get_run(run).data.metrics.get("seen") != float(i):
        pass
    took.append((clock() - began) / 1e6)
found["visible_ms"] = sorted(took)[5]
most = min(count, 20_000)
now = int(time.time() * 1000)
began = clock()
for start in range(0, most, 1000):
    client.log_batch(run, [Metric("big", random.random(), now, step) for step in range(start, start + 1000)])
found["durable_points_s"] = most / ((clock() - began) / 1e9)
began = clock()
history = client.get_metric_history(run, "big")
found["read_metrics_s"] = (clock() - began) / 1e9 * 1e6 / len(history)
assert len(history) == most
found["bytes_point"] = os.stat(os.path.join(folder, "mlflow.db")).st_size / (most + 300)
told()
"""

TRACKIO = """
os.environ["TRACKIO_DIR"] = folder
import trackio
trackio.init(project="bench", name="r", space_id=None, embed=False)
in_the_loop(lambda value, step: trackio.log({"loss": value}, step=step))
most = min(count, 50_000)
began = clock()
for step in range(most):
    trackio.log({"big": random.random()}, step=step)
trackio.finish()
found["durable_points_s"] = (most + in_loop) / ((clock() - began) / 1e9)
found["bytes_point"] = size_of(folder) / (most + in_loop)
told()
"""

TENSORBOARD = """
from tensorboardX import SummaryWriter
writer = SummaryWriter(folder)
in_the_loop(lambda value, step: writer.add_scalar("loss", value, step))
most = min(count, 100_000)
began = clock()
for step in range(most):
    writer.add_scalar("big", random.random(), step)
writer.flush()
writer.close()
found["durable_points_s"] = most / ((clock() - began) / 1e9)
found["bytes_point"] = size_of(folder) / (most + in_loop)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
began = clock()
events = EventAccumulator(folder, size_guidance={"scalars": 0})
events.Reload()
big = events.Scalars("big")
found["read_metrics_s"] = (clock() - began) / 1e9 * 1e6 / (most + in_loop)
assert len(big) == most
told()
"""

WANDB = """
os.environ["WANDB_MODE"], os.environ["WANDB_SILENT"] = "offline", "true"
import wandb
run = wandb.init(project="bench", dir=folder, mode="offline")
in_the_loop(lambda value, step: run.log({"loss": value}, step=step))
most = min(count, 30_000)
began = clock()
for step in range(most):
    run.log({"big": random.random()}, step=in_loop + step)
run.finish()
found["durable_points_s"] = most / ((clock() - began) / 1e9)
found["bytes_point"] = size_of(folder) / (most + in_loop)
told()
"""
PROGRAMS = {"tapeline": TAPELINE, "mlflow": MLFLOW, "trackio": TRACKIO, "tensorboard": TENSORBOARD, "wandb": WANDB}


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of a library's own environment, made when it is not there."""
    if name == "tapeline":
        return Path(sys.executable)
    place = folder / "environments" / name
    python = place / "bin" / "python"
    if not (place / "ready").exists():
        print(f"making an environment for {name} ...", flush=True)
        venv.create(place, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES[name]], check=True)
        (place / "ready").touch()
    return python


@contextmanager
def serving(name: str, folder: Path, work: Path) -> Iterator[str]:
    """What a library needs to be asked: an embedded instance, MLflow's server on SQLite, or nothing."""
    if name == "tapeline":
        from tapeline.embedded import start_detached, stop
        from tapeline.home import Home

        home = Home(work / "home")
        start_detached(home, 60)
        try:
            yield str(home.root)
        finally:
            stop(home)
    elif name == "mlflow":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            python_of(name, folder), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
            "--backend-store-uri", f"sqlite:///{work}/mlflow.db", "--default-artifact-root", str(work / "artifacts"),
            "--workers", "1",
        ]  # fmt: skip
        with open(work / "server.txt", "w") as said:
            server = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        try:
            for _ in range(600):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, 15)
            server.wait()
    else:
        yield ""


def measured(name: str, folder: Path, points: int, in_loop: int) -> dict[str, float]:
    """One round of one library."""
    work = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
    program = work / "program.py"
    program.write_text(PROLOGUE + PROGRAMS[name])
    try:
        with serving(name, folder, work) as server:
            done = subprocess.run(
                [python_of(name, folder), program, work, str(points), str(in_loop), server],
                capture_output=True, text=True, cwd=work, timeout=900,
            )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
        if not lines:
            print(f"{name} told nothing:\n{(done.stdout + done.stderr)[-1500:]}", flush=True)
            return {}
        found: dict[str, float] = json.loads(lines[-1].removeprefix("FOUND "))
        return found
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--in-loop", type=int, default=IN_LOOP)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(NAMES), choices=NAMES)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench-metrics")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    # Who ends the bench ends the servers that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in given.only}
    for name in given.only:
        python_of(name, given.folder)
    for _ in range(given.rounds):
        for name in given.only:
            rounds[name].append(measured(name, given.folder, given.points, given.in_loop))
    figures: dict[str, Any] = {
        name: {
            key: statistics.median(one[key] for one in many if key in one)
            for key in dict.fromkeys(key for one in many for key in one)
        }
        for name, many in rounds.items()
    }
    keys = list(dict.fromkeys(key for found in figures.values() for key in found))
    print(f"{'':18}" + "".join(f"{name:>14}" for name in figures) + f"{'target':>14}")
    for key in keys:
        cells = "".join(
            f"{found[key]:>14,.2f}" if key in found else f"{'-':>14}" for found in figures.values()
        )  # fmt: skip
        print(f"{key:18}{cells}" + (f"{TARGETS[key]:>14,.1f}" if key in TARGETS else ""))
    print("reads are seconds for a million points, from however many a library was given")
    print("visible_ms: until another process has a point whose flush has returned (peers: the same process)")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
