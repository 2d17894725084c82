"""The life of a run, given / when / then, and the whole transition table."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.contracts.archives import MetricsArchived, MetricsPurged, PurgeMetrics
from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.records import (
    MetricsTableAdded,
    MetricsTableRemoved,
    RunCopied,
    RunForked,
    RunInputAdded,
    RunOutputAdded,
    RunParametersSet,
)
from tapeline.contracts.runs import (
    FINISHED,
    RUN_EVENTS,
    STOPPING,
    CheckpointBegun,
    CheckpointCompleted,
    CheckpointDeleted,
    CheckpointPinned,
    DeleteRun,
    JobCompleted,
    JobCreated,
    JobCreateFailed,
    JobFailed,
    JobPending,
    JobStarted,
    JobSubmitted,
    JobTerminated,
    JobTerminateRequested,
    JobTerminating,
    LeaseExpired,
    LeaseGranted,
    NotesChanged,
    PauseRun,
    RenameRun,
    ReportNoted,
    RestartRun,
    ResumeRun,
    RunCreated,
    RunDeleted,
    RunRenamed,
    RunRestartRequested,
    RunStopRequested,
    SetNotes,
    Status,
    StopRun,
    status_after,
)
from tapeline.errors import TapelineError
from tapeline.runs.run import aggregate
from tapeline.runs.run.aggregate import LEGAL, Run, decide, evolve, initial
from tapeline.runs.run.commands import (
    BearRun,
    CreateJob,
    DropCheckpoints,
    ExpireLease,
    GiveUp,
    GrantLease,
    HoldBack,
    KeepArchive,
    Overdue,
    Pin,
    RefuseJob,
    RegrantLease,
    TakeReport,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
SPEC: dict[str, Any] = {"blueprint": {"name": "selftest", "version": "1.0.0"}}

BORN = RunCreated(
    number=17, name="demo", version="1", project_id="default", blueprint_id="b", task_type="training",
    resources={"cpu": "1", "memory": "1Gi"}, config={"steps": 10}, user="ann",
)  # fmt: skip
CREATED = JobCreated(attempt=1, session_name="demo-17", seed=0, spec=SPEC)
SUBMITTED = JobSubmitted(attempt=1)
PENDING = JobPending(attempt=1, reason="no_device")
GRANTED = LeaseGranted(attempt=1, agent="a1", device="cpu0", epoch=1, ttl_s=30)
RECLAIMED = LeaseGranted(attempt=1, agent="a1", device="cpu0", epoch=2, ttl_s=30, reclaimed=1)
STARTED = JobStarted(epoch=1, pid=7, resume="none")
STOP = RunStopRequested(grace_s=600, deadline=AT + timedelta(seconds=600))
TERMINATE = JobTerminateRequested(epoch=1)
TERMINATING = JobTerminating(epoch=1)
TERMINATED = JobTerminated(forced=False, exit_code=0)
EXPIRED = LeaseExpired(epoch=1, cause="not_renewed")
COMPLETED = JobCompleted(global_step=10, training_epochs=1)
FAILED = JobFailed(reason="exit_code", message="boom")
FILE = Artifact(name="state.npz", size_bytes=3, sha256="0" * 64)
BEGUN = CheckpointBegun(checkpoint_id="c1", epoch=1, attempt=1, global_step=5)
CHECKPOINT = CheckpointCompleted(
    checkpoint_id="c1", epoch=1, attempt=1, global_step=5, training_epoch=0, files=[FILE]
)  # fmt: skip
AGAIN = RunRestartRequested(auto=False, reason="restart", attempt=2)

RUNNING = [BORN, CREATED, SUBMITTED, GRANTED, STARTED]
HISTORY: dict[Status, list[Any]] = {
    Status.RUN_CREATED: [BORN],
    Status.JOB_CREATED: [BORN, CREATED],
    Status.JOB_SUBMITTED: [BORN, CREATED, SUBMITTED, GRANTED],
    Status.JOB_PENDING: [BORN, CREATED, SUBMITTED, PENDING, GRANTED],
    Status.JOB_RUNNING: RUNNING,
    Status.JOB_UNKNOWN: [*RUNNING, EXPIRED, RECLAIMED],
    Status.RUN_STOP_REQUESTED: [*RUNNING, STOP],
    Status.JOB_TERMINATE_REQUESTED: [*RUNNING, STOP, TERMINATE],
    Status.JOB_TERMINATING: [*RUNNING, STOP, TERMINATE, TERMINATING],
    Status.JOB_TERMINATED: [*RUNNING, STOP, TERMINATED],
    Status.JOB_FAILED: [*RUNNING, FAILED],
    Status.JOB_COMPLETED: [*RUNNING, COMPLETED],
    Status.JOB_CREATE_FAILED: [BORN, JobCreateFailed(attempt=1, code="not_found", message="no asset")],
    Status.RUN_RESTART_REQUESTED: [*RUNNING, COMPLETED, AGAIN],
}  # fmt: skip
"""A history that leads to each status; with a live lease wherever one may be."""


def folded(*events: Any) -> Run:
    run = initial()
    for event in events:
        run = evolve(run, event)
    return run


def when(history: list[Any], command: Any) -> list[Any]:
    return decide(folded(*history), command.model_copy(update={"at": AT}))


def refused(history: list[Any], command: Any) -> TapelineError:
    with pytest.raises(TapelineError) as caught:
        when(history, command)
    return caught.value


def report(kind: str, event: Any, seq: int, epoch: int = 1, agent: str = "a1") -> TakeReport:
    return TakeReport(agent=agent, epoch=epoch, seq=seq, kind=kind, event=event)


def bear(**changes: Any) -> BearRun:
    fields = {name: getattr(BORN, name) for name in BORN.__slots__} | changes
    return BearRun(**fields)


# --- the table ------------------------------------------------------------------------------------

# The table of the design page, row by row: event, statuses before, status after (None: unchanged).
S = Status
NOT_FINISHED = {
    S.RUN_CREATED, S.JOB_CREATED, S.JOB_SUBMITTED, S.JOB_PENDING, S.JOB_RUNNING, S.JOB_UNKNOWN, S.RUN_RESTART_REQUESTED,
}  # fmt: skip
THE_THREE = {S.RUN_STOP_REQUESTED, S.JOB_TERMINATE_REQUESTED, S.JOB_TERMINATING}
THE_FOUR = {S.JOB_FAILED, S.JOB_TERMINATED, S.JOB_COMPLETED, S.JOB_CREATE_FAILED}
PAGE: list[tuple[type, set[Status], Status | None]] = [
    (JobCreated, {S.RUN_CREATED, S.RUN_RESTART_REQUESTED}, S.JOB_CREATED),
    (JobCreateFailed, {S.RUN_CREATED, S.RUN_RESTART_REQUESTED}, S.JOB_CREATE_FAILED),
    (JobSubmitted, {S.JOB_CREATED}, S.JOB_SUBMITTED),
    (JobPending, {S.JOB_SUBMITTED}, S.JOB_PENDING),
    (LeaseGranted, {S.JOB_SUBMITTED, S.JOB_PENDING, S.JOB_UNKNOWN, S.JOB_FAILED}, None),
    (JobStarted, {S.JOB_SUBMITTED, S.JOB_PENDING, S.JOB_UNKNOWN, S.JOB_FAILED}, S.JOB_RUNNING),
    (LeaseExpired, {S.JOB_SUBMITTED, S.JOB_PENDING, S.JOB_RUNNING}, S.JOB_UNKNOWN),
    (LeaseExpired, THE_THREE, S.JOB_TERMINATED),
    (RunRestartRequested, {S.JOB_UNKNOWN} | THE_FOUR, S.RUN_RESTART_REQUESTED),
    (JobFailed, {S.JOB_UNKNOWN, S.JOB_PENDING, S.JOB_SUBMITTED, S.JOB_RUNNING} | THE_THREE, S.JOB_FAILED),
    (RunStopRequested, NOT_FINISHED, S.RUN_STOP_REQUESTED),
    (RunStopRequested, THE_THREE, None),
    (JobTerminateRequested, {S.RUN_STOP_REQUESTED}, S.JOB_TERMINATE_REQUESTED),
    (JobTerminating, {S.JOB_TERMINATE_REQUESTED}, S.JOB_TERMINATING),
    (JobTerminated, THE_THREE, S.JOB_TERMINATED),
    (JobCompleted, {S.JOB_RUNNING, S.JOB_UNKNOWN} | THE_THREE, S.JOB_COMPLETED),
    (RunDeleted, THE_FOUR, None),
    *[(event, set(Status), None) for event in (
        CheckpointBegun, CheckpointCompleted, CheckpointDeleted, CheckpointPinned, NotesChanged, RunRenamed,
        ReportNoted, RunInputAdded, RunOutputAdded, RunParametersSet, MetricsTableAdded, MetricsTableRemoved,
    )],
    (MetricsArchived, THE_FOUR, None),
    (MetricsPurged, THE_FOUR, None),
    (RunCopied, {S.RUN_CREATED}, S.JOB_COMPLETED),
    (RunForked, {S.RUN_CREATED}, None),
]  # fmt: skip
SAMPLES: dict[type, Any] = {
    type(event): event
    for event in (
        BORN, CREATED, SUBMITTED, PENDING, GRANTED, STARTED, STOP, TERMINATE, TERMINATING, TERMINATED, EXPIRED,
        COMPLETED, FAILED, BEGUN, CHECKPOINT, AGAIN, RunDeleted(), RunRenamed(name="x"), NotesChanged(notes="n"),
        JobCreateFailed(attempt=1, code="c", message="m"), ReportNoted(epoch=1, kind="started"),
        CheckpointDeleted(checkpoint_id="c1", policy="user", size_bytes=3),
        CheckpointPinned(checkpoint_id="c1", pinned=True), RunInputAdded(value={"a": 1}),
        RunOutputAdded(value={"b": 1}), RunParametersSet(new={"lr": 2}, old={"lr": 1}),
        MetricsTableAdded(table_id="t1", name="metrics", rows=2, columns={"loss": {"kind": "float"}}, file=FILE),
        MetricsArchived(through=9, points=5, manifest=FILE, objects=[FILE]),
        MetricsPurged(before=10, messages=9, points=5, manifest="f" * 64),
        MetricsTableRemoved(table_id="t1"), RunForked(source="r0", checkpoint_id="c0", global_step=4, files=[FILE]),
        RunCopied(source="r0", source_sequence=9, status="job_completed", attempt=2, starts=[-1, 5]),
    )
}  # fmt: skip


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("event", [event for event in RUN_EVENTS if event is not RunCreated])
def test_every_status_and_event_is_as_the_table_says(status: Status, event: type) -> None:
    rows = [after for kind, before, after in PAGE if kind is event and status in before]

    assert (status in LEGAL[event]) == bool(rows)
    if rows:
        assert status_after(status, SAMPLES[event]) == (rows[0] or status)


def test_every_event_has_a_sample_and_a_place_in_the_table() -> None:
    assert set(SAMPLES) == set(RUN_EVENTS)
    assert {*LEGAL, RunCreated} == set(RUN_EVENTS)


@pytest.mark.parametrize("status", Status)
def test_the_fold_of_each_history_is_its_status(status: Status) -> None:
    assert folded(*HISTORY[status]).status == status


REPORTS = {
    "started": STARTED, "terminate_requested": TERMINATE, "terminating": TERMINATING, "terminated": TERMINATED,
    "completed": COMPLETED, "failed": FAILED,
}  # fmt: skip


@pytest.mark.parametrize("status", [status for status in Status if folded(*HISTORY[status]).lease is not None])
@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_is_accepted_exactly_where_its_event_is_legal(status: Status, kind: str) -> None:
    run = folded(*HISTORY[status])
    command = report(kind, REPORTS[kind], run.reports + 1, epoch=run.epoch)
    if status in LEGAL[type(REPORTS[kind])]:
        assert type(decide(run, command)[0]) is type(REPORTS[kind])
    elif kind in ("started", "terminate_requested", "terminating") and status in STOPPING | {Status.JOB_UNKNOWN}:
        assert decide(run, command) == [ReportNoted(epoch=run.epoch, kind=kind)]
    else:
        with pytest.raises(TapelineError) as caught:
            decide(run, command)
        assert caught.value.code == "conflict"


# --- birth and job --------------------------------------------------------------------------------


def test_a_run_is_born_with_its_number() -> None:
    assert when([], bear()) == [BORN]


def test_a_run_is_not_born_twice() -> None:
    assert refused([BORN], bear()).code == "already_exists"


def test_a_missing_run_cannot_be_stopped() -> None:
    error = refused([], StopRun(run="r"))
    assert (error.code, error.data) == ("not_found", {"kind": "run"})


def test_a_job_is_created_and_submitted_in_one_commit() -> None:
    assert when([BORN], CreateJob(attempt=1, session_name="demo-17", seed=0, spec=SPEC)) == [CREATED, SUBMITTED]


def test_a_job_that_is_created_already_is_not_created_again() -> None:
    assert when([BORN, CREATED, SUBMITTED], CreateJob(attempt=1, session_name="x", seed=0, spec=SPEC)) == []


def test_a_job_that_cannot_be_specified_fails_with_its_reason() -> None:
    events = when([BORN], RefuseJob(attempt=1, code="not_found", message="no asset 'x'", hint="tapeline asset ls"))
    assert events == [JobCreateFailed(attempt=1, code="not_found", message="no asset 'x'", hint="tapeline asset ls")]
    assert folded(BORN, *events).reason == "not_found"


def test_a_submitted_job_is_held_back_once() -> None:
    command = HoldBack(attempt=1, reason="no_device", nearest="nothing fits")
    assert when([BORN, CREATED, SUBMITTED], command) == [
        JobPending(attempt=1, reason="no_device", nearest="nothing fits")
    ]
    assert when([BORN, CREATED, SUBMITTED, PENDING], command) == []


def test_a_run_that_waits_too_long_is_unschedulable() -> None:
    (event,) = when([BORN, CREATED, SUBMITTED, PENDING], Overdue(attempt=1, message="waited 5 s"))
    assert (event.reason, event.message) == ("unschedulable", "waited 5 s")


# --- leases ---------------------------------------------------------------------------------------

WAITING = [BORN, CREATED, SUBMITTED]


def test_a_claim_opens_the_first_epoch() -> None:
    assert when(WAITING, GrantLease(attempt=1, agent="a1", device="cpu0", ttl_s=30)) == [GRANTED]


def test_a_run_that_is_held_is_not_granted_again() -> None:
    error = refused([*WAITING, GRANTED], GrantLease(attempt=1, agent="a2", device="cpu0", ttl_s=30))
    assert (error.code, error.message) == ("conflict", "run r17 is held by a1 in epoch 1")


def test_an_offer_of_an_earlier_attempt_is_refused() -> None:
    history = [
        *RUNNING,
        COMPLETED,
        AGAIN,
        JobCreated(attempt=2, session_name="x", seed=0, spec=SPEC),
        JobSubmitted(attempt=2),
    ]
    assert refused(history, GrantLease(attempt=1, agent="a1", device="cpu0", ttl_s=30)).code == "conflict"
    assert when(history, GrantLease(attempt=2, agent="a1", device="cpu0", ttl_s=30))[0].epoch == 2


def test_a_lease_expires_once() -> None:
    assert when(RUNNING, ExpireLease(epoch=1, cause="not_renewed")) == [EXPIRED]
    assert when([*RUNNING, EXPIRED], ExpireLease(epoch=1, cause="not_renewed")) == []
    assert when(RUNNING, ExpireLease(epoch=2, cause="not_renewed")) == []


def test_a_lost_lease_of_a_stopping_run_ends_it_as_terminated() -> None:
    run = folded(*RUNNING, STOP, EXPIRED)
    assert (run.status, run.reason, run.lease) == (Status.JOB_TERMINATED, "lease_lost", None)


def test_a_lost_run_is_restarted_from_its_last_checkpoint() -> None:
    (event,) = when([*RUNNING, BEGUN, CHECKPOINT, EXPIRED], GiveUp(epoch=1))
    assert event == RunRestartRequested(auto=True, reason="lease_lost", attempt=2, from_checkpoint="c1")


def test_a_lost_run_without_budget_fails() -> None:
    born = RunCreated(**{name: getattr(BORN, name) for name in BORN.__slots__} | {"config": {"max_restarts": 0}})
    (event,) = when([born, *RUNNING[1:], EXPIRED], GiveUp(epoch=1))
    assert (type(event), event.reason) == (JobFailed, "lease_lost")


def test_a_run_that_ended_before_its_lease_was_lost_is_reclaimed_by_its_agent_only() -> None:
    (event,) = when([*RUNNING, EXPIRED], RegrantLease(agent="a1", epoch=1, ttl_s=30))
    assert (event.epoch, event.reclaimed, event.agent) == (2, 1, "a1")
    assert refused([*RUNNING, EXPIRED], RegrantLease(agent="a2", epoch=1, ttl_s=30)).code == "not_found"
    assert refused([*RUNNING, COMPLETED], RegrantLease(agent="a1", epoch=1, ttl_s=30)).code == "conflict"


def test_a_reclaimed_run_delivers_its_end() -> None:
    history = HISTORY[Status.JOB_UNKNOWN]
    assert when(history, report("completed", COMPLETED, 1, epoch=2)) == [COMPLETED]


def test_a_reclaimed_run_whose_end_never_comes_fails() -> None:
    (event,) = when(HISTORY[Status.JOB_UNKNOWN], ExpireLease(epoch=2, cause="not_renewed"))
    assert (type(event), event.reason) == (JobFailed, "lease_lost")


# --- reports --------------------------------------------------------------------------------------


def test_a_report_of_an_older_epoch_is_fenced() -> None:
    history = [*HISTORY[Status.JOB_UNKNOWN]]
    error = refused(history, report("completed", COMPLETED, 2, epoch=1))
    assert (error.code, error.data) == ("fenced", {"current": 2})


def test_a_report_after_the_lease_is_lost_is_fenced() -> None:
    assert refused([*RUNNING, EXPIRED], report("completed", COMPLETED, 2)).code == "fenced"


def test_a_repeated_report_changes_nothing() -> None:
    assert when(RUNNING, report("started", STARTED, 1)) == []
    assert when([*RUNNING, COMPLETED], report("completed", COMPLETED, 2)) == []


def test_a_report_that_comes_too_early_names_the_expected_one() -> None:
    error = refused(RUNNING, report("completed", COMPLETED, 4))
    assert (error.code, error.data) == ("gap", {"expected": 2})


def test_a_run_of_another_agent_is_not_found() -> None:
    assert refused(RUNNING, report("completed", COMPLETED, 2, agent="a2")).code == "not_found"


def test_a_start_that_a_stop_has_overtaken_is_noted() -> None:
    history = [*WAITING, GRANTED, STOP]
    (event,) = when(history, report("started", STARTED, 1))
    assert event == ReportNoted(epoch=1, kind="started")
    assert when([*history, event], report("terminate_requested", TERMINATE, 2)) == [TERMINATE]


def test_an_agent_may_give_its_lease_back() -> None:
    lost = LeaseExpired(epoch=1, cause="lease_lost")
    assert when(RUNNING, report("lease_lost", lost, 2)) == [lost]
    assert when([*RUNNING, lost], report("lease_lost", lost, 2)) == []


def test_an_infrastructure_failure_restarts_in_the_same_commit() -> None:
    failed = JobFailed(reason="signal", signal=9)
    again = RunRestartRequested(auto=True, reason="signal", attempt=2)
    assert when(RUNNING, report("failed", failed, 2)) == [failed, again]


@pytest.mark.parametrize("reason", ["exit_code", "oom_host", "nan_loss", "validation", "timeout", "disk_full"])
def test_other_failures_are_not_restarted(reason: Any) -> None:
    failed = JobFailed(reason=reason)
    assert when(RUNNING, report("failed", failed, 2)) == [failed]


def _attempt(n: int) -> list[Any]:
    return [
        JobCreated(attempt=n, session_name="s", seed=0, spec=SPEC), JobSubmitted(attempt=n),
        LeaseGranted(attempt=n, agent="a1", device="cpu0", epoch=n, ttl_s=30),
        JobStarted(epoch=n, pid=1, resume="none"),
    ]  # fmt: skip


def test_the_budget_is_two_restarts_without_a_new_checkpoint() -> None:
    failed = JobFailed(reason="signal", signal=9)
    history: list[Any] = [BORN]
    delays = []
    for n in (1, 2, 3):
        history += _attempt(n)
        events = when(history, report("failed", failed, 2, epoch=n))
        history += events
        delays += [event.delay_s for event in events[1:]]
    assert delays == [0.0, 10.0]
    assert folded(*history).status == Status.JOB_FAILED


def test_a_complete_checkpoint_gives_the_budget_back() -> None:
    failed = JobFailed(reason="signal", signal=9)
    history: list[Any] = [BORN]
    for n in (1, 2, 3, 4):
        history += [*_attempt(n), CHECKPOINT]
        history += when(history, report("failed", failed, 3, epoch=n))
    assert folded(*history).status == Status.RUN_RESTART_REQUESTED


def test_an_agent_that_leaves_does_not_use_the_budget() -> None:
    left = JobFailed(reason="agent_shutdown")
    history: list[Any] = [BORN]
    for n in range(1, 6):
        history += _attempt(n)
        history += when(history, report("failed", left, 2, epoch=n))
    assert folded(*history).status == Status.RUN_RESTART_REQUESTED


def test_a_stalled_run_is_restarted_once() -> None:
    stalled = JobFailed(reason="stalled")
    history = [BORN, *_attempt(1)]
    history += when(history, report("failed", stalled, 2))
    history += _attempt(2)
    assert when(history, report("failed", stalled, 2, epoch=2)) == [stalled]


# --- stop, pause, restart, delete -----------------------------------------------------------------


def test_a_run_without_an_agent_is_terminated_at_once() -> None:
    for history in ([BORN], WAITING, [*WAITING, PENDING], [*RUNNING, EXPIRED], HISTORY[Status.RUN_RESTART_REQUESTED]):
        asked, ended = when(history, StopRun(run="r"))
        assert (asked, ended) == (STOP, JobTerminated(forced=False, reason="user"))
        assert folded(*history, asked, ended).status == Status.JOB_TERMINATED


def test_a_running_run_is_asked_to_stop() -> None:
    assert when(RUNNING, StopRun(run="r")) == [STOP]


def test_a_second_stop_only_moves_the_deadline_earlier() -> None:
    assert when([*RUNNING, STOP], StopRun(run="r", grace_s=700)) == []
    (event,) = when([*RUNNING, STOP, TERMINATE], StopRun(run="r", grace_s=60))
    run = folded(*RUNNING, STOP, TERMINATE, event)
    assert (run.deadline, run.status) == (AT + timedelta(seconds=60), Status.JOB_TERMINATE_REQUESTED)


def test_stopping_a_terminated_run_changes_nothing() -> None:
    assert when([*RUNNING, STOP, TERMINATED], StopRun(run="r")) == []


def test_stopping_a_completed_run_is_refused_with_the_statuses_that_allow_it() -> None:
    error = refused([*RUNNING, COMPLETED], StopRun(run="r"))
    assert error.code == "conflict"
    assert error.message == "run r17 is job_completed; stop needs a run that has not ended"
    assert error.hint == "tapeline run restart 17"


def test_a_pause_needs_a_live_job() -> None:
    assert refused(WAITING, PauseRun(run="r")).code == "conflict"
    (event,) = when(RUNNING, PauseRun(run="r"))
    ended = when([*RUNNING, event, TERMINATE], report("terminated", TERMINATED, 3))
    assert ended[0].reason == "pause"


def test_a_resume_goes_on_from_the_last_complete_checkpoint() -> None:
    history = [*RUNNING, CHECKPOINT, STOP, TERMINATED]
    (event,) = when(history, ResumeRun(run="r", device="cpu1", epochs=20))
    assert (event.from_checkpoint, event.attempt, event.device, event.training_epochs) == ("c1", 2, "cpu1", 20)


def test_a_resume_without_a_checkpoint_is_refused() -> None:
    assert refused([*RUNNING, FAILED], ResumeRun(run="r")).code == "conflict"
    assert refused(RUNNING, ResumeRun(run="r")).message == ("run r17 is job_running; resume needs a run that has ended")


def test_a_restart_begins_at_step_0_unless_a_checkpoint_is_named() -> None:
    assert when([*RUNNING, FAILED], RestartRun(run="r")) == [AGAIN]
    (event,) = when([*RUNNING, CHECKPOINT, FAILED], RestartRun(run="r", from_checkpoint="c1"))
    assert event.from_checkpoint == "c1"
    assert refused([*RUNNING, FAILED], RestartRun(run="r", from_checkpoint="c9")).code == "not_found"


def test_a_live_run_is_not_deleted() -> None:
    error = refused(RUNNING, DeleteRun(run="r"))
    assert (error.code, error.hint) == ("conflict", "stop it first")


def test_a_deleted_run_is_gone_and_deleting_it_again_changes_nothing() -> None:
    history = [*RUNNING, COMPLETED, RunDeleted()]
    assert when([*RUNNING, COMPLETED], DeleteRun(run="r")) == [RunDeleted()]
    assert when(history, DeleteRun(run="r")) == []
    assert refused(history, StopRun(run="r")).code == "not_found"


def test_notes_and_name_change_when_they_differ() -> None:
    assert when(RUNNING, SetNotes(run="r", notes="n")) == [NotesChanged(notes="n")]
    assert when([*RUNNING, NotesChanged(notes="n")], SetNotes(run="r", notes="n")) == []
    assert when(RUNNING, RenameRun(run="r", name="other")) == [RunRenamed(name="other")]
    assert when(RUNNING, RenameRun(run="r", name="demo")) == []


# --- checkpoints ----------------------------------------------------------------------------------


def test_the_newest_checkpoint_of_a_live_run_is_kept() -> None:
    error = refused([*RUNNING, CHECKPOINT], DropCheckpoints(ids=["c1"]))
    assert (error.code, error.data) == ("conflict", {"checkpoints": ["c1"]})


def test_a_pinned_checkpoint_is_kept() -> None:
    history = [*RUNNING, CHECKPOINT, COMPLETED]
    pinned = when(history, Pin(checkpoint_id="c1", pinned=True))
    assert refused([*history, *pinned], DropCheckpoints(ids=["c1"])).code == "conflict"
    freed = when([*history, *pinned], Pin(checkpoint_id="c1", pinned=False))
    assert when([*history, *pinned, *freed], DropCheckpoints(ids=["c1", "c1", "unknown"])) == [
        CheckpointDeleted(checkpoint_id="c1", policy="user", size_bytes=3)
    ]


def test_a_checkpoint_is_incomplete_until_its_bytes_are_there() -> None:
    run = folded(*RUNNING, BEGUN)
    assert run.latest_checkpoint() is None
    run = evolve(run, CHECKPOINT)
    assert run.latest_checkpoint() == run.checkpoints["c1"]


def test_a_known_checkpoint_is_noted_only() -> None:
    assert when([*RUNNING, CHECKPOINT], report("checkpoint", CHECKPOINT, 3)) == [
        ReportNoted(epoch=1, kind="checkpoint")
    ]


# --- laws -----------------------------------------------------------------------------------------


def _commands() -> st.SearchStrategy[Any]:
    epochs = st.integers(1, 4)
    seqs = st.integers(1, 6)
    agents = st.sampled_from(["a1", "a2"])
    attempts = st.integers(1, 5)
    told = st.sampled_from(
        [*REPORTS.items(), ("checkpoint_begun", BEGUN), ("checkpoint", CHECKPOINT),
         ("lease_lost", LeaseExpired(epoch=1, cause="lease_lost")),
         ("failed", JobFailed(reason="signal"))]
    )  # fmt: skip
    return st.one_of(
        st.just(bear()),
        st.builds(lambda a: CreateJob(attempt=a, session_name="s", seed=0, spec=SPEC), attempts),
        st.builds(lambda a: RefuseJob(attempt=a, code="not_found", message="m"), attempts),
        st.builds(lambda a: HoldBack(attempt=a, reason="no_device"), attempts),
        st.builds(lambda a, g: GrantLease(attempt=a, agent=g, device="cpu0", ttl_s=30), attempts, agents),
        st.builds(lambda e, g: RegrantLease(agent=g, epoch=e, ttl_s=30), epochs, agents),
        st.builds(lambda e: ExpireLease(epoch=e, cause="not_renewed"), epochs),
        st.builds(lambda e: GiveUp(epoch=e), epochs),
        st.builds(lambda a: Overdue(attempt=a, message="m"), attempts),
        st.builds(lambda k, s, e, g: report(k[0], k[1], s, e, g), told, seqs, epochs, agents),
        st.builds(lambda g: StopRun(run="r", grace_s=g), st.sampled_from([1.0, 60.0, 600.0])),
        st.just(PauseRun(run="r")),
        st.just(ResumeRun(run="r")),
        st.just(RestartRun(run="r")),
        st.just(DeleteRun(run="r")),
        st.just(SetNotes(run="r", notes="n")),
        st.just(DropCheckpoints(ids=["c1"])),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(_commands(), max_size=60))
def test_whatever_is_asked_every_event_is_legal_and_a_repeat_changes_nothing(commands: list[Any]) -> None:
    run, history, codes = initial(), [], set()
    for command in commands:
        command = command.model_copy(update={"at": AT})
        try:
            events = decide(run, command)
        except TapelineError as error:
            codes.add(error.code)
            continue
        for event in events:
            if not isinstance(event, RunCreated):
                assert run.status in LEGAL[type(event)], (run.status, event)
                if type(event) in aggregate.NEEDS_LEASE:
                    assert run.lease is not None
            run = evolve(run, event)
            history.append(event)
        if isinstance(command, TakeReport):
            assert decide(run, command) == []
        elif not isinstance(command, BearRun | ResumeRun | RestartRun | GrantLease | RegrantLease | PauseRun):
            assert decide(run, command) == [] or isinstance(command, DropCheckpoints)
        assert (run.lease is None) or (run.status not in FINISHED)
    assert folded(*history) == run
    assert codes <= {"conflict", "not_found", "fenced", "gap", "already_exists"}
    granted = [event.epoch for event in history if isinstance(event, LeaseGranted)]
    assert granted == list(range(1, len(granted) + 1))


# --- points that were moved to the artifact store -------------------------------------------------

ENDED = [*RUNNING, COMPLETED]
ARCHIVED = MetricsArchived(through=9, points=5, manifest=FILE, objects=[FILE])
PURGE = PurgeMetrics(before=10, messages=9, points=5, manifest=FILE.sha256)


def test_an_archive_is_noted_once_and_again_when_it_is_another() -> None:
    assert when(ENDED, KeepArchive(archived=ARCHIVED)) == [ARCHIVED]
    assert when([*ENDED, ARCHIVED], KeepArchive(archived=ARCHIVED)) == []
    more = replace(ARCHIVED, through=12, points=7)
    assert when([*ENDED, ARCHIVED], KeepArchive(archived=more)) == [more]
    assert when([*ENDED, RunDeleted()], KeepArchive(archived=ARCHIVED)) == [ARCHIVED]


def test_batches_are_purged_once_and_only_for_the_archive_that_was_compared() -> None:
    purged = MetricsPurged(before=10, messages=9, points=5, manifest=FILE.sha256)
    assert when([*ENDED, ARCHIVED], PURGE) == [purged]
    assert when([*ENDED, ARCHIVED, purged], PURGE) == []
    bare = refused(ENDED, PURGE)
    assert (bare.code, bare.hint) == ("conflict", "tapeline metrics archive 17")
    other = refused([*ENDED, ARCHIVED], PURGE.model_copy(update={"manifest": "1" * 64}))
    assert (other.code, other.hint) == ("conflict", "repeat the purge")
    assert refused([], PURGE).code == "not_found"


def test_points_of_a_run_that_has_not_ended_are_neither_archived_nor_purged() -> None:
    for command in (KeepArchive(archived=ARCHIVED), PURGE):
        error = refused(RUNNING, command)
        assert (error.code, "a run that has ended" in error.message) == ("conflict", True)
