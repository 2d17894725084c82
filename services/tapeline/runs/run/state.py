"""A run as of its last event, how each event changes it, and how a command is refused that it does not admit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, assert_never

from tapeline.contracts.archives import MetricsArchived, MetricsPurged
from tapeline.contracts.metrics import ATTACHED
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
    CheckpointBegun,
    CheckpointCompleted,
    CheckpointDeleted,
    CheckpointPinned,
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
    ReportNoted,
    RunCreated,
    RunDeleted,
    RunEvent,
    RunRenamed,
    RunRestartRequested,
    RunStopRequested,
    Status,
    status_after,
)
from tapeline.errors import TapelineError
from tapeline.runs.run.transitions import LEASE_CLOSED


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
    archived: MetricsArchived | None = None
    purged: MetricsPurged | None = None
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


_NOTHING = Run()


def initial() -> Run:
    return _NOTHING


def conflict(run: Run, verb: str, statuses: frozenset[Status], *, hint: str | None = None) -> TapelineError:
    """What refuses a verb that needs the run to be in one of `statuses`."""
    needed = f"one of {', '.join(status.value for status in Status if status in statuses)}"
    if statuses == frozenset(Status) - FINISHED:
        needed = "a run that has not ended"
    elif statuses == FINISHED:
        needed = "a run that has ended"
    return TapelineError(f"run r{run.number} is {run.status.value}; {verb} needs {needed}", code="conflict", hint=hint)


def evolve(run: Run, event: RunEvent) -> Run:
    after = status_after(run.status, event)
    if after is not run.status:
        run = replace(run, status=after)
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
        case MetricsArchived():
            return replace(run, archived=event)
        case MetricsPurged():
            return replace(run, purged=event)
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
