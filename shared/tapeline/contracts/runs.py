"""The published language of runs: statuses, events, commands, queries, views.

A run is one training execution. Its status is a fold of its events; the transition table is in
`tapeline.runs.run.aggregate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from tapeline.contracts.artifacts import Artifact, ArtifactView
from tapeline.contracts.message import Command, Notes, Query, Text255, Told, View
from tapeline.contracts.records import RECORD_EVENTS, RecordEvent, RunCopied
from tapeline.contracts.records import RunName as RunName
from tapeline.contracts.references import ARTIFACT, ATTEMPT, CHECKPOINT, LEASE, REVISION, Makes, Names


class Status(StrEnum):
    """The 14 public statuses of a run."""

    RUN_CREATED = "run_created"
    RUN_STOP_REQUESTED = "run_stop_requested"
    RUN_RESTART_REQUESTED = "run_restart_requested"
    JOB_CREATE_FAILED = "job_create_failed"
    JOB_CREATED = "job_created"
    JOB_SUBMITTED = "job_submitted"
    JOB_PENDING = "job_pending"
    JOB_RUNNING = "job_running"
    JOB_TERMINATE_REQUESTED = "job_terminate_requested"
    JOB_TERMINATING = "job_terminating"
    JOB_TERMINATED = "job_terminated"
    JOB_FAILED = "job_failed"
    JOB_COMPLETED = "job_completed"
    JOB_UNKNOWN = "job_unknown"

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended and only a restart goes on."""
        return self in FINISHED


FINISHED = frozenset({Status.JOB_CREATE_FAILED, Status.JOB_TERMINATED, Status.JOB_FAILED, Status.JOB_COMPLETED})

EndReason = Literal[
    "user", "pause", "lease_lost", "agent_shutdown", "agent_restarted", "device_lost", "signal",
    "oom_host", "oom_device",
    "stalled", "start_timeout", "exit_code", "validation", "asset_refused", "lookahead_refused",
    "fingerprint_refused", "nan_loss", "timeout", "unschedulable", "disk_full", "resource_limit", "agent_revoked",
]  # fmt: skip
"""Why a job ended; which of them are restarted automatically is `tapeline.runs.run.aggregate.RETRIED`."""


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
class JobCreated:
    """An attempt has a complete start specification; written by the dispatcher."""

    SCHEMA: ClassVar[int] = 1
    ESTABLISHES: ClassVar[bool] = True
    attempt: Annotated[int, Makes(ATTEMPT)]
    session_name: str
    seed: int
    spec: dict[str, Any]
    canvas_digest: Annotated[str | None, Names(REVISION)] = None
    asset_id: Annotated[str | None, Names("asset")] = None
    asset_digest: str | None = None
    from_checkpoint: Annotated[str | None, Names(CHECKPOINT)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCreateFailed:
    """An attempt could not be specified: something that it names is missing or refused."""

    SCHEMA: ClassVar[int] = 1
    attempt: int
    code: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted:
    """An attempt waits for a device."""

    SCHEMA: ClassVar[int] = 1
    attempt: Annotated[int, Names(ATTEMPT)]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPending:
    """No device is free, or none fits; `nearest` says in words what is missing."""

    SCHEMA: ClassVar[int] = 1
    attempt: Annotated[int, Names(ATTEMPT)]
    reason: str
    nearest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGranted:
    """An agent holds the run until it stops renewing; the log admits one holder per epoch."""

    SCHEMA: ClassVar[int] = 1
    attempt: Annotated[int, Names(ATTEMPT)]
    agent: Annotated[str, Names("device")]
    device: str
    epoch: Annotated[int, Makes(LEASE)]
    ttl_s: float
    reclaimed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseExpired:
    """The holder was not heard in time, or said itself that it no longer holds the run."""

    SCHEMA: ClassVar[int] = 1
    epoch: int
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted:
    """The child has built its model and begins to train; reported by the agent."""

    SCHEMA: ClassVar[int] = 1
    epoch: Annotated[int, Names(LEASE)]
    pid: int
    resume: Literal["none", "exact", "approximate"]
    differs: list[str] = field(default_factory=list)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    sandbox: str = "basic"
    global_step: int = 0
    training_epochs: int | None = None
    steps_per_epoch: int | None = None
    parameters: int | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStopRequested:
    """A user asked the run to stop by `deadline`; a second request can only move it earlier."""

    SCHEMA: ClassVar[int] = 1
    grace_s: float
    deadline: datetime
    reason: Literal["user", "pause"] = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTerminateRequested:
    """The agent has told the child to stop."""

    SCHEMA: ClassVar[int] = 1
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTerminating:
    """The child has begun its last checkpoint, or leaves."""

    SCHEMA: ClassVar[int] = 1
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTerminated:
    """The job ended because it was asked to; `forced` when it had to be killed."""

    SCHEMA: ClassVar[int] = 1
    forced: bool
    reason: EndReason = "user"
    exit_code: int | None = None
    signal: int | None = None
    last_step: int | None = None
    checkpoint_id: Annotated[str | None, Names(CHECKPOINT)] = None
    batches: int | None = None
    points: int | None = None
    metrics_rejected: int = 0
    metrics_dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCompleted:
    """Training came to its end."""

    SCHEMA: ClassVar[int] = 1
    global_step: int
    training_epochs: int
    exit_code: int = 0
    stopped_early: bool = False
    best: dict[str, Any] | None = None
    batches: int | None = None
    points: int | None = None
    metrics_rejected: int = 0
    metrics_dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed:
    """The job ended with a typed reason."""

    SCHEMA: ClassVar[int] = 1
    reason: EndReason
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    last_step: int | None = None
    traceback: str | None = None
    batches: int | None = None
    points: int | None = None
    metrics_rejected: int = 0
    metrics_dropped: int = 0


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
class ReportNoted:
    """A report of the agent that changes nothing of the run; kept so that its count has no hole."""

    SCHEMA: ClassVar[int] = 1
    epoch: Annotated[int, Names(LEASE)]
    kind: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointBegun:
    """The child began to write a checkpoint; it is incomplete until its bytes are promoted."""

    SCHEMA: ClassVar[int] = 1
    checkpoint_id: str
    epoch: Annotated[int, Names(LEASE)]
    attempt: int
    global_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointCompleted:
    """Every byte of a checkpoint is in the store under its digest."""

    SCHEMA: ClassVar[int] = 1
    checkpoint_id: Annotated[str, Makes(CHECKPOINT)]
    epoch: Annotated[int, Names(LEASE)]
    attempt: int
    global_step: int
    training_epoch: int
    files: Annotated[list[Artifact], Makes(ARTIFACT)]
    monitored: dict[str, float] = field(default_factory=dict)
    weights_digest: str = ""
    state_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDeleted:
    """A checkpoint is no longer listed; `policy` is `user` or `retention`."""

    SCHEMA: ClassVar[int] = 1
    checkpoint_id: Annotated[str, Names(CHECKPOINT)]
    policy: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPinned:
    """A checkpoint is kept whatever the retention says, or no longer is."""

    SCHEMA: ClassVar[int] = 1
    checkpoint_id: Annotated[str, Names(CHECKPOINT)]
    pinned: bool


RUN_EVENTS = (
    RunCreated, JobCreated, JobCreateFailed, JobSubmitted, JobPending, LeaseGranted, LeaseExpired, JobStarted,
    RunStopRequested, JobTerminateRequested, JobTerminating, JobTerminated, JobCompleted, JobFailed,
    RunRestartRequested, RunDeleted, RunRenamed, NotesChanged, CheckpointBegun, CheckpointCompleted,
    CheckpointDeleted, CheckpointPinned, ReportNoted, *RECORD_EVENTS,
)  # fmt: skip

RunEvent = (
    RunCreated | JobCreated | JobCreateFailed | JobSubmitted | JobPending | LeaseGranted | LeaseExpired | JobStarted
    | RunStopRequested | JobTerminateRequested | JobTerminating | JobTerminated | JobCompleted | JobFailed
    | RunRestartRequested | RunDeleted | RunRenamed | NotesChanged | CheckpointBegun | CheckpointCompleted
    | CheckpointDeleted | CheckpointPinned | ReportNoted | RecordEvent
)  # fmt: skip

STOPPING = frozenset({Status.RUN_STOP_REQUESTED, Status.JOB_TERMINATE_REQUESTED, Status.JOB_TERMINATING})
"""A stop is asked for and the job has not ended."""

_STATUS_AFTER: dict[type, Status] = {
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
            return _STATUS_AFTER.get(type(event), status)


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


class MetricView(View):
    """One measurement; NaN and infinities travel as the strings "NaN", "Infinity", "-Infinity"."""

    id: str
    created_at: datetime
    run_id: str
    global_step: int
    tag: str
    value: float | int | Literal["NaN", "Infinity", "-Infinity"]
    job_id: str | None = None


class CheckpointView(View):
    """A checkpoint of a run; `bucket_name` and `key_prefix` describe its place and grant no access."""

    id: str | None = None
    run_id: str | None = None
    global_step: int | None = None
    project_id: str | None = None
    created_at: datetime | None = None
    status: str | None = None
    status_updated_at: datetime | None = None
    bucket_name: str | None = None
    key_prefix: str | None = None
    training_epoch: int | None = None
    attempt: int | None = None
    monitored: dict[str, float] | None = None
    files: list[ArtifactView] | None = None
    pinned: bool | None = None


class BlueprintView(View):
    """A kind of training: its name, version and the JSON Schema of its config."""

    id: str
    name: str
    version: str
    config_schema: dict[str, Any]
    entrypoint: str | None = None
    created_at: datetime | None = None


class DeletedView(View):
    """The checkpoints that a command has deleted."""

    ids: list[str]


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


class ValidateRunConfig(Query):
    """Sent by a user to check a config against a blueprint without making a run."""

    blueprint_id: str = Field(min_length=1, max_length=255)
    config: dict[str, Any]


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


class PinCheckpoint(Command):
    """Sent by a user to keep a checkpoint whatever the retention says, or no longer."""

    checkpoint: str = Field(min_length=1, max_length=64)
    pinned: bool = True


class SetNotes(Command):
    """Sent by a user to replace the notes of a run."""

    run: RunName
    notes: Notes | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], run=events[0].ref.id)


class DeleteCheckpoints(Command):
    """Sent by a user to delete checkpoints by id, by run, or by both."""

    ids: list[str] | None = None
    run_ids: list[str] | None = None


# --- queries of users -----------------------------------------------------------------------------

Select = Literal[
    "*", "id", "project_id", "user_id", "created_at", "name", "version", "blueprint_id", "task_type", "config",
    "resources", "progress", "progress_updated_at", "status", "status_updated_at", "notes", "number",
]  # fmt: skip
Sort = Literal["id:asc", "id:desc", "created_at:asc", "created_at:desc"]


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


class ListMetrics(Query):
    """Sent by a user to read a run's points, newest first; `attempt` gives one attempt's raw points."""

    run: RunName
    global_steps: list[int] | None = None
    tags: list[str] | None = None
    limit: int = Field(default=1000, ge=0, le=1000)
    created_before: datetime | None = None
    attempt: int | Literal["all"] | None = None


class LatestMetrics(Query):
    """Sent by a user to read the last effective value of every tag of a run."""

    run: RunName


class ListCheckpoints(Query):
    """Sent by a user to page through checkpoints."""

    ids: list[str] | None = None
    run_ids: list[str] | None = None
    project_ids: list[str] | None = None
    global_steps: list[int] | None = None
    statuses: list[Literal["incomplete", "complete"]] | None = None
    created_before: datetime | None = None
    created_after: datetime | None = None
    select: (
        list[Literal["id", "created_at", "run_id", "project_id", "global_step", "status", "status_updated_at"]] | None
    ) = None
    sort: list[Sort] | None = None
    limit: int = Field(default=10, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


class ListDevices(Query):
    """Sent by a user to see the devices that the team may train on."""


class ListBlueprints(Query):
    """Sent by a user to see the kinds of training, newest first; `version_ilike` is a pattern."""

    name: str | None = None
    version_ilike: str | None = None


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
