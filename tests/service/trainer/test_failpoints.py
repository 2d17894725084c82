"""kill -9 of an agent or its child at each named point: the next attempt ends the run, and each thing is told once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tapeline.failpoints import DIED, VARIABLE
from tapeline.trainer.blueprints.selftest import loss_at

from .conftest import FakeRun, FakeRuns, Server, is_running, until

pytestmark = pytest.mark.timeout(120)

AGENT = ("agent.before_claim", "agent.claimed", "agent.journaled", "agent.reported", "checkpoint.staged")
CHILD = ("child.started", "checkpoint.begun", "checkpoint.written", "child.trained")
ALWAYS = frozenset({"agent.claimed", "checkpoint.written"})
STEPS = 30


def points(*names: str) -> Any:
    return [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.long) for name in names]


Start = Any


@pytest.fixture
async def start(server: Server, service: FakeRuns, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts an agent process with fail points, and waits until it serves."""
    started: list[asyncio.subprocess.Process] = []

    async def start(armed: str = "") -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("agent_process.py")), server.url,
            str(tmp_path / "agent"), str(tmp_path / "store"),
            stdout=asyncio.subprocess.PIPE, env=os.environ | ({VARIABLE: armed} if armed else {}),
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        while b"ready" not in (line := await process.stdout.readline()):
            assert line, "the agent ended before it was ready"
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def run() -> FakeRun:
    config = {"steps": STEPS, "step_s": 0.005, "checkpoint_every": 10}
    spec = {"blueprint": {"name": "selftest", "version": "1.0.0"}, "seed": 0, "config": config}
    return FakeRun(id=str(uuid.uuid4()), spec=spec)


async def ended_by_the_next(service: FakeRuns, start: Start, run: FakeRun, folder: Path) -> None:
    """The service gives the run to a fresh agent, from its last whole checkpoint; the run ends, with every point."""
    if run.checkpoints:
        last = run.checkpoints[-1]
        run.files = [{"role": "checkpoint"} | file for file in last["files"]]
        held = [await service.store.local_path(file["sha256"], folder) for file in last["files"]]
        assert [json.loads(path.read_bytes())["step"] for path in held] == [last["global_step"]]
    run.attempt += 1
    run.batch, run.kinds = 0, []
    told = Counter(one["checkpoint_id"] for one in run.checkpoints)
    await start()
    await service.offer(run)
    await until(lambda: run.has_ended)
    assert run.kinds[-1] == "completed"
    assert {step: value for (_, step), value in run.points.items()} == {k: loss_at(k) for k in range(1, STEPS + 1)}
    again = Counter(one["checkpoint_id"] for one in run.checkpoints)
    assert max(again.values()) == 1, "no checkpoint is reported twice"
    assert told <= again, "and none that was reported is taken back"


@pytest.mark.parametrize("point", points(*AGENT))
async def test_an_agent_that_dies_at_a_point_leaves_nothing_half_done(
    service: FakeRuns, start: Start, run: FakeRun, tmp_path: Path, point: str
) -> None:
    process = await start(f"{point}:1")
    await service.offer(run)
    assert await asyncio.wait_for(process.wait(), 60) == DIED
    if "started" in run.data:
        await until(lambda: not is_running(run.data["started"]["pid"]))
    assert not run.has_ended
    await ended_by_the_next(service, start, run, tmp_path)


@pytest.mark.parametrize("point", points(*CHILD))
async def test_a_child_that_dies_at_a_point_is_a_failed_attempt_and_no_more(
    service: FakeRuns, start: Start, run: FakeRun, tmp_path: Path, point: str
) -> None:
    process = await start(f"{point}:1")
    await service.offer(run)
    await until(lambda: run.has_ended)
    assert run.kinds[-1] == "failed"
    assert process.returncode is None, "its agent lives on"
    partial = [one for one in run.checkpoints if one["global_step"] % 10]
    assert partial == [], "what is reported is whole"
    process.kill()
    await process.wait()
    await ended_by_the_next(service, start, run, tmp_path)
