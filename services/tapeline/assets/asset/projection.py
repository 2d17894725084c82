"""Folds the events of assets into their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from sqlalchemy import Table

from tapeline.assets.asset.tables import assets, features
from tapeline.contracts.assets import (
    AssetBuildCancelled,
    AssetBuildFailed,
    AssetBuildRequested,
    AssetBuilt,
    AssetChecked,
    AssetMarkedStale,
    AssetRebuildFailed,
    AssetRebuildRequested,
    AssetRebuilt,
    AssetRemoved,
    FeatureRemoved,
    FeatureSaved,
)
from tapeline.log import StoredEvent
from tapeline.projections import Key, Rows

name = "assets.assets"
version = 4
kinds = frozenset({"asset"})
tables: Sequence[Table] = (assets, features)


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    is_feature = isinstance(event.data, FeatureSaved | FeatureRemoved)
    yield features if is_feature else assets, (event.ref.team, event.ref.id)


def apply(rows: Rows, event: StoredEvent) -> None:
    team, asset_id = event.ref.team, event.ref.id
    at = event.created_at.isoformat()
    match event.data:
        case AssetBuildRequested() as data:
            before = rows.get(assets, team, asset_id)
            rows.put(
                assets,
                {
                    "team": team,
                    "id": asset_id,
                    "name": data.name,
                    "status": "building",
                    "spec": data.spec,
                    "spec_digest": data.spec_digest,
                    "tapes": data.tapes,
                    "created_at": before["created_at"] if before else at,
                    "updated_at": at,
                    "user": data.user,
                    "files": [],
                    "rows": {},
                    "datasets": [],
                    "features": {},
                    "labels": {},
                    "stats": {},
                },
            )
        case AssetChecked() as data:
            rows.change(assets, team, asset_id, certificate=data.certificate)
        case AssetBuilt() as data:
            rows.change(
                assets,
                team,
                asset_id,
                status="ready",
                updated_at=at,
                files=[asdict(file) for file in data.files],
                rows=data.rows,
                datasets=data.datasets,
                features=data.features,
                labels=data.labels,
                data_digest=data.data_digest,
                stats=data.stats,
            )
        case AssetBuildFailed() as data:
            rows.change(
                assets,
                team,
                asset_id,
                status="failed",
                updated_at=at,
                code=data.code,
                message=data.message,
                hint=data.hint,
                shard=data.shard,
            )
        case AssetBuildCancelled():
            rows.change(assets, team, asset_id, status="cancelled", updated_at=at)
        case AssetMarkedStale() as data:
            rows.change(
                assets,
                team,
                asset_id,
                status="stale",
                updated_at=at,
                message=f"tape {data.tape}, of which it was cut, has been corrected",
                hint="build it again from the tape that is right",
            )
        case AssetRebuildRequested():
            rows.change(assets, team, asset_id, rebuilding=True, rebuild={"status": "building", "at": at})
        case AssetRebuilt():
            rows.change(assets, team, asset_id, rebuilding=False, rebuild={"status": "same", "at": at})
        case AssetRebuildFailed() as data:
            failed = {"status": "failed", "at": at, "code": data.code, "message": data.message, "hint": data.hint}
            rows.change(assets, team, asset_id, rebuilding=False, rebuild=failed)
        case AssetRemoved():
            rows.delete(assets, team, asset_id)
        case FeatureSaved() as data:
            rows.put(
                features,
                {
                    "team": team,
                    "id": asset_id,
                    "name": data.name,
                    "version": data.version,
                    "kind": data.kind,
                    "component": data.component,
                    "component_version": data.component_version,
                    "params": data.params,
                    "saved_at": at,
                    "user": data.user,
                },
            )
        case FeatureRemoved():
            rows.delete(features, team, asset_id)
        case _:
            pass  # names have streams of their own
