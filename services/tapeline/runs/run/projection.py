"""Events of runs to rows."""

from __future__ import annotations

from collections.abc import Iterable
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
    team, run_id = ref.team, ref.id
    is_born = isinstance(data, RunCreated)
    row = _born(event, at) if is_born else rows.get(runs, team, run_id)
    if row is None:
        return
    before = row["status"]
    after = Status.RUN_CREATED.value if is_born else status_after(Status(before), data).value
    if after != before or is_born:
        row["status"], row["status_updated_us"], row["status_event"] = after, at, event.id
    _change(row, data, at)
    if type(data) in OF_CHECKPOINTS:
        _apply_checkpoint(rows, event, row, at)
    elif type(data) in OF_RECORDS:
        _apply_record(rows, event, row, at)
    rows.put(runs, row)
    rows.put(
        run_events,
        {
            "team": team,
            "run_id": run_id,
            "sequence": event.sequence,
            "id": event.id,
            "created_us": at,
            "status": after,
            "type": kind,
            "details": _details(kind, event.actor, data),
            "position": event.position,
        },
    )
    if isinstance(data, JobStarted):
        from_step = -1 if data.resume == "none" else data.global_step
        rows.put(attempts, {"team": team, "run_id": run_id, "attempt": row["attempt"], "from_step": from_step})


def _details(kind: str, actor: str, data: Any) -> msgspec.Raw:
    """Type and actor with the event's own fields, as the JSON that is stored: made once, and not read again."""
    whole = _encode({"type": kind, "actor": actor})
    own = _encode(data)
    return msgspec.Raw(whole if own == b"{}" else b"%b,%b" % (whole[:-1], own[1:]))


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


def _change(row: Row, data: Any, at: int) -> None:
    match data:
        case JobCreated():
            row |= {"attempt": data.attempt, "session_name": data.session_name}
        case JobCreateFailed():
            row |= {"reason": data.code, "message": data.message, "hint": data.hint}
        case JobSubmitted():
            row |= {"submitted_us": at, "reason": None, "message": None, "hint": None}
        case JobPending():
            row |= {"reason": data.reason, "message": data.nearest}
        case LeaseGranted():
            row |= {
                "agent": data.agent, "device": data.device, "epoch": data.epoch, "lease_ttl_s": data.ttl_s,
                "lost_cause": None, "reason": None, "message": None,
            }  # fmt: skip
        case LeaseExpired():
            row |= {"lease_ttl_s": None, "lost_cause": data.cause, "reason": "lease_lost"}
        case JobStarted():
            row["last_step"] = data.global_step
        case RunStopRequested():
            deadline = us_of(data.deadline)
            earlier = min(row.get("deadline_us") or deadline, deadline)
            row |= {"deadline_us": earlier, "stop_reason": data.reason}
        case JobTerminated():
            row |= {"lease_ttl_s": None, "reason": data.reason, "message": None, "exit_code": data.exit_code}
            if data.last_step is not None:
                row["last_step"] = data.last_step
        case JobCompleted():
            row |= {"lease_ttl_s": None, "reason": None, "message": None, "exit_code": data.exit_code}
            row["last_step"] = data.global_step
        case JobFailed():
            row |= {"lease_ttl_s": None, "reason": data.reason, "message": data.message, "exit_code": data.exit_code}
            if data.last_step is not None:
                row["last_step"] = data.last_step
        case RunRestartRequested():
            row |= {
                "attempt": data.attempt, "session_name": data.session_name, "due_us": at + int(data.delay_s * 1e6),
                "deadline_us": None, "stop_reason": None, "exit_code": None, "device": None, "agent": None,
                "reason": data.reason, "message": None, "hint": None,
            }  # fmt: skip
            if data.device is not None:
                row["wanted_device"] = data.device
        case RunDeleted():
            row["is_deleted"] = True
        case RunRenamed():
            row |= {"name": data.name, "name_lower": data.name.lower()}
        case NotesChanged():
            row["notes"] = data.notes
        case _:
            return


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
