"""The published language of checkpoints: the state of a run at a `global_step`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tapeline.contracts.artifacts import Artifact, ArtifactView
from tapeline.contracts.message import Command, Digest, Query, Sort, View
from tapeline.contracts.references import ARTIFACT, CHECKPOINT, LEASE, Makes, Names


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


class DeletedView(View):
    """The checkpoints that a command has deleted."""

    ids: list[str]


class PinCheckpoint(Command):
    """Sent by a user to keep a checkpoint whatever the retention says, or no longer."""

    checkpoint: str = Field(min_length=1, max_length=64)
    pinned: bool = True


class DeleteCheckpoints(Command):
    """Sent by a user to delete checkpoints by id, by run, or by both."""

    ids: list[str] | None = None
    run_ids: list[str] | None = None


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


class KeptFile(View):
    """A file of a checkpoint, as its sender uploaded it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    size_bytes: int = Field(ge=0)
    sha256: Digest


class BeginCheckpoint(Command):
    """Sent by a process that trains a run by itself, before the files of a checkpoint."""

    run: str = Field(min_length=1, max_length=64)
    epoch: int = Field(ge=1)
    checkpoint: str = Field(min_length=1, max_length=64)
    global_step: int = Field(ge=0)


class KeepCheckpoint(Command):
    """Sent by a process that trains a run by itself, once every file of a checkpoint is uploaded."""

    run: str = Field(min_length=1, max_length=64)
    epoch: int = Field(ge=1)
    checkpoint: str = Field(min_length=1, max_length=64)
    global_step: int = Field(ge=0)
    training_epoch: int = Field(default=0, ge=0)
    files: list[KeptFile] = Field(min_length=1, max_length=16)
    monitored: dict[str, float] = Field(default_factory=dict, max_length=64)
    weights_digest: str = Field(default="", max_length=64)
    state_digest: str = Field(default="", max_length=64)


class KeptView(View):
    """The checkpoint that a command has begun or completed."""

    id: str
    status: Literal["incomplete", "complete"]
