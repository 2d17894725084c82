"""Events of blueprints to rows."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Table

from tapeline.contracts.blueprints import BlueprintRegistered, BlueprintRemoved
from tapeline.log import StoredEvent
from tapeline.projections import Key, Rows
from tapeline.runs.blueprint.tables import blueprints
from tapeline.runs.moments import us_of


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    """The row that an event of a blueprint touches."""
    return ((blueprints, (event.ref.team, event.ref.id)),)


def apply(rows: Rows, event: StoredEvent) -> None:
    """Fold one event of a blueprint into its row."""
    team, id = event.ref.team, event.ref.id
    match event.data:
        case BlueprintRegistered() as data:
            rows.put(
                blueprints,
                {
                    "team": team, "id": id, "name": data.name, "version": data.version,
                    "config_schema": data.config_schema, "entrypoint": data.entrypoint,
                    "created_us": us_of(event.created_at), "is_removed": False,
                },
            )  # fmt: skip
        case BlueprintRemoved():
            rows.change(blueprints, team, id, is_removed=True)
        case _:
            return
