"""The life of a run as a decider: which events may follow which, and what each command leads to.

`LEGAL` is the transition table: it names, for each event, the statuses in which it may happen. Which status
an event leads to is `status_after` in `tapeline.contracts.runs`. What is not in the table is refused with
code `conflict`, and nothing is appended.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, Literal, assert_never

from tapeline.contracts.metrics import ATTACHED
from tapeline.contracts.records import (
    MAX_VALUE_BYTES,
    MAX_VALUES,
    AddRunInput,
    AddRunOutput,
    MetricsTableAdded,
    MetricsTableRemoved,
    RemoveMetricsTables,
    RunCopied,
    RunForked,
    RunInputAdded,
    RunOutputAdded,
    RunParametersSet,
    SetRunParameters,
    added,
)
from tapeline.contracts.runs import (
    FINISHED,
    STOPPING,
    CheckpointBegun,
    CheckpointCompleted,
    CheckpointDeleted,
    CheckpointPinned,
    DeleteRun,
    EndReason,
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
    RunEvent,
    RunRenamed,
    RunRestartRequested,
    RunStopRequested,
    SetNotes,
    Status,
    StopRun,
    status_after,
)
from tapeline.errors import TapelineError
from tapeline.runs.run.commands import (
    Attached,
    AttachRun,
    BearAttached,
    BearCopy,
    BearFork,
    BearRun,
    CreateJob,
    DropCheckpoints,
    ExpireLease,
    GiveUp,
    GrantLease,
    HoldBack,
    KeepTables,
    Overdue,
    Pin,
    RefuseJob,
    RegrantLease,
    RunCommand,
    TakeReport,
)

RETRIED: frozenset[EndReason] = frozenset(
    {
        "lease_lost", "agent_shutdown", "agent_restarted", "device_lost", "signal", "stalled", "start_timeout",
        "agent_revoked",
    }
)  # fmt: skip
"""End reasons after which a run is restarted by itself; `stalled` once only."""

MAX_RESTARTS = 2
MAX_RESTARTS_EVER = 20
DELAYS_S = (0.0, 10.0, 60.0)
LEASE_CLOSED = "lease_lost"
"""Cause of a lease that its agent itself gave up."""

_WAITING = frozenset({Status.JOB_SUBMITTED, Status.JOB_PENDING})
_STARTABLE = frozenset({Status.RUN_CREATED, Status.RUN_RESTART_REQUESTED})
_LIVE = frozenset(Status) - FINISHED
ANY: frozenset[Status] = frozenset(Status)

LEGAL: dict[type, frozenset[Status]] = {
    JobCreated: _STARTABLE,
    JobCreateFailed: _STARTABLE,
    JobSubmitted: frozenset({Status.JOB_CREATED}),
    JobPending: frozenset({Status.JOB_SUBMITTED}),
    # A script that was not heard for a while trains on, and says so.
    LeaseGranted: _WAITING | {Status.JOB_UNKNOWN, Status.JOB_FAILED},
    JobStarted: _WAITING | {Status.JOB_UNKNOWN, Status.JOB_FAILED},
    LeaseExpired: _WAITING | {Status.JOB_RUNNING} | STOPPING,
    RunStopRequested: _LIVE,
    JobTerminateRequested: frozenset({Status.RUN_STOP_REQUESTED}),
    JobTerminating: frozenset({Status.JOB_TERMINATE_REQUESTED}),
    JobTerminated: STOPPING,
    JobCompleted: STOPPING | {Status.JOB_RUNNING, Status.JOB_UNKNOWN},
    JobFailed: STOPPING | _WAITING | {Status.JOB_RUNNING, Status.JOB_UNKNOWN},
    RunRestartRequested: FINISHED | {Status.JOB_UNKNOWN},
    RunDeleted: FINISHED,
    CheckpointBegun: ANY,
    CheckpointCompleted: ANY,
    CheckpointDeleted: ANY,
    CheckpointPinned: ANY,
    NotesChanged: ANY,
    RunRenamed: ANY,
    ReportNoted: ANY,
    RunInputAdded: ANY,
    RunOutputAdded: ANY,
    RunParametersSet: ANY,
    MetricsTableAdded: ANY,
    MetricsTableRemoved: ANY,
    RunCopied: frozenset({Status.RUN_CREATED}),
    RunForked: frozenset({Status.RUN_CREATED}),
}
"""The statuses in which each event may happen. `RunCreated` is the birth and comes once."""

NEEDS_LEASE: frozenset[type] = frozenset(
    {
        JobStarted, LeaseExpired, JobTerminateRequested, JobTerminating, JobCompleted, CheckpointBegun,
        CheckpointCompleted, ReportNoted,
    }
)  # fmt: skip
"""Events that happen only while an agent holds the run."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds the run. `reclaimed`: the job had ended when the lease was granted once more."""

    agent: str
    device: str
    epoch: int
    ttl_s: float
    reclaimed: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of the run that is not deleted; without files it is incomplete."""

    id: str
    attempt: int
    global_step: int
    files: tuple[Any, ...] = ()
    pinned: bool = False

    @property
    def is_complete(self) -> bool:
        return bool(self.files)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Run:
    """A run as of its last event; without `created` it does not exist."""

    status: Status = Status.RUN_CREATED
    created: RunCreated | None = None
    is_deleted: bool = False
    name: str = ""
    notes: str | None = None
    device: str = "any"
    attempt: int = 0
    session_name: str | None = None
    spec: dict[str, Any] | None = None
    restart: RunRestartRequested | None = None
    lease: Lease | None = None
    epoch: int = 0
    reports: int = 0
    holder: str | None = None
    holders: frozenset[str] = frozenset()
    stop_reason: Literal["user", "pause"] = "user"
    deadline: datetime | None = None
    restarts: int = 0
    restarts_ever: int = 0
    stalls: int = 0
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    forked: Checkpoint | None = None
    inputs: tuple[dict[str, Any], ...] = ()
    outputs: tuple[dict[str, Any], ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, MetricsTableAdded] = field(default_factory=dict)
    last_step: int | None = None
    reason: str | None = None
    message: str | None = None
    hint: str | None = None
    exit_code: int | None = None

    @property
    def number(self) -> int:
        return self.created.number if self.created else 0

    @property
    def config(self) -> dict[str, Any]:
        return self.created.config if self.created else {}

    @property
    def is_attached(self) -> bool:
        """Whether a script of its user trains it, not an agent."""
        return self.created is not None and self.created.device.startswith(ATTACHED)

    def latest_checkpoint(self) -> Checkpoint | None:
        """The complete checkpoint that was completed last."""
        complete = [one for one in self.checkpoints.values() if one.is_complete]
        return complete[-1] if complete else None


def initial() -> Run:
    return Run()


# --- decide ---------------------------------------------------------------------------------------


def decide(run: Run, command: RunCommand) -> list[RunEvent]:
    if isinstance(command, BearRun):
        return _born(run, command)
    if run.created is None or (run.is_deleted and not isinstance(command, DeleteRun)):
        raise TapelineError("no such run", code="not_found", hint="tapeline run ls", data={"kind": "run"})
    match command:
        case CreateJob() | RefuseJob():
            return _job(run, command)
        case HoldBack():
            if run.attempt != command.attempt or run.lease is not None or run.status != Status.JOB_SUBMITTED:
                return []
            return [JobPending(attempt=command.attempt, reason=command.reason, nearest=command.nearest)]
        case GrantLease() | RegrantLease():
            return _granted(run, command)
        case AttachRun():
            return _attached(run, command)
        case ExpireLease():
            if run.lease is None or run.lease.epoch != command.epoch:
                return []
            if run.lease.reclaimed and run.status == Status.JOB_UNKNOWN:
                # The end that was promised did not come.
                return _failed(run, "lease_lost", "the agent reclaimed the run and did not say how it ended")
            return [LeaseExpired(epoch=command.epoch, cause=command.cause)]
        case GiveUp():
            if run.status != Status.JOB_UNKNOWN or run.lease is not None or run.epoch != command.epoch:
                return []
            restart = _auto_restart(run, command.reason)
            if restart is not None:
                return [restart]
            return [JobFailed(reason="lease_lost", message="the agent was not heard in time", last_step=run.last_step)]
        case Overdue():
            if run.attempt != command.attempt or run.lease is not None or run.status not in _WAITING:
                return []
            return [JobFailed(reason="unschedulable", message=command.message)]
        case TakeReport():
            return _reported(run, command)
        case StopRun():
            return _stopped(run, command.at, command.grace_s, "user", "stop")
        case PauseRun():
            if run.lease is None and run.status not in FINISHED:
                raise _conflict(run, "pause", frozenset({Status.JOB_RUNNING}), hint=f"tapeline run stop {run.number}")
            return _stopped(run, command.at, command.grace_s, "pause", "pause")
        case ResumeRun():
            return [_restarted(run, command, "resume")]
        case RestartRun():
            return [_restarted(run, command, "restart")]
        case DeleteRun():
            return _deleted(run, command)
        case SetNotes():
            return [] if run.notes == command.notes else [NotesChanged(notes=command.notes)]
        case RenameRun():
            return [] if run.name == command.name else [RunRenamed(name=command.name)]
        case DropCheckpoints():
            return _dropped(run, command.ids)
        case Pin():
            found = _checkpoint(run, command.checkpoint_id)
            if found.pinned == command.pinned:
                return []
            return [CheckpointPinned(checkpoint_id=found.id, pinned=command.pinned)]
        case AddRunInput() | AddRunOutput() | SetRunParameters() | KeepTables() | RemoveMetricsTables():
            return _recorded(run, command)
        case _:
            assert_never(command)


def _recorded(
    run: Run, command: AddRunInput | AddRunOutput | SetRunParameters | KeepTables | RemoveMetricsTables
) -> list[RunEvent]:
    match command:
        case AddRunInput():
            if command.value in run.inputs:
                return []
            _check_room(run, "inputs", len(run.inputs), command.value)
            return [RunInputAdded(value=command.value)]
        case AddRunOutput():
            _check_room(run, "outputs", len(run.outputs), command.value)
            return [RunOutputAdded(value=command.value)]
        case SetRunParameters():
            known = run.parameters
            new = {
                name: value for name, value in command.parameters.items() if name not in known or known[name] != value
            }
            if not new:
                return []
            _check_room(run, "parameters", len(known), known | new)
            return [RunParametersSet(new=new, old={name: known[name] for name in new if name in known})]
        case KeepTables():
            new_tables = {table.id: table for table in command.tables if table.id not in run.tables}
            _check_room(run, "tables", len(run.tables) + len(new_tables) - 1, None)
            return [added(table) for table in new_tables.values()]
        case RemoveMetricsTables():
            return [MetricsTableRemoved(table_id=one) for one in dict.fromkeys(command.tables) if one in run.tables]


def _check_room(run: Run, what: str, count: int, value: Any) -> None:
    if count >= MAX_VALUES:
        raise TapelineError(
            f"run r{run.number} has {count} {what}; the limit is {MAX_VALUES}",
            code="too_large",
            hint="keep large data in a metrics table",
        )
    if len(repr(value)) > MAX_VALUE_BYTES:
        raise TapelineError(
            f"{what} of run r{run.number} would take {len(repr(value)) // 1024} KiB; the limit is 64 KiB",
            code="too_large",
            hint="keep large data in a metrics table",
        )


def _born(run: Run, command: BearRun) -> list[RunEvent]:
    if run.created is not None:
        raise TapelineError(f"run r{run.number} exists already", code="already_exists", hint="use a new command_id")
    born = RunCreated(**{field.name: getattr(command, field.name) for field in fields(RunCreated)})
    match command:
        case BearCopy():
            return [born, command.copied, *(added(table) for table in command.tables)]
        case BearFork():
            return [born, command.forked]
        case BearAttached():
            return [born, *_begun(evolve(run, born), command.attached, command.device, -1)]
        case _:
            return [born]


def _attached(run: Run, command: AttachRun) -> list[RunEvent]:
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
    return [*events, again, *_begun(evolve(run, again), given, command.device, command.from_step)]


def _begun(run: Run, given: Attached, device: str, from_step: int) -> list[RunEvent]:
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


def _job(run: Run, command: CreateJob | RefuseJob) -> list[RunEvent]:
    if run.status not in _STARTABLE or run.attempt != command.attempt:
        return []
    if isinstance(command, RefuseJob):
        return [
            JobCreateFailed(
                attempt=command.attempt, code=command.code, message=command.message, hint=command.hint
            )
        ]  # fmt: skip
    fields = command.model_dump(exclude={"command_id", "at", "min_position"})
    return [JobCreated(**fields), JobSubmitted(attempt=command.attempt)]


def _granted(run: Run, command: GrantLease | RegrantLease) -> list[RunEvent]:
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
            raise _conflict(run, "reclaim", frozenset({Status.JOB_UNKNOWN}), hint="drop the run")
        return [
            LeaseGranted(
                attempt=run.attempt, agent=command.agent, device=run.device, epoch=run.epoch + 1,
                ttl_s=command.ttl_s, reclaimed=command.epoch,
            )
        ]  # fmt: skip
    if run.status not in _WAITING:
        raise _conflict(run, "claim", _WAITING, hint="wait for the next offer")
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


def _reported(run: Run, command: TakeReport) -> list[RunEvent]:
    if not check_report(run, command.agent, command.epoch, command.seq):
        return []
    event = command.event
    noted: list[RunEvent] = [ReportNoted(epoch=command.epoch, kind=command.kind)]
    late = isinstance(event, JobStarted | JobTerminateRequested | JobTerminating)
    if late and run.status in (STOPPING | {Status.JOB_UNKNOWN}) and run.status not in LEGAL[type(event)]:
        # What is told is true and comes too late to matter: a stop or a loss of the lease has overtaken it.
        return noted
    if run.status not in LEGAL[type(event)]:
        raise _conflict(run, command.kind, LEGAL[type(event)], hint="the run has moved on; drop the job")
    match event:
        case CheckpointCompleted() if (known := run.checkpoints.get(event.checkpoint_id)) and known.is_complete:
            return noted
        case CheckpointBegun() if event.checkpoint_id in run.checkpoints:
            return noted
        case JobTerminated():
            return [replace(event, reason=run.stop_reason)]
        case JobFailed() if run.status not in STOPPING:
            restart = _auto_restart(run, event.reason)
            return [event] if restart is None else [event, restart]
        case _:
            return [event]


def _failed(run: Run, reason: EndReason, message: str) -> list[RunEvent]:
    return [JobFailed(reason=reason, message=message, last_step=run.last_step)]


def _auto_restart(run: Run, reason: EndReason) -> RunRestartRequested | None:
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


def _stopped(run: Run, at: datetime, grace_s: float, reason: Literal["user", "pause"], verb: str) -> list[RunEvent]:
    if run.status == Status.JOB_TERMINATED:
        return []
    if run.status in FINISHED:
        raise _conflict(run, verb, LEGAL[RunStopRequested], hint=f"tapeline run restart {run.number}")
    deadline = at + timedelta(seconds=grace_s)
    if run.status in STOPPING and run.deadline is not None and deadline >= run.deadline:
        return []
    asked = RunStopRequested(grace_s=grace_s, deadline=deadline, reason=reason)
    if run.lease is None:
        return [asked, JobTerminated(forced=False, reason=reason)]
    return [asked]


def _restarted(run: Run, command: ResumeRun | RestartRun, verb: Literal["resume", "restart"]) -> RunRestartRequested:
    if run.is_attached:
        raise TapelineError(
            f"run r{run.number} is trained by a script of its user, which nobody else can start",
            code="conflict",
            hint=f"start the script again with tl.start(..., resume={str(run.number)!r})",
        )
    if run.status not in FINISHED:
        raise _conflict(run, verb, FINISHED, hint=f"stop it first: tapeline run stop {run.number}")
    latest = run.latest_checkpoint()
    if verb == "resume" and latest is None:
        raise TapelineError(
            f"run r{run.number} has no complete checkpoint to go on from",
            code="conflict",
            hint=f"start it again from step 0: tapeline run restart {run.number}",
        )
    source = command.from_checkpoint
    if source == "latest":
        source = latest.id if latest else None
    elif source is not None and not _checkpoint(run, source).is_complete:
        raise TapelineError(
            f"checkpoint {source} of run r{run.number} is incomplete",
            code="conflict",
            hint=f"the latest complete one is {latest.id}" if latest else "the run has no complete checkpoint",
        )
    return RunRestartRequested(
        auto=False,
        reason=verb,
        attempt=run.attempt + 1,
        from_checkpoint=source,
        device=command.device,
        session_name=command.session_name,
        smartfit=command.smartfit,
        training_epochs=command.epochs,
    )


def _deleted(run: Run, command: DeleteRun) -> list[RunEvent]:
    if run.is_deleted:
        return []
    if run.status in FINISHED:
        return [RunDeleted()]
    if not command.stop:
        raise _conflict(run, "delete", FINISHED, hint="stop it first")
    asked = _stopped(run, command.at, 1.0, "user", "stop")
    return [*asked, RunDeleted()] if run.lease is None else asked


def _dropped(run: Run, ids: list[str]) -> list[RunEvent]:
    latest = run.latest_checkpoint()
    kept = [
        one
        for one in ids
        if (found := run.checkpoints.get(one))
        and (found.pinned or (latest is not None and found.id == latest.id and run.status not in FINISHED))
    ]
    if kept:
        raise TapelineError(
            f"run r{run.number} keeps checkpoints {', '.join(kept)}: pinned, or the newest of a live run",
            code="conflict",
            hint="unpin them, or stop the run first",
            data={"checkpoints": kept},
        )
    return [
        CheckpointDeleted(checkpoint_id=one, policy="user", size_bytes=run.checkpoints[one].size_bytes)
        for one in dict.fromkeys(ids)
        if one in run.checkpoints
    ]


def _checkpoint(run: Run, checkpoint_id: str) -> Checkpoint:
    found = run.checkpoints.get(checkpoint_id)
    if found is None:
        complete = [one.id for one in run.checkpoints.values() if one.is_complete]
        raise TapelineError(
            f"run r{run.number} has no checkpoint {checkpoint_id!r}",
            code="not_found",
            hint=f"complete ones are: {', '.join(complete[-5:])}" if complete else "it has no complete checkpoint",
        )
    return found


def _conflict(run: Run, verb: str, statuses: frozenset[Status], *, hint: str | None = None) -> TapelineError:
    needed = ", ".join(status.value for status in Status if status in statuses)
    return TapelineError(
        f"run r{run.number} is {run.status.value}; {verb} needs one of {needed}", code="conflict", hint=hint
    )


# --- evolve ---------------------------------------------------------------------------------------


def evolve(run: Run, event: RunEvent) -> Run:
    run = replace(run, status=status_after(run.status, event))
    match event:
        case RunCreated():
            return replace(
                run, created=event, name=event.name, notes=event.notes, device=event.device, attempt=1,
                session_name=event.session_name,
            )  # fmt: skip
        case JobCreated():
            return replace(run, attempt=event.attempt, session_name=event.session_name, spec=event.spec)
        case JobCreateFailed():
            return replace(run, reason=event.code, message=event.message, hint=event.hint)
        case JobSubmitted():
            return run
        case JobPending():
            return replace(run, reason=event.reason, message=event.nearest)
        case LeaseGranted():
            lease = Lease(event.agent, event.device, event.epoch, event.ttl_s, event.reclaimed is not None)
            return replace(
                run, lease=lease, epoch=event.epoch, reports=0, device=event.device, reason=None, message=None,
                holder=event.agent, holders=run.holders | {event.agent},
            )  # fmt: skip
        case LeaseExpired():
            told = 1 if event.cause == LEASE_CLOSED else 0
            return replace(run, lease=None, reports=run.reports + told, reason="lease_lost")
        case JobStarted():
            return replace(_told(run), last_step=event.global_step)
        case RunStopRequested():
            earlier = event.deadline if run.deadline is None else min(run.deadline, event.deadline)
            return replace(run, deadline=earlier, stop_reason=event.reason)
        case JobTerminateRequested() | JobTerminating() | ReportNoted():
            return _told(run)
        case JobTerminated():
            step = run.last_step if event.last_step is None else event.last_step
            return replace(
                _told(run), lease=None, reason=event.reason, message=None, exit_code=event.exit_code, last_step=step
            )
        case JobCompleted():
            return replace(
                _told(run),
                lease=None,
                reason=None,
                message=None,
                exit_code=event.exit_code,
                last_step=event.global_step,
            )
        case JobFailed():
            step = run.last_step if event.last_step is None else event.last_step
            return replace(
                _told(run), lease=None, reason=event.reason, message=event.message, exit_code=event.exit_code,
                last_step=step, stalls=run.stalls + (event.reason == "stalled"),
            )  # fmt: skip
        case RunRestartRequested():
            counted = event.auto and event.reason != "agent_shutdown"
            return replace(
                run, restart=event, attempt=event.attempt, spec=None, deadline=None, stop_reason="user",
                device=_wanted(run, event), session_name=event.session_name, exit_code=None,
                restarts=run.restarts + 1 if counted else (run.restarts if event.auto else 0),
                restarts_ever=run.restarts_ever + event.auto,
                stalls=run.stalls if event.auto else 0,
            )  # fmt: skip
        case RunDeleted():
            return replace(run, is_deleted=True)
        case RunRenamed():
            return replace(run, name=event.name)
        case NotesChanged():
            return replace(run, notes=event.notes)
        case CheckpointBegun():
            begun = Checkpoint(event.checkpoint_id, event.attempt, event.global_step)
            return replace(_told(run), checkpoints=run.checkpoints | {begun.id: begun})
        case CheckpointCompleted():
            return _completed(run, event)
        case CheckpointDeleted():
            left = {id: one for id, one in run.checkpoints.items() if id != event.checkpoint_id}
            return replace(run, checkpoints=left)
        case CheckpointPinned():
            found = run.checkpoints.get(event.checkpoint_id)
            if found is None:
                return run
            return replace(run, checkpoints=run.checkpoints | {found.id: replace(found, pinned=event.pinned)})
        case RunForked():
            forked = Checkpoint(event.checkpoint_id, 0, event.global_step, tuple(event.files))
            return replace(run, forked=forked)
        case RunCopied():
            return replace(
                run, attempt=event.attempt, inputs=tuple(event.inputs), outputs=tuple(event.outputs),
                parameters=dict(event.parameters),
            )  # fmt: skip
        case RunInputAdded():
            return replace(run, inputs=(*run.inputs, event.value))
        case RunOutputAdded():
            return replace(run, outputs=(*run.outputs, event.value))
        case RunParametersSet():
            return replace(run, parameters=run.parameters | event.new)
        case MetricsTableAdded():
            return replace(run, tables=run.tables | {event.table_id: event})
        case MetricsTableRemoved():
            return replace(run, tables={id: one for id, one in run.tables.items() if id != event.table_id})
        case _:
            assert_never(event)


def _told(run: Run) -> Run:
    """The agent's next report carries the next number."""
    return replace(run, reports=run.reports + 1) if run.lease is not None else run


def _wanted(run: Run, event: RunRestartRequested) -> str:
    """The device that a new attempt asks for: what is given now, or was given at the start."""
    first = run.created.device if run.created else "any"
    if event.device is not None or not event.auto:
        return event.device or first
    asked = run.restart.device if run.restart is not None and run.restart.device else first
    return asked


def _completed(run: Run, event: CheckpointCompleted) -> Run:
    pinned = event.checkpoint_id in run.checkpoints and run.checkpoints[event.checkpoint_id].pinned
    done = Checkpoint(event.checkpoint_id, event.attempt, event.global_step, tuple(event.files), pinned)
    others = {id: one for id, one in run.checkpoints.items() if id != done.id}
    step = max(run.last_step or 0, event.global_step)
    # A complete checkpoint gives the whole budget of restarts back.
    return replace(_told(run), checkpoints=others | {done.id: done}, last_step=step, restarts=0)
