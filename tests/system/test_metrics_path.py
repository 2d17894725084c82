"""What a script measures is all there afterwards, once and in order, whatever went away while it trained."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tapeline import sdk as tl
from tapeline.home import Home
from tapeline.sdk import sending
from tapeline.sdk.client import current_client

from .torture import kill, until, victim

FAULTS = ("none", "host", "server", "both", "network", "disk", "script", "script and server")
SCRIPT = """
import errno, random, sys, time
from tapeline.spool import writer

is_full, seed, count = sys.argv[1] == "disk", int(sys.argv[2]), int(sys.argv[3])
given = writer.mapped

def mapped(path, size):
    # A disk that is full for a third of the time.
    if is_full and time.monotonic() % 0.6 < 0.2:
        raise OSError(errno.ENOSPC, "No space left on device")
    return given(path, size)

writer.mapped = mapped
writer.FILE_BYTES = 36_000
from tapeline import sdk as tl

dice = random.Random(seed)
with tl.start(f"trial {seed}", project="trials") as run:
    print(run.id, flush=True)
    longest = 0.0
    for step in range(count):
        values = {"loss": dice.random(), "n": step}
        began = time.perf_counter()
        run.log(values, step)
        longest = max(longest, time.perf_counter() - began)
        if step % 10 == 9:
            print(step + 1, flush=True)
            time.sleep(0.002)
print("done", longest, run.dropped, flush=True)
"""


def expected(seed: int, count: int) -> np.ndarray[Any, Any]:
    dice = random.Random(seed)
    return np.array([dice.random() for _ in range(count)])


def trial(home: Home, fault: str, seed: int, count: int) -> None:
    """Train in another process, let something fail at a random moment, and look at what came of it."""
    dice = random.Random(seed)
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, fault, str(seed), str(count)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"TAPELINE_HOME": str(home.root)},
    )  # fmt: skip
    assert child.stdout is not None
    run_id = child.stdout.readline().strip()
    try:
        time.sleep(dice.random() * 0.4)
        if fault in ("host", "both"):
            kill(victim(home, "host"))
        if fault in ("server", "both", "script and server"):
            kill(victim(home, "server"))
        if fault == "network":
            pid = victim(home, "server")
            assert pid is not None
            psutil.Process(pid).suspend()
            time.sleep(0.5 + dice.random())
            psutil.Process(pid).resume()
        if fault.startswith("script"):
            child.send_signal(signal.SIGKILL)
        lines = child.stdout.read().split("\n")
        child.wait(60)
    finally:
        child.kill()
        child.wait()
    told = max([int(line) for line in lines if line.isdecimal()], default=0)
    if not fault.startswith("script"):
        assert child.returncode == 0, fault
        # A training never waited for what had gone.
        assert float(lines[-2].split()[1]) < 2.0
        assert (told, lines[-2].split()[2]) == (count // 10 * 10, "0")
        told = count

    def is_delivered() -> bool:
        left = [each for each in sending.listed(home.root / "spool") if each.about.run == run_id]
        return all(sending.sync(current_client(), each).done for each in left)

    until(lambda: _answered(is_delivered), 120)
    run = tl.Run.from_id(run_id)
    loss, n = run.get_columns("loss"), run.get_columns("n")
    assert len(loss) >= told
    assert len(loss) - len(n) in (0, 1)
    assert loss.steps.tolist() == list(range(len(loss))), fault
    assert (loss.values == expected(seed, len(loss))).all()
    assert n.values.tolist() == list(range(len(n)))
    assert (np.diff(loss.times) > 0).all()
    if not fault.startswith("script"):
        until(lambda: tl.Run.from_id(run_id).status == "job_completed", 30)


def _answered(ask: Any) -> bool:
    try:
        return bool(ask())
    except tl.ApiException:
        return False


@pytest.mark.parametrize("fault", ["both", "script"])
def test_every_point_is_there_once_whatever_went_away(shared_home: Home, fault: str) -> None:
    trial(shared_home, fault, seed=1, count=1500)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_point_is_there_once_in_fifty_trials(shared_home: Home) -> None:
    dice = random.Random(int(os.environ.get("TAPELINE_CHAOS_SEED", "1")))
    for seed in range(50):
        fault = dice.choice(FAULTS)
        trial(shared_home, fault, seed=seed, count=dice.randrange(200, 4000))
        print(f"trial {seed}: {fault}", flush=True)


def divide(a: int, b: int) -> float:
    return a / b


def test_a_script_that_fails_says_why(shared_home: Home) -> None:
    with pytest.raises(ZeroDivisionError), tl.start("fails", project="trials") as run:
        divide(1, 0)
    assert (run.status, run.message) == ("job_failed", "ZeroDivisionError: division by zero")
    assert "return a / b" in run.get_events(limit=1)[0].details["traceback"]
    with pytest.raises(KeyboardInterrupt), tl.start("fails", resume=run.id, step=0) as again:
        raise KeyboardInterrupt
    assert (again.status, again.attempt, again.id) == ("job_terminated", 2, run.id)


def test_a_script_is_asked_to_stop(shared_home: Home) -> None:
    with tl.start("stops", project="trials") as run:
        run.log({"loss": 1.0}, step=1)
        assert run.flush()
        assert run.latest()["loss"].value == 1.0
        tl.Run.from_id(str(run.id)).stop()
        until(lambda: run.should_stop, 20)
    assert run.status == "job_terminated"
    assert not Path(run._attachment.folder).exists()
