"""`tapeline metrics`: points that were moved to the artifact store, and batches that are no longer needed."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import Json, Yes

app = group("Points of runs in the artifact store.")
LONG_S = 900.0
Name = Annotated[str, typer.Argument(metavar="RUN", help="Its id, or its number.")]


def _told(view: dict[str, Any], json: bool) -> None:
    if output.wants_json(json):
        return output.document(view)
    output.fields({name: value for name, value in view.items() if value is not None})


@app.command()
def ls(
    limit: Annotated[int, typer.Option(min=0, max=1000)] = 100,
    offset: Annotated[int, typer.Option(min=0)] = 0,
    json: Json = False,
) -> None:
    """List archives, the newest first: how many points each has, what it takes, and whether the batches are gone."""
    from tapeline.sdk.client import current_client

    items = current_client().query("runs", "metrics_archives", limit=limit, offset=offset)["items"]
    if output.wants_json(json):
        return output.document(items)
    names = ("run_id", "points", "later_points", "objects", "size_bytes", "archived_at", "purged")
    output.table(names, ([one[name] for name in names] for one in items))


@app.command()
def show(run: Name, json: Json = False) -> None:
    """Show what of a run's points lies in the artifact store."""
    from tapeline.sdk.client import current_client

    _told(current_client().query("runs", "metrics_archive", run=run), json)


@app.command()
def archive(run: Name, json: Json = False) -> None:
    """Move the points of a run that has ended to the artifact store now; they are read as before."""
    from tapeline.sdk.client import current_client

    # All of its points are read and written.
    _told(current_client().command_within(LONG_S, "runs", "archive_metrics", run=run).view, json)


@app.command()
def purge(
    run: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs: <id>, run/<id> or <team>/run/<id>; a number in yours.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare everything, and remove nothing.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Remove from METRICS, as admin, the batches of runs whose archive was found to have every point of them."""
    from tapeline.replay.purging import purge as purged

    places = [_place(each) for each in run]
    found = asyncio.run(purged(None, places, dry_run=dry_run or not yes))
    if not dry_run and not yes:
        messages, points = sum(one.messages for one in found), sum(one.points for one in found)
        told = f"Remove {messages} messages of {len(found)} runs for ever? The archive has their {points} points."
        output.confirmed(told, yes)
        found = asyncio.run(purged(None, places))
    if output.wants_json(json):
        return output.document([one.to_json() for one in found])
    for one in found:
        output.said(str(one))


def _place(run: str) -> str:
    if not run.isdecimal():
        return run
    from tapeline import sdk as tl
    from tapeline.sdk.client import current_client

    return f"{current_client().team}/run/{tl.Run.from_id(run).id}"
