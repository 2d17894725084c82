"""Blueprint `selftest`: the whole life of a run without a framework; it steps, sleeps, fails on command.

Config: `steps`, `step_s` (seconds of sleep per step), `fail_at` (step, or null), `checkpoint_every` (steps, or
null), `metrics` (bool), `ignore_stop` (bool), `allocate_mb`.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

from tapeline.trainer.job import CheckpointMeta, Done, Job


def loss_at(step: int) -> float:
    """The made-up loss of a step: falls smoothly, equal in every attempt."""
    return math.exp(-step / 50)


def train(job: Job) -> Done:
    """Count to `steps`, from where the checkpoint stood."""
    total = int(job.config.get("steps", 10))
    pause_s = float(job.config.get("step_s", 0.0))
    fail_at = job.config.get("fail_at")
    every = job.config.get("checkpoint_every")
    has_metrics = bool(job.config.get("metrics", True))
    job.ignores_stop = bool(job.config.get("ignore_stop", False))
    held = bytearray(int(job.config.get("allocate_mb") or 0) << 20)
    held[::4096] = b"\x01" * len(held[::4096])
    folder = job.restore()
    start = 0 if folder is None else int(json.loads((folder / "state.json").read_bytes())["step"])
    job.started(
        global_step=start, training_epochs=1, steps_per_epoch=total, resume="none" if folder is None else "exact"
    )
    step = start
    for step in job.steps(total, start=start):
        if fail_at is not None and step == fail_at:
            raise RuntimeError(f"told to fail at step {step}")
        time.sleep(pause_s)
        if has_metrics:
            job.metric("train/loss", loss_at(step), step)
        if every and step % every == 0 and not job.checkpoint_in_flight():
            _save(job, step)
    if step < total and job.should_stop():
        job.stopping()
        _save(job, step)
        return Done(global_step=step, stopped=True)
    return Done(global_step=step, training_epochs=1, best={"step": step})


def _save(job: Job, step: int) -> None:
    meta = CheckpointMeta(training_epoch=0, monitored={"train/loss": loss_at(step)})
    with job.checkpoint(step, meta) as folder:
        _write(folder / "state.json", step)


def _write(path: Path, step: int) -> None:
    path.write_text(json.dumps({"step": step}))
