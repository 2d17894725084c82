"""What can happen to a canvas: it is created, saved again, renamed, and removed; its revisions count from 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from tapeline.contracts.canvases import (
    CanvasCreated,
    CanvasEvent,
    CanvasRemoved,
    CanvasRenamed,
    CanvasSaved,
    RemoveCanvas,
    RenameCanvas,
    StoreCanvas,
)
from tapeline.errors import TapelineError

CanvasCommand = StoreCanvas | RenameCanvas | RemoveCanvas


@dataclass(frozen=True, slots=True)
class Unborn:
    """Nothing has been saved."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """A canvas: its latest content, the digest of what that means, and who saved it."""

    name: str
    revision: int
    content: dict[str, object]
    digest: str
    user: str = ""
    copied_from: str | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """The canvas is gone for good."""

    name: str


State = Unborn | Canvas | Removed


def initial() -> State:
    return Unborn()


def decide(state: State, command: CanvasCommand) -> list[CanvasEvent]:
    match command:
        case StoreCanvas() if isinstance(state, Removed):
            raise _missing(command.name)
        case StoreCanvas() if isinstance(state, Unborn):
            if command.expected_revision:
                raise _missing(command.name)
            return [
                CanvasCreated(
                    name=command.name,
                    content=command.content,
                    digest=command.digest,
                    user=command.user,
                    copied_from=command.copied_from,
                )
            ]
        case StoreCanvas():
            return _save(state, command)
        case RemoveCanvas() if isinstance(state, Canvas):
            return [CanvasRemoved()]
        case RemoveCanvas() if isinstance(state, Removed):
            return []
        case RenameCanvas() if isinstance(state, Canvas):
            return [] if command.new_name == state.name else [CanvasRenamed(name=command.new_name)]
        case RemoveCanvas() | RenameCanvas():
            raise _missing(command.name)
        case _:
            assert_never(command)


def _save(state: State, command: StoreCanvas) -> list[CanvasEvent]:
    if not isinstance(state, Canvas):
        raise _missing(command.name)
    if command.expected_revision is not None and command.expected_revision != state.revision:
        raise TapelineError(
            f"canvas {state.name!r} is at revision {state.revision}, revision {command.expected_revision} was expected",
            code="conflict",
            hint=f"somebody saved in between: read revision {state.revision}, then save with "
            f"expected_revision={state.revision}",
            data={"expected": command.expected_revision, "found": state.revision},
        )
    if command.content == state.content:
        return []
    return [CanvasSaved(revision=state.revision + 1, content=command.content, digest=command.digest, user=command.user)]


def _missing(name: str) -> TapelineError:
    return TapelineError(f"there is no canvas {name!r}", code="not_found", hint="tapeline canvas ls")


def evolve(state: State, event: CanvasEvent) -> State:
    match event:
        case CanvasCreated():
            return Canvas(event.name, 1, event.content, event.digest, event.user, event.copied_from)
        case CanvasSaved() if isinstance(state, Canvas):
            return replace(state, revision=event.revision, content=event.content, digest=event.digest, user=event.user)
        case CanvasRenamed() if isinstance(state, Canvas):
            return replace(state, name=event.name)
        case CanvasRemoved():
            return Removed(state.name if isinstance(state, Canvas) else "")
        case CanvasSaved() | CanvasRenamed():
            return state
        case _:
            assert_never(event)
