"""Events of agents to rows."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Table

from tapeline.contracts.agents import DeviceAnnounced, DeviceGone
from tapeline.log import StoredEvent
from tapeline.projections import Key, Rows
from tapeline.runs.device.tables import agents
from tapeline.runs.moments import us_of


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    """The rows that an event of an agent touches."""
    if isinstance(event.data, DeviceAnnounced | DeviceGone):
        yield agents, (event.data.agent,)


def apply(rows: Rows, event: StoredEvent) -> None:
    """Fold one event of an agent into its row."""
    match event.data:
        case DeviceAnnounced() as data:
            rows.put(
                agents,
                {
                    "agent": data.agent, "boot": data.boot, "version": data.version, "host": data.host,
                    "teams": data.teams, "devices": data.devices, "backends": data.backends,
                    "blueprints": data.blueprints, "disk_free_bytes": data.disk_free_bytes, "is_gone": False,
                    "announced_us": us_of(event.created_at),
                },
            )  # fmt: skip
        case DeviceGone() as data:
            rows.change(agents, data.agent, is_gone=True)
        case _:
            return
