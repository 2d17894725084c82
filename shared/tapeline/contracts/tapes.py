"""The published language of tapes: imported, checked, immutable trades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from tapeline.contracts.artifacts import Artifact, ArtifactView
from tapeline.contracts.message import Command, Digest, Query, Text255, Told, View
from tapeline.contracts.references import ARTIFACT, Makes, Names


@dataclass(frozen=True, slots=True, kw_only=True)
class TapeImported:
    """A tape is complete: its manifest and its day files are in the store; written by the assets service."""

    SCHEMA: ClassVar[int] = 1
    name: str
    content_sha256: str
    manifest: Annotated[Artifact, Makes(ARTIFACT)]
    files: Annotated[list[Artifact], Makes(ARTIFACT)]
    symbols: list[str]
    days: list[str]
    rows: int
    calendar: str
    synthetic: dict[str, Any] | None = None
    parent: Annotated[str | None, Names("tape")] = None
    report: dict[str, Any] = field(default_factory=dict)
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapeImportFailed:
    """An import was refused after its upload; nothing of it is kept."""

    SCHEMA: ClassVar[int] = 1
    name: str
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TapeRemoved:
    """The tape is gone from every view and its name is free."""

    SCHEMA: ClassVar[int] = 1


TAPE_EVENTS = (TapeImported, TapeImportFailed, TapeRemoved)
TapeEvent = TapeImported | TapeImportFailed | TapeRemoved


class ImportTape(Command):
    """Sent by the SDK once a manifest and every day file that it names have been uploaded."""

    name: Text255
    manifest_sha256: Digest


class RemoveTape(Command):
    """Sent by a user; refused while an asset names the tape."""

    name: Text255

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(name=events[0].ref.id)


class GetTape(Query):
    """Sent by a user to see one tape, with its manifest's summary."""

    name: Text255


class ListTapes(Query):
    """Sent by a user to see the team's tapes."""

    limit: int = Field(default=100, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


class ImportUploads(Command):
    """What the service makes of `ImportTape` once every byte has been read again: the tape to be."""

    name: str
    content_sha256: Digest
    manifest: dict[str, Any]
    files: list[dict[str, Any]]
    symbols: list[str]
    days: list[str]
    rows: int
    calendar: str
    synthetic: dict[str, Any] | None = None
    parent: str | None = None
    report: dict[str, Any] = {}
    user: str = ""

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class FailImport(Command):
    """What the service makes of `ImportTape` when the bytes are refused."""

    name: str
    code: str
    message: str

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class TapeView(View):
    """A tape: what it holds, the digest of its numbers, and the id of the tape that it extends."""

    id: str
    name: str
    content_sha256: str
    symbols: list[str]
    days: list[str]
    rows: int
    calendar: str
    synthetic: dict[str, Any] | None = None
    parent: str | None = None
    report: dict[str, Any] = {}
    manifest: ArtifactView
    files: list[ArtifactView] = []
    created_at: datetime
    user: str = ""
    stale: bool | None = None
    """True when a later event could not be folded: the log knows more than this view."""
