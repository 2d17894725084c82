"""The published language of assets: immutable HDF5 data sets cut from tapes by a build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from tapeline.contracts.artifacts import Artifact, ArtifactView
from tapeline.contracts.message import Command, Query, Text255, Told, View
from tapeline.contracts.references import ARTIFACT, Makes, Names

AssetStatus = Literal["building", "failed", "cancelled", "ready", "stale", "removed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetBuildRequested:
    """A build was accepted: `spec` is resolved, nothing in it is looked up again."""

    SCHEMA: ClassVar[int] = 1
    name: str
    spec: dict[str, Any]
    spec_digest: str
    tapes: Annotated[list[str], Names("tape")]
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetBuildFailed:
    """The build ended without an asset; nothing of it is visible."""

    SCHEMA: ClassVar[int] = 1
    code: str
    message: str
    hint: str | None = None
    shard: str | None = None
    """The symbol and trade date that could not be computed; None where the whole could not be put together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetBuildCancelled:
    """A user cancelled the build."""

    SCHEMA: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetChecked:
    """The causality certificate of the assembled data."""

    SCHEMA: ClassVar[int] = 1
    certificate: dict[str, Any]
    verdict: Literal["passed", "warned", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetBuilt:
    """The asset is there: test file first, then the train files, every byte under its digest.

    `datasets` are feature names in spec order, then label names; `features` maps each to its sample shape,
    `labels` each to its column types (`binary`, `multiclass(k)`, `regression`).
    """

    SCHEMA: ClassVar[int] = 1
    ESTABLISHES: ClassVar[bool] = True
    files: Annotated[list[Artifact], Makes(ARTIFACT)]
    rows: dict[str, int]
    datasets: list[str]
    features: dict[str, list[int]]
    labels: dict[str, list[str]]
    data_digest: str
    stats: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetMarkedStale:
    """A tape that the asset was cut from has been corrected; the asset still trains, and a run says so."""

    SCHEMA: ClassVar[int] = 1
    tape: Annotated[str, Names("tape")]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetRebuildRequested:
    """A user wants the asset built again and compared; it stays what it is meanwhile."""

    SCHEMA: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetRebuilt:
    """Built again from nothing but the tapes, the asset has the same data."""

    SCHEMA: ClassVar[int] = 1
    data_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetRebuildFailed:
    """The build again gave other data (`not_reproducible`, of `data_digest`), or none; the asset is as it was."""

    SCHEMA: ClassVar[int] = 1
    code: str
    message: str
    hint: str | None = None
    data_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetRemoved:
    """The asset is gone from every view and its name is free."""

    SCHEMA: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSaved:
    """A feature or label has a name and a meaning; `version` counts its meanings from 1.

    `name` is free text and is never parsed. An asset stores the full spec, so a new version changes none.
    """

    SCHEMA: ClassVar[int] = 1
    name: str
    version: int
    kind: Literal["feature", "label"]
    component: str
    component_version: int
    params: dict[str, Any]
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRemoved:
    """The name means nothing any more; saved again, its versions go on."""

    SCHEMA: ClassVar[int] = 1


FEATURE_EVENTS = (FeatureSaved, FeatureRemoved)
FeatureEvent = FeatureSaved | FeatureRemoved
ASSET_EVENTS = (
    AssetBuildRequested, AssetBuildFailed, AssetBuildCancelled, AssetChecked, AssetBuilt, AssetMarkedStale,
    AssetRebuildRequested, AssetRebuilt, AssetRebuildFailed, AssetRemoved,
)  # fmt: skip
AssetEvent = (
    AssetBuildRequested | AssetBuildFailed | AssetBuildCancelled | AssetChecked | AssetBuilt | AssetMarkedStale
    | AssetRebuildRequested | AssetRebuilt | AssetRebuildFailed | AssetRemoved
)  # fmt: skip


class BuildAsset(Command):
    """Sent by a user to cut an asset from tapes; `spec` is a `tapeline.asset-spec/1`.

    Answered when the build is accepted; `assets.get` and the feed tell how it goes. A spec that has been built is
    answered with its asset, which is built again and compared where the spec says `rebuild: true`.
    """

    spec: dict[str, Any]


class RequestBuild(Command):
    """What the service makes of `BuildAsset`: a resolved spec and its digest."""

    name: str
    spec: dict[str, Any]
    spec_digest: str
    tapes: list[str]
    user: str = ""

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class FinishBuild(Command):
    """Sent by the build itself: the certificate and the promoted files, in one commit."""

    spec_digest: str
    certificate: dict[str, Any]
    verdict: Literal["passed", "warned", "failed"]
    files: list[dict[str, Any]]
    rows: dict[str, int]
    datasets: list[str]
    features: dict[str, list[int]]
    labels: dict[str, list[str]]
    data_digest: str
    stats: dict[str, Any] = {}

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        checked, built = events
        return cls.of(
            built, spec_digest=state.spec_digest, certificate=checked.data.certificate, verdict=checked.data.verdict
        )


class FailBuild(Command):
    """Sent by the build itself: it ended without an asset; with a certificate when a check failed."""

    spec_digest: str
    code: str
    message: str
    hint: str | None = None
    shard: str | None = None
    certificate: dict[str, Any] | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        certificate = events[0].data.certificate if len(events) > 1 else None
        return cls.of(events[-1], spec_digest=state.spec_digest, certificate=certificate)


class RebuildAsset(Command):
    """Sent by a user to have an asset built again from its recipe and compared with what is there."""

    name: Text255

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(name=events[0].ref.id)


class FinishRebuild(Command):
    """Sent by the build itself: the digest of the data that it gave this time."""

    data_digest: str

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(data_digest=events[0].data.data_digest)


class FailRebuild(Command):
    """Sent by the build itself: it gave no data this time."""

    code: str
    message: str
    hint: str | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class CancelBuild(Command):
    """Sent by a user to end a build."""

    name: Text255

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(name=events[0].ref.id)


class RemoveAsset(Command):
    """Sent by a user; refused while an unfinished run or a vault item needs the asset."""

    name: Text255

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(name=events[0].ref.id)


class MarkStale(Command):
    """What the service makes of `CorrectTape` for each asset that was cut from what differs."""

    tape: str

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class CorrectTape(Command):
    """Sent by a user to say that one tape is wrong and another right; assets cut from what differs become stale.

    They still train, and a run says so; what differs is found by the digests of the days.
    """

    name: Text255
    by: Text255


class CorrectionView(View):
    """What a correction changed: how many days differ, and the assets that were cut from them."""

    name: str
    by: str
    days: int
    assets: list[str]


class SaveFeature(Command):
    """Sent by a user to name a component with parameters, or to give a name another meaning.

    `expected_version` guards against a save in between; 0 is for a name that is not yet there. Equal content
    makes no version.
    """

    name: Text255
    component: str = Field(min_length=1, max_length=64)
    component_version: int | None = Field(default=None, ge=1)
    params: dict[str, Any] = {}
    expected_version: int | None = Field(default=None, ge=0)


class StoreFeature(Command):
    """What the service makes of `SaveFeature`: a full spec, nothing in it has a default left to look up."""

    name: str
    kind: Literal["feature", "label"]
    component: str
    component_version: int
    params: dict[str, Any]
    user: str = ""
    expected_version: int | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class RemoveFeature(Command):
    """Sent by a user to free the name of a feature or label; assets that were built with it keep its spec."""

    name: Text255

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(name=state.name)


class FeatureView(View):
    """A saved feature or label: its full spec, which version of its name that is, and who saved it."""

    name: str
    version: int
    kind: Literal["feature", "label"]
    component: str
    component_version: int
    params: dict[str, Any]
    saved_at: datetime | None = None
    user: str = ""


class GetAsset(Query):
    """Sent by a user to see one asset."""

    name: Text255


class ListAssets(Query):
    """Sent by a user to see the team's assets by name."""

    limit: int = Field(default=100, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


class ListFeatures(Query):
    """Sent by a user to see of what features and labels can be made, and the specs that have a name already."""


class FeaturesView(View):
    """The components of features and labels with their parameters, the built-in specs, and the team's own."""

    components: list[dict[str, Any]]
    features: list[dict[str, Any]]
    labels: list[dict[str, Any]]
    saved: list[FeatureView] = []


class RebuildView(View):
    """How the last build again goes or ended: `same` data, or `failed` with what came in its place."""

    status: Literal["building", "same", "failed"]
    at: datetime
    code: str | None = None
    message: str | None = None
    hint: str | None = None


class AssetView(View):
    """An asset: status, recipe, files, what is in them, and its certificate once built."""

    id: str
    name: str
    status: AssetStatus
    spec: dict[str, Any]
    spec_digest: str
    tapes: list[str]
    created_at: datetime
    updated_at: datetime
    user: str = ""
    files: list[ArtifactView] = []
    rows: dict[str, int] = {}
    datasets: list[str] = []
    features: dict[str, list[int]] = {}
    labels: dict[str, list[str]] = {}
    data_digest: str | None = None
    stats: dict[str, Any] = {}
    certificate: dict[str, Any] | None = None
    progress: list[dict[str, Any]] = []
    code: str | None = None
    message: str | None = None
    hint: str | None = None
    shard: str | None = None
    """The symbol and trade date at which the build failed, where it was at one."""
    rebuild: RebuildView | None = None
    not_rebuildable: str | None = None
    """Why the asset can never be built again: a component of its recipe is no longer there; None in lists too."""
    stale: bool | None = None
    """True when a later event could not be folded: the log knows more than this view."""
