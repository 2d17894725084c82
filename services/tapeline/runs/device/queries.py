"""Rows of agents to devices."""

from __future__ import annotations

from sqlalchemy import Connection, select

from tapeline.contracts.agents import DeviceView
from tapeline.runs.device.presence import Presence
from tapeline.runs.device.tables import agents
from tapeline.runs.leases import Leases
from tapeline.runs.schedule import Device

_PRESENT = select(agents).where(agents.c.is_gone.is_(False))


def devices(connection: Connection, presence: Presence, leases: Leases) -> list[Device]:
    """Every device of every agent that has not left."""
    rows = connection.execute(_PRESENT).mappings().all()
    return [
        Device(
            agent=row["agent"],
            name=device["name"],
            kind=device["kind"],
            type=device.get("type", ""),
            cores=device.get("cores"),
            memory=device.get("memory"),
            teams=presence.teams(row["agent"]),
            backends=frozenset(row["backends"]),
            blueprints=frozenset((one["name"], one["version"]) for one in row["blueprints"]),
            is_online=presence.is_online(row["agent"]),
            is_free=leases.on(row["agent"], device["name"]) is None,
        )
        for row in rows
        for device in row["devices"]
    ]


def devices_of(connection: Connection, team: str, presence: Presence, leases: Leases) -> list[Device]:
    """The devices that a team may train on."""
    return [device for device in devices(connection, presence, leases) if team in device.teams]


def view(team: str, device: Device, leases: Leases) -> DeviceView:
    """A device as its team sees it; another team's run is not named."""
    held = leases.on(device.agent, device.name)
    return DeviceView(
        agent=device.agent,
        device=device.name,
        kind=device.kind,
        type=device.type,
        online=device.is_online,
        busy=held is not None,
        run_id=held.run if held is not None and held.team == team else None,
        memory=device.memory,
        cores=device.cores,
    )


def boot_of(connection: Connection, agent: str) -> str | None:
    """The boot that an agent announced last."""
    found: str | None = connection.scalar(select(agents.c.boot).where(agents.c.agent == agent))
    return found
