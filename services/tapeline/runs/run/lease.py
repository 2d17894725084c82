"""Who holds a run: the job that is made for it, its claim, its script, and the reports of its holder."""

from __future__ import annotations

from dataclasses import replace

from tapeline.contracts.runs import (
    FINISHED,
    STOPPING,
    CheckpointBegun,
    CheckpointCompleted,
    EndReason,
    JobCreated,
    JobCreateFailed,
    JobFailed,
    JobStarted,
    JobSubmitted,
    JobTerminated,
    JobTerminateRequested,
    JobTerminating,
    LeaseExpired,
    LeaseGranted,
    ReportNoted,
    RunEvent,
    RunRestartRequested,
    Status,
)
from tapeline.errors import TapelineError
from tapeline.runs.run.commands import (
    Attached,
    AttachRun,
    CreateJob,
    GrantLease,
    RefuseJob,
    RegrantLease,
    TakeReport,
)
from tapeline.runs.run.state import Run, conflict, evolve
from tapeline.runs.run.transitions import (
    DELAYS_S,
    LEGAL,
    MAX_RESTARTS,
    MAX_RESTARTS_EVER,
    RETRIED,
    STARTABLE,
    WAITING,
)


def job(run: Run, command: CreateJob | RefuseJob) -> list[RunEvent]:
    if run.status not in STARTABLE or run.attempt != command.attempt:
        return []
    if isinstance(command, RefuseJob):
        return [
            JobCreateFailed(
                attempt=command.attempt, code=command.code, message=command.message, hint=command.hint
            )
        ]  # fmt: skip
    fields = command.model_dump(exclude={"command_id", "at", "min_position"})
    return [JobCreated(**fields), JobSubmitted(attempt=command.attempt)]


def granted(run: Run, command: GrantLease | RegrantLease) -> list[RunEvent]:
    if run.lease is not None:
        raise TapelineError(
            f"run r{run.number} is held by {run.lease.agent} in epoch {run.lease.epoch}",
            code="conflict",
            hint="wait for the next offer",
        )
    if isinstance(command, RegrantLease):
        if run.holder != command.agent:
            raise TapelineError("no such run", code="not_found", data={"kind": "run"})
        if run.status != Status.JOB_UNKNOWN or run.epoch != command.epoch:
            raise conflict(run, "reclaim", frozenset({Status.JOB_UNKNOWN}), hint="drop the run")
        return [
            LeaseGranted(
                attempt=run.attempt, agent=command.agent, device=run.device, epoch=run.epoch + 1,
                ttl_s=command.ttl_s, reclaimed=command.epoch,
            )
        ]  # fmt: skip
    if run.status not in WAITING:
        raise conflict(run, "claim", WAITING, hint="wait for the next offer")
    if run.attempt != command.attempt:
        raise TapelineError(
            f"the offer was for attempt {command.attempt} of run r{run.number}, which is at attempt {run.attempt}",
            code="conflict",
            hint="wait for the next offer",
        )
    return [
        LeaseGranted(
            attempt=run.attempt, agent=command.agent, device=command.device, epoch=run.epoch + 1, ttl_s=command.ttl_s
        )
    ]  # fmt: skip


def attached(run: Run, command: AttachRun) -> list[RunEvent]:
    if not run.is_attached:
        raise TapelineError(
            f"run r{run.number} is trained by an agent", code="conflict", hint=f"tapeline run resume {run.number}"
        )
    given = command.attached
    if command.attempt is not None:
        is_lost = run.status == Status.JOB_UNKNOWN or (run.status == Status.JOB_FAILED and run.reason == "lease_lost")
        if run.attempt != command.attempt or run.lease is not None or not is_lost or given.holder not in run.holders:
            raise TapelineError(
                f"attempt {command.attempt} of run r{run.number} is over; the run is {run.status.value}",
                code="conflict",
                hint="what it measures is taken all the same",
            )
        granted = LeaseGranted(
            attempt=run.attempt, agent=given.holder, device=command.device, epoch=run.epoch + 1, ttl_s=given.ttl_s,
            reclaimed=run.epoch,
        )  # fmt: skip
        return [granted, _script_started(granted.epoch, given, command.from_step)]
    events: list[RunEvent] = []
    if run.lease is not None:
        events.append(LeaseExpired(epoch=run.lease.epoch, cause="started_again"))
        run = evolve(run, events[0])
    if run.status not in FINISHED:
        failed = JobFailed(reason="lease_lost", message="the script was started again", last_step=run.last_step)
        events.append(failed)
        run = evolve(run, failed)
    again = RunRestartRequested(auto=False, reason="resume", attempt=run.attempt + 1, device=command.device)
    return [*events, again, *begun(evolve(run, again), given, command.device, command.from_step)]


def begun(run: Run, given: Attached, device: str, from_step: int) -> list[RunEvent]:
    """An attempt of a run that its user's script has begun to train."""
    name = f"attached-{run.number}" + ("" if run.attempt == 1 else f".{run.attempt}")
    granted = LeaseGranted(
        attempt=run.attempt, agent=given.holder, device=device, epoch=run.epoch + 1, ttl_s=given.ttl_s
    )
    return [
        JobCreated(attempt=run.attempt, session_name=name, seed=0, spec={}),
        JobSubmitted(attempt=run.attempt),
        granted,
        _script_started(granted.epoch, given, from_step),
    ]


def _script_started(epoch: int, given: Attached, from_step: int) -> JobStarted:
    return JobStarted(
        epoch=epoch, pid=given.pid, resume="none" if from_step < 0 else "approximate", global_step=max(from_step, 0),
        sandbox="none",
    )  # fmt: skip


def check_report(run: Run, agent: str, epoch: int, seq: int) -> bool:
    """Whether a report is new; False for one that is on the log already.

    Raises
    ------
    TapelineError
        `fenced` with the current epoch for one of a lease that is closed, `gap` with the expected number
        for one that comes too early.
    """
    check_epoch(run, agent, epoch, is_known=epoch == run.epoch and seq <= run.reports)
    if seq <= run.reports:
        return False
    expected = run.reports + 1
    if seq > expected:
        raise TapelineError(
            f"expected report {expected} of run r{run.number} in epoch {epoch}, got {seq}",
            code="gap",
            hint=f"send again from {expected}",
            data={"expected": expected},
        )
    return True


def check_epoch(run: Run, agent: str, epoch: int, *, is_known: bool = False) -> None:
    """Refuse, with `fenced` and the current epoch, what does not come from the holder of the run."""
    if run.created is None or run.is_deleted:
        raise TapelineError("no such run", code="not_found", data={"kind": "run"})
    if agent not in run.holders or (run.epoch == epoch and run.holder != agent):
        # A run that another agent holds is none of this agent's business.
        raise TapelineError("no such run", code="not_found", data={"kind": "run"})
    if not is_known and (run.lease is None or run.lease.epoch != epoch):
        raise TapelineError(
            f"epoch {epoch} of run r{run.number} is over; the current one is {run.epoch}",
            code="fenced",
            hint="end the child and drop the run",
            data={"current": run.epoch},
        )


def reported(run: Run, command: TakeReport) -> list[RunEvent]:
    if not check_report(run, command.agent, command.epoch, command.seq):
        return []
    event = command.event
    noted: list[RunEvent] = [ReportNoted(epoch=command.epoch, kind=command.kind)]
    late = isinstance(event, JobStarted | JobTerminateRequested | JobTerminating)
    if late and run.status in (STOPPING | {Status.JOB_UNKNOWN}) and run.status not in LEGAL[type(event)]:
        # What is told is true and comes too late to matter: a stop or a loss of the lease has overtaken it.
        return noted
    if run.status not in LEGAL[type(event)]:
        raise conflict(run, command.kind, LEGAL[type(event)], hint="the run has moved on; drop the job")
    match event:
        case CheckpointCompleted() if (known := run.checkpoints.get(event.checkpoint_id)) and known.is_complete:
            return noted
        case CheckpointBegun() if event.checkpoint_id in run.checkpoints:
            return noted
        case JobTerminated():
            return [replace(event, reason=run.stop_reason)]
        case JobFailed() if run.status not in STOPPING:
            restart = auto_restart(run, event.reason)
            return [event] if restart is None else [event, restart]
        case _:
            return [event]


def failed(run: Run, reason: EndReason, message: str) -> list[RunEvent]:
    return [JobFailed(reason=reason, message=message, last_step=run.last_step)]


def auto_restart(run: Run, reason: EndReason) -> RunRestartRequested | None:
    """The next attempt, when the reason is one of the infrastructure and the budget is not spent."""
    if run.is_attached:
        return None
    allowed = run.config.get("max_restarts", MAX_RESTARTS)
    allowed = MAX_RESTARTS if not isinstance(allowed, int) else allowed
    if reason not in RETRIED or allowed == 0 or run.restarts_ever >= MAX_RESTARTS_EVER:
        return None
    if reason == "stalled" and run.stalls > 0:
        return None
    is_free = reason == "agent_shutdown"
    if not is_free and run.restarts >= allowed:
        return None
    latest = run.latest_checkpoint()
    return RunRestartRequested(
        auto=True,
        reason=reason,
        attempt=run.attempt + 1,
        from_checkpoint=latest.id if latest else None,
        delay_s=0.0 if is_free else DELAYS_S[min(run.restarts, len(DELAYS_S) - 1)],
    )
