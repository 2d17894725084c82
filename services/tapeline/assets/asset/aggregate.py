"""What can happen to an asset: its build is requested, ends, and the asset is removed.

A build that failed or was cancelled may be requested again under the same name. An asset that is there may be built
again to see whether the same data comes out; what is there is never replaced. Features and labels that a team
has named are kept here too, each on a stream of its own made from its name: a name is saved, and removed.
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
    AssetRebuildFailed,
    AssetRebuildRequested,
    AssetRebuilt,
    AssetRemoved,
    CancelBuild,
    FailBuild,
    FailRebuild,
    FeatureEvent,
    FeatureRemoved,
    FeatureSaved,
    FinishBuild,
    FinishRebuild,
    MarkStale,
    RebuildAsset,
    RemoveAsset,
    RemoveFeature,
    RequestBuild,
    StoreFeature,
)
from tapeline.errors import TapelineError

AssetCommand = (
    RequestBuild | FinishBuild | FailBuild | CancelBuild | MarkStale | RebuildAsset | FinishRebuild | FailRebuild
    | RemoveAsset | StoreFeature | RemoveFeature
)  # fmt: skip
Event = AssetEvent | FeatureEvent


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
    shard: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The asset is there; `rebuilding` while it is built again to be compared."""

    request: Building
    built: AssetBuilt
    stale: bool = False
    rebuilding: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """The asset is gone from every view."""

    name: str


@dataclass(frozen=True, slots=True)
class Feature:
    """A name of a feature or label; `spec` is its latest meaning, None once it was removed."""

    name: str
    version: int
    spec: FeatureSaved | None


State = Unborn | Building | Ended | Ready | Removed | Feature


def initial() -> State:
    return Unborn()


def decide(state: State, command: AssetCommand) -> list[Event]:
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
            failed = AssetBuildFailed(
                code=command.code, message=command.message, hint=command.hint, shard=command.shard
            )
            if command.certificate is None:
                return [failed]
            return [AssetChecked(certificate=command.certificate, verdict="failed"), failed]
        case FinishBuild() | FailBuild():
            return []  # cancelled, removed, or another copy of the service was first
        case CancelBuild():
            return _cancel(state, command)
        case MarkStale():
            is_fresh = isinstance(state, Ready) and not state.stale
            return [AssetMarkedStale(tape=command.tape)] if is_fresh else []
        case RebuildAsset():
            return _rebuild(state, command)
        case FinishRebuild() if isinstance(state, Ready) and state.rebuilding:
            return [_compared(state, command)]
        case FailRebuild() if isinstance(state, Ready) and state.rebuilding:
            return [AssetRebuildFailed(code=command.code, message=command.message, hint=command.hint)]
        case FinishRebuild() | FailRebuild():
            return []  # cancelled, removed, or another copy of the service was first
        case RemoveAsset():
            return _remove(state, command)
        case StoreFeature():
            return _store(state, command)
        case RemoveFeature():
            if not isinstance(state, Feature):
                raise TapelineError(
                    f"there is no feature {command.name!r}", code="not_found", hint="tapeline asset features"
                )
            return [] if state.spec is None else [FeatureRemoved()]
        case _:
            assert_never(command)


def _store(state: State, command: StoreFeature) -> list[Event]:
    known = state if isinstance(state, Feature) else Feature(command.name, 0, None)
    before = known.spec
    made = FeatureSaved(
        name=command.name,
        version=known.version + 1,
        kind=command.kind,
        component=command.component,
        component_version=command.component_version,
        params=command.params,
        user=command.user,
    )
    if before is not None and replace(made, version=before.version, user=before.user) == before:
        return []
    if before is not None and command.expected_version == 0:
        raise TapelineError(
            f"{before.kind} {command.name!r} exists already, as {before.component} {before.params}",
            code="already_exists",
            hint="take another name, or save without expected_version to give it a new version",
        )
    if command.expected_version not in (None, 0 if before is None else before.version):
        raise TapelineError(
            f"{command.kind} {command.name!r} is at version {before.version if before else 0}, version "
            f"{command.expected_version} was expected",
            code="conflict",
            hint="somebody saved in between: look at it, then save again",
        )
    if before is not None and before.kind != command.kind:
        raise TapelineError(
            f"{command.name!r} is the name of a {before.kind}",
            code="already_exists",
            hint=f"take another name for the {command.kind}, or remove the {before.kind} first",
        )
    return [made]


def _request(state: State, command: RequestBuild) -> list[Event]:
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
        case Removed() | Feature():
            raise _missing(command.name)
        case _:
            assert_never(state)


def _rebuild(state: State, command: RebuildAsset) -> list[Event]:
    match state:
        case Ready():
            return [] if state.rebuilding else [AssetRebuildRequested()]
        case Building() | Ended():
            raise TapelineError(
                f"asset {command.name!r} is {state.status if isinstance(state, Ended) else 'building'}; "
                "there is nothing to compare a build with",
                code="conflict",
                hint="build it by its spec" if isinstance(state, Ended) else "wait until it is ready",
            )
        case Unborn() | Removed() | Feature():
            raise _missing(command.name)
        case _:
            assert_never(state)


def _compared(state: Ready, command: FinishRebuild) -> AssetRebuilt | AssetRebuildFailed:
    if command.data_digest == state.built.data_digest:
        return AssetRebuilt(data_digest=command.data_digest)
    return AssetRebuildFailed(
        code="not_reproducible",
        message=f"asset {state.request.name!r} was built again and its data came out different: digest "
        f"{command.data_digest[:12]} in place of {state.built.data_digest[:12]}",
        hint="a formula or a library has changed since it was built: remove the asset and build it anew to train on "
        "what is computed today",
        data_digest=command.data_digest,
    )


def _cancel(state: State, command: CancelBuild) -> list[Event]:
    match state:
        case Building():
            return [AssetBuildCancelled()]
        case Ended():
            return []
        case Ready() if state.rebuilding:
            return [
                AssetRebuildFailed(code="cancelled", message="the build again was cancelled", hint="the asset is there")
            ]
        case Ready():
            raise TapelineError(
                f"asset {command.name!r} is ready; there is no build to cancel",
                code="conflict",
                hint=f"tapeline asset rm {command.name}",
            )
        case Unborn() | Removed() | Feature():
            raise _missing(command.name)
        case _:
            assert_never(state)


def _remove(state: State, command: RemoveAsset) -> list[Event]:
    match state:
        case Building():
            return [AssetBuildCancelled(), AssetRemoved()]
        case Ended() | Ready():
            return [AssetRemoved()]
        case Removed():
            return []
        case Unborn() | Feature():
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
        case Unborn() | Removed() | Feature():
            return None
        case _:
            assert_never(state)


def evolve(state: State, event: Event) -> State:
    request = request_of(state)
    match event:
        case AssetBuildRequested():
            return Building(event.name, event.spec, event.spec_digest, tuple(event.tapes), event.user)
        case AssetBuildFailed() if request is not None:
            return Ended(request, "failed", event.code, event.message, event.hint, event.shard)
        case AssetBuildCancelled() if request is not None:
            return Ended(request, "cancelled")
        case AssetBuilt() if request is not None:
            return Ready(request, event)
        case AssetMarkedStale() if isinstance(state, Ready):
            return replace(state, stale=True)
        case AssetRebuildRequested() if isinstance(state, Ready):
            return replace(state, rebuilding=True)
        case AssetRebuilt() | AssetRebuildFailed() if isinstance(state, Ready):
            return replace(state, rebuilding=False)
        case AssetRemoved():
            return Removed(request.name if request else "")
        case FeatureSaved():
            return Feature(event.name, event.version, event)
        case FeatureRemoved():
            return replace(state, spec=None) if isinstance(state, Feature) else Feature("", 0, None)
        case AssetChecked() | AssetBuildFailed() | AssetBuildCancelled() | AssetBuilt() | AssetMarkedStale():
            return state
        case AssetRebuildRequested() | AssetRebuilt() | AssetRebuildFailed():
            return state
        case _:
            assert_never(event)
