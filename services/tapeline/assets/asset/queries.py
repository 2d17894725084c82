"""Questions about a team's assets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from tapeline.assets.asset.tables import asset_users, assets, features
from tapeline.contracts.artifacts import ArtifactView
from tapeline.contracts.assets import AssetView, FeatureView
from tapeline.contracts.message import Page
from tapeline.errors import TapelineError
from tapeline.subjects import Principal

PAGE_BYTES = 512 * 1024


def get(connection: Connection, caller: Principal, name: str) -> AssetView:
    """The asset with this name or id; `not_found` for a missing one and for another team's."""
    for column in (assets.c.name, assets.c.id):
        found = select(assets).where(assets.c.team == caller.team, column == name)
        row = connection.execute(found).mappings().first()
        if row is not None:
            return view_of(dict(row))
    raise TapelineError(f"there is no asset {name!r}", code="not_found", hint="tapeline asset ls")


def page(connection: Connection, caller: Principal, limit: int, offset: int) -> Page[AssetView]:
    """The team's assets by name, without certificate and statistics, cut where a message is full."""
    query = (
        select(assets)
        .where(assets.c.team == caller.team)
        .order_by(assets.c.name, assets.c.id)
        .limit(limit + 1)
        .offset(offset)
    )
    rows = connection.execute(query).mappings().all()
    items: list[AssetView] = []
    size = 0
    for row in rows[:limit]:
        view = view_of({**row, "certificate": None, "stats": {}})
        size += len(view.model_dump_json())
        if items and size > PAGE_BYTES:
            break
        items.append(view)
    return Page(items=items, next=str(offset + len(items)) if items and len(rows) > len(items) else None)


def of_digest(connection: Connection, team: str, spec_digest: str) -> AssetView | None:
    """The asset of a spec that is there or being built, the oldest one."""
    found = (
        select(assets)
        .where(
            assets.c.team == team,
            assets.c.spec_digest == spec_digest,
            assets.c.status.in_(("building", "ready", "stale")),
        )
        .order_by(assets.c.id)
    )
    row = connection.execute(found).mappings().first()
    return None if row is None else view_of(dict(row))


def of_tape(connection: Connection, caller: Principal, tape_id: str) -> list[str]:
    """The names of the assets that name a tape and are not failed or cancelled."""
    found = (
        select(assets.c.name, assets.c.tapes)
        .where(assets.c.team == caller.team, assets.c.status.in_(("building", "ready", "stale")))
        .order_by(assets.c.name)
    )
    return [str(row.name) for row in connection.execute(found) if tape_id in row.tapes]


def cut_from(connection: Connection, caller: Principal, tape_id: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Id, name and recipe of the assets that are there and were cut from a tape, by name."""
    found = (
        select(assets.c.id, assets.c.name, assets.c.tapes, assets.c.spec)
        .where(assets.c.team == caller.team, assets.c.status.in_(("ready", "stale")))
        .order_by(assets.c.name)
    )
    return [(row.id, row.name, row.spec) for row in connection.execute(found) if tape_id in row.tapes]


def needed_by(connection: Connection, team: str, asset_id: str) -> list[str]:
    """What needs an asset now: unfinished runs and vault items."""
    found = (
        select(asset_users.c.name)
        .where(asset_users.c.team == team, asset_users.c.asset_id == asset_id, asset_users.c.needs)
        .order_by(asset_users.c.name)
        .limit(11)
    )
    return [str(row.name) for row in connection.execute(found)]


def saved(connection: Connection, caller: Principal) -> list[FeatureView]:
    """The team's features and labels by name."""
    found = select(features).where(features.c.team == caller.team).order_by(features.c.name)
    return [FeatureView.model_validate(dict(row)) for row in connection.execute(found).mappings()]


def building(connection: Connection) -> list[tuple[str, str]]:
    """Team and id of every asset that is to be built, or built again, of all teams: for the builder alone."""
    is_wanted = (assets.c.status == "building") | assets.c.rebuilding
    found = select(assets.c.team, assets.c.id).where(is_wanted).order_by(assets.c.id)
    return [(str(row.team), str(row.id)) for row in connection.execute(found)]


def view_of(row: dict[str, Any]) -> AssetView:
    """A row as the view that is answered."""
    made = {key: value for key, value in row.items() if key not in ("team", "rebuilding")}
    made["created_at"] = datetime.fromisoformat(row["created_at"])
    made["updated_at"] = datetime.fromisoformat(row["updated_at"])
    made["files"] = [ArtifactView.model_validate(file) for file in row["files"]]
    return AssetView(**made)
