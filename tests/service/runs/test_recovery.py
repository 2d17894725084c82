"""Crashes of the service, lost agents, and tables filled anew."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapeline import replay
from tapeline.clock import FakeClock
from tapeline.errors import TapelineError
from tapeline.ids import new_id
from tapeline.projections import reset
from tapeline.runs import dispatcher as dispatching
from tapeline.runs.leases import Leases

TABLES = (
    "runs", "run_events", "attempts", "checkpoints", "run_artifacts", "agents", "known_canvases", "known_assets",
    "metric_attempts", "metric_batches", "metric_segments", "latest_metrics", "run_progress",
)  # fmt: skip


def dump(path: Path) -> dict[str, list[Any]]:
    """Every row of every table."""
    with sqlite3.connect(path) as connection:
        return {table: sorted(map(repr, connection.execute(f"SELECT * FROM {table}"))) for table in TABLES}


def stored_position(path: Path, name: str) -> int:
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT position FROM projection_positions WHERE name = ?", (name,)).fetchone()
        return int(found[0])


def at_end(path: Path, name: str, end: int) -> Callable[[], bool]:
    """Whether a stored position has reached the end."""
    return lambda: stored_position(path, name) >= end


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(2000):
        if is_so():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to that")


async def lively(runs: Any, agent: Any) -> None:
    """A history with a bit of everything."""
    for i in range(4):
        await runs.create(name=f"run {i}")
        lease = await agent.take()
        await agent.started(lease)
        await agent.measure(lease, 1, {"loss": [(s, s / 3, s) for s in range(40)]})
        await agent.checkpoint(lease, 5, b"w%d" % i)
        if i == 1:
            await agent.report(lease, "failed", reason="signal", message="killed", signal=9)
            lease = await agent.take()
            await agent.started(lease, resume="exact", global_step=5)
            await agent.measure(lease, 1, {"loss": [(s, s / 3, s) for s in range(6, 40)]})
        await agent.completed(lease)
    await runs.ask("set_notes", run="1", notes="first")
    await runs.ask("delete", run="2")


async def test_rebuilt_tables_equal_the_live_ones(runs: Any, agent: Any, host: Any, tmp_path: Path) -> None:
    await lively(runs, agent)
    log, measured, *_ = host.service.projectors
    await log.wait_for((await host.platform.log.head()).position)
    last_batch = await measured.head()
    await until(lambda: measured.position >= last_batch)
    live = dump(tmp_path / "runs.db")
    for projector in (log, measured):
        position = projector.position
        await host.platform.engine.write(lambda connection, name=projector.name: reset(connection, name))
        await until(lambda name=projector.name, end=position: stored_position(tmp_path / "runs.db", name) >= end)
    assert dump(tmp_path / "runs.db") == live
    assert len(live["run_events"]) > 30


async def test_a_command_whose_reply_was_lost_is_answered_by_another_process(
    runs: Any, open_service: Any, host: Any
) -> None:
    # The service dies between append and reply: another one, on the same log, answers the repeat.
    command_id = new_id()
    fields = _creation() | {"command_id": command_id}
    first = await runs.ask("create", **fields)
    async with open_service() as again:
        reply = await again.ask("create", team="main", **fields)
    assert (reply["view"]["id"], reply["position"], reply["replayed"]) == (first["view"]["id"], first["position"], True)


async def test_what_was_begun_is_finished_by_the_next_process(open_service: Any, make_runs: Any) -> None:
    async with open_service() as host:
        for task in asyncio.all_tasks():
            if "Dispatcher" in repr(task.get_coro()):
                task.cancel()
        made = await make_runs(host).create()
        assert (await make_runs(host).view("get", run=made["id"]))["status"] == "run_created"
    async with open_service() as host:
        await make_runs(host).until(made["id"], "job_pending")
        assert await make_runs(host).types(made["id"]) == ["RunCreated", "JobCreated", "JobSubmitted", "JobPending"]


async def test_a_lost_agent_is_noticed_and_its_run_goes_on_elsewhere(
    runs: Any, agent: Any, make_agent: Any, quick: None
) -> None:
    made = await runs.create()
    lease = await agent.take()
    await agent.started(lease)
    await agent.checkpoint(lease, 5)
    # From here on the agent says nothing.
    view = await runs.until(made["id"], "job_unknown")
    assert view["reason"] == "lease_lost"
    late = await _code(agent.report(lease, "completed", global_step=9, training_epochs=1))
    assert late == "fenced"
    other = await make_agent("a2")
    await other.announce()
    await runs.until(made["id"], "job_submitted")
    seen = set()
    for _ in range(400):
        for each in (agent, other):
            while not each.offers.empty():
                seen.add(each.name)
                each.offers.get_nowait()
        if seen:
            break
        await asyncio.sleep(0.05)
    assert seen


async def test_a_child_that_had_ended_is_reclaimed(runs: Any, agent: Any, quick: None) -> None:
    made = await runs.create()
    lease = await agent.take()
    await agent.started(lease)
    await runs.until(made["id"], "job_unknown")
    again = await agent.ask("reclaim", team="main", run=made["id"], epoch=1)
    assert (again["epoch"], again["attempt"]) == (2, 1)
    await agent.completed(again)
    view = await runs.view("get", run=made["id"])
    assert (view["status"], view["attempt"]) == ("job_completed", 1)


async def test_a_renewed_lease_does_not_end(runs: Any, agent: Any, quick: None) -> None:
    made = await runs.create()
    lease = await agent.take()
    await agent.started(lease)
    named = {"team": "main", "run": made["id"], "epoch": 1}
    for _ in range(30):
        (renewed,) = (await agent.ask("renew", leases=[named]))["leases"]
        assert renewed["answer"] == "ok"
        await asyncio.sleep(0.1)
    assert (await runs.view("get", run=made["id"]))["status"] == "job_running"


def test_every_lease_gets_a_full_ttl_after_a_start() -> None:
    clock = FakeClock()
    leases = Leases(clock)
    leases.hold("t", "r", epoch=1, agent="a", device="cpu0", ttl_s=30)
    clock.advance(29)
    assert leases.expired() == []
    leases.renew("t", "r", 1)
    clock.advance(29)
    assert leases.expired() == []
    clock.advance(2)
    assert [held.run for held in leases.expired()] == ["r"]
    leases.end("t", "r", 1)
    leases.hold("t", "r", epoch=1, agent="a", device="cpu0", ttl_s=30)
    assert leases.on("a", "cpu0") is None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, host: Any) -> None:
    """Leases of two seconds, swept often, for whatever is granted from now on."""
    from tapeline.runs.run import reports

    monkeypatch.setattr(reports, "LEASE_TTL_S", 2.0)
    held = [task.__self__ for task in host.service.tasks if isinstance(task.__self__, dispatching.Dispatcher)]
    held[0]._sweep_every_s = 0.2
    held[0]._unknown_grace_s = 3.0


def _creation() -> dict[str, Any]:
    from tapeline.runs.blueprint.builtin import SELFTEST

    return {
        "name": "demo", "version": "1", "resources": {"cpu": "1", "memory": "64Mi"}, "config": {"steps": 10},
        "task_type": "training", "blueprint_id": SELFTEST.id, "project_id": "default",
    }  # fmt: skip


async def _code(asked: Any) -> str:
    from tapeline.errors import TapelineError

    with pytest.raises(TapelineError) as caught:
        await asked
    return str(caught.value.code)


async def test_the_dispatcher_goes_on_from_its_position_and_what_it_repeats_has_one_effect(
    runs: Any, agent: Any, open_service: Any, host: Any, tmp_path: Path
) -> None:
    run = await runs.create()
    lease = await agent.take()
    await agent.started(lease)
    await agent.completed(lease)
    await runs.until("1", "job_completed")
    head = (await host.platform.log.head()).position
    await until(at_end(tmp_path / "runs.db", "dispatcher", head))
    (lag,) = [
        one for one in await replay.lag(host.platform.log, {"runs": host.platform.engine}) if one.kind == "process"
    ]
    assert (lag.name, lag.stream, lag.position, lag.lag) == ("dispatcher", "EVENTS", head, 0)
    types = await runs.types(run["id"])
    # As after a crash before the position of any event was stored: all of them are reacted to again.
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("UPDATE projection_positions SET position = 0 WHERE name = 'dispatcher'")
    async with open_service() as other:
        assert stored_position(tmp_path / "runs.db", "dispatcher") in (0, head)
        await until(at_end(tmp_path / "runs.db", "dispatcher", head))
        assert (await other.platform.log.head()).position == head
    assert await runs.types(run["id"]) == types


async def test_tables_of_purged_measurements_are_not_replaced_by_emptier_ones(
    runs: Any, agent: Any, host: Any, tmp_path: Path
) -> None:
    for _ in range(2):
        await runs.create()
        lease = await agent.take()
        await agent.started(lease)
        await agent.measure(lease, 1, {"loss": [(s, s / 3, s) for s in range(40)]})
        await agent.completed(lease)
    _, measured, *_ = host.service.projectors
    end = await measured.head()
    await until(at_end(tmp_path / "runs.db", "run_metrics", end))
    await agent._client.jetstream().purge_stream("METRICS", subject=f"met.main.{lease['run']}")
    async with asyncio.timeout(30):
        with pytest.raises(TapelineError, match="1 messages of METRICS were purged") as refused:
            await replay.rebuild_projectors({"runs": [measured]})
        assert refused.value.code == "conflict"
        # The last batch of all is among those that are gone: the build ends all the same.
        (built,) = await replay.rebuild_projectors({"runs": [measured]}, options=replay.Options(switch=False))
    assert (built.position, built.shown) == (end, False)
    assert built.rows < built.before
