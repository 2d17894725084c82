"""Commands of the runs service to itself: what handlers and the dispatcher ask of a run."""

from __future__ import annotations

from typing import Any, Literal

from tapeline.contracts.message import Command
from tapeline.contracts.runs import (
    CheckpointBegun,
    CheckpointCompleted,
    DeleteRun,
    EndReason,
    JobCompleted,
    JobFailed,
    JobStarted,
    JobTerminated,
    JobTerminateRequested,
    JobTerminating,
    LeaseExpired,
    PauseRun,
    RenameRun,
    RestartRun,
    ResumeRun,
    SetNotes,
    StopRun,
)

AgentEvent = (
    JobStarted
    | JobTerminateRequested
    | JobTerminating
    | JobTerminated
    | JobCompleted
    | JobFailed
    | LeaseExpired
    | CheckpointBegun
    | CheckpointCompleted
)
"""What an agent's report stands for."""


class BearRun(Command):
    """From the handler of `runs.create` and `runs.train`: everything is checked, the number is taken."""

    number: int
    name: str
    version: str
    project_id: str
    blueprint_id: str
    task_type: str
    resources: dict[str, Any]
    config: dict[str, Any]
    user: str
    device: str
    priority: int
    session_name: str | None
    notes: str | None


class CreateJob(Command):
    """From the dispatcher: the attempt's start specification is complete."""

    attempt: int
    session_name: str
    seed: int
    spec: dict[str, Any]
    canvas_digest: str | None = None
    asset_id: str | None = None
    asset_digest: str | None = None
    from_checkpoint: str | None = None


class RefuseJob(Command):
    """From the dispatcher: something that the attempt names is missing or refused."""

    attempt: int
    code: str
    message: str
    hint: str | None = None


class HoldBack(Command):
    """From the dispatcher: no device is free, or none fits."""

    attempt: int
    reason: str
    nearest: str | None = None


class GrantLease(Command):
    """From the handler of an agent's claim."""

    attempt: int
    agent: str
    device: str
    ttl_s: float


class RegrantLease(Command):
    """From the handler of an agent's reclaim: its child had ended before `epoch` was lost."""

    agent: str
    epoch: int
    ttl_s: float


class ExpireLease(Command):
    """From the sweeper, or from an announcement of a newer boot that no longer holds the run."""

    epoch: int
    cause: Literal["not_renewed", "agent_restarted"]


class GiveUp(Command):
    """From the sweeper: nobody has reclaimed a lost run in time."""

    epoch: int
    reason: EndReason = "lease_lost"


class Overdue(Command):
    """From the dispatcher: the run has waited for a device longer than it may."""

    attempt: int
    message: str


class TakeReport(Command):
    """From the handler of an agent's report: what happened, as the event that it stands for."""

    agent: str
    epoch: int
    seq: int
    kind: str
    event: AgentEvent


class DropCheckpoints(Command):
    """From the handler of `runs.delete_checkpoints`: all of these, or none."""

    ids: list[str]


class Pin(Command):
    """From the handler of `runs.pin`."""

    checkpoint_id: str
    pinned: bool


RunCommand = (
    BearRun
    | CreateJob
    | RefuseJob
    | HoldBack
    | GrantLease
    | RegrantLease
    | ExpireLease
    | GiveUp
    | Overdue
    | TakeReport
    | StopRun
    | PauseRun
    | ResumeRun
    | RestartRun
    | DeleteRun
    | SetNotes
    | RenameRun
    | DropCheckpoints
    | Pin
)
