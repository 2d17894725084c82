"""kill -9 at random moments: of the services, the agent, the training child, the server, and everything at once.

Afterwards every acknowledged command is on the log exactly once and where its answer said, no commit is torn,
sequences are gapless, the tables equal a fold of the log into an empty database, and every run has ended:
completed, or failed with a typed reason.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from tapeline import replay
from tapeline import sdk as tl
from tapeline.contracts.runs import FINISHED, EndReason
from tapeline.database import sqlite_url
from tapeline.home import Home
from tapeline.ids import new_id
from tapeline.log import StoredCommit
from tapeline.log.metrics import MetricsMessage
from tapeline.testing.history import Checked, History, check_history, check_metrics, read_history
from tapeline.testing.postgres import PostgresServer

from .torture import APART, FOLDS, Apart, Writers, dumped, kill, kill_everything, refilled, until, victim

TARGETS = ("host", "agent-local", "server", "child", f"{APART}-apart")
WRITERS = 16
SECONDS = float(os.environ.get("TAPELINE_CHAOS_SECONDS", "30"))
SEED = int(os.environ.get("TAPELINE_CHAOS_SEED", "1"))
# A lease that is not renewed ends after 30 s, its grace after 15 s more, and a run may be restarted twice.
SETTLE_S = 240.0
EVERYTHING_EVERY_S = 60.0
"""How often all processes are killed at once in a long run; in a short one that happens at its end."""


def settle(runs: Sequence[str]) -> dict[str, str]:
    """Wait until every run has ended; their statuses."""
    end = time.monotonic() + SETTLE_S
    while True:
        found = {str(run.id): str(run.status) for run in tl.get_runs(ids=list(runs), limit=len(runs))}
        if len(found) == len(runs) and all(each in FINISHED for each in found.values()):
            return found
        assert time.monotonic() < end, f"runs that never ended: {found}"
        time.sleep(0.5)


class Killer:
    """Kills one target after another at random, each once that the writers are answered again."""

    def __init__(self, home: Home, apart: Apart, writers: Writers) -> None:
        self.kills: Counter[str] = Counter(dict.fromkeys(TARGETS, 0))
        self.silent_s: dict[str, list[float]] = defaultdict(list)
        self._home = home
        self._apart = apart
        self._writers = writers
        self._chance = random.Random(SEED)

    def go_on(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        again = time.monotonic() + EVERYTHING_EVERY_S
        order: list[str] = []
        while time.monotonic() < until_s or min(self.kills[target] for target in TARGETS) == 0:
            order = order or self._chance.sample(TARGETS, len(TARGETS))
            for target in order:
                if kill(self._apart.pid if target.endswith("-apart") else victim(self._home, target)):
                    order.remove(target)
                    self._killed(target, time.monotonic())
                    break
            if time.monotonic() > again:
                self.everything()
                again = time.monotonic() + EVERYTHING_EVERY_S
            time.sleep(self._chance.uniform(0.1, 1.5))
            assert time.monotonic() < until_s + SETTLE_S, f"not every target could be hit: {self.kills}"

    def everything(self) -> None:
        began = time.monotonic()
        kill_everything(self._home)
        self._killed("everything", began)

    def _killed(self, target: str, began: float) -> None:
        self.kills[target] += 1
        # Each writer may still hear the answer of what was stored before; one more is of a living system.
        before = self._writers.answered
        until(lambda: self._writers.answered > before + WRITERS)
        self.silent_s[target].append(time.monotonic() - began)

    def __str__(self) -> str:
        times = (f"{target} {statistics.median(found):.2f}/{max(found):.2f}" for target, found in self.silent_s.items())
        return f"kills: {dict(self.kills)}\nanswered again after (median/longest, s): {', '.join(times)}"


async def whole_log(home: Home) -> list[StoredCommit]:
    """Every commit, after a check that the log itself finds nothing wrong."""
    async with replay.opened(home) as log:
        assert (await replay.verify(log)).faults == []
        return [one async for many in log.read() for one in many]


async def whole_metrics(home: Home) -> list[MetricsMessage]:
    """Every batch of measurements."""
    async with replay.opened_with_metrics(home) as (_, metrics):
        return [one async for many in metrics.read() for one in many]


async def compared(home: Home, apart: Apart, folder: Path) -> list[str]:
    """The tables that differ from a fold of the log into an empty database."""
    differ = []
    async with replay.opened(home) as log:
        head = (await log.head()).position
        for service, folds in FOLDS.items():
            fresh = await refilled(log, folds, folder / f"{service}.db", head)
            live = {service: sqlite_url(home.db / f"{service}.db")}
            if service == APART:
                live[f"{service}, apart on PostgreSQL"] = apart.engine_url
            for name, url in live.items():
                found = await dumped(url, folds, head)
                differ += [f"{name}: {table}" for table in fresh if found[table] != fresh[table]]
    return differ


def torture(home: Home, database_url: str, folder: Path, seconds: float) -> tuple[Checked, Killer, Counter[str]]:
    """Kill for so many seconds, let the runs end, and check everything."""
    with (
        History(folder / "history.jsonl") as history,
        Apart(home, database_url, folder / "apart.log").running() as apart,
    ):
        writers = Writers(WRITERS, SEED, history)
        killer = Killer(home, apart, writers)
        writers.start()
        try:
            killer.go_on(seconds)
            killer.everything()
        finally:
            writers.end()
        ended = settle(writers.runs)
        commits = asyncio.run(whole_log(home))
        checked = check_history(read_history(history.path), commits)
        checked.findings += check_metrics(read_history(history.path), asyncio.run(whole_metrics(home)))
        print(f"\nseed {SEED}, {seconds:g} s, {WRITERS} writers\n{killer}")
        print(
            f"{checked.acknowledged} acknowledged ({history.count('info')} times asked again), {checked.lost} lost, "
            f"{checked.unknown} never answered; {checked.commits} commits, {checked.events} events"
        )
        print(f"runs: {dict(Counter(ended.values()))}")
        assert [str(finding) for finding in checked.findings] == []
        assert asyncio.run(compared(home, apart, folder)) == []
    return checked, killer, Counter(ended.values())


@pytest.fixture
def database_url(postgres: PostgresServer) -> str:
    return postgres.make_database()


@pytest.mark.timeout(SECONDS + 2 * SETTLE_S)
def test_nothing_acknowledged_is_lost_and_no_run_runs_for_ever(home: Home, database_url: str, tmp_path: Path) -> None:
    checked, killer, _ = torture(home, database_url, tmp_path, SECONDS)
    assert checked.acknowledged > 100
    assert min(killer.kills[target] for target in (*TARGETS, "everything")) > 0
    for run in tl.get_runs(limit=1000):
        if run.status == "job_failed":
            events = run.get_events(limit=10_000, sort=["sequence:desc"])
            reason = next(each.details["reason"] for each in events if each.details["type"] == "JobFailed")
            assert reason in get_args(EndReason)
    reports = replay.rebuild(home, "all", compare=True)
    assert [report.name for report in reports if not report.equal] == []


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_ten_minutes_of_kills(home: Home, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SECONDS", 600.0)
    test_nothing_acknowledged_is_lost_and_no_run_runs_for_ever(home, database_url, tmp_path)


def test_a_dead_agents_run_goes_on_from_its_checkpoint(home: Home) -> None:
    run = tl.Run.from_id(
        tl.create_run(
            name="run", version="1", task_type="selftest", project_id="default", command_id=new_id(),
            resources=tl.Resources(cpu="1", memory="64Mi"), blueprint_id=tl.lookup_blueprint_id("selftest"),
            config={"steps": 150, "step_s": 0.02, "checkpoint_every": 25},
        )
    )  # fmt: skip
    until(lambda: run.get_global_steps_with_checkpoints() != [])
    pid = victim(home, "agent-local")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    assert run.wait(120) == "job_completed"
    types = [event.details["type"] for event in run.get_events(limit=1000, sort=["sequence:asc"])]
    assert types.count("LeaseGranted") == 2
    assert "RunRestartRequested" in types
    metrics = [metric.global_step for metric in run.get_all_metrics() if metric.tag == "train/loss"]
    assert len(metrics) == len(set(metrics)), "a step appears twice in the effective series"
