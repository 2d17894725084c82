"""What can happen to a tape: it is imported or its import fails, and it is removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, assert_never

from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.tapes import (
    FailImport,
    ImportUploads,
    RemoveTape,
    TapeEvent,
    TapeImported,
    TapeImportFailed,
    TapeRemoved,
)
from tapeline.errors import TapelineError

TapeCommand = ImportUploads | FailImport | RemoveTape


@dataclass(frozen=True, slots=True)
class Unborn:
    """Nothing has been imported."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The import was refused."""


@dataclass(frozen=True, slots=True)
class Tape:
    """A complete tape."""

    name: str
    content_sha256: str
    manifest: Artifact
    files: tuple[Artifact, ...]
    symbols: tuple[str, ...]
    days: tuple[str, ...]
    rows: int
    calendar: str
    synthetic: dict[str, Any] | None = None
    parent: str | None = None
    report: dict[str, Any] = field(default_factory=dict)
    user: str = ""


@dataclass(frozen=True, slots=True)
class Removed:
    """The tape is gone from every view."""

    name: str


State = Unborn | Failed | Tape | Removed


def initial() -> State:
    return Unborn()


def decide(state: State, command: TapeCommand) -> list[TapeEvent]:
    match command:
        case ImportUploads() if isinstance(state, Unborn):
            return [_imported(command)]
        case FailImport() if isinstance(state, Unborn):
            return [TapeImportFailed(name=command.name, code=command.code, message=command.message)]
        case FailImport() if isinstance(state, Failed):
            return []
        case ImportUploads() | FailImport():
            raise TapelineError(
                f"tape {command.name!r} has been imported already", code="conflict", hint="import it under another name"
            )
        case RemoveTape() if isinstance(state, Tape):
            return [TapeRemoved()]
        case RemoveTape() if isinstance(state, Removed):
            return []
        case RemoveTape():
            raise TapelineError(f"there is no tape {command.name!r}", code="not_found", hint="tapeline tape ls")
        case _:
            assert_never(command)


def _imported(command: ImportUploads) -> TapeImported:
    return TapeImported(
        name=command.name,
        content_sha256=command.content_sha256,
        manifest=Artifact(**command.manifest),
        files=[Artifact(**file) for file in command.files],
        symbols=command.symbols,
        days=command.days,
        rows=command.rows,
        calendar=command.calendar,
        synthetic=command.synthetic,
        parent=command.parent,
        report=command.report,
        user=command.user,
    )


def evolve(state: State, event: TapeEvent) -> State:
    match event:
        case TapeImported():
            return Tape(
                name=event.name,
                content_sha256=event.content_sha256,
                manifest=event.manifest,
                files=tuple(event.files),
                symbols=tuple(event.symbols),
                days=tuple(event.days),
                rows=event.rows,
                calendar=event.calendar,
                synthetic=event.synthetic,
                parent=event.parent,
                report=event.report,
                user=event.user,
            )
        case TapeImportFailed():
            return Failed()
        case TapeRemoved():
            return Removed(state.name if isinstance(state, Tape) else "")
        case _:
            assert_never(event)
