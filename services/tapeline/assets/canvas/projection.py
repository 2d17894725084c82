"""Folds the events of canvases into their tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Table

from tapeline.assets.canvas.tables import canvases, revisions
from tapeline.contracts.canvases import CanvasCreated, CanvasRemoved, CanvasRenamed, CanvasSaved
from tapeline.log import StoredEvent
from tapeline.projections import Key, Rows

name = "assets.canvases"
version = 1
kinds = frozenset({"canvas"})
tables: Sequence[Table] = (canvases, revisions)


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    yield canvases, (event.ref.team, event.ref.id)


def apply(rows: Rows, event: StoredEvent) -> None:
    team, canvas_id = event.ref.team, event.ref.id
    at = event.created_at.isoformat()
    match event.data:
        case CanvasCreated() as data:
            rows.put(
                canvases,
                {
                    "team": team,
                    "id": canvas_id,
                    "name": data.name,
                    "revision": 1,
                    "created_at": at,
                    "copied_from": data.copied_from,
                },
            )
            _revision(rows, team, canvas_id, 1, data, at)
        case CanvasSaved() as data:
            rows.change(canvases, team, canvas_id, revision=data.revision)
            _revision(rows, team, canvas_id, data.revision, data, at)
        case CanvasRenamed() as data:
            rows.change(canvases, team, canvas_id, name=data.name)
        case CanvasRemoved():
            rows.delete(canvases, team, canvas_id)
        case _:
            pass  # names have streams of their own


def _revision(rows: Rows, team: str, canvas_id: str, number: int, data: CanvasCreated | CanvasSaved, at: str) -> None:
    rows.put(
        revisions,
        {
            "team": team,
            "id": canvas_id,
            "revision": number,
            "content": data.content,
            "digest": data.digest,
            "saved_at": at,
            "user": data.user,
        },
    )
