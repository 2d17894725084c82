"""What a trainer agent and the runs service say to each other, and the events of devices.

An agent sends requests to `ag.<verb>`; the service wakes it on `ctl.run.start` and `ctl.run.stop`.
Everything that an agent says of a run carries its lease epoch and, in reports, the agent's own
sequence within that epoch: older epochs are answered `fenced`, a hole `gap`, a repeat as before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field

from tapeline.contracts.message import Command, Digest, Message, View

LEASE_TTL_S = 30.0
RENEW_EVERY_S = 5.0
OFFER_TTL_S = 5.0
CONTRACTS = "1.0"
"""Version of the published language; another major version is refused on connecting."""


# --- events (kind `device`, one aggregate per agent under the reserved team `platform`) -----------


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAnnounced:
    """An agent is there with these devices; written when what it announces has changed."""

    SCHEMA: ClassVar[int] = 1
    ESTABLISHES: ClassVar[bool] = True
    agent: str
    boot: str
    version: str
    host: str
    teams: list[str]
    devices: list[dict[str, Any]]
    backends: dict[str, str] = field(default_factory=dict)
    blueprints: list[dict[str, Any]] = field(default_factory=list)
    disk_free_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGone:
    """An agent left in good order, or was forgotten."""

    SCHEMA: ClassVar[int] = 1
    agent: str
    cause: str


DEVICE_EVENTS = (DeviceAnnounced, DeviceGone)
DeviceEvent = DeviceAnnounced | DeviceGone


# --- requests of an agent -------------------------------------------------------------------------


class DeviceInfo(Message):
    """One device: `gpu0`, `cpu0`. `memory` and `free` in bytes."""

    name: str = Field(pattern=r"^(gpu|cpu)[0-9]{1,3}$")
    kind: Literal["gpu", "cpu"]
    type: str = ""
    uuid: str | None = None
    cores: int | None = None
    memory: int | None = None
    free: int | None = None
    driver: str | None = None
    compute: str | None = None
    mig: bool = False


class Holding(Message):
    """A run that the agent believes to hold."""

    run: str
    team: str
    epoch: int
    state: str = "running"


class BlueprintOffer(Message):
    """A blueprint that the agent can run."""

    name: str
    version: str
    digest: str = ""


class Announce(Command):
    """Sent by an agent on start, on reconnect and every 60 s: what it is and what it holds."""

    boot: str = Field(max_length=64)
    version: str = Field(max_length=64)
    host: str = Field(max_length=255)
    devices: list[DeviceInfo] = Field(max_length=64)
    backends: dict[str, str] = Field(default_factory=dict)
    blueprints: list[BlueprintOffer] = Field(default_factory=list, max_length=256)
    holding: list[Holding] = Field(default_factory=list, max_length=256)
    disk_free_bytes: int | None = None
    leaving: bool = False


class AnnounceView(View):
    """The service knows the agent; `fenced` lists the runs that it no longer holds."""

    agent: str
    teams: list[str]
    fenced: list[str] = []


class Offer(Message):
    """Sent by the runs service on `ctl.run.start`: a run that fits the agent's device. A hint, not a grant."""

    offer: str
    team: str
    run: str
    attempt: int
    device: str


class Stop(Message):
    """Sent by the runs service on `ctl.run.stop`: a run must end; the agent counts the grace from receipt."""

    team: str
    run: str
    epoch: int
    grace_s: float
    reason: Literal["user", "pause"] = "user"


class Claim(Command):
    """Sent by an agent that takes up an offer."""

    team: str
    run: str
    offer: str
    device: str


class Lease(View):
    """The agent holds the run in this epoch; `spec` is all that the child needs, files by digest."""

    team: str
    run: str
    attempt: int
    epoch: int
    device: str
    ttl_s: float
    spec: dict[str, Any]
    files: list[dict[str, Any]] = []
    """Artifacts to have locally: `{role: asset|checkpoint, name, sha256, size_bytes}`."""


class RenewItem(Message):
    """One lease to renew."""

    team: str
    run: str
    epoch: int


class Renew(Command):
    """Sent by an agent every 5 s for all its leases, and every 10 s while it has none; renewals are not events."""

    leases: list[RenewItem] = Field(max_length=256)


class Renewed(View):
    """What became of one lease: `ok`, `stop` (with the grace that is left), or `fenced`."""

    run: str
    epoch: int
    answer: Literal["ok", "stop", "fenced"]
    grace_s: float | None = None
    reason: Literal["user", "pause"] | None = None


class RenewedView(View):
    """The answers to a renewal, in its order."""

    leases: list[Renewed]


ReportKind = Literal[
    "started", "terminate_requested", "terminating", "terminated", "completed", "failed", "lease_lost",
    "checkpoint_begun", "checkpoint",
]  # fmt: skip


class Report(Command):
    """Sent by an agent from its journal: one thing that happened to a run in an epoch.

    `seq` counts from 1 within (run, epoch). `data` holds the fields of the event that the kind stands
    for, without `epoch` and `attempt`: `started` JobStarted, `terminated` JobTerminated, `completed`
    JobCompleted, `failed` JobFailed, `checkpoint_begun` CheckpointBegun, `checkpoint` CheckpointCompleted
    (its files must lie in the place that `ag.stage` gave).
    """

    team: str
    run: str
    epoch: int
    seq: int = Field(ge=1)
    kind: ReportKind
    data: dict[str, Any] = Field(default_factory=dict)


class ReportView(View):
    """The report with this `seq` is on the log, or had no effect that a log needs."""

    seq: int
    status: str


class AppendMetrics(Command):
    """Sent by an agent: one batch of measurements and progress, numbered 1, 2, 3, ... within an attempt.

    `columns` are `{tag, kind: "f8" | "i8", step: [int], time: [ns int], value: [number | "NaN" | ...]}` of
    equal lengths; `progress` the latest of each operation; `is_last` when the attempt measures nothing more.
    """

    team: str
    run: str
    attempt: int
    epoch: int
    batch: int = Field(ge=1)
    columns: list[dict[str, Any]] = Field(default_factory=list, max_length=10_000)
    progress: list[dict[str, Any]] = Field(default_factory=list, max_length=64)
    is_last: bool = False


class MetricsView(View):
    """The highest batch without a hole before it that is stored."""

    batch: int


class StageFile(Message):
    """A file to upload: a plain name, its size and digest."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    size_bytes: int = Field(ge=0)
    sha256: Digest


class Stage(Command):
    """Sent by an agent that has a checkpoint to upload: asks for its place in staging."""

    team: str
    run: str
    epoch: int
    checkpoint_id: str = Field(pattern=r"^[a-z0-9-]{1,64}$")
    files: list[StageFile] = Field(min_length=1, max_length=64)


class StageView(View):
    """The key prefix within the store's staging area that the agent may write to."""

    prefix: str


class Reclaim(Command):
    """Sent by an agent whose child had ended by itself before its lease was lost."""

    team: str
    run: str
    epoch: int


class DeviceView(View):
    """A device as its team sees it."""

    agent: str
    device: str
    kind: str
    type: str
    online: bool
    busy: bool
    run_id: str | None = None
    memory: int | None = None
    cores: int | None = None
