"""What a run may name: canvases and assets of its team, by name or id."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, or_, select

from tapeline.errors import TapelineError
from tapeline.runs.blueprint.config import near
from tapeline.runs.known.tables import assets, canvases

Row = dict[str, Any]


def canvas(connection: Connection, team: str, name: str) -> Row:
    """The current revision of a canvas.

    Raises
    ------
    TapelineError
        `not_found`, with what was probably meant or the list of those that there are.
    """
    statement = select(canvases).where(canvases.c.team == team, canvases.c.is_removed.is_(False))
    row = connection.execute(statement.where(canvases.c.name == name)).mappings().first()
    if row is None:
        known = select(canvases.c.name).where(canvases.c.team == team, canvases.c.is_removed.is_(False))
        names = [str(each) for each in connection.scalars(known)]
        raise TapelineError(
            f"no canvas is named {name!r}",
            code="not_found",
            hint=near(name, names, "canvases are"),
            data={"kind": "canvas", "canvases": sorted(names)[:100]},
        )
    return dict(row)


def asset(connection: Connection, team: str, name: str, *, allow_stale: bool = True, acknowledges: bool = False) -> Row:
    """An asset that can be trained on, by name or id.

    Parameters
    ----------
    acknowledges : whether an asset may be one whose features were allowed to look ahead

    Raises
    ------
    TapelineError
        `not_found` with the list of those that there are; `asset_refused` for one that is not built, or is
        stale and may not be; `lookahead_refused` for one that looks ahead and was not acknowledged.
    """
    statement = select(assets).where(
        assets.c.team == team, assets.c.status != "removed", or_(assets.c.name == name, assets.c.id == name)
    )
    rows = connection.execute(statement).mappings().all()
    # A name whose build failed may have been built again.
    row = min(rows, key=lambda each: each["status"] not in ("ready", "stale"), default=None)
    if row is None:
        known = select(assets.c.name).where(assets.c.team == team, assets.c.status.in_(["ready", "stale"]))
        names = [str(each) for each in connection.scalars(known)]
        raise TapelineError(
            f"no asset is named {name!r}",
            code="not_found",
            hint=near(name, names, "assets are"),
            data={"kind": "asset", "assets": sorted(names)[:100]},
        )
    if row["status"] not in ("ready", "stale"):
        raise TapelineError(
            f"asset {row['name']!r} is {row['status']}", code="asset_refused", hint=f"tapeline asset show {row['name']}"
        )
    if row["status"] == "stale" and not allow_stale:
        raise TapelineError(
            f"asset {row['name']!r} is stale: a tape that it was cut from has been corrected",
            code="asset_refused",
            hint="build it again, or set allow_stale",
        )
    if row["is_ahead"] and not acknowledges:
        raise TapelineError(
            f"features of asset {row['name']!r} may know the future: it was built with allow_lookahead",
            code="lookahead_refused",
            hint="build it without allow_lookahead, or set acknowledge_lookahead: true",
        )
    return dict(row)
