"""`tapeline up`, `down`, `status`, `version`, `demo`: the embedded instance."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tapeline.cli import output
from tapeline.cli.output import Json


def register(app: typer.Typer) -> None:
    """Put the verbs at the top."""
    for verb in (up, down, status, version, demo):
        app.command()(verb)


def up(
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Come back when it is ready.")] = False,
    port: Annotated[int, typer.Option(help="Port of the server; -1 for a free one.")] = -1,
    json: Json = False,
) -> None:
    """Start the embedded instance."""
    from tapeline import embedded
    from tapeline.home import Instance, find_home

    as_json = output.wants_json(json)

    def told(instance: Instance) -> None:
        if as_json:
            output.line(asdict(instance))
        else:
            output.said(f"ready at {instance.url}, team {instance.team}")

    if detach:
        return told(embedded.start_detached(find_home(), port=port))
    from tapeline.logs import logging_setup_later

    logging_setup_later("supervisor")
    embedded.run_foreground(find_home(), port=port, on_ready=told)


def down(json: Json = False) -> None:
    """Stop the embedded instance."""
    from tapeline import embedded
    from tapeline.home import find_home

    was = embedded.stop(find_home())
    if output.wants_json(json):
        return output.document({"stopped": was})
    output.said("stopped" if was else "nothing was running")


def status(json: Json = False) -> None:
    """Show what runs; exit 8 when nothing does."""
    from tapeline import embedded
    from tapeline.home import find_home

    found = embedded.status(find_home())
    if output.wants_json(json):
        output.document(asdict(found))
    elif not found.running:
        output.said(f"nothing runs on {found.home}; tapeline up starts it")
    else:
        output.fields({"home": found.home, "url": found.url, "team": found.team, "ready": found.ready})
        output.table(
            ("process", "pid", "state", "starts", "age_s", "MiB"),
            (
                (p.name, p.pid, p.state, p.starts, round(p.uptime_s or 0), round(p.rss_bytes / 2**20))
                for p in found.processes
            ),
        )
    if not found.running:
        raise typer.Exit(8)


def version(json: Json = False) -> None:
    """Show the version."""
    from importlib.metadata import version as installed

    if output.wants_json(json):
        return output.document({"version": installed("tapeline")})
    print(installed("tapeline"))


def demo(
    context: typer.Context,
    tape: Annotated[str | None, typer.Option(help="Trades to import instead of a synthetic tape.")] = None,
    format: Annotated[str | None, typer.Option(help="How they are written.")] = None,
    symbol: Annotated[str | None, typer.Option(help="What was traded, when the files do not say.")] = None,
) -> None:
    """Run the whole job once, from trades to a prediction."""
    from tapeline import demo as script
    from tapeline.cli.log import quiet

    context.with_resource(quiet())
    script.main(tape, format, symbol)
