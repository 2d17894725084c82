"""What a team can train on."""

from __future__ import annotations

from typing import Any

from tapeline.sdk.client import client_of
from tapeline.sdk.records import BaseModelWithDatetime


class Device(BaseModelWithDatetime):
    """One device of a live or departed agent."""

    agent: str
    device: str
    kind: str
    type: str
    online: bool
    busy: bool
    run_id: str | None = None
    memory: int | None = None
    cores: int | None = None


class SystemGpu(BaseModelWithDatetime):
    """A type of GPU: how many live agents have, how many are free, and the memory of one in bytes."""

    type: str
    total: int
    free: int
    memory: int | None
    agents: list[str]


def get_devices(team: str | None = None) -> list[Device]:
    """The devices that a team may train on."""
    rows: list[dict[str, Any]] = client_of(team).query("runs", "devices")["items"]
    return [Device(**{key: row[key] for key in Device.model_fields if key in row}) for row in rows]


def get_available_system_gpus() -> list[SystemGpu]:
    """The types of GPU that live agents have."""
    found: dict[str, SystemGpu] = {}
    for each in get_devices():
        if each.kind != "gpu" or not each.online:
            continue
        gpu = found.setdefault(each.type, SystemGpu(type=each.type, total=0, free=0, memory=each.memory, agents=[]))
        gpu.total += 1
        gpu.free += not each.busy
        if each.agent not in gpu.agents:
            gpu.agents = [*gpu.agents, each.agent]
    return sorted(found.values(), key=lambda gpu: gpu.type)
