"""The blueprints that a team may use: those of this version, and those that it has registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from tapeline.contracts.runs import BlueprintView, ListBlueprints
from tapeline.errors import TapelineError
from tapeline.projections import row_of
from tapeline.runs.blueprint.builtin import BUNDLED, Blueprint
from tapeline.runs.blueprint.tables import blueprints
from tapeline.runs.moments import moment
from tapeline.runs.patterns import matches

_BUNDLED = {one.id: one for one in BUNDLED}
LISTED = 50
"""How many blueprints a refusal names."""


def find(connection: Connection, team: str, blueprint_id: str, *, removed: bool = False) -> Blueprint:
    """The blueprint with an id.

    Raises
    ------
    TapelineError
        `not_found`, naming those that there are; a removed one is found only when `removed`.
    """
    if (bundled := _BUNDLED.get(blueprint_id)) is not None:
        return bundled
    row = row_of(connection, blueprints, team, blueprint_id)
    if row is not None and (removed or not row["is_removed"]):
        return _blueprint(row)
    known = ", ".join(f"{one.name} {one.version} ({one.id})" for one in _all(connection, team)[:LISTED])
    raise TapelineError(
        f"no blueprint has the id {blueprint_id!r}",
        code="not_found",
        hint=f"blueprints are: {known}",
        data={"kind": "blueprint", "id": blueprint_id},
    )


def of_run(connection: Connection, team: str, blueprint_id: str) -> Blueprint:
    """The blueprint that a run was born with, removed or not; one that is nowhere fits no device and stops nobody."""
    try:
        return find(connection, team, blueprint_id, removed=True)
    except TapelineError:
        return Blueprint(name=blueprint_id, version="0.0.0", config_schema={}, team=team)


def listed(connection: Connection, team: str, query: ListBlueprints) -> list[BlueprintView]:
    """Blueprints, newest first."""
    return [
        one.view()
        for one in _all(connection, team)
        if (query.name is None or one.name == query.name)
        and (query.version_ilike is None or matches(query.version_ilike, one.version))
    ]


def _all(connection: Connection, team: str) -> list[Blueprint]:
    alive = (blueprints.c.team == team) & blueprints.c.is_removed.is_(False)
    statement = select(blueprints).where(alive).order_by(blueprints.c.created_us.desc(), blueprints.c.id.desc())
    return [*map(_blueprint, connection.execute(statement).mappings()), *BUNDLED]


def _blueprint(row: Mapping[Any, Any]) -> Blueprint:
    return Blueprint(
        name=row["name"],
        version=row["version"],
        config_schema=row["config_schema"],
        team=row["team"],
        entrypoint=row["entrypoint"],
        created_at=moment(row["created_us"]),
    )
