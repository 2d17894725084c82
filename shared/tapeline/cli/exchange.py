"""`tapeline export` and `tapeline import`: what goes to other programs, and comes from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import Json

exports = group("Hand what a run has to another program.")
imports = group("Take over what another program has.")


@exports.command("tensorboard")
def to_tensorboard(
    run: Annotated[str, typer.Argument(help="Its number or id.")],
    folder: Annotated[Path, typer.Argument(help="Made when it is not there.")],
    json: Json = False,
) -> None:
    """Write the points of a run as an event file of TensorBoard."""
    from tapeline import sdk as tl

    path = tl.interop.export_tensorboard(tl.Run.from_id(run), folder)
    if output.wants_json(json):
        return output.document({"path": str(path), "size_bytes": path.stat().st_size})
    output.said(f"wrote {path}")


@imports.command("tensorboard")
def from_tensorboard(
    folder: Annotated[Path, typer.Argument(help="It and every folder in it are looked at.")],
    name: Annotated[str | None, typer.Option(help="Of the runs. Default: the folder's name.")] = None,
    project: Annotated[str, typer.Option(help="Of the runs.")] = "default",
    json: Json = False,
) -> None:
    """Make a run of each folder with event files; the same files again make none."""
    from tapeline import sdk as tl

    found = tl.interop.import_tensorboard(folder, name, project)
    rows = [(each.run.number, each.run.name, each.points, each.passed_over, each.torn) for each in found]
    columns = ("number", "name", "points", "passed_over", "torn")
    if output.wants_json(json):
        return output.document([dict(zip(columns, row, strict=True)) for row in rows])
    output.table(columns, rows)
