"""The published language of the jobs of a run: each attempt has one, and an agent holds it under a lease."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from tapeline.contracts.references import ATTEMPT, CHECKPOINT, LEASE, REVISION, Makes, Names
from tapeline.contracts.statuses import EndReason


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
class ReportNoted:
    """A report of the agent that changes nothing of the run; kept so that its count has no hole."""

    SCHEMA: ClassVar[int] = 1
    epoch: Annotated[int, Names(LEASE)]
    kind: str
