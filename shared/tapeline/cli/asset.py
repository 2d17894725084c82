"""`tapeline asset`: data sets that networks train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import OPTIONS, Json, Yes
from tapeline.cli.run_verbs import document_of

app = group("Assets: data sets that networks train on.")


def team() -> str:
    """The team that the command line acts for."""
    from tapeline.sdk.client import current_client

    return current_client().team


@app.command()
def build(
    file: Annotated[Path, typer.Option("-f", "--file", help="JSON or TOML with a spec.")],
    wait: Annotated[bool, typer.Option(help="Come back when the build has ended.")] = True,
    json: Json = False,
) -> None:
    """Cut an asset from tapes."""
    from tapeline import sdk as tl

    asset = tl.Asset.build(team(), document_of(file), wait=wait, quiet=OPTIONS.quiet)
    if output.wants_json(json):
        return output.document(asset.view)
    output.said(f"asset {asset.name} {asset.status}")


@app.command()
def ls(json: Json = False) -> None:
    """List assets by name."""
    from tapeline import sdk as tl

    found = tl.get_assets(team())
    if output.wants_json(json):
        return output.document([each.view for each in found])
    output.table(
        ("name", "status", "rows", "datasets", "created"),
        ((a.name, a.status, _rows(a), len(a.datasets), a.view["created_at"]) for a in found),
    )


@app.command()
def show(
    name: str,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it into an .svg: bars with label outcomes, split and embargo.")
    ] = None,
    symbol: Annotated[str | None, typer.Option(help="Which one to draw; the first without.")] = None,
    label: Annotated[str | None, typer.Option(help="Which one to draw; the first without.")] = None,
    json: Json = False,
) -> None:
    """Show an asset: its recipe, files and certificate."""
    from tapeline import sdk as tl

    asset = tl.Asset(team(), name)
    if plot is not None:
        asset.plot(plot, symbol=symbol, label=label)
        if not output.wants_json(json):
            return output.said(f"wrote {plot}")
    found = asset.view
    if output.wants_json(json):
        return output.document(found)
    output.fields({key: value for key, value in found.items() if value not in (None, [], {})})


@app.command()
def features(json: Json = False) -> None:
    """List the components of features and labels, and the built-in ones by name."""
    from tapeline.sdk.client import current_client

    found = current_client().query("assets", "features")
    if output.wants_json(json):
        return output.document(found)
    output.table(
        ("kind", "name", "component", "params"),
        (
            (kind, each["name"], each["component"], each.get("params"))
            for kind in ("features", "labels")
            for each in found[kind]
        ),
    )


@app.command()
def check(name: str, json: Json = False) -> None:
    """Show what the certificate of an asset found, check by check; ends with 5 when one failed."""
    from tapeline import sdk as tl

    certificate = tl.Asset(team(), name).certificate
    if output.wants_json(json):
        output.document(certificate)
    elif certificate is None:
        output.said(f"asset {name} has no certificate: its build has not checked yet")
    else:
        output.table(
            ("check", "name", "verdict", "says"), ((c["check"], c["name"], c["verdict"], _says(c)) for c in
                                                   certificate["checks"])
        )  # fmt: skip
    if certificate is not None and certificate["verdict"] == "failed":
        raise typer.Exit(5)


def _says(check: dict[str, Any]) -> str:
    return "; ".join([*([check["failure"]["message"]] if "failure" in check else []), *check.get("warnings", [])])


@app.command()
def verify(name: str) -> None:
    """Fetch an asset's files and compare their hashes."""
    from tapeline import sdk as tl

    if not tl.Asset(team(), name).verify():
        raise typer.Exit(5)
    output.said(f"asset {name}: every file has its digest")


@app.command()
def rm(name: str, yes: Yes = False) -> None:
    """Remove an asset."""
    from tapeline import sdk as tl

    output.confirmed(f"Remove asset {name}?", yes)
    tl.Asset(team(), name).remove()


def _rows(asset: Any) -> int | None:
    return len(asset) if asset.view.get("rows") else None
