"""The dispatcher's decisions: given what is known, when an event comes or time passes, then this is asked for."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tapeline.contracts.runs import RunCreated, Status
from tapeline.log import StoredEvent
from tapeline.runs import process
from tapeline.runs.moments import us_of
from tapeline.runs.process import Ask, Expire, Job, Needs, Propose, Specify, State, Tell, Wait, react, tick
from tapeline.runs.quantities import wanted
from tapeline.runs.run.commands import GiveUp, HoldBack, Overdue
from tapeline.runs.schedule import Device
from tapeline.subjects import Ref

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
NEEDS = Needs(
    wanted=wanted({"cpu": "1", "memory": "64Mi"}), blueprint=("selftest", "1.0.0"), backend="auto", queue_timeout_s=None
)


def job(**changed: Any) -> Job:
    values: dict[str, Any] = {
        "team": "main", "id": "r1", "number": 1, "status": Status.JOB_SUBMITTED, "status_event": "e1",
        "status_updated_us": us_of(NOW), "attempt": 1, "epoch": 0, "agent": None, "device": None, "lease_ttl_s": None,
        "lost_cause": None, "submitted_us": us_of(NOW), "due_us": us_of(NOW), "deadline_us": None,
        "stop_reason": None, "wanted_device": "any", "priority": 0, "blueprint_id": "b", "resources": {},
    }  # fmt: skip
    return Job(**values | changed)


def device(name: str = "cpu0", **changed: Any) -> Device:
    values: dict[str, Any] = {
        "agent": "a1", "name": name, "kind": "cpu", "teams": frozenset({"main"}),
        "blueprints": frozenset({("selftest", "1.0.0")}),
    }  # fmt: skip
    return Device(**values | changed)


def born(id: str = "e1") -> StoredEvent:
    data = RunCreated(
        number=1, name="run", version="1", project_id="p", blueprint_id="b", task_type="t", resources={}, config={},
        user="ann",
    )  # fmt: skip
    return StoredEvent(
        Ref("main", "run", "r1"), id, 1, "RunCreated", 1, NOW, data, 7, 0, "user:ann", "BearRun", "c1", None, "c1"
    )


def test_a_run_that_was_born_gets_a_job() -> None:
    known = State(jobs=[job(status=Status.RUN_CREATED)])
    assert react(known, born()) == [Specify(known.jobs[0])]


def test_an_event_that_the_run_has_moved_on_from_leads_to_nothing() -> None:
    assert react(State(jobs=[job(status=Status.RUN_CREATED, status_event="e2")]), born()) == []
    assert react(State(jobs=[]), born()) == []


def test_what_an_event_and_the_time_both_ask_for_is_asked_once() -> None:
    known = State(jobs=[job(status=Status.RUN_CREATED)])
    assert process.once([*react(known, born()), *tick(known, NOW)]) == [Specify(known.jobs[0])]


def test_a_restart_waits_until_it_is_due() -> None:
    later = job(status=Status.RUN_RESTART_REQUESTED, due_us=us_of(NOW + timedelta(seconds=5)))
    assert tick(State(jobs=[later]), NOW) == []
    assert tick(State(jobs=[later]), NOW + timedelta(seconds=5)) == [Specify(later)]


def test_the_holder_of_a_lease_is_told_to_stop_once_for_each_deadline() -> None:
    stopping = job(status=Status.RUN_STOP_REQUESTED, lease_ttl_s=30.0, epoch=1, agent="a1", deadline_us=5)
    assert tick(State(jobs=[stopping]), NOW) == [Tell(stopping)]
    assert tick(State(jobs=[stopping], told={stopping.lease: 5}), NOW) == []
    assert tick(State(jobs=[stopping], told={stopping.lease: 9}), NOW) == [Tell(stopping)]


def test_a_lost_run_is_given_up_after_a_grace_and_at_once_when_its_agent_has_started_again() -> None:
    lost = job(status=Status.JOB_UNKNOWN, epoch=2, lost_cause="not_renewed")
    assert tick(State(jobs=[lost], unknown_for_s={lost.lease: 14.9}), NOW) == []
    given_up = [Ask(lost, GiveUp(epoch=2, reason="lease_lost"), "give-up-2")]
    assert tick(State(jobs=[lost], unknown_for_s={lost.lease: 15.0}), NOW) == given_up
    restarted = job(status=Status.JOB_UNKNOWN, epoch=2, lost_cause="agent_restarted")
    (asked,) = tick(State(jobs=[restarted]), NOW)
    assert isinstance(asked, Ask)
    assert asked.command == GiveUp(epoch=2, reason="agent_restarted")


def test_a_lease_that_was_not_renewed_is_taken_away() -> None:
    (wish,) = tick(State(unrenewed=[("main", "r1", 3)]), NOW)
    assert isinstance(wish, Expire)
    assert (wish.lease, wish.command.epoch, wish.command.cause) == (("main", "r1", 3), 3, "not_renewed")


def test_a_run_that_waits_is_offered_a_free_device() -> None:
    waiting = job()
    known = State(jobs=[waiting], needs={waiting.key: NEEDS}, devices=[device()], busy=Counter())
    (wish,) = tick(known, NOW)
    assert isinstance(wish, Propose)
    assert (wish.match.run.run, wish.match.device.full_name) == ("r1", "a1/cpu0")


def test_a_run_that_no_free_device_takes_is_held_back_once() -> None:
    taken = process.spoken_for([device()], [("a1", "cpu0")])
    waiting = job()
    (wish,) = tick(State(jobs=[waiting], needs={waiting.key: NEEDS}, devices=taken), NOW)
    assert isinstance(wish, Ask)
    assert wish.command == HoldBack(attempt=1, reason="busy", nearest="waits for a1/cpu0")
    held = job(status=Status.JOB_PENDING)
    assert tick(State(jobs=[held], needs={held.key: NEEDS}, devices=taken), NOW) == []


def test_a_run_that_has_waited_for_too_long_is_overdue() -> None:
    needs = Needs(
        wanted=wanted({"cpu": "1", "memory": "64Mi"}),
        blueprint=("selftest", "1.0.0"),
        backend="auto",
        queue_timeout_s=60,
    )
    waiting = job()
    known = State(jobs=[waiting], needs={waiting.key: needs}, devices=[device()])
    (wish,) = tick(known, NOW + timedelta(seconds=60))
    assert wish == Ask(waiting, Overdue(attempt=1, message="no device within 60 s"), "overdue-1")
    assert isinstance(tick(known, NOW + timedelta(seconds=59))[0], Propose)


def test_a_second_attempt_settles_before_it_is_offered() -> None:
    again = job(attempt=2)
    known = State(jobs=[again], needs={again.key: NEEDS}, devices=[device()])
    assert tick(known, NOW) == [Wait(0.3)]
    assert isinstance(tick(known, NOW + timedelta(seconds=0.3))[0], Propose)


@pytest.mark.parametrize("status", [Status.JOB_COMPLETED, Status.JOB_RUNNING])
def test_a_run_that_is_on_its_way_is_left_alone(status: Status) -> None:
    assert tick(State(jobs=[job(status=status, lease_ttl_s=30.0)]), NOW) == []
