"""`tapeline canvas`: pictures of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tapeline.cli import output
from tapeline.cli.asset import team
from tapeline.cli.nouns import group
from tapeline.cli.output import OPTIONS, Json, Yes

app = group("Canvases: networks as JSON.")
Place = Annotated[str, typer.Argument(metavar="CANVAS", help="Its name, or a path ending in .json.")]


def opened(place: str) -> Any:
    """The canvas of a name, or in a file."""
    from tapeline import sdk as tl

    return tl.Canvas(team(), path=place) if place.endswith(".json") else tl.Canvas(team(), place)


@app.command()
def ls(json: Json = False) -> None:
    """List canvases by name."""
    from tapeline import sdk as tl

    found = tl.get_canvases(team())
    if output.wants_json(json):
        return output.document([{"name": each.name, "revision": each.revision} for each in found])
    output.table(("name", "revision"), ((each.name, each.revision) for each in found))


@app.command()
def show(canvas: Place, json: Json = False) -> None:
    """Show a canvas."""
    found = opened(canvas)
    if output.wants_json(json):
        return output.document(found.document)
    output.fields({"name": found.name, "revision": found.revision, "inputs": found.inputs, "outputs": found.outputs})


@app.command()
def save(
    file: Annotated[Path, typer.Argument(help="JSON of a canvas.")],
    name: Annotated[str | None, typer.Option(help="Default: the file's stem.")] = None,
    expected_revision: Annotated[int | None, typer.Option()] = None,
    json: Json = False,
) -> None:
    """Store a canvas, or its next revision."""
    from tapeline import sdk as tl

    canvas = tl.Canvas(team(), path=file)
    if name is not None:
        canvas.name = name
    revision = canvas.save(expected_revision)
    if output.wants_json(json):
        return output.document({"name": canvas.name, "revision": revision})
    output.said(f"canvas {canvas.name} revision {revision}")


@app.command()
def validate(
    canvas: Place,
    asset: Annotated[str | None, typer.Option(help="Check against its features too.")] = None,
    json: Json = False,
) -> None:
    """Check a canvas; exit 5 when something is wrong with it."""
    found = opened(canvas).validate(asset)
    if output.wants_json(json):
        output.document(found)
    elif found["ok"]:
        output.said("the canvas is valid")
    else:
        output.table(
            ("node", "code", "place", "message", "hint"),
            (
                (e.get("node"), e.get("code"), e.get("pointer"), e.get("message"), e.get("hint"))
                for e in found["errors"]
            ),
        )
    if not found["ok"]:
        raise typer.Exit(5)


@app.command()
def schema(json: Json = False) -> None:
    """Print the JSON Schema of canvases."""
    from tapeline.canvas import canvas_schema

    output.wants_json(json)
    output.document(canvas_schema())


@app.command()
def components(json: Json = False) -> None:
    """List what a canvas can be made of."""
    from tapeline.sdk.client import current_client

    found = current_client().query("assets", "components")["components"]
    if output.wants_json(json):
        return output.document(found)
    output.table(
        ("type", "category", "title", "doc"), ((c["type"], c["category"], c["title"], c["doc"]) for c in found)
    )


@app.command()
def train(
    canvas: Place,
    device: Annotated[str, typer.Option()] = "any",
    asset: Annotated[str | None, typer.Option(help="Instead of the one that it names.")] = None,
    session_name: Annotated[str | None, typer.Option()] = None,
    project: Annotated[str | None, typer.Option()] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    temp: Annotated[bool, typer.Option("--temp", help="Let a file's canvas live in the run only.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Draw progress until it has ended.")] = False,
    json: Json = False,
) -> None:
    """Train a canvas on an asset."""
    run = opened(canvas).train_run(
        device, asset=asset, session_name=session_name, temp_canvas=temp, project_id=project,
        config={"epochs": epochs} if epochs else None,
    )  # fmt: skip
    if wait:
        run.follow(quiet=OPTIONS.quiet)
    if output.wants_json(json):
        output.document({name: value for name, value in run if value is not None})
    else:
        output.said(f"run {run.number} {run.session_name or run.id} {run.status}")
    if wait and run.status != "job_completed":
        raise typer.Exit(1)


@app.command()
def duplicate(canvas: str, json: Json = False) -> None:
    """Copy a stored canvas."""
    made = opened(canvas).duplicate()
    if output.wants_json(json):
        return output.document({"name": made.name, "revision": made.revision})
    output.said(f"canvas {made.name}")


@app.command()
def rm(canvas: str, yes: Yes = False) -> None:
    """Remove a stored canvas for good."""
    output.confirmed(f"Remove canvas {canvas}?", yes)
    opened(canvas).remove()
