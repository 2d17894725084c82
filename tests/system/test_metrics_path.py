"""What a script measures is all there afterwards, once and in order, whatever went away while it trained."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline import sdk as tl
from tapeline.home import Home
from tapeline.sdk import sending
from tapeline.sdk.client import current_client
from tapeline.testing.disks import NotPermitted, SmallDisk, small_disk
from tapeline.testing.proxy import Proxy

from .torture import kill, until, victim

OUTAGES = ("services down", "broker down", "disk full", "network cut")
BESIDES = ("none", "services and broker down", "script killed", "script and broker killed")
SCRIPT = """
import errno, random, sys, time
from tapeline.spool import writer

is_full, seed, count = sys.argv[1] == "full", int(sys.argv[2]), int(sys.argv[3])
given = writer.mapped

def mapped(path, size):
    # A disk that is full for a third of the time, where none can be mounted that is.
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


@dataclass(frozen=True)
class Seen:
    """What came of a trial: points of a tag, their checksum, and the longest that the loop waited for a point."""

    points: int
    checksum: str
    longest_ms: float


def expected(seed: int, count: int) -> np.ndarray[Any, Any]:
    dice = random.Random(seed)
    return np.array([dice.random() for _ in range(count)])


def checksum(steps: Any, values: Any) -> str:
    """Of points in their order: another order, a point more or less, and it is another one."""
    total = hashlib.sha256(np.asarray(steps, "<i8").tobytes())
    total.update(np.asarray(values, "<f8").tobytes())
    return total.hexdigest()


@contextmanager
def network(port: int) -> Iterator[tuple[str, Callable[[float], None]]]:
    """A way to the broker, and what cuts it for so many seconds: half of the cuts lose what is under way."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    proxy = Proxy(port)
    wait(proxy.__aenter__())

    def cut(seconds: float) -> None:
        loop.call_soon_threadsafe(setattr, proxy, "are_answers_held", True)
        loop.call_soon_threadsafe(setattr, proxy, "are_requests_held", seconds > 1.0)
        time.sleep(seconds)
        loop.call_soon_threadsafe(proxy.cut)

    try:
        yield proxy.url, cut
    finally:
        wait(proxy.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def trial(home: Home, fault: str, seed: int, count: int, disk: SmallDisk | None = None) -> Seen:
    """Train in another process, let something fail at a random moment, and look at what came of it."""
    dice = random.Random(seed)
    with ExitStack() as stack:
        env = os.environ | {"TAPELINE_HOME": str(home.root)}
        if fault == "network cut":
            way, cut = stack.enter_context(network(int(current_client().url.rpartition(":")[2])))
            env["TAPELINE_URL"] = way
        if fault == "disk full" and disk is not None:
            env["TAPELINE_SPOOL"] = str(disk.path / "spool")
        is_injected = fault == "disk full" and disk is None
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "full" if is_injected else "", str(seed), str(count)],
            stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip
        assert child.stdout is not None
        run_id = child.stdout.readline().strip()
        try:
            time.sleep(dice.random() * 0.4)
            if fault in ("services down", "services and broker down"):
                kill(victim(home, "host"))
            if fault in ("broker down", "services and broker down", "script and broker killed"):
                kill(victim(home, "server"))
            if fault == "network cut":
                cut(0.3 + dice.random() * 1.5)
            if fault == "disk full" and disk is not None:
                with suppress(OSError):  # the script has taken the last room itself
                    disk.fill(0)
                time.sleep(0.3 + dice.random())
                disk.free()
            if fault.startswith("script"):
                child.send_signal(signal.SIGKILL)
            lines = child.stdout.read().split("\n")
            child.wait(60)
        finally:
            child.kill()
            child.wait()
        told = max([int(line) for line in lines if line.isdecimal()], default=0)
        longest = 0.0
        if not fault.startswith("script"):
            assert child.returncode == 0, fault
            # A training never waited for what had gone, and nothing was dropped.
            longest = float(lines[-2].split()[1])
            assert longest < 2.0
            assert (told, lines[-2].split()[2]) == (count // 10 * 10, "0")
            told = count
        spools = Path(env.get("TAPELINE_SPOOL", home.root / "spool"))

        def is_delivered() -> bool:
            left = [each for each in sending.listed(spools) if each.about.run == run_id]
            return all(sending.sync(current_client(), each).done for each in left)

        until(lambda: _answered(is_delivered), 120)
    run = tl.Run.from_id(run_id)
    loss, n = run.get_columns("loss"), run.get_columns("n")
    # A script that was killed may have logged a point more than it had told.
    assert told <= len(loss) <= count
    assert len(loss) - len(n) in (0, 1)
    found = checksum(loss.steps, loss.values)
    assert found == checksum(range(len(loss)), expected(seed, len(loss))), fault
    assert checksum(n.steps, n.values) == checksum(range(len(n)), range(len(n))), fault
    assert (np.diff(loss.times) > 0).all()
    if not fault.startswith("script"):
        assert len(loss) == len(n) == count
        until(lambda: tl.Run.from_id(run_id).status == "job_completed", 30)
    return Seen(len(loss), found, longest * 1e3)


def _answered(ask: Any) -> bool:
    try:
        return bool(ask())
    except tl.ApiException:
        return False


@pytest.mark.parametrize("fault", ["services and broker down", "script killed"])
def test_every_point_is_there_once_whatever_went_away(shared_home: Home, fault: str) -> None:
    trial(shared_home, fault, seed=1, count=1500)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_point_is_there_once_in_fifty_trials(
    shared_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifty outages, at least ten of each kind; and as many again of what else may happen to a script."""
    dice = random.Random(int(os.environ.get("TAPELINE_CHAOS_SEED", "1")))
    faults = [*OUTAGES * 10, *(dice.choice(OUTAGES) for _ in range(10)), *(dice.choice(BESIDES) for _ in range(10))]
    dice.shuffle(faults)
    with ExitStack() as stack:
        disk: SmallDisk | None = None
        try:
            disk = stack.enter_context(small_disk(tmp_path / "disk"))
        except NotPermitted as error:
            said = f"no disk can be mounted here ({error}): it is said to be full instead"
        else:
            said = "a disk in memory is filled and freed"
        with capsys.disabled():
            print(f"\n{said}")
        for seed, fault in enumerate(faults):
            seen = trial(shared_home, fault, seed=seed, count=dice.randrange(200, 4000), disk=disk)
            with capsys.disabled():
                print(
                    f"trial {seed + 1}: {fault:26} {seen.points:5} points of each tag, once and in order,"
                    f" sha256 {seen.checksum[:12]}, longest log {seen.longest_ms:.1f} ms",
                    flush=True,
                )


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
