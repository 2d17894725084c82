"""Questions about a team's tapes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select

from tapeline.assets.tape.tables import tapes
from tapeline.contracts.artifacts import ArtifactView
from tapeline.contracts.message import Page
from tapeline.contracts.tapes import TapeView
from tapeline.errors import TapelineError
from tapeline.subjects import Principal


def get(connection: Connection, caller: Principal, name: str) -> TapeView:
    """The tape with this name or id; `not_found` for a missing one and for another team's."""
    for column in (tapes.c.name, tapes.c.id):
        found = select(tapes).where(tapes.c.team == caller.team, column == name)
        row = connection.execute(found).mappings().first()
        if row is not None:
            return view_of(dict(row))
    raise TapelineError(f"there is no tape {name!r}", code="not_found", hint="tapeline tape ls")


def page(connection: Connection, caller: Principal, limit: int, offset: int) -> Page[TapeView]:
    """The team's tapes by name."""
    query: Select[Any] = (
        select(tapes)
        .where(tapes.c.team == caller.team)
        .order_by(tapes.c.name, tapes.c.id)
        .limit(limit + 1)
        .offset(offset)
    )
    rows = connection.execute(query).mappings().all()
    # A list shows no files: a tape of ten years names thousands.
    items = [view_of({**row, "files": []}) for row in rows[:limit]]
    return Page(items=items, next=str(offset + limit) if len(rows) > limit else None)


def parent_of(connection: Connection, caller: Principal, content_sha256: str) -> tuple[str, str]:
    """The id of the tape with these numbers, and the digest of its manifest; `not_found` when there is none."""
    found = (
        select(tapes.c.id, tapes.c.manifest)
        .where(tapes.c.team == caller.team, tapes.c.content_sha256 == content_sha256)
        .order_by(tapes.c.created_at, tapes.c.id)
    )
    row = connection.execute(found).first()
    if row is None:
        raise TapelineError(
            f"the tape to be extended is gone: none has the digest {content_sha256[:12]}",
            code="not_found",
            hint="import all files together as a new tape",
        )
    return str(row.id), str(row.manifest["sha256"])


def names(connection: Connection, caller: Principal) -> list[str]:
    """The names of the team's tapes."""
    rows = connection.execute(select(tapes.c.name).where(tapes.c.team == caller.team).order_by(tapes.c.name))
    return [str(row.name) for row in rows]


def view_of(row: dict[str, Any]) -> TapeView:
    """A row as the view that is answered."""
    made = {key: value for key, value in row.items() if key != "team"}
    made["created_at"] = datetime.fromisoformat(row["created_at"])
    made["manifest"] = ArtifactView.model_validate(row["manifest"])
    made["files"] = [ArtifactView.model_validate(file) for file in row["files"]]
    return TapeView(**made)
