"""The published language of canvases: JSON pictures of networks, versioned by revision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from tapeline.contracts.message import Command, Query, Text255, Told, View
from tapeline.contracts.references import REVISION, Makes, Names


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasCreated:
    """A canvas exists, at revision 1."""

    SCHEMA: ClassVar[int] = 1
    name: str
    content: dict[str, Any]
    digest: Annotated[str, Makes(REVISION)]
    user: str = ""
    copied_from: Annotated[str | None, Names("canvas")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasSaved:
    """The canvas has a new revision."""

    SCHEMA: ClassVar[int] = 1
    revision: int
    content: dict[str, Any]
    digest: Annotated[str, Makes(REVISION)]
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasRenamed:
    """The canvas has another name."""

    SCHEMA: ClassVar[int] = 1
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasRemoved:
    """The canvas is gone and its name is free; runs keep the copy that they pinned."""

    SCHEMA: ClassVar[int] = 1


CANVAS_EVENTS = (CanvasCreated, CanvasSaved, CanvasRenamed, CanvasRemoved)
CanvasEvent = CanvasCreated | CanvasSaved | CanvasRenamed | CanvasRemoved


class SaveCanvas(Command):
    """Sent by a user to store a document under a name: a new canvas, or its next revision.

    `expected_revision` guards against a save in between; equal content makes no revision.
    """

    name: Text255
    content: dict[str, Any]
    expected_revision: int | None = Field(default=None, ge=0)


class DuplicateCanvas(Command):
    """Sent by a user to copy a canvas to `<name>_copy`, `<name>_copy_2`, ..."""

    name: Text255


class RenameCanvas(Command):
    """Sent by a user to give a canvas another name; runs and vault items keep the copy that they pinned."""

    name: Text255
    new_name: Text255

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(name=state.name, new_name=events[0].data.name)


class RemoveCanvas(Command):
    """Sent by a user to remove a canvas for good."""

    name: Text255

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(name=events[0].ref.id)


class ValidateCanvas(Query):
    """Sent by a user to have a document checked; with `asset`, against its features and labels too."""

    content: dict[str, Any] | None = None
    name: str | None = Field(default=None, max_length=255)
    asset: str | None = Field(default=None, max_length=255)


class GetCanvas(Query):
    """Sent by a user to see a canvas, as of its latest or a given revision."""

    name: Text255
    revision: int | None = Field(default=None, ge=1)


class ListRevisions(Query):
    """Sent by a user to see every revision of a canvas, the first one first."""

    name: Text255
    limit: int = Field(default=100, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


class ListCanvases(Query):
    """Sent by a user to see the team's canvases by name."""

    limit: int = Field(default=100, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


class StoreCanvas(Command):
    """What the service makes of `SaveCanvas` and `DuplicateCanvas`: a document with its digest."""

    name: str
    content: dict[str, Any]
    digest: str
    user: str = ""
    expected_revision: int | None = None
    copied_from: str | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        told = events[0]
        return cls.of(told, name=getattr(told.data, "name", told.ref.id))


class CanvasView(View):
    """A canvas at one revision."""

    id: str
    name: str
    revision: int
    content: dict[str, Any]
    digest: str
    created_at: datetime
    updated_at: datetime
    user: str = ""
    copied_from: str | None = None
    stale: bool | None = None
    """True when a later event could not be folded: the log knows more than this view."""


class ValidationView(View):
    """What is wrong with a canvas: all errors, each with node, field, code, pointer, message and hint."""

    ok: bool
    errors: list[dict[str, Any]] = []
    warnings: list[dict[str, Any]] = []
    shapes: dict[str, list[int]] = {}
    parameters: int = 0
    digest: str = ""


class ComponentsView(View):
    """The components that a canvas can be made of."""

    components: list[dict[str, Any]]


class ListComponents(Query):
    """Sent by a user to see what a canvas can be made of."""
