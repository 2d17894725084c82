"""The life of a run as a decider: what each command leads to.

Which events may follow which is in `transitions`, how they change a run in `state`, and what the holder of a run
may do in `lease`.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, Literal, assert_never

from tapeline.contracts.archives import MetricsPurged, PurgeMetrics
from tapeline.contracts.records import (
    MAX_VALUE_BYTES,
    MAX_VALUES,
    AddRunInput,
    AddRunOutput,
    MetricsTableRemoved,
    RemoveMetricsTables,
    RunInputAdded,
    RunOutputAdded,
    RunParametersSet,
    SetRunParameters,
    added,
)
from tapeline.contracts.runs import (
    FINISHED,
    STOPPING,
    CheckpointDeleted,
    CheckpointPinned,
    DeleteRun,
    JobFailed,
    JobPending,
    JobTerminated,
    LeaseExpired,
    NotesChanged,
    PauseRun,
    RenameRun,
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
)
from tapeline.errors import TapelineError
from tapeline.runs.run.commands import (
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
    KeepArchive,
    KeepTables,
    Overdue,
    Pin,
    RefuseJob,
    RegrantLease,
    RunCommand,
    TakeReport,
)
from tapeline.runs.run.lease import attached, auto_restart, begun, failed, granted, job, reported
from tapeline.runs.run.lease import check_epoch as check_epoch
from tapeline.runs.run.lease import check_report as check_report
from tapeline.runs.run.state import Checkpoint as Checkpoint
from tapeline.runs.run.state import Lease as Lease
from tapeline.runs.run.state import Run as Run
from tapeline.runs.run.state import conflict
from tapeline.runs.run.state import evolve as evolve
from tapeline.runs.run.state import initial as initial
from tapeline.runs.run.transitions import LEASE_CLOSED as LEASE_CLOSED
from tapeline.runs.run.transitions import LEGAL as LEGAL
from tapeline.runs.run.transitions import MAX_RESTARTS_EVER as MAX_RESTARTS_EVER
from tapeline.runs.run.transitions import NEEDS_LEASE as NEEDS_LEASE
from tapeline.runs.run.transitions import WAITING


def decide(run: Run, command: RunCommand) -> list[RunEvent]:
    if isinstance(command, BearRun):
        return _born(run, command)
    if run.created is None or (run.is_deleted and not isinstance(command, DeleteRun | KeepArchive | PurgeMetrics)):
        raise TapelineError("no such run", code="not_found", hint="tapeline run ls", data={"kind": "run"})
    match command:
        case CreateJob() | RefuseJob():
            return job(run, command)
        case HoldBack():
            if run.attempt != command.attempt or run.lease is not None or run.status != Status.JOB_SUBMITTED:
                return []
            return [JobPending(attempt=command.attempt, reason=command.reason, nearest=command.nearest)]
        case GrantLease() | RegrantLease():
            return granted(run, command)
        case AttachRun():
            return attached(run, command)
        case ExpireLease():
            if run.lease is None or run.lease.epoch != command.epoch:
                return []
            if run.lease.reclaimed and run.status == Status.JOB_UNKNOWN:
                # The end that was promised did not come.
                return failed(run, "lease_lost", "the agent reclaimed the run and did not say how it ended")
            return [LeaseExpired(epoch=command.epoch, cause=command.cause)]
        case GiveUp():
            if run.status != Status.JOB_UNKNOWN or run.lease is not None or run.epoch != command.epoch:
                return []
            restart = auto_restart(run, command.reason)
            if restart is not None:
                return [restart]
            return [JobFailed(reason="lease_lost", message="the agent was not heard in time", last_step=run.last_step)]
        case Overdue():
            if run.attempt != command.attempt or run.lease is not None or run.status not in WAITING:
                return []
            return [JobFailed(reason="unschedulable", message=command.message)]
        case TakeReport():
            return reported(run, command)
        case StopRun():
            return _stopped(run, command.at, command.grace_s, "user", "stop")
        case PauseRun():
            if run.lease is None and run.status not in FINISHED:
                raise conflict(run, "pause", frozenset({Status.JOB_RUNNING}), hint=f"tapeline run stop {run.number}")
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
        case KeepArchive() | PurgeMetrics():
            return _put_away(run, command)
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


def _put_away(run: Run, command: KeepArchive | PurgeMetrics) -> list[RunEvent]:
    """What becomes of points that nobody adds to any more; also of a run that is deleted."""
    check_put_away(run, "archiving its points" if isinstance(command, KeepArchive) else "purging its batches")
    match command:
        case KeepArchive():
            return [] if run.archived == command.archived else [command.archived]
        case PurgeMetrics():
            if run.archived is None or run.archived.manifest.sha256 != command.manifest:
                raise TapelineError(
                    f"the points of run r{run.number} are not archived" if run.archived is None else
                    f"the archive of run r{run.number} is another one by now",
                    code="conflict",
                    hint=f"tapeline metrics archive {run.number}" if run.archived is None else "repeat the purge",
                )  # fmt: skip
            if run.purged is not None and run.purged.before >= command.before:
                return []
            return [
                MetricsPurged(
                    before=command.before, messages=command.messages, points=command.points, manifest=command.manifest
                )
            ]


def check_put_away(run: Run, verb: str) -> None:
    """Refuse what is done only to the points of a run that has ended."""
    if run.created is None:
        raise TapelineError("no such run", code="not_found", hint="tapeline run ls", data={"kind": "run"})
    if run.status not in FINISHED:
        raise conflict(run, verb, FINISHED, hint=f"wait for its end, or tapeline run stop {run.number}")


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


_BORN_WITH = tuple(field.name for field in fields(RunCreated))


def _born(run: Run, command: BearRun) -> list[RunEvent]:
    if run.created is not None:
        raise TapelineError(f"run r{run.number} exists already", code="already_exists", hint="use a new command_id")
    born = RunCreated(**{name: getattr(command, name) for name in _BORN_WITH})
    match command:
        case BearCopy():
            return [born, command.copied, *(added(table) for table in command.tables)]
        case BearFork():
            return [born, command.forked]
        case BearAttached():
            return [born, *begun(evolve(run, born), command.attached, command.device, -1)]
        case _:
            return [born]


def _stopped(run: Run, at: datetime, grace_s: float, reason: Literal["user", "pause"], verb: str) -> list[RunEvent]:
    if run.status == Status.JOB_TERMINATED:
        return []
    if run.status in FINISHED:
        raise conflict(run, verb, LEGAL[RunStopRequested], hint=_again(run))
    deadline = at + timedelta(seconds=grace_s)
    if run.status in STOPPING and run.deadline is not None and deadline >= run.deadline:
        return []
    asked = RunStopRequested(grace_s=grace_s, deadline=deadline, reason=reason)
    if run.lease is None:
        return [asked, JobTerminated(forced=False, reason=reason)]
    return [asked]


def _again(run: Run) -> str:
    """How a run that has ended is begun once more."""
    if run.is_attached:
        return f"start the script again with tl.start(..., resume={str(run.number)!r})"
    return f"tapeline run restart {run.number}"


def _restarted(run: Run, command: ResumeRun | RestartRun, verb: Literal["resume", "restart"]) -> RunRestartRequested:
    if run.is_attached:
        raise TapelineError(
            f"run r{run.number} is trained by a script of its user, which nobody else can start",
            code="conflict",
            hint=_again(run),
        )
    if run.status not in FINISHED:
        raise conflict(run, verb, FINISHED, hint=f"stop it first: tapeline run stop {run.number}")
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
        raise conflict(run, "delete", FINISHED, hint="stop it first")
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
