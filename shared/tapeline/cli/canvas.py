"""`tapeline canvas`: pictures of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tapeline.cli import asset_shown, output
from tapeline.cli.asset import team
from tapeline.cli.nouns import group
from tapeline.cli.output import OPTIONS, Json, Yes

app = group("Canvases: networks as JSON.")
Place = Annotated[str, typer.Argument(metavar="CANVAS", help="Its name, or a path ending in .json.")]


_SHOWN_APART = ("id", "kind", "inputs")
_FAULT = ("node", "code", "pointer", "message", "hint")


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
    documents = [(each, each.document) for each in found]
    output.table(
        ("name", "revision", "nodes", "asset"),
        (
            (each.name, each.revision, len(document.get("nodes", [])), document.get("training", {}).get("asset"))
            for each, document in documents
        ),
    )


@app.command()
def show(canvas: Place, json: Json = False) -> None:
    """Show a canvas."""
    found = opened(canvas)
    if output.wants_json(json):
        return output.document(found.document)
    document = found.document
    training = document.get("training") or {}
    output.fields(
        {
            "name": found.name,
            "revision": found.revision,
            "inputs": "; ".join(", ".join(features) for features in found.inputs),
            "training": asset_shown.written(training) if training else None,
        }
    )
    print()
    output.table(
        ("node", "kind", "inputs", "settings"),
        (
            (
                node["id"],
                node["kind"],
                ", ".join(node.get("inputs", [])),
                asset_shown.written({key: value for key, value in node.items() if key not in _SHOWN_APART}),
            )
            for node in document["nodes"]
        ),
    )


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
    if faults := len(canvas.validate()["errors"]):
        output.said(f"  a draft with {faults} errors, it cannot be trained: tapeline canvas validate {canvas.name}")


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
    else:
        if found["ok"]:
            output.said("the canvas is valid" + _amount(found))
        told = [(kind, each) for kind in ("error", "warning") for each in found.get(f"{kind}s", ())]
        if told:
            output.table(
                ("", "node", "code", "place", "message", "hint"),
                ((kind, *(each.get(field) for field in _FAULT)) for kind, each in told),
            )
    if not found["ok"]:
        raise typer.Exit(5)


def _amount(found: dict[str, Any]) -> str:
    """How large the network is, where the shapes of its features are known."""
    if not found.get("shapes"):
        return "; name its --asset to check features, shapes and labels too"
    shapes = ", ".join(f"{node} {'x'.join(map(str, shape))}" for node, shape in found["shapes"].items())
    return f", {found['parameters']:,} parameters; shapes: {shapes}"


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
def diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="A name, a name@revision, or a path to JSON.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="A name, a name@revision, or a path to JSON.")],
    json: Json = False,
) -> None:
    """Tell what changed from one canvas to another, node by node; exit 5 when they differ."""
    old = _at(before)
    found = old.diff(old, _at(after))
    if output.wants_json(json):
        output.document(found.to_json())
    elif found.is_empty:
        output.said("they are the same")
    else:
        output.table(("change", "node", "field", "before", "after"), _changes(found))
    if not found.is_empty:
        raise typer.Exit(5)


def _changes(found: Any) -> list[tuple[Any, ...]]:
    """One row a change, in the order of the nodes."""
    rows: list[tuple[Any, ...]] = [("added", node, None, None, None) for node in found.added]
    rows += [("removed", node, None, None, None) for node in found.removed]
    for node, changes in found.changed.items():
        rows += [("changed", node, name, *pair) for name, pair in changes.items()]
    for place, changes in (("training", found.training), ("canvas", found.other)):
        rows += [(place, None, name, *pair) for name, pair in changes.items()]
    return rows


@app.command()
def revisions(canvas: str, json: Json = False) -> None:
    """List the stored revisions of a canvas."""
    found = opened(canvas).revisions()
    if output.wants_json(json):
        return output.document(found)
    columns = ("revision", "saved_at", "user", "digest")
    output.table(columns, ([each[name] for name in columns] for each in found))


@app.command()
def render(
    canvas: Annotated[str, typer.Argument(metavar="CANVAS", help="Its name, a name@revision, or a path to JSON.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file ending in .svg or .png.")] = None,
    asset: Annotated[str | None, typer.Option(help="Write the shapes that its features give.")] = None,
    json: Json = False,
) -> None:
    """Draw a canvas as SVG or PNG; without `--out` the SVG is printed."""
    drawn = _at(canvas, is_asked=asset is not None).render(out, asset=asset)
    if output.wants_json(json):
        output.document({"path": str(out) if out else None, "svg": None if out else drawn})
    elif out is None:
        print(drawn, end="")
    else:
        output.said(f"wrote {out}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .keras model, or the .json of `model.to_json()`.")],
    name: Annotated[str | None, typer.Option(help="Store it under this name.")] = None,
    feature: Annotated[list[str] | None, typer.Option(help="INPUT=FEATURE; repeated for several.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="OUTPUT=LABEL or OUTPUT=LABEL[COLUMN].")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the JSON there.")] = None,
    json: Json = False,
) -> None:
    """Make a canvas of a Keras functional model, where nothing is lost; print it, write it, or store it."""
    from tapeline.sdk import canvas_import

    made = canvas_import.read_keras(file, features=_pairs(feature), labels=_pairs(label))
    document = made.document | ({"name": name} if name else {})
    text = canvas_import.text_of(document)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    revision = canvas_import.store(team(), name, document) if name else None
    if output.wants_json(json):
        output.document({"canvas": document, "shapes": made.shapes, "units": made.units, "revision": revision})
    elif name is None and out is None:
        print(text, end="")
    else:
        output.said(f"canvas {name} revision {revision}" if name else f"wrote {out}")


def _pairs(given: list[str] | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in given or ():
        end, equals, value = each.partition("=")
        if not equals or not end or not value:
            raise typer.BadParameter(f"{each!r} is not of the form NAME=VALUE")
        found.setdefault(end, []).append(value)
    return found


def _at(place: str, *, is_asked: bool = False) -> Any:
    """The canvas of a name, of a name at a revision, or in a file."""
    name, at, revision = place.rpartition("@")
    if place.endswith(".json"):
        from tapeline import sdk as tl

        # A file is read where it lies: no team and no connection are needed.
        return tl.Canvas(team() if is_asked else "", path=place)
    if at and revision.isdecimal():
        return opened(name).version(int(revision))
    return opened(place)


@app.command()
def rename(canvas: str, new_name: str, json: Json = False) -> None:
    """Give a stored canvas another name."""
    found = opened(canvas)
    found.rename(new_name)
    if output.wants_json(json):
        return output.document({"name": found.name, "revision": found.revision})
    output.said(f"canvas {found.name}")


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
