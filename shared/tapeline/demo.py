"""The main job from ticks to a named model that predicts: a script on the SDK, to be read from top to bottom.

    tapeline demo                                   the seeded synthetic tape
    tapeline demo --tape FOLDER --format lean       real trades

It starts an instance of its own in a fresh folder, which it removes at the end, so that it disturbs nothing
and can run twice at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tapeline import sdk as tl
from tapeline.embedded import status, stop
from tapeline.home import Home

TEAM = "main"
ASSET = "demo_asset"
CANVASES = ("demo", "demo_wide")
DEVICE = "cpu0"
LABEL = "updown_5min"
UP = 1
"""Column of the label: whether the return of the next five minutes is above zero."""

FEATURES = [
    {
        "name": "bars_20_1min",
        "component": "bars",
        "params": {"count": 20, "unit": "min", "size": 1, "norm": "last_price_pct"},
    },
    {"name": "log_return_1min", "component": "log_return", "params": {"unit": "min", "size": 1}},
    {"name": "trade_size_1min", "component": "trade_size", "params": {"unit": "min", "size": 1}},
    {"name": "volume_ratio_1min", "component": "volume_ratio", "params": {"unit": "min", "size": 1}},
]
LABELS = [
    {"name": LABEL, "component": "updown", "params": {"unit": "min", "size": 1, "entry_delay": 0, "horizon": "300s"}}
]

say = Console(highlight=False, soft_wrap=True)


def main(tape: str | None = None, format: str | None = None, symbol: str | None = None) -> None:
    """Run the whole job in a folder of its own."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tapeline-demo-") as folder:
        os.environ["TAPELINE_HOME"] = folder
        for name in ("TAPELINE_URL", "TAPELINE_CREDS", "TAPELINE_TEAM", "TAPELINE_PROFILE"):
            os.environ.pop(name, None)
        home = Home(Path(folder))
        try:
            job(home, tape, format, symbol)
        finally:
            stop(home)
    say.print(f"\ndone in {time.monotonic() - started:.0f} s")


def job(home: Home, tape: str | None, format: str | None, symbol: str | None) -> None:
    """The steps."""
    step("start an instance: a bus with keys, three services, one trainer agent")
    before = time.monotonic()
    client = tl.connect(start=True)
    say.print(f"ready after {time.monotonic() - before:.1f} s at {client.url}")

    step("a tape: raw trades, checked, immutable")
    given = get_tape(tape, format, symbol)
    say.print(
        f"{given.rows:,} trades of {', '.join(given.symbols)} on {len(given.days)} days; "
        f"sha256 {given.content_sha256[:16]}"
    )

    step("an asset: bars, features and a label, split by whole sessions, with its certificate")
    asset = tl.Asset.build(TEAM, recipe(given), quiet=False)
    verdicts = {check["verdict"] for check in (asset.certificate or {})["checks"]}
    say.print(f"{len(asset):,} samples of {', '.join(asset.datasets)}; certificate: {', '.join(sorted(verdicts))}")

    step("two canvases, two runs; the services' process is killed in the middle of the first")
    runs = [train(home, name, kill=name == CANVASES[0]) for name in CANVASES]

    step("what happened: the events of the first run, gapless, and the metrics of both")
    show_events(runs[0])
    show_metrics(runs)

    step("the better checkpoint becomes a named model")
    checkpoint = min((best_checkpoint(run) for run in runs), key=lambda found: found[1])[0]
    tl.create_model_from_checkpoint(
        checkpoint_id=str(checkpoint.id), name="demo_model", version="1.0.0", summary="the better of two runs"
    )
    item = tl.VaultItem(TEAM, "demo_model")
    say.print({key: (item.details or {})[key] for key in ("name", "project", "runid", "epoch", "model", "dateAdded")})

    step("a fresh process loads it in safe mode and predicts on the test file")
    predict(synthetic=given.synthetic is not None)

    step("every table is built anew from the log, compared with the old one, and takes its place")
    rebuild(home)


def step(title: str) -> None:
    """Say what comes next."""
    say.print(f"\n[bold]{title}[/bold]")


def get_tape(tape: str | None, format: str | None, symbol: str | None) -> tl.Tape:
    """The synthetic tape, or an imported one."""
    if tape is None:
        return tl.tapes.simulate(name="demo_tape", seed=7, days=60, trades_per_day=20_000, quiet=False)
    options: dict[str, Any] = {"symbol": symbol} if symbol else {}
    return tl.tapes.import_(tape, format=format or "auto", name="demo_tape", quiet=False, **options)


def recipe(tape: tl.Tape) -> dict[str, Any]:
    """The spec of the asset: one sample a minute of the regular sessions."""
    return {
        "schema": "tapeline.asset-spec/1",
        "name": ASSET,
        "tapes": [{"tape": tape.name, "symbols": tape.symbols[:1]}],
        "view": "regular",
        "sampling": {"kind": "every", "unit": "min", "size": 1},
        "features": FEATURES,
        "labels": LABELS,
        "split": {"test_fraction": 0.2, "validation_fraction": 0.2, "embargo": "auto"},
        "layout": "materialised",
    }


def train(home: Home, name: str, *, kill: bool) -> tl.Run:
    """Train an example canvas, with live progress; perhaps kill the services' process on the way."""
    canvas = tl.Canvas(TEAM, path=tl.example_canvas(name))
    canvas.save()
    session = canvas.train(DEVICE, asset=ASSET)
    (run,) = tl.get_runs(limit=1)
    if kill:
        for event in run.watch():
            if event.status == "job_running":
                break
        victim = next(process for process in status(home, positions=False).processes if process.name == "host")
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        say.print(f"killed the services (process {victim.pid}) while run {run.number} trains; the run goes on")
    ended = run.follow()
    say.print(f"run {run.number} ({session}): {ended}")
    if ended != "job_completed":
        raise SystemExit(f"run {run.number} ended as {ended}")
    return run


def show_events(run: tl.Run) -> None:
    """A table of the run's events."""
    table = Table("#", "at", "event", "status after")
    for event in run.get_events(sort=["sequence:asc"]):
        table.add_row(str(event.sequence), f"{event.created_at:%H:%M:%S.%f}"[:-3], event.details["type"], event.status)
    say.print(table)


def show_metrics(runs: list[tl.Run]) -> None:
    """A table of the last value of each metric."""
    latest = [run.latest() for run in runs]
    table = Table("metric", *(f"run {run.number}" for run in runs))
    for tag in sorted(set().union(*latest)):
        table.add_row(tag, *(f"{found[tag].value:.4f}" if tag in found else "" for found in latest))
    say.print(table)


def best_checkpoint(run: tl.Run) -> tuple[tl.Checkpoint, float]:
    """The complete checkpoint of a run with the smallest validation loss, and that loss."""
    losses = {metric.global_step: float(metric.value) for metric in run.get_metrics(tags=["val/loss"])}
    known = [c for c in run.get_checkpoints(statuses=["complete"], limit=100) if c.global_step in losses]
    best = min(known, key=lambda checkpoint: losses[checkpoint.global_step or 0])
    return best, losses[best.global_step or 0]


PREDICT = """
import json
import numpy as np
from tapeline import sdk as tl

item = tl.VaultItem("main", "demo_model")
model = item.load_model()
file = item.get_assets()[0].files[0]
x, y = item.get_data_from_path(file.path)
up, said = y[0].ravel() > 0.5, model.predict(x, verbose=0).ravel() > 0.5
recall = [float(np.mean(said[up])), float(np.mean(~said[~up]))]
spread = (recall[0] * (1 - recall[0]) / up.sum() + recall[1] * (1 - recall[1]) / (~up).sum()) ** 0.5 / 2
print(json.dumps({"samples": len(up), "accuracy": sum(recall) / 2, "error": float(spread)}))
"""


def predict(*, synthetic: bool) -> None:
    """Balanced accuracy on the test part, in a process that knows nothing but the model's name."""
    done = subprocess.run([sys.executable, "-c", PREDICT], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    say.print(
        f"{found['samples']:,} test samples: balanced accuracy {found['accuracy']:.1%} ± {found['error']:.1%}; "
        "the naive baseline (always the same answer) has 50.0%"
    )
    if synthetic and found["accuracy"] < 0.53:
        raise SystemExit("the model does not find the signal that the synthetic tape documents (53%)")


def rebuild(home: Home) -> None:
    """Build every table from the log again beside what is served, compare each row, and drop the old ones."""
    from tapeline import replay

    for report in replay.rebuild(home, "all", compare=True, keep=0):
        say.print(
            f"{report.name}: {report.rows} rows, equal to the last" if report.equal else f"{report.name}: DIFFERS"
        )
        if not report.equal:
            raise SystemExit(f"the rebuilt tables of {report.name} differ")
