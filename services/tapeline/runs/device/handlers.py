"""Verbs on devices, and the greeting."""

from __future__ import annotations

from importlib.metadata import version

from tapeline.bus import Verbs, answered
from tapeline.contracts.agents import CONTRACTS, DeviceView
from tapeline.contracts.message import Answer, Page
from tapeline.contracts.runs import (
    Hello,
    HelloView,
    ListDevices,
)
from tapeline.errors import TapelineError
from tapeline.runs.device import queries
from tapeline.runs.run.handlers import Desk
from tapeline.subjects import Principal


def add_verbs(verbs: Verbs, desk: Desk) -> None:
    """Register the greeting, and the verbs on devices."""

    @verbs.user("hello")
    async def hello(caller: Principal, request: Hello) -> Answer[HelloView]:
        theirs, ours = request.contracts.split(".")[0], CONTRACTS.split(".")[0]
        if theirs and theirs != ours:
            raise TapelineError(
                f"this service speaks contracts {CONTRACTS}, the caller {request.contracts}",
                code="version_mismatch",
                hint="use an SDK of the same major version",
            )
        view = HelloView(
            team=caller.team, user=caller.user, version=version("tapeline"), contracts=CONTRACTS, log_id=desk.log_id
        )
        return answered(view, desk.reader.projector.position, desk.log_id)

    @verbs.user("devices")
    async def devices(caller: Principal, request: ListDevices) -> Answer[Page[DeviceView]]:
        found = await desk.reader.at(request.min_position, queries.devices_of, caller.team, desk.presence, desk.leases)
        items = [queries.view(caller.team, device, desk.leases) for device in found]
        items.sort(key=lambda each: (each.agent, each.device))
        return answered(Page(items=items), desk.reader.projector.position, desk.log_id)
