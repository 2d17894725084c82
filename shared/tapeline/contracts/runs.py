"""The published language of runs: statuses, events, commands, queries, views.

A run is one training execution. Its status is a fold of its events; the transition table is in
`tapeline.runs.run.transitions`. Statuses, jobs, checkpoints and blueprints have modules of their own, whose
names are here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from tapeline.contracts.archives import ARCHIVE_EVENTS as ARCHIVE_EVENTS
from tapeline.contracts.archives import ArchiveEvent as ArchiveEvent
from tapeline.contracts.blueprints import BlueprintView as BlueprintView
from tapeline.contracts.blueprints import ListBlueprints as ListBlueprints
from tapeline.contracts.blueprints import ValidateRunConfig as ValidateRunConfig
from tapeline.contracts.checkpoints import CheckpointBegun as CheckpointBegun
from tapeline.contracts.checkpoints import CheckpointCompleted as CheckpointCompleted
from tapeline.contracts.checkpoints import CheckpointDeleted as CheckpointDeleted
from tapeline.contracts.checkpoints import CheckpointPinned as CheckpointPinned
from tapeline.contracts.checkpoints import CheckpointView as CheckpointView
from tapeline.contracts.checkpoints import DeleteCheckpoints as DeleteCheckpoints
from tapeline.contracts.checkpoints import DeletedView as DeletedView
from tapeline.contracts.checkpoints import ListCheckpoints as ListCheckpoints
from tapeline.contracts.checkpoints import PinCheckpoint as PinCheckpoint
from tapeline.contracts.jobs import JobCompleted as JobCompleted
from tapeline.contracts.jobs import JobCreated as JobCreated
from tapeline.contracts.jobs import JobCreateFailed as JobCreateFailed
from tapeline.contracts.jobs import JobFailed as JobFailed
from tapeline.contracts.jobs import JobPending as JobPending
from tapeline.contracts.jobs import JobStarted as JobStarted
from tapeline.contracts.jobs import JobSubmitted as JobSubmitted
from tapeline.contracts.jobs import JobTerminated as JobTerminated
from tapeline.contracts.jobs import JobTerminateRequested as JobTerminateRequested
from tapeline.contracts.jobs import JobTerminating as JobTerminating
from tapeline.contracts.jobs import LeaseExpired as LeaseExpired
from tapeline.contracts.jobs import LeaseGranted as LeaseGranted
from tapeline.contracts.jobs import ReportNoted as ReportNoted
from tapeline.contracts.message import Command, Notes, Query, Text255, Told, View
from tapeline.contracts.message import Sort as Sort
from tapeline.contracts.metrics import LatestMetrics as LatestMetrics
from tapeline.contracts.metrics import ListMetrics as ListMetrics
from tapeline.contracts.metrics import MetricView as MetricView
from tapeline.contracts.records import RECORD_EVENTS, RecordEvent, RunCopied
from tapeline.contracts.records import RunName as RunName
from tapeline.contracts.references import CHECKPOINT, Names
from tapeline.contracts.statuses import FINISHED as FINISHED
from tapeline.contracts.statuses import STOPPING as STOPPING
from tapeline.contracts.statuses import EndReason as EndReason
from tapeline.contracts.statuses import Status as Status

# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCreated:
    """A user asked for a run; written by the runs service with the run's number in its team."""

    SCHEMA: ClassVar[int] = 1
    number: int
    name: str
    version: str
    project_id: str
    blueprint_id: str
    task_type: str
    resources: dict[str, Any]
    config: dict[str, Any]
    user: str
    device: str = "any"
    priority: int = 0
    session_name: str | None = None
    notes: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopRequested:
    """A user asked the run to stop by `deadline`; a second request can only move it earlier."""

    SCHEMA: ClassVar[int] = 1
    grace_s: float
    deadline: datetime
    reason: Literal["user", "pause"] = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRestartRequested:
    """A new attempt is wanted, by a user or, for infrastructure reasons, by the service itself.

    Its job is created no sooner than `delay_s` after this event.
    """

    SCHEMA: ClassVar[int] = 1
    auto: bool
    reason: str
    attempt: int
    delay_s: float = 0.0
    from_checkpoint: Annotated[str | None, Names(CHECKPOINT)] = None
    device: str | None = None
    session_name: str | None = None
    smartfit: bool | None = None
    training_epochs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDeleted:
    """The run is gone from every view."""

    SCHEMA: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRenamed:
    """The run has another display name."""

    SCHEMA: ClassVar[int] = 1
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotesChanged:
    """The run's notes are these now."""

    SCHEMA: ClassVar[int] = 1
    notes: str | None


RUN_EVENTS = (
    RunCreated, JobCreated, JobCreateFailed, JobSubmitted, JobPending, LeaseGranted, LeaseExpired, JobStarted,
    RunStopRequested, JobTerminateRequested, JobTerminating, JobTerminated, JobCompleted, JobFailed,
    RunRestartRequested, RunDeleted, RunRenamed, NotesChanged, CheckpointBegun, CheckpointCompleted,
    CheckpointDeleted, CheckpointPinned, ReportNoted, *RECORD_EVENTS, *ARCHIVE_EVENTS,
)  # fmt: skip

RunEvent = (
    RunCreated | JobCreated | JobCreateFailed | JobSubmitted | JobPending | LeaseGranted | LeaseExpired | JobStarted
    | RunStopRequested | JobTerminateRequested | JobTerminating | JobTerminated | JobCompleted | JobFailed
    | RunRestartRequested | RunDeleted | RunRenamed | NotesChanged | CheckpointBegun | CheckpointCompleted
    | CheckpointDeleted | CheckpointPinned | ReportNoted | RecordEvent | ArchiveEvent
)  # fmt: skip

STATUS_AFTER: Mapping[type, Status] = {
    RunCreated: Status.RUN_CREATED,
    JobCreated: Status.JOB_CREATED,
    JobCreateFailed: Status.JOB_CREATE_FAILED,
    JobSubmitted: Status.JOB_SUBMITTED,
    JobPending: Status.JOB_PENDING,
    JobStarted: Status.JOB_RUNNING,
    JobTerminateRequested: Status.JOB_TERMINATE_REQUESTED,
    JobTerminating: Status.JOB_TERMINATING,
    JobTerminated: Status.JOB_TERMINATED,
    JobCompleted: Status.JOB_COMPLETED,
    JobFailed: Status.JOB_FAILED,
    RunRestartRequested: Status.RUN_RESTART_REQUESTED,
}
"""The status after events that lead to the same one whatever was before."""


def status_after(status: Status, event: RunEvent) -> Status:
    """The status that an event leads to; most events that are not of the job leave it as it is."""
    match event:
        case RunStopRequested():
            return status if status in STOPPING else Status.RUN_STOP_REQUESTED
        case LeaseExpired():
            return Status.JOB_TERMINATED if status in STOPPING else Status.JOB_UNKNOWN
        case RunCopied():
            return Status(event.status)
        case _:
            return STATUS_AFTER.get(type(event), status)


# --- views ----------------------------------------------------------------------------------------


class GpuView(View):
    """Wanted accelerators."""

    count: int = Field(ge=1)
    type: str


class ResourcesView(View):
    """Wanted resources as Kubernetes quantities, kept as given."""

    cpu: str
    memory: str
    ephemeral_storage: str | None = None
    gpu: GpuView | None = None


class ProgressView(View):
    """How far one operation of a run is; `value` may exceed `final_value`."""

    operation: str
    value: float
    final_value: float
    units: str


class RunView(View):
    """A run as of a position. Columns that a query did not select are None.

    `stale` is true when a later event of the run could not be folded: the log knows more than this view.
    """

    id: str | None = None
    number: int | None = None
    name: str | None = None
    version: str | None = None
    created_at: datetime | None = None
    blueprint_id: str | None = None
    project_id: str | None = None
    user_id: str | None = None
    task_type: str | None = None
    resources: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    notes: str | None = None
    status: str | None = None
    status_updated_at: datetime | None = None
    progress: list[ProgressView] | None = None
    progress_updated_at: datetime | None = None
    device: str | None = None
    agent: str | None = None
    attempt: int | None = None
    session_name: str | None = None
    reason: str | None = None
    message: str | None = None
    hint: str | None = None
    exit_code: int | None = None
    stale: bool | None = None


class EventView(View):
    """One event of a run: `status` is the run's status after it, `details` its data plus `type`."""

    id: str
    sequence: int
    run_id: str
    created_at: datetime
    status: str
    details: dict[str, Any]
    position: int | None = None


class SessionView(View):
    """The run that `runs.train` made, and the name of its attempt's session."""

    run_id: str
    number: int
    session_name: str


# --- commands of users ----------------------------------------------------------------------------


class CreateRun(Command):
    """Sent by a user to make and submit a run of a blueprint."""

    name: Text255
    version: Text255
    resources: dict[str, Any]
    config: dict[str, Any]
    task_type: Text255
    blueprint_id: str = Field(min_length=1, max_length=255)
    project_id: str = Field(min_length=1, max_length=63)
    notes: Notes | None = None
    device: str = Field(default="any", min_length=1, max_length=127)
    priority: int = Field(default=0, ge=-10, le=10)
    session_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")


class TrainCanvas(Command):
    """Sent by a user to train a canvas on an asset.

    `canvas` names a stored one; a `document` lives in the run only.
    """

    canvas: str | None = Field(default=None, max_length=255)
    document: dict[str, Any] | None = None
    asset: str | None = Field(default=None, max_length=255)
    device: str = Field(default="any", min_length=1, max_length=127)
    session_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    project_id: str = Field(default="default", min_length=1, max_length=63)
    config: dict[str, Any] = Field(default_factory=dict)
    notes: Notes | None = None


class StopRun(Command):
    """Sent by a user to end a run at its next batch boundary, within `grace_s` seconds."""

    run: RunName
    grace_s: float = Field(default=600.0, ge=1.0, le=86_400.0)

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        asked = events[0].data
        at = asked.deadline - timedelta(seconds=asked.grace_s)
        return cls(run=events[0].ref.id, grace_s=asked.grace_s, at=at)


class PauseRun(Command):
    """Sent by a user to stop a run that will be resumed."""

    run: RunName
    grace_s: float = Field(default=600.0, ge=1.0, le=86_400.0)

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        asked = events[0].data
        at = asked.deadline - timedelta(seconds=asked.grace_s)
        return cls(run=events[0].ref.id, grace_s=asked.grace_s, at=at)


class ResumeRun(Command):
    """Sent by a user to go on from the latest, or a named, complete checkpoint."""

    run: RunName
    from_checkpoint: str = "latest"
    device: str | None = Field(default=None, max_length=127)
    smartfit: bool | None = None
    epochs: int | None = Field(default=None, ge=1, le=100_000)
    session_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], run=events[0].ref.id, epochs=events[0].data.training_epochs)


class RestartRun(Command):
    """Sent by a user to begin a new attempt, from step 0 when `from_checkpoint` is None."""

    run: RunName
    from_checkpoint: str | None = None
    device: str | None = Field(default=None, max_length=127)
    smartfit: bool | None = None
    epochs: int | None = Field(default=None, ge=1, le=100_000)
    session_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], run=events[0].ref.id, epochs=events[0].data.training_epochs)


class DeleteRun(Command):
    """Sent by a user to remove a run that has ended from every view."""

    run: RunName
    stop: bool = False

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        asked = events[0].data
        if isinstance(asked, RunDeleted):
            return cls(run=events[0].ref.id)
        at = asked.deadline - timedelta(seconds=asked.grace_s)
        return cls(run=events[0].ref.id, stop=True, at=at)


class RenameRun(Command):
    """Sent by a user to give a run another display name."""

    run: RunName
    name: Text255

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], run=events[0].ref.id)


class SetNotes(Command):
    """Sent by a user to replace the notes of a run."""

    run: RunName
    notes: Notes | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], run=events[0].ref.id)


# --- queries of users -----------------------------------------------------------------------------

Select = Literal[
    "*", "id", "project_id", "user_id", "created_at", "name", "version", "blueprint_id", "task_type", "config",
    "resources", "progress", "progress_updated_at", "status", "status_updated_at", "notes", "number",
]  # fmt: skip


class GetRun(Query):
    """Sent by a user to see one run."""

    run: RunName


class CountRuns(Query):
    """Sent by a user to count runs; None is no filter, an empty list matches nothing."""

    blueprint_ids: list[str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    ids: list[str] | None = None
    id_after: str | None = None
    numbers: list[int] | None = None
    name_ilikes: list[str] | None = None
    project_ids: list[str] | None = None
    statuses: list[Status] | None = None
    task_types: list[str] | None = None
    versions: list[str] | None = None
    user_ids: list[str] | None = None


class ListRuns(CountRuns):
    """Sent by a user to page through the team's runs; None is no filter, an empty list matches nothing."""

    limit: int = Field(default=10, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)
    select: list[Select] | None = None
    sort: list[Sort] | None = None


class CountView(View):
    """How many there are."""

    count: int


class ListEvents(Query):
    """Sent by a user to read a run's events."""

    run: RunName
    limit: int = Field(default=100, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)
    sort: Literal["sequence:desc", "sequence:asc"] = "sequence:desc"
    after: int = Field(default=0, ge=0)


class ListDevices(Query):
    """Sent by a user to see the devices that the team may train on."""


class Hello(Query):
    """Sent by the SDK on connecting."""

    sdk_version: str = ""
    contracts: str = ""


class HelloView(View):
    """Who the caller is, as the broker says, and what the service speaks."""

    team: str
    user: str
    version: str
    contracts: str
    log_id: str
