"""`tapeline parked`: aggregates that a projection could not fold."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import Json

app = group("Aggregates that a projection could not fold and has set aside.")


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="A projection; all without it.")] = None, json: Json = False
) -> None:
    """List what is set aside: where, since when, and why."""
    from tapeline import replay

    found = asyncio.run(replay.parked_of(name=name))
    if output.wants_json(json):
        return output.document([one.to_json() for one in found])
    output.table(replay.Parked.COLUMNS, (one.cells() for one in found))


@app.command()
def retry(
    name: Annotated[str, typer.Argument(help="A projection.")],
    aggregate: Annotated[str | None, typer.Option(metavar="REF", help="Only <team>/<kind>/<id>.")] = None,
    json: Json = False,
) -> None:
    """Fold again what is set aside, now that the projection is mended; exit 5 when something stays."""
    from tapeline import replay

    left = asyncio.run(replay.retry_of(name, aggregate))
    if output.wants_json(json):
        output.document([one.to_json() for one in left])
    else:
        output.table(replay.Parked.COLUMNS, (one.cells() for one in left))
    if left:
        raise typer.Exit(5)
