"""`tapeline dry-run`: today's rules on the recorded log."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from tapeline.cli import output
from tapeline.cli.log import quiet
from tapeline.cli.output import Format, Json


def register(app: typer.Typer) -> None:
    """Put the verb at the top."""
    app.command("dry-run")(dry_run)


def dry_run(
    context: typer.Context,
    decider: Annotated[
        str | None, typer.Option(help="runs, assets, tapes, canvases, vault, devices, models, or names.")
    ] = None,
    process: Annotated[str | None, typer.Option(help="A process manager instead: dispatcher.")] = None,
    after: Annotated[int, typer.Option(help="Try only commits after this position.")] = 0,
    upto: Annotated[int | None, typer.Option(help="Last position.")] = None,
    branch: Annotated[bool, typer.Option("--branch", help="Go on with what would be decided today.")] = False,
    format: Format = None,
    json: Json = False,
) -> None:
    """Try today's decision code on the recorded log, and show what it would decide otherwise; exit 5 if anything."""
    from tapeline import replay
    from tapeline.home import find_home

    if (decider is None) == (process is None) or (branch and process is not None):
        raise typer.BadParameter("name either a --decider or a --process; --branch goes with --decider")
    context.with_resource(quiet())

    async def work() -> replay.Rehearsal:
        async with replay.opened() as log:
            if process is not None:
                return await replay.dry_run_process(log, process, after=after, upto=upto, store=find_home().store)
            return await replay.dry_run(log, decider or "", after=after, upto=upto, branch=branch)

    found = asyncio.run(work())
    as_json = output.wants_lines(format, json)
    for each in replay.lines_of(found):
        if as_json:
            output.line(each.to_json())
        else:
            print(each)
    if not found.ok:
        raise typer.Exit(5)
