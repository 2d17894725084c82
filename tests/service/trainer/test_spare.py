"""A child that imported TensorFlow in advance starts a canvas quickly and trains to the same bits."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import nats
import pytest

from tapeline.clock import SystemClock
from tapeline.store.local import LocalStore
from tapeline.trainer.agent import Agent

from .conftest import FakeRuns, Server, equipment, is_running, until
from .test_training import a_run, curve

pytestmark = pytest.mark.timeout(120)


async def test_a_spare_child_trains_as_a_fresh_one_does(
    server: Server, service: FakeRuns, store: LocalStore, tmp_path: Path
) -> None:
    connection = await nats.connect(server.url)
    agent = Agent(
        connection=connection,
        folder=tmp_path / "agent",
        store=store,
        clock=SystemClock(),
        equipment=equipment(),
        has_spare=True,
        renew_every_s=0.3,
    )
    stop, ready = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(agent.run(stop, ready.set))
    await asyncio.wait_for(ready.wait(), 10)
    try:
        # given a spare, and a run that takes it
        await until(lambda: agent._spare is not None)
        assert agent._spare is not None
        spare = agent._spare.pid
        await until(lambda: _has_backend(spare), 60)
        first = await a_run(store, tmp_path, epochs=2)
        began = time.monotonic()
        await service.offer(first)
        await until(lambda: "started" in first.kinds or first.has_ended, 60)
        print(f"claim to started with a spare: {time.monotonic() - began:.2f} s")
        await until(lambda: first.has_ended, 60)
        assert first.data["started"]["pid"] == spare
        # when another runs in a child of its own, because the spare is gone
        agent._has_spare = False
        if agent._spare is not None:
            await agent._spare.kill()
            agent._spare = None
        second = await a_run(store, tmp_path, epochs=2)
        await service.offer(second)
        await until(lambda: second.has_ended, 60)
        assert second.kinds[-1] == "completed"
        assert second.data["started"]["pid"] != spare
        # then both learned the same
        assert curve(first) == curve(second)
        assert first.checkpoints[-1]["weights_digest"] == second.checkpoints[-1]["weights_digest"]
        assert first.data["started"]["fingerprint"] == second.data["started"]["fingerprint"]
    finally:
        stop.set()
        await asyncio.wait_for(serving, 15)
        await connection.close()
    assert not is_running(spare)


def _has_backend(pid: int) -> bool:
    return "libtensorflow" in Path(f"/proc/{pid}/maps").read_text()
