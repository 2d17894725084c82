"""`tapeline spool`: points on this machine that were not sent."""

from __future__ import annotations

import shutil
from typing import Annotated, Any

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import Json, Yes

app = group("Points on this machine that were not sent yet.")
Run = Annotated[str | None, typer.Argument(metavar="RUN", help="Its id, or its number; all without it.")]


@app.command()
def ls(json: Json = False) -> None:
    """List the spools of this machine: whose they are, how large, and whether their process is there."""
    from tapeline.sdk import sending

    found = sending.listed(sending.root())
    if output.wants_json(json):
        return output.document([_shown(left) for left in found])
    output.table(
        ("run", "attempt", "name", "team", "bytes", "process", "ended"),
        (
            (left.about.number, left.about.attempt, left.about.name, left.about.team, left.bytes,
             left.about.pid if left.is_live else "gone", left.has_end)
            for left in found
        ),
    )  # fmt: skip


@app.command()
def sync(run: Run = None, json: Json = False) -> None:
    """Send what processes that are gone have left; exit 5 when something stays."""
    from tapeline import sdk as tl
    from tapeline.sdk import sending

    client = tl.current_client()
    found = [sending.sync(client, left) for left in _chosen(run) if not left.is_live]
    if output.wants_json(json):
        output.document(
            [_shown(one.left) | {"points": one.points, "torn": one.torn, "done": one.done, "why": one.why}
             for one in found]
        )  # fmt: skip
    else:
        output.table(
            ("run", "attempt", "points", "torn", "done", "why"),
            (
                (one.left.about.number, one.left.about.attempt, one.points, one.torn, one.done, one.why)
                for one in found
            ),
        )  # fmt: skip
    if not all(one.done for one in found):
        raise typer.Exit(5)


@app.command()
def rm(run: Annotated[str, typer.Argument(metavar="RUN", help="Its id, or its number.")], yes: Yes = False) -> None:
    """Remove the spools of a run whose process is gone; the points in them are lost."""
    from tapeline.errors import TapelineError

    found = _chosen(run)
    if not found:
        raise TapelineError(f"no spool of run {run} is here", code="not_found", hint="tapeline spool ls")
    for left in found:
        if left.is_live:
            raise TapelineError(
                f"process {left.about.pid} writes to the spool of run {run}", code="conflict", hint="end it first"
            )
        output.confirmed(f"Remove {left.bytes >> 10} KiB of points of run {left.about.number}?", yes)
        shutil.rmtree(left.folder)


def _chosen(run: str | None) -> list[Any]:
    from tapeline.sdk import sending

    found = sending.listed(sending.root())
    return [left for left in found if run is None or run in (left.about.run, str(left.about.number))]


def _shown(left: Any) -> dict[str, Any]:
    return {
        "run": left.about.run, "number": left.about.number, "attempt": left.about.attempt, "name": left.about.name,
        "team": left.about.team, "bytes": left.bytes, "pid": left.about.pid, "is_live": left.is_live,
        "has_end": left.has_end, "folder": str(left.folder),
    }  # fmt: skip
