"""`tapeline why`: the chain of facts that led to one, back to who asked."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer

from tapeline.cli import output
from tapeline.cli.log import quiet
from tapeline.cli.output import Format, Json


def register(app: typer.Typer) -> None:
    """Put the verb at the top."""
    app.command()(why)


def why(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="An event id, <kind>/<id>, a SHA-256, or vault:<name>@<version>.")
    ],
    depth: Annotated[int, typer.Option(help="How many edges to follow.")] = 50,
    graph: Annotated[Literal["dot"] | None, typer.Option(help="Print a graph for Graphviz.")] = None,
    team: Annotated[str | None, typer.Option(help="Answer as for this team.")] = None,
    format: Format = None,
    json: Json = False,
) -> None:
    """Show the chain of events that led to something, newest first."""
    from tapeline import replay

    context.with_resource(quiet())

    async def work() -> replay.Chain:
        async with replay.opened_with_index() as (log, index):
            return await replay.why(log, target, depth=depth, team=team, index=index)

    found = asyncio.run(work())
    if graph is not None:
        print(found.dot())
        return
    as_json = output.wants_lines(format, json)
    for link in found.links:
        if as_json:
            output.line(link.to_json())
        else:
            print(link)
    if found.is_cut and not as_json:
        output.said(f"the chain goes on beyond a depth of {depth}")
