"""Commands of the runs service to itself: what handlers and the dispatcher ask of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, Self

from tapeline.contracts.archives import MetricsArchived, PurgeMetrics
from tapeline.contracts.message import Command, Lossy, Message, Told
from tapeline.contracts.records import (
    AddRunInput,
    AddRunOutput,
    MetricsTableAdded,
    MetricsTableView,
    RemoveMetricsTables,
    RunCopied,
    RunForked,
    SetRunParameters,
    view_of_table,
)
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
    LeaseGranted,
    PauseRun,
    RenameRun,
    ReportNoted,
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

_KINDS: dict[type, str] = {
    JobStarted: "started", JobTerminateRequested: "terminate_requested", JobTerminating: "terminating",
    JobTerminated: "terminated", JobCompleted: "completed", JobFailed: "failed", LeaseExpired: "lease_lost",
    CheckpointBegun: "checkpoint_begun", CheckpointCompleted: "checkpoint",
}  # fmt: skip
_REPORT = re.compile(r"-e([0-9]+)-s([0-9]+)$")
"""How agents number their reports in the ids of their commands: lease epoch, and sequence within it."""


class Attached(Message):
    """Who trains a run in a process of their own, under which lease."""

    holder: str
    ttl_s: float
    pid: int

    @classmethod
    def told(cls, events: Sequence[Told]) -> Self | None:
        """What the events of one commit tell of it; None where they grant no lease."""
        granted = next((each.data for each in events if isinstance(each.data, LeaseGranted)), None)
        started = next((each.data for each in events if isinstance(each.data, JobStarted)), None)
        if granted is None or started is None:
            return None
        return cls(holder=granted.agent, ttl_s=granted.ttl_s, pid=started.pid)


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

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class BearAttached(BearRun):
    """From the handler of `runs.start`: the birth of a run that a script of its user trains from now on."""

    attached: Attached

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], attached=Attached.told(events))


class AttachRun(Command):
    """From the handler of `runs.start`: a script goes on with a run that it trained before.

    With `attempt` it takes up again what it lost while nobody heard it; without, it begins the next one.
    """

    attached: Attached
    device: str
    from_step: int
    attempt: int | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        attached = Attached.told(events)
        granted = next((each.data for each in events if isinstance(each.data, LeaseGranted)), None)
        started = next((each.data for each in events if isinstance(each.data, JobStarted)), None)
        if attached is None or granted is None or started is None:
            raise Lossy("no lease was granted")
        return cls(
            attached=attached,
            device=granted.device,
            from_step=-1 if started.resume == "none" else started.global_step,
            attempt=granted.attempt if granted.reclaimed is not None else None,
        )


class BearCopy(BearRun):
    """From the handler of `runs.copy`: the birth of a run with what its source had kept."""

    copied: RunCopied
    tables: list[MetricsTableView]

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        tables = [view_of_table(one.ref.id, one.data) for one in events if isinstance(one.data, MetricsTableAdded)]
        return cls.of(events[0], copied=events[1].data, tables=tables)


class BearFork(BearRun):
    """From the handler of `runs.fork`: the birth of a run that begins with another one's checkpoint."""

    forked: RunForked

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], forked=events[1].data)


class KeepTables(Command):
    """From the handlers of metrics tables: their files are in the store."""

    tables: list[MetricsTableView]

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(tables=[view_of_table(one.ref.id, one.data) for one in events])


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

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class RefuseJob(Command):
    """From the dispatcher: something that the attempt names is missing or refused."""

    attempt: int
    code: str
    message: str
    hint: str | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class HoldBack(Command):
    """From the dispatcher: no device is free, or none fits."""

    attempt: int
    reason: str
    nearest: str | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class GrantLease(Command):
    """From the handler of an agent's claim."""

    attempt: int
    agent: str
    device: str
    ttl_s: float

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class RegrantLease(Command):
    """From the handler of an agent's reclaim: its child had ended before `epoch` was lost."""

    agent: str
    epoch: int
    ttl_s: float

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], epoch=events[0].data.reclaimed)


class ExpireLease(Command):
    """From the sweeper, or from an announcement of a newer boot that no longer holds the run."""

    epoch: int
    cause: Literal["not_renewed", "agent_restarted"]

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        if isinstance(events[0].data, LeaseExpired):
            return cls.of(events[0])
        return cls(epoch=state.epoch, cause="not_renewed")


class GiveUp(Command):
    """From the sweeper: nobody has reclaimed a lost run in time."""

    epoch: int
    reason: EndReason = "lease_lost"

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(epoch=state.epoch, reason=events[0].data.reason)


class Overdue(Command):
    """From the dispatcher: the run has waited for a device longer than it may."""

    attempt: int
    message: str

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(attempt=state.attempt, message=events[0].data.message)


class TakeReport(Command):
    """From the handler of an agent's report: what happened, as the event that it stands for."""

    agent: str
    epoch: int
    seq: int
    kind: str
    event: AgentEvent

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        told = events[0]
        if isinstance(told.data, ReportNoted):
            raise Lossy("a report that changed nothing is noted without what it said")
        numbered = _REPORT.search(told.command_id)
        epoch, seq = map(int, numbered.groups()) if numbered else (state.epoch, state.reports + 1)
        agent = told.actor.removeprefix("agent:")
        return cls(agent=agent, epoch=epoch, seq=seq, kind=_KINDS[type(told.data)], event=told.data)


class DropCheckpoints(Command):
    """From the handler of `runs.delete_checkpoints`: all of these, or none."""

    ids: list[str]

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(ids=[told.data.checkpoint_id for told in events])


class Pin(Command):
    """From the handler of `runs.pin`."""

    checkpoint_id: str
    pinned: bool

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class KeepArchive(Command):
    """From who moves points to the artifact store: every byte is there, and was read again."""

    archived: MetricsArchived

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(archived=events[0].data)


RunCommand = (
    BearRun
    | BearAttached
    | AttachRun
    | BearCopy
    | BearFork
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
    | AddRunInput
    | AddRunOutput
    | SetRunParameters
    | KeepTables
    | RemoveMetricsTables
    | KeepArchive
    | PurgeMetrics
)
