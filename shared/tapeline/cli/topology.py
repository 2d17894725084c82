"""`tapeline topology`: the keys, the server's configuration and the streams of a system that runs without `up`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import Json

app = group("Keys, server configuration and streams, for an operator who starts the processes.")


@app.command()
def init(
    port: Annotated[int, typer.Option(help="Port of the server.")] = 4222,
    monitor_port: Annotated[int, typer.Option(help="Port of its monitoring, on loopback.")] = 8222,
) -> None:
    """Make the identities and the server's configuration in the home; what is there already is kept."""
    import shutil
    from dataclasses import replace

    from tapeline import teams
    from tapeline.home import find_home
    from tapeline.server_config import ServerSettings, install, load_settings, max_file_bytes, render, save_settings

    home = find_home()
    home.make()
    accounts = teams.make_identities(home)
    before = load_settings(home) or ServerSettings(max_file_bytes=max_file_bytes(shutil.disk_usage(home.root).free))
    settings = replace(before, port=port, monitor_port=monitor_port)
    save_settings(home, settings)
    install(home, render(accounts, settings, home))
    output.said(f"start the server with: nats-server -c {home.server_conf}")


@app.command()
def apply(
    check: Annotated[bool, typer.Option("--check", help="Only compare; exit 5 on a difference.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done.")] = False,
    replicas: Annotated[int, typer.Option(help="Copies of each stream: 1, or 3 on three servers.")] = 1,
    json: Json = False,
) -> None:
    """Make the streams, or check them, as the admin identity."""
    import asyncio

    steps = asyncio.run(_apply(only_plan=check or dry_run, replicas=replicas))
    if output.wants_json(json):
        output.document(steps)
    else:
        rows = ((each["name"], each["action"], ", ".join(each["changes"])) for each in steps)
        output.table(("name", "action", "changes"), rows)
    if check and any(each["action"] != "keep" for each in steps):
        raise typer.Exit(5)


async def _apply(*, only_plan: bool, replicas: int) -> list[dict[str, Any]]:
    import os

    from tapeline import topology
    from tapeline.connection import connect
    from tapeline.errors import TapelineError
    from tapeline.home import find_home, read_instance
    from tapeline.server_config import load_settings

    home = find_home()
    settings, instance = load_settings(home), read_instance(home)
    if settings is None:
        raise TapelineError(f"{home.root} has no server", code="not_found", hint="tapeline topology init")
    there = instance.url if instance is not None else f"nats://{settings.host}:{settings.port}"
    client = await connect(home.credential("admin"), os.environ.get("TAPELINE_URL") or there, name="topology")
    try:
        wanted = topology.topology(topology.embedded_sizes(settings.max_file_bytes), replicas=replicas)
        steps = await (topology.plan if only_plan else topology.apply)(client, wanted)
    finally:
        await client.close()
    return [{"name": step.name, "action": step.action, "changes": list(step.changes)} for step in steps]
