"""The life of a run on an agent: claimed, trained, measured, checkpointed, stopped, killed, fenced, resumed."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest

from tapeline.store.local import LocalStore
from tapeline.trainer.agent import Agent
from tapeline.trainer.blueprints.selftest import loss_at

from .conftest import FakeRun, FakeRuns, Server, is_running, kill, state_of, until

pytestmark = pytest.mark.timeout(120)


def a_run(**config: Any) -> FakeRun:
    spec = {"blueprint": {"name": "selftest", "version": "1.0.0"}, "seed": 0, "config": config}
    return FakeRun(id=str(uuid.uuid4()), spec=spec)


async def test_a_run_is_claimed_trained_and_completed(service: FakeRuns, agent: Agent) -> None:
    run = a_run(steps=20, step_s=0.01, checkpoint_every=None)
    await service.offer(run)
    await until(lambda: run.has_ended)
    assert run.kinds == ["started", "completed"]
    assert run.data["completed"]["global_step"] == 20
    assert run.data["completed"]["points"] == 20
    assert run.data["started"]["sandbox"] == "basic"
    assert run.points == {("train/loss", step): loss_at(step) for step in range(1, 21)}
    assert run.progress["train"]["value"] == run.progress["train"]["final_value"] == 20


async def test_an_agent_says_what_it_has(service: FakeRuns, agent: Agent) -> None:
    announced = service.announced[0]
    assert announced["boot"] == agent.boot
    assert announced["devices"][0]["name"] == "cpu0"


async def test_an_idle_agent_goes_on_saying_that_it_is_there(service: FakeRuns, agent: Agent) -> None:
    before = service.renewals
    await until(lambda: service.renewals >= before + 3)


async def test_a_checkpoint_is_uploaded_and_a_later_attempt_goes_on_from_it(
    service: FakeRuns, agent: Agent, store: LocalStore
) -> None:
    run = a_run(steps=30, step_s=0.01, checkpoint_every=10, fail_at=25)
    await service.offer(run)
    await until(lambda: run.has_ended)
    assert run.data["failed"]["reason"] == "exit_code"
    assert "told to fail at step 25" in run.data["failed"]["message"]
    kept = run.checkpoints[-1]
    assert kept["global_step"] in (10, 20)
    content = json.loads(await store.read(kept["files"][0]["sha256"]))
    assert content == {"step": kept["global_step"]}
    # when it is restarted from there, without the failure
    await until(lambda: not agent._holds)
    run.attempt, run.batch = 2, 0
    run.spec["config"]["fail_at"] = None
    run.files = [{"role": "checkpoint"} | file for file in kept["files"]]
    await service.offer(run)
    await until(lambda: run.kinds[-1] == "completed")
    assert run.data["started"]["resume"] == "exact"
    assert run.data["started"]["global_step"] == kept["global_step"]


async def test_a_checkpoint_is_reported_after_the_metrics_before_it(service: FakeRuns, agent: Agent) -> None:
    seen: list[int] = []
    run = a_run(steps=40, step_s=0.005, checkpoint_every=20)
    original = service.on_report

    async def on_report(body: dict[str, Any]) -> dict[str, Any]:
        if body["kind"] == "checkpoint":
            seen.append(len([step for _, step in run.points if step <= body["data"]["global_step"]]))
        return await original(body)

    service.on_report = on_report  # type: ignore[method-assign]
    await service.offer(run)
    await until(lambda: run.has_ended)
    assert seen == [checkpoint["global_step"] for checkpoint in run.checkpoints]


async def test_a_stop_ends_the_run_at_a_boundary_with_a_checkpoint(service: FakeRuns, agent: Agent) -> None:
    run = a_run(steps=10_000, step_s=0.01)
    await service.offer(run)
    await until(lambda: len(run.points) > 5)
    await service.ask_stop(run, 30)
    await until(lambda: run.has_ended)
    assert run.kinds[:4] == ["started", "terminate_requested", "terminating", "checkpoint_begun"]
    ended = run.data["terminated"]
    assert (ended["forced"], ended["exit_code"]) == (False, 0)
    assert ended["checkpoint_id"] == run.checkpoints[-1]["checkpoint_id"]
    assert run.checkpoints[-1]["global_step"] == ended["last_step"]


async def test_a_stop_in_the_answer_of_a_renewal_counts_too(service: FakeRuns, agent: Agent) -> None:
    run = a_run(steps=10_000, step_s=0.01)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    run.stop = {"grace_s": 30.0, "reason": "pause"}
    await until(lambda: run.has_ended)
    assert run.data["terminated"]["reason"] == "pause"


async def test_a_child_that_ignores_a_stop_is_killed_after_the_grace(service: FakeRuns, agent: Agent) -> None:
    run = a_run(steps=10_000, step_s=0.01, ignore_stop=True)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    await service.ask_stop(run, 60)
    await service.ask_stop(run, 1)
    await until(lambda: run.has_ended)
    ended = run.data["terminated"]
    assert (ended["forced"], ended["exit_code"], ended["signal"]) == (True, 137, 9)
    assert run.kinds.count("terminate_requested") == 1


async def test_a_child_killed_from_outside_fails_with_its_signal(service: FakeRuns, agent: Agent) -> None:
    run = a_run(steps=10_000, step_s=0.01)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    kill(run.data["started"]["pid"])
    await until(lambda: run.has_ended)
    assert (run.data["failed"]["reason"], run.data["failed"]["signal"]) == ("signal", 9)


async def test_a_fenced_agent_kills_its_child_and_says_no_more(service: FakeRuns, agent: Agent) -> None:
    run = a_run(steps=10_000, step_s=0.01, metrics=False)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    pid = run.data["started"]["pid"]
    run.is_fenced = True
    await until(lambda: not is_running(pid) and not agent._holds)
    assert run.kinds == ["started"]
    assert not list((agent._folder / "journal").iterdir())


async def test_a_lease_that_cannot_be_renewed_pauses_then_kills_the_child(service: FakeRuns, agent: Agent) -> None:
    # It is paused for a third of that: long enough to be seen.
    service.ttl_s = 4.5
    run = a_run(steps=10_000, step_s=0.01)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    pid = run.data["started"]["pid"]
    service.is_mute = True
    await until(lambda: state_of(pid) == "T")
    await until(lambda: not is_running(pid))
    await until(lambda: not agent._holds)


async def test_a_paused_child_goes_on_when_the_service_is_back(service: FakeRuns, agent: Agent) -> None:
    # It is paused for a third of that: long enough to be seen.
    service.ttl_s = 4.5
    run = a_run(steps=300, step_s=0.01)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    pid = run.data["started"]["pid"]
    service.is_mute = True
    await until(lambda: state_of(pid) == "T")
    service.is_mute = False
    await until(lambda: run.has_ended)
    assert run.kinds == ["started", "completed"]
    assert len(run.points) == 300


async def test_an_end_that_could_not_be_told_is_told_under_a_reclaimed_lease(service: FakeRuns, agent: Agent) -> None:
    service.ttl_s = 1.5
    service.can_reclaim = True
    run = a_run(steps=30, step_s=0.01)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    service.mute_verbs = {"report"}
    await until(lambda: any(hold.state == "ended" for hold in agent._holds.values()))
    run.is_fenced = True
    service.mute_verbs = set()
    await until(lambda: run.has_ended)
    assert run.epoch == 2
    assert run.kinds == ["started", "completed"]


async def test_a_service_that_forgot_reports_gets_them_again(service: FakeRuns, agent: Agent) -> None:
    run = a_run(steps=60, step_s=0.01, metrics=False)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    run.seq = 0
    await until(lambda: run.has_ended)
    assert run.kinds == ["started", "started", "completed"]


async def test_reports_and_metrics_outlive_a_broker_that_restarts(
    service: FakeRuns, agent: Agent, server: Server
) -> None:
    run = a_run(steps=150, step_s=0.01)
    await service.offer(run)
    await until(lambda: len(run.points) > 10)
    server.stop()
    await asyncio.sleep(0.5)
    server.start()
    await until(lambda: run.has_ended)
    assert run.kinds == ["started", "completed"]
    assert len(run.points) == 150


async def test_a_busy_device_takes_no_second_run(service: FakeRuns, agent: Agent) -> None:
    first, second = a_run(steps=200, step_s=0.01), a_run(steps=1)
    await service.offer(first)
    await until(lambda: "started" in first.kinds)
    await service.offer(second)
    await asyncio.sleep(0.3)
    assert second.epoch == 0


async def test_a_missing_artifact_fails_the_attempt_with_a_typed_reason(service: FakeRuns, agent: Agent) -> None:
    run = a_run(steps=1)
    run.files = [{"role": "asset", "name": "spy_train_0.h5", "sha256": "0" * 64, "size_bytes": 5}]
    await service.offer(run)
    await until(lambda: run.has_ended)
    assert run.data["failed"]["reason"] == "asset_refused"


async def test_a_child_sees_no_secret_and_only_its_pipes(
    service: FakeRuns, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPELINE_SECRET_TOKEN", "do-not-tell")
    run = a_run(steps=10_000, step_s=0.01)
    await service.offer(run)
    await until(lambda: "started" in run.kinds)
    pid = run.data["started"]["pid"]
    assert b"do-not-tell" not in Path(f"/proc/{pid}/environ").read_bytes()
    links = {int(path.name): str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    assert not [link for link in links.values() if link.startswith("socket:")]
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    kill(pid, signal.SIGKILL)
    await until(lambda: run.has_ended)
