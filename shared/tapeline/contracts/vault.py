"""The published language of the vault: named, versioned, loadable models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from tapeline.contracts.artifacts import Artifact, ArtifactView
from tapeline.contracts.message import Command, Digest, Notes, Query, Text255, Told, View
from tapeline.contracts.references import ARTIFACT, CHECKPOINT, Names


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultItemAdded:
    """A model has a name: promoted from a checkpoint, or imported (then without run and canvas).

    `lookahead` says that features of the asset that it was trained on may know the future.
    """

    SCHEMA: ClassVar[int] = 1
    name: str
    version: str
    summary: str
    model: Annotated[Artifact, Names(ARTIFACT)]
    model_file: str
    project_id: str
    user: str
    host: str = ""
    run_id: Annotated[str | None, Names("run")] = None
    run_number: int | None = None
    checkpoint_id: Annotated[str | None, Names(CHECKPOINT)] = None
    global_step: int | None = None
    training_epoch: int | None = None
    canvas: dict[str, Any] | None = None
    asset_id: Annotated[str | None, Names("asset")] = None
    asset_name: str | None = None
    lookahead: bool = False
    features: list[list[str]] = field(default_factory=list)
    input_shapes: list[list[int]] = field(default_factory=list)
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultItemRenamed:
    """The item has another name."""

    SCHEMA: ClassVar[int] = 1
    name: str
    old_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultItemRemoved:
    """The item is gone from every view and its name is free."""

    SCHEMA: ClassVar[int] = 1


VAULT_EVENTS = (VaultItemAdded, VaultItemRenamed, VaultItemRemoved)
VaultEvent = VaultItemAdded | VaultItemRenamed | VaultItemRemoved


class AddVaultItem(Command):
    """Sent by a user to promote a checkpoint, or a run's best one, under a name."""

    name: Text255
    checkpoint_id: str | None = Field(default=None, max_length=64)
    run: str | None = Field(default=None, max_length=64)
    version: str = Field(default="1.0.0", max_length=64)
    summary: Notes = ""
    project_id: str | None = Field(default=None, max_length=63)


class ImportModel(Command):
    """Sent by the SDK once the bytes of a model file have been uploaded; the vault scans them again."""

    name: Text255 | None = None
    sha256: Digest
    features: list[list[str]] = []


class PromoteModel(Command):
    """What the service makes of `AddVaultItem` once the model has been scanned."""

    name: str
    version: str = "1.0.0"
    summary: str = ""
    model: dict[str, Any]
    model_file: str
    project_id: str = "default"
    user: str = ""
    host: str = ""
    run_id: str | None = None
    run_number: int | None = None
    checkpoint_id: str | None = None
    global_step: int | None = None
    training_epoch: int | None = None
    canvas: dict[str, Any] | None = None
    asset_id: str | None = None
    asset_name: str | None = None
    lookahead: bool = False
    features: list[list[str]] = []
    input_shapes: list[list[int]] = []
    value: float | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class RenameVaultItem(Command):
    """Sent by a user to rename an item."""

    name: Text255
    new_name: Text255

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(name=events[0].data.old_name, new_name=events[0].data.name)


class RemoveVaultItem(Command):
    """Sent by a user to remove an item."""

    name: Text255

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(name=events[0].ref.id)


class GetVaultItem(Query):
    """Sent by a user to see an item."""

    name: Text255


class ListVaultItems(Query):
    """Sent by a user to see the team's items by name."""

    limit: int = Field(default=1000, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


class VaultItemView(View):
    """A vault item: where it comes from, its canvas, and its model by digest."""

    id: str
    name: str
    version: str
    summary: str
    model: ArtifactView
    model_file: str
    project_id: str
    user: str
    host: str
    created_at: datetime
    run_id: str | None = None
    run_number: int | None = None
    checkpoint_id: str | None = None
    global_step: int | None = None
    training_epoch: int | None = None
    canvas: dict[str, Any] | None = None
    asset_id: str | None = None
    asset_name: str | None = None
    lookahead: bool = False
    features: list[list[str]] = []
    input_shapes: list[list[int]] = []
    value: float | None = None
    stale: bool | None = None
    """True when a later event could not be folded: the log knows more than this view."""
