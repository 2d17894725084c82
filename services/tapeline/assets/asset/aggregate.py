"""What can happen to an asset: its build is requested, ends, and the asset is removed.

A build that failed or was cancelled may be requested again under the same name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, assert_never

from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.assets import (
    AssetBuildCancelled,
    AssetBuildFailed,
    AssetBuildRequested,
    AssetBuilt,
    AssetChecked,
    AssetEvent,
    AssetMarkedStale,
    AssetRemoved,
    CancelBuild,
    FailBuild,
    FinishBuild,
    RemoveAsset,
    RequestBuild,
)
from tapeline.errors import TapelineError

AssetCommand = RequestBuild | FinishBuild | FailBuild | CancelBuild | RemoveAsset


@dataclass(frozen=True, slots=True)
class Unborn:
    """No build has been requested."""


@dataclass(frozen=True, slots=True)
class Building:
    """A build is under way."""

    name: str
    spec: dict[str, Any]
    spec_digest: str
    tapes: tuple[str, ...]
    user: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The build ended without an asset; `status` is `failed` or `cancelled`."""

    request: Building
    status: str
    code: str | None = None
    message: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The asset is there."""

    request: Building
    built: AssetBuilt
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """The asset is gone from every view."""

    name: str


State = Unborn | Building | Ended | Ready | Removed


def initial() -> State:
    return Unborn()


def decide(state: State, command: AssetCommand) -> list[AssetEvent]:
    match command:
        case RequestBuild():
            return _request(state, command)
        case FinishBuild() if isinstance(state, Building) and state.spec_digest == command.spec_digest:
            return [
                AssetChecked(certificate=command.certificate, verdict=command.verdict),
                AssetBuilt(
                    files=[Artifact(**file) for file in command.files],
                    rows=command.rows,
                    datasets=command.datasets,
                    features=command.features,
                    labels=command.labels,
                    data_digest=command.data_digest,
                    stats=command.stats,
                ),
            ]
        case FailBuild() if isinstance(state, Building) and state.spec_digest == command.spec_digest:
            failed = AssetBuildFailed(code=command.code, message=command.message, hint=command.hint)
            if command.certificate is None:
                return [failed]
            return [AssetChecked(certificate=command.certificate, verdict="failed"), failed]
        case FinishBuild() | FailBuild():
            return []  # cancelled, removed, or another copy of the service was first
        case CancelBuild():
            return _cancel(state, command)
        case RemoveAsset():
            return _remove(state, command)
        case _:
            assert_never(command)


def _request(state: State, command: RequestBuild) -> list[AssetEvent]:
    match state:
        case Unborn() | Ended():
            return [
                AssetBuildRequested(
                    name=command.name,
                    spec=command.spec,
                    spec_digest=command.spec_digest,
                    tapes=command.tapes,
                    user=command.user,
                )
            ]
        case Building() | Ready():
            known = state if isinstance(state, Building) else state.request
            if known.spec_digest == command.spec_digest:
                return []
            raise TapelineError(
                f"asset {command.name!r} exists already, built from another spec",
                code="already_exists",
                hint="take another name",
            )
        case Removed():
            raise _missing(command.name)
        case _:
            assert_never(state)


def _cancel(state: State, command: CancelBuild) -> list[AssetEvent]:
    match state:
        case Building():
            return [AssetBuildCancelled()]
        case Ended():
            return []
        case Ready():
            raise TapelineError(
                f"asset {command.name!r} is ready; there is no build to cancel",
                code="conflict",
                hint=f"tapeline asset rm {command.name}",
            )
        case Unborn() | Removed():
            raise _missing(command.name)
        case _:
            assert_never(state)


def _remove(state: State, command: RemoveAsset) -> list[AssetEvent]:
    match state:
        case Building():
            return [AssetBuildCancelled(), AssetRemoved()]
        case Ended() | Ready():
            return [AssetRemoved()]
        case Removed():
            return []
        case Unborn():
            raise _missing(command.name)
        case _:
            assert_never(state)


def _missing(name: str) -> TapelineError:
    return TapelineError(f"there is no asset {name!r}", code="not_found", hint="tapeline asset ls")


def request_of(state: State) -> Building | None:
    """What was asked for; None before birth and after removal."""
    match state:
        case Building():
            return state
        case Ended() | Ready():
            return state.request
        case Unborn() | Removed():
            return None
        case _:
            assert_never(state)


def evolve(state: State, event: AssetEvent) -> State:
    request = request_of(state)
    match event:
        case AssetBuildRequested():
            return Building(event.name, event.spec, event.spec_digest, tuple(event.tapes), event.user)
        case AssetBuildFailed() if request is not None:
            return Ended(request, "failed", event.code, event.message, event.hint)
        case AssetBuildCancelled() if request is not None:
            return Ended(request, "cancelled")
        case AssetBuilt() if request is not None:
            return Ready(request, event)
        case AssetMarkedStale() if isinstance(state, Ready):
            return replace(state, stale=True)
        case AssetRemoved():
            return Removed(request.name if request else "")
        case AssetChecked() | AssetBuildFailed() | AssetBuildCancelled() | AssetBuilt() | AssetMarkedStale():
            return state
        case _:
            assert_never(event)
