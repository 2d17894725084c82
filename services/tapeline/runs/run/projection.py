"""Events of runs to rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Table

from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.records import (
    RECORD_EVENTS,
    MetricsTableAdded,
    MetricsTableRemoved,
    RunCopied,
    RunInputAdded,
    RunOutputAdded,
    RunParametersSet,
)
from tapeline.contracts.runs import (
    STATUS_AFTER,
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
    LeaseExpired,
    LeaseGranted,
    NotesChanged,
    RunCreated,
    RunDeleted,
    RunRenamed,
    RunRestartRequested,
    RunStopRequested,
    Status,
    status_after,
)
from tapeline.log import StoredEvent
from tapeline.projections import Key, Row, Rows
from tapeline.runs.moments import us_of
from tapeline.runs.run.tables import artifacts, attempts, checkpoints, run_events, run_records, run_tables, runs

_encode = msgspec.json.Encoder().encode
OF_CHECKPOINTS = frozenset({CheckpointBegun, CheckpointCompleted, CheckpointDeleted, CheckpointPinned})
OF_RECORDS = frozenset(RECORD_EVENTS)
_STATUS_AFTER = {of: status.value for of, status in STATUS_AFTER.items()}
NOT_OF_A_RUN = frozenset({"NameClaimed", "NameReleased", "NumberTaken"})


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    """The rows that an event of a run touches."""
    if event.type in NOT_OF_A_RUN:
        return ()
    ref = event.ref
    of_run = (runs, (ref.team, ref.id))
    if type(event.data) in OF_CHECKPOINTS:
        return (of_run, (checkpoints, (ref.team, event.data.checkpoint_id)))
    if type(event.data) in OF_RECORDS:
        return (of_run, (run_records, (ref.team, ref.id)))
    return (of_run,)


def apply(rows: Rows, event: StoredEvent) -> None:
    """Fold one event of a run into its rows."""
    kind = event.type
    if kind in NOT_OF_A_RUN:
        return
    ref, data, at = event.ref, event.data, us_of(event.created_at)
    team, run_id, of = ref.team, ref.id, type(data)
    if of is RunCreated:
        row = _born(event, at)
        rows.put(runs, row)
    else:
        found = rows.edit(runs, team, run_id)
        if found is None:
            return
        row = found
        before = row["status"]
        after = _STATUS_AFTER.get(of) or status_after(Status(before), data).value
        if after != before:
            row["status"], row["status_updated_us"], row["status_event"] = after, at, event.id
        change = _CHANGES.get(of)
        if change is not None:
            change(row, data, at)
        elif of in OF_CHECKPOINTS:
            _apply_checkpoint(rows, event, row, at)
        elif of in OF_RECORDS:
            _apply_record(rows, event, row, at)
    rows.add(
        run_events,
        {
            "team": team, "run_id": run_id, "sequence": event.sequence, "id": event.id, "created_us": at,
            "status": row["status"], "type": kind, "details": _details(kind, event.actor, data),
            "position": event.position,
        },
    )  # fmt: skip
    if of is JobStarted:
        from_step = -1 if data.resume == "none" else data.global_step
        rows.put(attempts, {"team": team, "run_id": run_id, "attempt": row["attempt"], "from_step": from_step})


def _details(kind: str, actor: str, data: Any) -> msgspec.Raw:
    """Type and actor with the event's own fields, as the JSON that is stored: made once, and not read again."""
    own = _encode(data)
    begun = _begun(kind, actor)
    return msgspec.Raw(b"%b}" % begun if own == b"{}" else b"%b,%b" % (begun, own[1:]))


@lru_cache(maxsize=4096)
def _begun(kind: str, actor: str) -> bytes:
    return _encode({"type": kind, "actor": actor})[:-1]


def _born(event: StoredEvent, at: int) -> Row:
    data: RunCreated = event.data
    return {
        "team": event.ref.team, "id": event.ref.id, "number": data.number, "name": data.name,
        "name_lower": data.name.lower(), "version": data.version, "project_id": data.project_id,
        "blueprint_id": data.blueprint_id, "task_type": data.task_type, "user_id": data.user,
        "resources": data.resources, "config": data.config, "notes": data.notes, "created_us": at,
        "status": Status.RUN_CREATED.value, "status_updated_us": at, "status_event": event.id,
        "priority": data.priority, "wanted_device": data.device, "attempt": 1, "session_name": data.session_name,
        "epoch": 0, "is_deleted": False, "due_us": at,
    }  # fmt: skip


# --- what an event changes of its run ---------------------------------------------------------------


def _job_created(row: Row, data: JobCreated, at: int) -> None:
    row["attempt"], row["session_name"] = data.attempt, data.session_name


def _job_create_failed(row: Row, data: JobCreateFailed, at: int) -> None:
    row["reason"], row["message"], row["hint"] = data.code, data.message, data.hint


def _job_submitted(row: Row, data: JobSubmitted, at: int) -> None:
    row["submitted_us"] = at
    row["reason"] = row["message"] = row["hint"] = None


def _job_pending(row: Row, data: JobPending, at: int) -> None:
    row["reason"], row["message"] = data.reason, data.nearest


def _lease_granted(row: Row, data: LeaseGranted, at: int) -> None:
    row["agent"], row["device"], row["epoch"], row["lease_ttl_s"] = data.agent, data.device, data.epoch, data.ttl_s
    row["lost_cause"] = row["reason"] = row["message"] = None


def _lease_expired(row: Row, data: LeaseExpired, at: int) -> None:
    row["lease_ttl_s"], row["lost_cause"], row["reason"] = None, data.cause, "lease_lost"


def _job_started(row: Row, data: JobStarted, at: int) -> None:
    row["last_step"] = data.global_step


def _stop_requested(row: Row, data: RunStopRequested, at: int) -> None:
    deadline = us_of(data.deadline)
    row["deadline_us"] = min(row["deadline_us"] or deadline, deadline)
    row["stop_reason"] = data.reason


def _job_terminated(row: Row, data: JobTerminated, at: int) -> None:
    row["lease_ttl_s"], row["reason"], row["message"], row["exit_code"] = None, data.reason, None, data.exit_code
    if data.last_step is not None:
        row["last_step"] = data.last_step


def _job_completed(row: Row, data: JobCompleted, at: int) -> None:
    row["lease_ttl_s"], row["reason"], row["message"], row["exit_code"] = None, None, None, data.exit_code
    row["last_step"] = data.global_step


def _job_failed(row: Row, data: JobFailed, at: int) -> None:
    row["lease_ttl_s"], row["reason"], row["message"] = None, data.reason, data.message
    row["exit_code"] = data.exit_code
    if data.last_step is not None:
        row["last_step"] = data.last_step


def _restart_requested(row: Row, data: RunRestartRequested, at: int) -> None:
    row |= {
        "attempt": data.attempt, "session_name": data.session_name, "due_us": at + int(data.delay_s * 1e6),
        "deadline_us": None, "stop_reason": None, "exit_code": None, "device": None, "agent": None,
        "reason": data.reason, "message": None, "hint": None,
    }  # fmt: skip
    if data.device is not None:
        row["wanted_device"] = data.device


def _deleted(row: Row, data: RunDeleted, at: int) -> None:
    row["is_deleted"] = True


def _renamed(row: Row, data: RunRenamed, at: int) -> None:
    row["name"], row["name_lower"] = data.name, data.name.lower()


def _notes_changed(row: Row, data: NotesChanged, at: int) -> None:
    row["notes"] = data.notes


_CHANGES: dict[type, Callable[[Row, Any, int], None]] = {
    JobCreated: _job_created,
    JobCreateFailed: _job_create_failed,
    JobSubmitted: _job_submitted,
    JobPending: _job_pending,
    LeaseGranted: _lease_granted,
    LeaseExpired: _lease_expired,
    JobStarted: _job_started,
    RunStopRequested: _stop_requested,
    JobTerminated: _job_terminated,
    JobCompleted: _job_completed,
    JobFailed: _job_failed,
    RunRestartRequested: _restart_requested,
    RunDeleted: _deleted,
    RunRenamed: _renamed,
    NotesChanged: _notes_changed,
}


def _apply_record(rows: Rows, event: StoredEvent, run: Row, at: int) -> None:
    team, run_id, data = event.ref.team, event.ref.id, event.data
    match data:
        case MetricsTableAdded():
            fields = {name: getattr(data, name) for name in _OF_TABLES}
            file, key = _file(data.file), {"team": team, "run_id": run_id}
            rows.put(run_tables, key | fields | {"file": file, "sequence": event.sequence, "created_us": at})
            rows.put(artifacts, {"team": team, "sha256": data.file.sha256, "size_bytes": data.file.size_bytes})
            return
        case MetricsTableRemoved():
            rows.delete(run_tables, team, run_id, data.table_id)
            return
        case RunCopied():
            run["attempt"] = data.attempt
            for i, start in enumerate(data.starts, start=1):
                from_step = None if start < -1 else start
                rows.put(attempts, {"team": team, "run_id": run_id, "attempt": i, "from_step": from_step})
    kept = rows.get(run_records, team, run_id) or {
        "team": team, "run_id": run_id, "inputs": [], "outputs": [], "parameters": {}, "source": None,
    }  # fmt: skip
    match data:
        case RunCopied():
            kept |= {
                "inputs": data.inputs, "outputs": data.outputs, "parameters": data.parameters, "source": data.source,
            }  # fmt: skip
        case RunInputAdded():
            kept["inputs"] = [*kept["inputs"], data.value]
        case RunOutputAdded():
            kept["outputs"] = [*kept["outputs"], data.value]
        case RunParametersSet():
            kept["parameters"] = kept["parameters"] | data.new
        case _:  # a fork
            kept["source"] = data.source
    rows.put(run_records, kept)


_OF_TABLES = ("table_id", "name", "rows", "columns", "stream_name", "foreign_table_url", "foreign_table_display_name")


def _file(file: Artifact) -> dict[str, Any]:
    return {"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256}


def _apply_checkpoint(rows: Rows, event: StoredEvent, run: Row, at: int) -> None:
    team, data = event.ref.team, event.data
    match data:
        case CheckpointBegun():
            rows.put(
                checkpoints,
                {
                    "team": team, "id": data.checkpoint_id, "run_id": event.ref.id, "project_id": run["project_id"],
                    "global_step": data.global_step, "attempt": data.attempt, "created_us": at,
                    "status": "incomplete", "status_updated_us": at, "pinned": False,
                },
            )  # fmt: skip
        case CheckpointCompleted():
            begun = rows.get(checkpoints, team, data.checkpoint_id) or {"created_us": at, "pinned": False}
            rows.put(
                checkpoints,
                begun
                | {
                    "team": team, "id": data.checkpoint_id, "run_id": event.ref.id, "project_id": run["project_id"],
                    "global_step": data.global_step, "attempt": data.attempt, "training_epoch": data.training_epoch,
                    "status": "complete", "status_updated_us": at, "monitored": data.monitored,
                    "files": [_file(file) for file in data.files],
                },
            )  # fmt: skip
            for file in data.files:
                rows.put(artifacts, {"team": team, "sha256": file.sha256, "size_bytes": file.size_bytes})
            run["last_step"] = max(run.get("last_step") or 0, data.global_step)
        case CheckpointPinned():
            rows.change(checkpoints, team, data.checkpoint_id, pinned=data.pinned)
        case CheckpointDeleted():
            rows.delete(checkpoints, team, data.checkpoint_id)
        case _:
            return
