"""Questions about a team's canvases."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, select

from tapeline.assets.canvas.tables import canvases, revisions
from tapeline.contracts.canvases import CanvasView
from tapeline.contracts.message import Page
from tapeline.errors import TapelineError
from tapeline.subjects import Principal


def _joined(caller: Principal) -> Select[*tuple[Any, ...]]:
    same = and_(revisions.c.team == canvases.c.team, revisions.c.id == canvases.c.id)
    return (
        select(
            canvases.c.id,
            canvases.c.name,
            canvases.c.created_at,
            canvases.c.copied_from,
            revisions.c.revision,
            revisions.c.content,
            revisions.c.digest,
            revisions.c.saved_at,
            revisions.c.user,
        )
        .join(revisions, same)
        .where(canvases.c.team == caller.team)
    )


def get(connection: Connection, caller: Principal, name: str, revision: int | None = None) -> CanvasView:
    """A canvas by name or id, at its latest or a given revision; `not_found` for a foreign or missing one."""
    for column in (canvases.c.name, canvases.c.id):
        wanted = canvases.c.revision if revision is None else revision
        query = _joined(caller).where(column == name, revisions.c.revision == wanted)
        row = connection.execute(query).mappings().first()
        if row is not None:
            return view_of(dict(row))
        if revision is None:
            continue
        latest = select(canvases.c.revision).where(canvases.c.team == caller.team, column == name)
        found = connection.scalar(latest)
        if found is not None:
            raise TapelineError(
                f"canvas {name!r} has no revision {revision}", code="not_found", hint=f"revisions are 1 to {found}"
            )
    raise TapelineError(f"there is no canvas {name!r}", code="not_found", hint="tapeline canvas ls")


def all_revisions(connection: Connection, caller: Principal, name: str, limit: int, offset: int) -> Page[CanvasView]:
    """The revisions of a canvas by name or id, the first one first, cut where a message is full."""
    canvas_id = get(connection, caller, name).id
    query = (
        _joined(caller).where(canvases.c.id == canvas_id).order_by(revisions.c.revision).limit(limit + 1).offset(offset)
    )
    return _cut(connection.execute(query).mappings().all(), limit, offset)


def page(connection: Connection, caller: Principal, limit: int, offset: int) -> Page[CanvasView]:
    """The team's canvases by name, each at its latest revision, cut where a message is full."""
    query = (
        _joined(caller)
        .where(revisions.c.revision == canvases.c.revision)
        .order_by(canvases.c.name, canvases.c.id)
        .limit(limit + 1)
        .offset(offset)
    )
    return _cut(connection.execute(query).mappings().all(), limit, offset)


def _cut(rows: Sequence[Any], limit: int, offset: int) -> Page[CanvasView]:
    """A page of the rows, of which there is one more than `limit` where another page follows."""
    items: list[CanvasView] = []
    size = 0
    for row in rows[:limit]:
        view = view_of(dict(row))
        size += len(view.model_dump_json())
        if items and size > PAGE_BYTES:
            break
        items.append(view)
    more = len(rows) > len(items)
    return Page(items=items, next=str(offset + len(items)) if more and items else None)


PAGE_BYTES = 512 * 1024


def view_of(row: dict[str, Any]) -> CanvasView:
    """A joined row as the view that is answered."""
    return CanvasView(
        id=row["id"],
        name=row["name"],
        revision=row["revision"],
        content=row["content"],
        digest=row["digest"],
        created_at=datetime.fromisoformat(row["created_at"]),
        updated_at=datetime.fromisoformat(row["saved_at"]),
        user=row["user"],
        copied_from=row["copied_from"],
    )
