"""kill -9 at random moments: of the services, the agent, the training child, the server.

Afterwards every acknowledged command is on the log, sequences are gapless, the tables equal a fold of the
log, and every run has ended: completed, or failed with a typed reason.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter
from typing import Any, get_args

import psutil
import pytest

from tapeline import replay
from tapeline import sdk as tl
from tapeline.contracts.runs import FINISHED, EndReason
from tapeline.embedded import status
from tapeline.home import Home
from tapeline.ids import new_id

TARGETS = ("host", "agent-local", "server", "child")
SECONDS = float(os.environ.get("TAPELINE_CHAOS_SECONDS", "30"))
SEED = int(os.environ.get("TAPELINE_CHAOS_SEED", "1"))
# A lease that is not renewed ends after 30 s, its grace after 15 s more, and a run may be restarted twice.
SETTLE_S = 240.0


def victim(home: Home, target: str) -> int | None:
    """The pid of what is to be killed; the training child is a child of the agent."""
    found = {process.name: process.pid for process in status(home, positions=False).processes if process.alive}
    if target != "child":
        return found.get(target)
    agent = found.get("agent-local")
    if agent is None:
        return None
    try:
        children = psutil.Process(agent).children(recursive=True)
    except psutil.NoSuchProcess:
        return None
    return children[-1].pid if children else None


def create(steps: int, command_id: str) -> str:
    return tl.create_run(
        name=f"run {command_id[-6:]}",
        version="1",
        resources=tl.Resources(cpu="1", memory="64Mi"),
        config={"steps": steps, "step_s": 0.02, "checkpoint_every": 25},
        task_type="selftest",
        blueprint_id=tl.lookup_blueprint_id("selftest"),
        project_id="default",
        command_id=command_id,
    )


class Writer(threading.Thread):
    """Keeps a few runs going and writes notes; remembers what was acknowledged, and under which command."""

    def __init__(self, seed: int, enough: threading.Event) -> None:
        super().__init__(daemon=True)
        self.random = random.Random(seed)
        self.enough = enough
        self.runs: list[str] = []
        self.acknowledged: set[str] = set()
        self.unknown: set[str] = set()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                self._one()
                time.sleep(self.random.uniform(0.0, 0.1))
        except BaseException as error:
            self.failure = error

    def _one(self) -> None:
        command_id = new_id()
        try:
            if len(self.runs) < 2 or self.random.random() < 0.005:
                self.runs.append(create(self.random.randint(50, 120), command_id))
            else:
                run = tl.Run(id=self.random.choice(self.runs))
                run.set_notes(f"note {command_id}", command_id=command_id)
            self.acknowledged.add(command_id)
        except (tl.errors.OutcomeUnknown, tl.errors.UnavailableError):
            self.unknown.add(command_id)


def count(writers: list[Writer]) -> int:
    """How many commands have been acknowledged so far."""
    return sum(len(writer.acknowledged) for writer in writers)


async def effects(home: Home) -> Counter[str]:
    """How many events each command of a user left on the log, which is checked to be whole."""
    async with replay.opened(home) as log:
        assert (await replay.verify(log)).faults == []
        return Counter(
            [
                line.event.command_id
                async for line in replay.tail(log, after=0)
                if line.event.type in ("RunCreated", "NotesChanged")
            ]
        )


def settle(runs: list[str]) -> dict[str, str]:
    """Wait until every run has ended; their statuses."""
    end = time.monotonic() + SETTLE_S
    while True:
        found = {str(run.id): str(run.status) for run in tl.get_runs(ids=runs, limit=len(runs))}
        if len(found) == len(runs) and all(each in FINISHED for each in found.values()):
            return found
        assert time.monotonic() < end, f"runs that never ended: {found}"
        time.sleep(0.5)


def test_nothing_acknowledged_is_lost_and_no_run_runs_for_ever(home: Home) -> None:
    chance, enough = random.Random(SEED), threading.Event()
    writers = [Writer(SEED * 100 + number, enough) for number in range(3)]
    for writer in writers:
        writer.start()
    kills: dict[str, int] = dict.fromkeys(TARGETS, 0)
    order: list[str] = []
    until = time.monotonic() + SECONDS
    while time.monotonic() < until or min(kills.values()) == 0:
        order = order or chance.sample(TARGETS, len(TARGETS))
        pid = victim(home, order[-1])
        if pid is not None:
            target = order.pop()
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            kills[target] += 1
            # On a slow machine a kill every second would leave nothing alive to be killed.
            before = count(writers)
            _until(lambda before=before: count(writers) > before + 3)
        time.sleep(chance.uniform(0.1, 1.5))
        assert time.monotonic() < until + SETTLE_S, f"not every target could be hit: {kills}"
    enough.set()
    for writer in writers:
        writer.join(60)
        assert not writer.is_alive(), "a writer hangs"
        assert writer.failure is None, repr(writer.failure)

    runs = [run for writer in writers for run in writer.runs]
    ended = settle(runs)
    acknowledged = set().union(*(writer.acknowledged for writer in writers))
    print(f"seed {SEED}: {kills} kills, {len(acknowledged)} acknowledged, {len(runs)} runs: {sorted(ended.values())}")
    assert len(acknowledged) > 20

    on_log = asyncio.run(effects(home))
    assert [each for each in acknowledged if on_log[each] != 1] == []
    assert [each for writer in writers for each in writer.unknown if on_log[each] > 1] == []

    for run in (tl.Run.from_id(each) for each in runs):
        events = run.get_events(limit=10_000, sort=["sequence:asc"])
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        epochs = [event.details["epoch"] for event in events if event.details["type"] == "LeaseGranted"]
        assert epochs == sorted(set(epochs))
        if run.status == "job_failed":
            (reason,) = [e.details["reason"] for e in events[-3:] if e.details["type"] == "JobFailed"][-1:]
            assert reason in get_args(EndReason)

    reports = replay.rebuild(home, "all", timeout_s=60)
    assert [report.name for report in reports if not report.equal] == []


@pytest.mark.long
def test_ten_minutes_of_kills(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SECONDS", 600.0)
    test_nothing_acknowledged_is_lost_and_no_run_runs_for_ever(home)


def test_a_dead_agents_run_goes_on_from_its_checkpoint(home: Home) -> None:
    run = tl.Run.from_id(create(150, new_id()))
    _until(lambda: run.get_global_steps_with_checkpoints() != [])
    pid = victim(home, "agent-local")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    assert run.wait(120) == "job_completed"
    types = [event.details["type"] for event in run.get_events(limit=1000, sort=["sequence:asc"])]
    assert types.count("LeaseGranted") == 2
    assert "RunRestartRequested" in types
    metrics = [metric.global_step for metric in run.get_all_metrics() if metric.tag == "train/loss"]
    assert len(metrics) == len(set(metrics)), "a step appears twice in the effective series"


def _until(condition: Any, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
