"""Runs that a script of their user trains: born running, taken up again, begun anew, never restarted by others."""

from __future__ import annotations

from typing import Any

import pytest

from tapeline.contracts.runs import (
    JobCompleted,
    JobCreated,
    JobFailed,
    JobStarted,
    JobSubmitted,
    LeaseExpired,
    LeaseGranted,
    RestartRun,
    ResumeRun,
    RunCreated,
    RunRestartRequested,
    Status,
    StopRun,
)
from tapeline.errors import TapelineError
from tapeline.runs.run.aggregate import LEGAL, Run, decide, evolve, initial
from tapeline.runs.run.commands import Attached, AttachRun, BearAttached, ExpireLease, GiveUp, TakeReport

SCRIPT = Attached(holder="user:ann", ttl_s=30, pid=7)
BIRTH = BearAttached(
    number=4, name="by hand", version="1", project_id="p", blueprint_id="b", task_type="t", resources={},
    config={"max_restarts": 5}, user="ann", device="attached:h", priority=0, session_name=None, notes=None,
    attached=SCRIPT,
)  # fmt: skip
AGAIN = AttachRun(attached=SCRIPT, device="attached:h", from_step=5)


def after(*commands: Any) -> Run:
    """The run after some commands; every event that they cause is legal where it happens."""
    run = initial()
    for command in commands:
        for event in decide(run, command):
            assert isinstance(event, RunCreated) or run.status in LEGAL[type(event)]
            run = evolve(run, event)
    return run


def types(run: Run, command: Any) -> list[type]:
    return [type(event) for event in decide(run, command)]


def lost(epoch: int) -> ExpireLease:
    return ExpireLease(epoch=epoch, cause="not_renewed")


def test_a_run_of_a_script_is_born_running() -> None:
    assert types(initial(), BIRTH) == [RunCreated, JobCreated, JobSubmitted, LeaseGranted, JobStarted]
    run = after(BIRTH)
    assert (run.status, run.attempt, run.epoch, run.holder) == (Status.JOB_RUNNING, 1, 1, "user:ann")
    assert run.lease is not None


def test_a_lost_script_is_given_up_and_not_restarted() -> None:
    run = after(BIRTH, lost(1))
    assert run.status == Status.JOB_UNKNOWN
    assert types(run, GiveUp(epoch=1)) == [JobFailed]
    assert after(BIRTH, lost(1), GiveUp(epoch=1)).reason == "lease_lost"


@pytest.mark.parametrize("given_up", [[], [GiveUp(epoch=1)]])
def test_a_script_that_comes_back_goes_on_with_its_attempt(given_up: list[Any]) -> None:
    run = after(BIRTH, lost(1), *given_up, AGAIN.model_copy(update={"attempt": 1, "from_step": -1}))
    assert (run.status, run.attempt, run.epoch) == (Status.JOB_RUNNING, 1, 2)


def test_an_attempt_that_is_held_or_over_is_not_taken_up() -> None:
    same = AGAIN.model_copy(update={"attempt": 1})
    ended = TakeReport(
        agent="user:ann", epoch=1, seq=2, kind="completed", event=JobCompleted(global_step=3, training_epochs=0)
    )
    other = same.model_copy(update={"attached": SCRIPT.model_copy(update={"holder": "user:bob"})})
    for run, command in ((after(BIRTH), same), (after(BIRTH, ended), same), (after(BIRTH, lost(1)), other)):
        with pytest.raises(TapelineError) as caught:
            decide(run, command)
        assert caught.value.code == "conflict"


def test_a_script_that_is_started_again_begins_the_next_attempt() -> None:
    begun = [JobCreated, JobSubmitted, LeaseGranted, JobStarted]
    assert types(after(BIRTH), AGAIN) == [LeaseExpired, JobFailed, RunRestartRequested, *begun]
    assert types(after(BIRTH, lost(1)), AGAIN) == [JobFailed, RunRestartRequested, *begun]
    assert types(after(BIRTH, StopRun(run="r")), AGAIN) == [LeaseExpired, RunRestartRequested, *begun]
    run = after(BIRTH, AGAIN)
    assert (run.status, run.attempt, run.epoch, run.last_step) == (Status.JOB_RUNNING, 2, 2, 5)


@pytest.mark.parametrize("command", [RestartRun(run="r"), ResumeRun(run="r")])
def test_nobody_else_starts_a_script(command: Any) -> None:
    with pytest.raises(TapelineError) as caught:
        decide(after(BIRTH, lost(1), GiveUp(epoch=1)), command)
    assert (caught.value.code, "tl.start" in str(caught.value.hint)) == ("conflict", True)
