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
        str, typer.Option(help="runs, assets, tapes, canvases, vault, devices, or names.", show_default=False)
    ],
    after: Annotated[int, typer.Option(help="Try only commits after this position.")] = 0,
    upto: Annotated[int | None, typer.Option(help="Last position.")] = None,
    branch: Annotated[bool, typer.Option("--branch", help="Go on with what would be decided today.")] = False,
    format: Format = None,
    json: Json = False,
) -> None:
    """Try today's decision code on the recorded log, and show what it would decide otherwise; exit 5 if anything."""
    from tapeline import replay

    context.with_resource(quiet())

    async def work() -> replay.Rehearsal:
        async with replay.opened() as log:
            return await replay.dry_run(log, decider, after=after, upto=upto, branch=branch)

    found = asyncio.run(work())
    as_json = output.wants_lines(format, json)
    for each in replay.lines_of(found):
        if as_json:
            output.line(each.to_json())
        else:
            print(each)
    if not found.ok:
        raise typer.Exit(5)
