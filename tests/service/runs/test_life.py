"""The life of a run through the verbs, on a real server: from creation to every kind of end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tapeline.clock import SystemClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.decider import Deciders, origin_of
from tapeline.errors import TapelineError
from tapeline.ids import new_id
from tapeline.log.codec import Codec
from tapeline.runs.run import aggregate
from tapeline.runs.run.commands import GrantLease
from tapeline.subjects import Ref


async def test_a_run_goes_from_creation_to_its_end(runs: Any, agent: Any) -> None:
    made = await runs.create()
    lease = await agent.take()
    assert (made["number"], made["status"], lease["epoch"], lease["attempt"]) == (1, "run_created", 1, 1)
    assert lease["spec"]["config"]["steps"] == 10
    assert lease["spec"]["config"]["max_restarts"] == 2
    assert lease["spec"]["blueprint"] == {"name": "selftest", "version": "1.0.0"}

    await agent.started(lease)
    assert (await runs.view("get", run="1"))["status"] == "job_running"
    await agent.completed(lease)
    view = await runs.view("get", run=made["id"])

    assert (view["status"], view["exit_code"], view["agent"], view["device"]) == ("job_completed", 0, "a1", "cpu0")
    assert await runs.types("1") == [
        "RunCreated", "JobCreated", "JobSubmitted", "LeaseGranted", "JobStarted", "JobCompleted",
    ]  # fmt: skip


async def test_numbers_count_from_one_in_each_team_even_when_asked_at_once(runs: Any) -> None:
    made = await asyncio.gather(*(runs.create() for _ in range(12)))
    other = await runs.create(team="other")
    assert sorted(run["number"] for run in made) == list(range(1, 13))
    assert other["number"] == 1


async def test_the_same_command_id_makes_one_run(runs: Any) -> None:
    command_id = new_id()
    first = await runs.ask("create", **_creation(), command_id=command_id)
    again = await runs.ask("create", **_creation(), command_id=command_id)
    assert (again["view"]["id"], again["position"], again["replayed"]) == (first["view"]["id"], first["position"], True)
    assert len((await runs.view("list"))["items"]) == 1


async def test_a_run_without_a_device_waits_and_says_what_is_missing(runs: Any) -> None:
    made = await runs.create()
    view = await runs.until(made["id"], "job_pending")
    assert (view["reason"], view["message"]) == ("no_device", "no agent has announced a device for this team")


async def test_a_pending_run_starts_when_an_agent_comes(runs: Any, make_agent: Any) -> None:
    made = await runs.create()
    await runs.until(made["id"], "job_pending")
    agent = await make_agent()
    await agent.announce()
    assert (await agent.take())["run"] == made["id"]


async def test_one_device_takes_one_run_at_a_time(runs: Any, agent: Any) -> None:
    first, second = await runs.create(), await runs.create()
    lease = await agent.take()
    assert lease["run"] == first["id"]
    assert (await runs.until(second["id"], "job_pending"))["reason"] == "busy"
    await agent.started(lease)
    await agent.completed(lease)
    assert (await agent.take())["run"] == second["id"]


async def test_a_running_run_stops_when_its_agent_says_so(runs: Any, agent: Any) -> None:
    made = await runs.create()
    lease = await agent.take()
    await agent.started(lease)
    view = await runs.view("stop", run=made["id"], grace_s=30)
    assert view["status"] == "run_stop_requested"
    stop = await asyncio.wait_for(agent.stops.get(), 30)
    assert (stop["run"], stop["epoch"], stop["reason"]) == (made["id"], 1, "user")
    assert 0 < stop["grace_s"] <= 30
    named = {"team": "main", "run": made["id"], "epoch": 1}
    (renewed,) = (await agent.ask("renew", leases=[named]))["leases"]
    assert (renewed["answer"], renewed["reason"]) == ("stop", "user")

    await agent.report(lease, "terminate_requested")
    await agent.report(lease, "terminating")
    await agent.report(lease, "terminated", forced=False, reason="user", exit_code=0, last_step=4)
    view = await runs.view("get", run=made["id"])
    assert (view["status"], view["exit_code"]) == ("job_terminated", 0)
    assert (await runs.view("stop", run=made["id"]))["status"] == "job_terminated"


async def test_a_stop_of_a_finished_run_is_refused(runs: Any, agent: Any) -> None:
    await runs.create()
    lease = await agent.take()
    await agent.started(lease)
    await agent.completed(lease)
    error = await runs.refused("stop", run="1")
    assert error.code == "conflict"
    assert error.message == "run r1 is job_completed; stop needs a run that has not ended"


async def test_a_run_that_nobody_holds_is_stopped_at_once(runs: Any) -> None:
    made = await runs.create()
    assert (await runs.view("stop", run=made["id"]))["status"] == "job_terminated"


async def test_a_run_is_deleted_from_every_view(runs: Any) -> None:
    made = await runs.create()
    assert (await runs.refused("delete", run="1")).hint == "stop it first"
    await runs.ask("delete", run="1", stop=True)
    assert (await runs.refused("get", run=made["id"])).code == "not_found"
    assert (await runs.view("list"))["items"] == []
    await runs.ask("delete", run="1")
    assert (await runs.create())["number"] == 2


async def test_another_team_sees_and_touches_nothing(runs: Any, agent: Any) -> None:
    made = await runs.create()
    lease = await agent.take()
    await agent.started(lease)
    await agent.checkpoint(lease, 5)
    missing = str(await runs.refused("get", run=new_id(), team="other"))
    for verb, fields in {
        "get": {}, "events": {}, "metrics": {}, "latest": {}, "stop": {}, "pause": {}, "resume": {}, "restart": {},
        "delete": {}, "set_notes": {"notes": "x"}, "rename": {"name": "x"},
    }.items():  # fmt: skip
        error = await runs.refused(verb, run=made["id"], team="other", **fields)
        assert (error.code, error.data["error"]["data"]) == ("not_found", {"kind": "run"})
        assert str(error).replace(made["id"], "ID") == missing.replace(missing.split("'")[1], "ID")
    assert (await runs.view("list", team="other"))["items"] == []
    assert (await runs.view("checkpoints", team="other"))["items"] == []
    assert (await runs.view("devices", team="other"))["items"] == []


async def test_of_four_claims_one_wins_in_every_epoch(runs: Any, host: Any) -> None:
    made = await runs.create()
    await runs.until(made["id"], "job_pending")
    ref = Ref("main", "run", made["id"])
    codec = Codec(EVENTS, UPCASTERS)
    # Four copies of the service, each with a fold of its own: only the log stands between them.
    copies = [Deciders(host.platform.log, codec, SystemClock()) for _ in range(4)]
    for copy in copies:
        await copy.state(aggregate, ref)

    async def claim(i: int) -> int | None:
        command = GrantLease(attempt=1, agent=f"a{i}", device="cpu0", ttl_s=30)
        try:
            return (await copies[i].handle(aggregate, ref, command, origin_of(f"agent:a{i}", new_id()))).state.epoch
        except TapelineError as error:
            return None if error.code == "conflict" else -1

    won = [epoch for epoch in await asyncio.gather(*(claim(i) for i in range(4))) if epoch is not None]
    assert won == [1]
    assert (await runs.types(made["id"])).count("LeaseGranted") == 1


async def test_an_offer_is_for_one_agent_and_lapses(runs: Any, agent: Any, make_agent: Any) -> None:
    await runs.create()
    offer = await asyncio.wait_for(agent.offers.get(), 30)
    other = await make_agent("a2")
    error = await other.refused(
        "claim", team=offer.team, run=offer.run, offer=offer.offer, device=offer.device
    )  # fmt: skip
    assert (error.code, error.message) == ("conflict", "this offer has lapsed")
    assert (await agent.claim(offer))["epoch"] == 1
    # The reply was lost: the same claim is answered with the same lease.
    assert (await agent.claim(offer))["epoch"] == 1


async def test_a_claim_is_answered_again_by_another_process(
    runs: Any, agent: Any, open_service: Any, host: Any
) -> None:
    await runs.create()
    offer = await asyncio.wait_for(agent.offers.get(), 30)
    first = await agent.claim(offer)
    async with open_service() as again:
        agent.rebind(again)
        assert await agent.claim(offer) == first


async def test_reports_are_gapless_idempotent_and_fenced(runs: Any, agent: Any) -> None:
    made = await runs.create()
    lease = await agent.take()
    gap = await _refusal(agent.report(lease, "completed", seq=3, global_step=1, training_epochs=1))
    assert (gap.code, gap.data["error"]["data"]) == ("gap", {"expected": 1})
    await agent.started(lease)
    before = await runs.types(made["id"])
    await agent.report(lease, "started", seq=1, pid=7, resume="none")
    assert await runs.types(made["id"]) == before
    old = lease | {"epoch": 0}
    fenced = await _refusal(agent.report(old, "completed", seq=1, global_step=1, training_epochs=1))
    assert (fenced.code, fenced.data["error"]["data"]) == ("fenced", {"current": 1})
    bad = await _refusal(agent.report(lease, "completed", seq=2, steps=1))
    assert bad.code == "invalid"


async def test_an_agent_knows_nothing_of_a_run_that_it_never_held(runs: Any, agent: Any, make_agent: Any) -> None:
    made = await runs.create()
    lease = await agent.take()
    other = await make_agent("a2")
    assert (await _refusal(other.report(lease, "started", pid=1, resume="none"))).code == "not_found"
    named = {"team": "main", "run": made["id"], "epoch": 1}
    assert (await other.ask("renew", leases=[named]))["leases"][0]["answer"] == "fenced"
    assert (await other.refused("reclaim", **named)).code == "not_found"


async def test_a_new_boot_gives_up_what_it_does_not_hold(runs: Any, agent: Any) -> None:
    made = await runs.create()
    lease = await agent.take()
    await agent.started(lease)
    await agent.checkpoint(lease, 5)
    agent.boot = new_id()
    await agent.announce()
    again = await agent.take()
    assert (again["run"], again["epoch"], again["attempt"]) == (made["id"], 2, 2)
    assert again["spec"]["from_checkpoint"]["global_step"] == 5
    assert [file["role"] for file in again["files"]] == ["checkpoint"]
    assert (await runs.types(made["id"]))[-4:] == ["RunRestartRequested", "JobCreated", "JobSubmitted", "LeaseGranted"]
    assert (await _refusal(agent.report(lease, "completed", global_step=1, training_epochs=1))).code == "fenced"


async def test_a_crash_of_the_child_is_restarted_within_the_budget(runs: Any, agent: Any) -> None:
    made = await runs.create(config={"steps": 10, "max_restarts": 1})
    for attempt in (1, 2):
        lease = await agent.take()
        assert lease["attempt"] == attempt
        await agent.started(lease)
        await agent.report(lease, "failed", reason="signal", message="killed", signal=9)
    view = await runs.until(made["id"], "job_failed")
    assert (view["reason"], view["message"]) == ("signal", "killed")


async def test_a_failed_run_is_resumed_by_its_user(runs: Any, agent: Any) -> None:
    made = await runs.create()
    lease = await agent.take()
    await agent.started(lease)
    await agent.checkpoint(lease, 5)
    await agent.report(lease, "failed", reason="exit_code", message="boom", exit_code=1)
    view = await runs.view("resume", run=made["id"], session_name="again")
    assert (view["status"], view["attempt"]) == ("run_restart_requested", 2)
    lease = await agent.take()
    assert (lease["spec"]["session_name"], lease["spec"]["from_checkpoint"]["global_step"]) == ("again", 5)


@pytest.mark.parametrize(
    ("fields", "code", "hint"),
    [
        ({"device": "gpu7"}, "unknown_device", "live devices are: a1/cpu0"),
        ({"device": "cpu1"}, "unknown_device", "did you mean 'cpu0'? live devices are: a1/cpu0"),
        ({"blueprint_id": "nope"}, "not_found", None),
        ({"config": {"steps": -1}}, "invalid", None),
        ({"config": {"step": 1}}, "invalid", "did you mean 'steps'?"),
        ({"resources": {"cpu": "1"}}, "invalid", None),
        ({"resources": {"cpu": "1", "memory": "500m"}}, "invalid", 'did you mean "500Mi"?'),
        ({"resources": {"cpu": "5K", "memory": "1Gi"}}, "invalid", None),
        ({"project_id": "Not A Slug"}, "invalid", None),
        ({"name": "bad\nname"}, "invalid", None),
        ({"nonsense": 1}, "invalid", None),
    ],
)
async def test_bad_input_is_refused_and_stores_nothing(
    runs: Any, agent: Any, fields: dict[str, Any], code: str, hint: str | None
) -> None:
    error = await runs.refused("create", **(_creation() | fields))
    assert error.code == code
    if hint is not None:
        assert error.hint == hint
    assert (await runs.view("list"))["items"] == []


async def test_every_fault_of_a_config_is_told(runs: Any) -> None:
    error = await runs.refused("create", **(_creation() | {"config": {"steps": "x", "step_s": -1, "stepz": 1}}))
    found = error.data["error"]["data"]["errors"]
    assert [fault["path"] for fault in found] == [["stepz"], ["step_s"], ["steps"]]


async def test_a_session_name_belongs_to_one_live_attempt(runs: Any) -> None:
    await runs.create(session_name="mine")
    error = await runs.refused("create", **_creation(), session_name="mine")
    assert (error.code, error.message) == ("conflict", "session 'mine' is that of run r1, which has not ended")
    await runs.ask("stop", run="1")
    await runs.create(session_name="mine")


async def test_a_run_waits_no_longer_than_it_may(runs: Any) -> None:
    made = await runs.create(config={"queue_timeout_s": 0.5})
    view = await runs.until(made["id"], "job_failed")
    assert (view["reason"], view["message"]) == ("unschedulable", "no device within 0.5 s")


def _creation() -> dict[str, Any]:
    from tapeline.runs.blueprint.builtin import SELFTEST

    return {
        "name": "demo", "version": "1", "resources": {"cpu": "1", "memory": "64Mi"}, "config": {"steps": 10},
        "task_type": "training", "blueprint_id": SELFTEST.id, "project_id": "default",
    }  # fmt: skip


async def _refusal(asked: Any) -> TapelineError:
    with pytest.raises(TapelineError) as caught:
        await asked
    return caught.value
