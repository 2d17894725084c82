"""`tapeline vault`: named models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from tapeline.cli import output
from tapeline.cli.asset import team
from tapeline.cli.nouns import group
from tapeline.cli.output import Json, Yes

app = group("The vault: named models.")


@app.command()
def ls(json: Json = False) -> None:
    """List vault items by name."""
    from tapeline import sdk as tl

    found = [item.view for item in tl.get_vault_items(team())]
    if output.wants_json(json):
        return output.document(found)
    output.table(
        ("name", "version", "run", "step", "value", "created"),
        (
            (v["name"], v["version"], v.get("run_number"), v.get("global_step"), v.get("value"), v["created_at"])
            for v in found
        ),
    )


@app.command()
def show(name: str, json: Json = False) -> None:
    """Show a vault item."""
    from tapeline import sdk as tl

    found = tl.VaultItem(team(), name).view
    if output.wants_json(json):
        return output.document(found)
    output.fields({key: value for key, value in found.items() if value not in (None, [], {})})


@app.command()
def add(
    name: str,
    run: Annotated[str | None, typer.Option(help="Promote the best checkpoint of this run.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Promote this checkpoint.")] = None,
    version: Annotated[str, typer.Option()] = "1.0.0",
    summary: Annotated[str, typer.Option()] = "",
    project: Annotated[str | None, typer.Option()] = None,
    json: Json = False,
) -> None:
    """Promote a checkpoint under a name."""
    from tapeline import sdk as tl

    item = tl.add_vault_item(
        team(), name, run=run, checkpoint_id=checkpoint, version=version, summary=summary, project_id=project
    )
    _told(item, json)


@app.command("import")
def import_(
    file: Path,
    name: Annotated[str | None, typer.Option(help="Default: new_model.")] = None,
    features: Annotated[
        list[str] | None, typer.Option(help="Features of one input, with commas; once per input.")
    ] = None,
    json: Json = False,
) -> None:
    """Import a Keras model."""
    from tapeline import sdk as tl

    _told(tl.import_model(team(), str(file), [each.split(",") for each in features or []], name), json)


@app.command()
def download(name: str, folder: Path) -> None:
    """Put the model file of an item into a folder."""
    from tapeline import sdk as tl

    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    target = folder / f"{Path(name).name}.keras"
    if target.exists():
        raise FileExistsError(f"{target} exists")
    shutil.copyfile(tl.VaultItem(team(), name).model_path(), target)
    output.said(str(target))


@app.command()
def rename(name: str, new_name: str, json: Json = False) -> None:
    """Rename an item."""
    from tapeline import sdk as tl

    answer = tl.VaultItem(team(), name).rename(new_name)
    if output.wants_json(json):
        output.document(answer)
    else:
        output.said(answer["message"])
    if answer["status"] != "SUCCESS":
        raise typer.Exit(3 if answer["message"].endswith("not found") else 4)


@app.command()
def rm(name: str, yes: Yes = False) -> None:
    """Remove an item."""
    from tapeline import sdk as tl

    output.confirmed(f"Remove vault item {name}?", yes)
    tl.VaultItem(team(), name).delete()


def _told(item: Any, json: bool) -> None:
    if output.wants_json(json):
        return output.document(item.view)
    output.said(f"vault item {item.name}")
