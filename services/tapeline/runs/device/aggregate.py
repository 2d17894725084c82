"""An agent as a decider: what it has announced. Only what has changed becomes an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, assert_never

from tapeline.contracts.agents import Announce, DeviceAnnounced, DeviceEvent, DeviceGone
from tapeline.contracts.message import Command, Told

_PASSING = ("free", "disk_free_bytes")
"""What changes by itself and is no news."""


class Admit(Command):
    """From the handler of an agent's announcement: what it says, and the teams that it may act for."""

    agent: str
    teams: list[str]
    said: Announce

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        said = asdict(events[0].data)
        announced = Announce(**{name: said[name] for name in Announce.model_fields if name in said})
        return cls(agent=said["agent"], teams=said["teams"], said=announced)


class Forget(Command):
    """From the handler of `agent forget`, or of an announcement that says farewell."""

    agent: str
    cause: str

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


DeviceCommand = Admit | Forget


@dataclass(frozen=True, slots=True)
class Device:
    """What an agent announced last; None before it ever did, `is_gone` after it left."""

    announced: DeviceAnnounced | None = None
    is_gone: bool = False


def initial() -> Device:
    return Device()


def decide(device: Device, command: DeviceCommand) -> list[DeviceEvent]:
    match command:
        case Admit():
            event = _announced(command)
            if not device.is_gone and device.announced is not None and _steady(device.announced) == _steady(event):
                return []
            return [event]
        case Forget():
            if device.announced is None or device.is_gone:
                return []
            return [DeviceGone(agent=command.agent, cause=command.cause)]
        case _:
            assert_never(command)


def _announced(command: Admit) -> DeviceAnnounced:
    said = command.said
    return DeviceAnnounced(
        agent=command.agent,
        boot=said.boot,
        version=said.version,
        host=said.host,
        teams=sorted(command.teams),
        devices=[device.model_dump(exclude_none=True) for device in said.devices],
        backends=dict(said.backends),
        blueprints=[blueprint.model_dump() for blueprint in said.blueprints],
        disk_free_bytes=said.disk_free_bytes,
    )


def _steady(event: DeviceAnnounced) -> tuple[Any, ...]:
    devices = [{key: value for key, value in one.items() if key not in _PASSING} for one in event.devices]
    return (
        event.boot, event.version, event.host, sorted(event.teams), devices, event.backends, event.blueprints,
    )  # fmt: skip


def evolve(device: Device, event: DeviceEvent) -> Device:
    match event:
        case DeviceAnnounced():
            return replace(device, announced=event, is_gone=False)
        case DeviceGone():
            return replace(device, is_gone=True)
        case _:
            assert_never(event)
