"""`tapeline asset`: data sets that networks train on."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tapeline.cli import asset_shown, output
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

    spec = document_of(file)
    asset = tl.Asset.build(team(), spec, wait=wait, quiet=OPTIONS.quiet)
    if output.wants_json(json):
        return output.document(asset.view)
    _said(asset)
    if spec.get("name") not in (None, asset.name):
        output.said(f"  this spec was built before, as {asset.name}: there is no asset {spec['name']}")


@app.command()
def rebuild(
    name: str,
    wait: Annotated[bool, typer.Option(help="Come back when the build has ended.")] = True,
    json: Json = False,
) -> None:
    """Build an asset again from its recipe and compare; exit 5 when other data comes out."""
    from tapeline import sdk as tl

    asset = tl.Asset(team(), name)
    asset.rebuild(wait=wait, quiet=OPTIONS.quiet)
    if output.wants_json(json):
        return output.document(asset.view)
    output.said(f"asset {name}: " + ("built again, the same data" if wait else "is being built again"))


@app.command()
def ls(json: Json = False) -> None:
    """List assets by name."""
    from tapeline import sdk as tl

    found = tl.get_assets(team())
    if output.wants_json(json):
        return output.document([each.view for each in found])
    output.table(
        ("name", "status", "rows", "datasets", "size", "created"),
        ((a.name, a.status, _rows(a), len(a.datasets), _size(a), _at(a)) for a in found),
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
    asset_shown.show(found, {each.id: each.name for each in tl.get_tapes(team())})


@app.command()
def features(json: Json = False) -> None:
    """List what features and labels can be made of, and those that have a name: the built-in ones, then the team's."""
    from tapeline.sdk.client import current_client

    found = current_client().query("assets", "features")
    if output.wants_json(json):
        return output.document(found)
    output.table(
        ("component", "kind", "params", "formula"),
        ((each["id"], each["kind"], _defaults(each["params"]), each["doc"]) for each in found["components"]),
    )
    print()
    named = [(each, kind) for kind in ("feature", "label") for each in found[f"{kind}s"]]
    named += [(each, each["kind"]) for each in found["saved"]]
    output.table(
        ("name", "kind", "component", "params"),
        ((each["name"], kind, each["component"], asset_shown.written(each["params"])) for each, kind in named),
    )


def _defaults(schema: dict[str, Any]) -> str:
    """The parameters of a component with their defaults; one that has none is to be given."""
    return ", ".join(
        f"{name}={each['default']}" if "default" in each else f"{name}=..."
        for name, each in schema.get("properties", {}).items()
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
    found = [*([check["failure"]["message"]] if "failure" in check else []), *check.get("warnings", [])]
    numbers = check.get("numbers", {})
    if not found and "cuts" in numbers and "values" in numbers:
        return f"{numbers['values']:,} values compared at {numbers['cuts']} cuts"
    return "; ".join(found)


@app.command()
def verify(name: str, json: Json = False) -> None:
    """Fetch an asset's files and compare their hashes; ends with 5 when one differs."""
    from tapeline import sdk as tl

    asset = tl.Asset(team(), name)
    is_whole = asset.verify()
    if output.wants_json(json):
        output.document({"name": name, "ok": is_whole, "files": [file.name for file in asset.files]})
    elif is_whole:
        output.said(f"asset {name}: every file has its digest")
    if not is_whole:
        raise typer.Exit(5)


@app.command()
def cancel(name: str) -> None:
    """End the build of an asset, or its build again; shards that were computed are kept for a week."""
    from tapeline import sdk as tl

    tl.Asset(team(), name).cancel()
    output.said(f"asset {name}: the build is cancelled")


@app.command()
def rm(name: str, yes: Yes = False) -> None:
    """Remove an asset."""
    from tapeline import sdk as tl

    output.confirmed(f"Remove asset {name}?", yes)
    tl.Asset(team(), name).remove()


def _said(asset: Any) -> None:
    """What became of a build, in a sentence."""
    view = asset.view
    told = [f"{asset_shown.samples(view)}"] if view.get("rows") else []
    told += [f"certificate {found}"] if (found := asset_shown.certified(view)) else []
    output.said(f"asset {asset.name} {asset.status}" + "".join(f"\n  {each}" for each in told))


def _rows(asset: Any) -> int | None:
    return len(asset) if asset.view.get("rows") else None


def _size(asset: Any) -> str | None:
    files = asset.view.get("files")
    return asset_shown.size(sum(each["size_bytes"] for each in files)) if files else None


def _at(asset: Any) -> datetime:
    return datetime.fromisoformat(asset.view["created_at"])
