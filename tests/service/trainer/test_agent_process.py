"""What happens around the agent's own process: its death, its restart, its leaving."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import FakeRun, FakeRuns, Server, is_running, until

pytestmark = pytest.mark.timeout(120)

Start = Any


@pytest.fixture
async def start(server: Server, service: FakeRuns, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts an agent process and waits until it serves."""
    started: list[asyncio.subprocess.Process] = []

    async def start() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("agent_process.py")),
            server.url,
            str(tmp_path / "agent"),
            str(tmp_path / "store"),
            stdout=asyncio.subprocess.PIPE,
        )
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


def a_run(**config: Any) -> FakeRun:
    spec = {"blueprint": {"name": "selftest", "version": "1.0.0"}, "seed": 0, "config": config}
    return FakeRun(id=str(uuid.uuid4()), spec=spec)


async def test_no_child_outlives_its_agent(service: FakeRuns, start: Start) -> None:
    process = await start()
    run = a_run(steps=100_000, step_s=0.01)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    pid = run.data["started"]["pid"]
    process.kill()
    await until(lambda: not is_running(pid))


async def test_a_restarted_agent_has_a_new_boot_and_holds_nothing(service: FakeRuns, start: Start) -> None:
    process = await start()
    run = a_run(steps=100_000, step_s=0.01)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    process.kill()
    await process.wait()
    await start()
    first, second = service.announced[0], service.announced[-1]
    assert first["boot"] != second["boot"]
    assert second.get("holding", []) == []


async def test_an_end_that_a_dead_agent_had_not_told_is_told_by_the_next(
    service: FakeRuns, start: Start, tmp_path: Path
) -> None:
    process = await start()
    run = a_run(steps=50, step_s=0.01, metrics=False)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    service.mute_verbs = {"report"}
    journal = tmp_path / "agent" / "journal" / f"{run.id}.1.journal"
    await until(lambda: b'"completed"' in journal.read_bytes())
    process.kill()
    await process.wait()
    service.mute_verbs = set()
    await start()
    await until(lambda: run.has_ended)
    assert run.kinds == ["started", "completed"]
    assert service.announced[-1]["holding"] == [{"run": run.id, "team": "contoso", "epoch": 1, "state": "ended"}]
    await until(lambda: not journal.exists())


async def test_an_agent_that_leaves_stops_its_child_with_a_checkpoint(service: FakeRuns, start: Start) -> None:
    process = await start()
    run = a_run(steps=100_000, step_s=0.01)
    await service.offer(run)
    await until(lambda: len(run.points) > 3)
    process.send_signal(signal.SIGTERM)
    await until(lambda: run.has_ended)
    assert run.data["failed"]["reason"] == "agent_shutdown"
    assert run.checkpoints[-1]["global_step"] == run.data["failed"]["last_step"]
    assert await asyncio.wait_for(process.wait(), 30) == 0
    assert service.announced[-1]["leaving"] is True
    assert process.stdout is not None
    # and it never imported what only children need
    assert b"heavy: []" in await process.stdout.read()
    assert json.dumps(run.kinds).count("terminate_requested") == 0
