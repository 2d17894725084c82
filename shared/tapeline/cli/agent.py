"""`tapeline agent` and `tapeline device`: what runs train on."""

from __future__ import annotations

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import Json

app = group("Trainer agents.")
devices = group("Devices of agents.")


@app.command()
def ls(json: Json = False) -> None:
    """List the agents that the team may train on."""
    from tapeline import sdk as tl

    found: dict[str, dict[str, object]] = {}
    for each in tl.get_devices():
        agent = found.setdefault(each.agent, {"agent": each.agent, "online": each.online, "devices": 0, "busy": 0})
        agent["devices"] = int(str(agent["devices"])) + 1
        agent["busy"] = int(str(agent["busy"])) + each.busy
    if output.wants_json(json):
        return output.document(list(found.values()))
    output.table(("agent", "online", "devices", "busy"), (tuple(each.values()) for each in found.values()))


@app.command()
def gpus(json: Json = False) -> None:
    """List the types of GPU that live agents have."""
    from tapeline import sdk as tl

    found = tl.get_available_system_gpus()
    if output.wants_json(json):
        return output.document(found)
    output.table(("type", "total", "free", "agents"), ((g.type, g.total, g.free, ", ".join(g.agents)) for g in found))


@devices.command("ls")
def list_devices(json: Json = False) -> None:
    """List devices."""
    from tapeline import sdk as tl

    found = tl.get_devices()
    if output.wants_json(json):
        return output.document(found)
    output.table(
        ("device", "agent", "kind", "type", "online", "busy", "run"),
        ((d.device, d.agent, d.kind, d.type, d.online, d.busy, d.run_id) for d in found),
    )
