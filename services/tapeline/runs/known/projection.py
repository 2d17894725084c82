"""Events of canvases and assets to the few columns that a run needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from sqlalchemy import Table

from tapeline.contracts.assets import (
    AssetBuildCancelled,
    AssetBuildFailed,
    AssetBuildRequested,
    AssetBuilt,
    AssetChecked,
    AssetMarkedStale,
    AssetRemoved,
)
from tapeline.contracts.canvases import CanvasCreated, CanvasRemoved, CanvasRenamed, CanvasSaved
from tapeline.log import StoredEvent
from tapeline.projections import Key, Rows
from tapeline.runs.known.tables import assets, canvases

_OF = {"canvas": canvases, "asset": assets}
_CLAIMS = frozenset({"NameClaimed", "NameReleased", "NumberTaken"})


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    """The row that an event of a canvas or asset touches."""
    if event.type not in _CLAIMS:
        yield _OF[event.ref.kind], (event.ref.team, event.ref.id)


def apply(rows: Rows, event: StoredEvent) -> None:
    """Fold one event of a canvas or asset into its row."""
    team, id = event.ref.team, event.ref.id
    match event.data:
        case CanvasCreated() as data:
            rows.put(
                canvases,
                {
                    "team": team, "id": id, "name": data.name, "revision": 1, "content": data.content,
                    "digest": data.digest, "is_removed": False,
                },
            )  # fmt: skip
        case CanvasSaved() as data:
            rows.change(canvases, team, id, revision=data.revision, content=data.content, digest=data.digest)
        case CanvasRenamed() as data:
            rows.change(canvases, team, id, name=data.name)
        case CanvasRemoved():
            rows.change(canvases, team, id, is_removed=True)
        case AssetBuildRequested() as data:
            rows.put(assets, {"team": team, "id": id, "name": data.name, "status": "building", "is_ahead": False})
        case AssetChecked() as data:
            rows.change(assets, team, id, is_ahead=bool(data.certificate.get("lookahead")))
        case AssetBuildFailed():
            rows.change(assets, team, id, status="failed")
        case AssetBuildCancelled():
            rows.change(assets, team, id, status="cancelled")
        case AssetBuilt() as data:
            rows.change(
                assets, team, id, status="ready", files=[asdict(file) for file in data.files], rows=data.rows,
                datasets=data.datasets, features=data.features, labels=data.labels, stats=data.stats,
                data_digest=data.data_digest,
            )  # fmt: skip
        case AssetMarkedStale():
            rows.change(assets, team, id, status="stale")
        case AssetRemoved():
            rows.change(assets, team, id, status="removed")
        case _:
            return
