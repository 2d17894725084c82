"""The main job as a user meets it: the demo, the command line, a plain client of the bus, a restart."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tapeline import sdk as tl
from tapeline.embedded import status, stop
from tapeline.home import Home

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guide" / "bus.md"
LEAN = ROOT.parent / "shared" / "data" / "lean" / "equity" / "usa" / "tick" / "spy"


def tapeline(*arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tapeline.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_the_demo_goes_from_ticks_to_a_prediction_through_a_kill() -> None:
    done = tapeline("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed the services" in done.stdout
    (accuracy,) = re.findall(r"balanced accuracy (\d+\.\d)%", done.stdout)
    assert float(accuracy) >= 53.0
    assert "equal to the last" in done.stdout
    assert "DIFFERS" not in done.stdout


@pytest.mark.skipif(not LEAN.exists(), reason="shared data not present")
def test_the_demo_trains_on_five_days_of_real_trades() -> None:
    done = tapeline("demo", "--tape", str(LEAN), "--format", "lean")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trades of SPY on 5 days" in done.stdout
    assert re.search(r"test samples: balanced accuracy \d+\.\d%", done.stdout)


def test_a_plain_client_of_the_bus_does_what_the_sdk_does(home: Home) -> None:
    """The example of the guide, as printed there."""
    (example,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)[:1]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = tl.get_runs(limit=10)
    assert run.id is not None
    assert run.id in done.stdout
    assert run.user_id == "me"


def test_a_second_start_is_refused_and_names_the_first(home: Home) -> None:
    refused = tapeline("up", "--detach", "--json")
    assert refused.returncode == 4
    error = json.loads(refused.stderr)["error"]
    assert error["code"] == "already_running"
    assert str(status(home, positions=False).pid) in error["message"]


def test_kill_9_of_the_parent_leaves_no_orphan_and_a_new_start_goes_on(home: Home) -> None:
    run = tl.create_run(
        name="long", version="1", task_type="selftest", project_id="default",
        resources=tl.Resources(cpu="1", memory="64Mi"), blueprint_id=tl.lookup_blueprint_id("selftest"),
        config={"steps": 400, "step_s": 0.02, "checkpoint_every": 25},
    )  # fmt: skip
    _until(lambda: tl.Run.from_id(run).get_global_steps_with_checkpoints() != [])
    parent = status(home, positions=False).pid
    assert parent is not None
    family = psutil.Process(parent).children(recursive=True)
    os.kill(parent, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []

    assert tapeline("up", "--detach").returncode == 0
    tl.connect()
    assert tl.Run.from_id(run).wait(120) == "job_completed"


def test_sigterm_ends_everything_and_status_says_so(home: Home) -> None:
    family = [p.pid for p in status(home, positions=False).processes if p.pid]
    assert stop(home)
    assert [pid for pid in family if _is_alive(pid)] == []
    said = tapeline("status", "--json")
    assert json.loads(said.stdout)["running"] is False


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _until(condition: object, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
