"""`tapeline blueprint`: the kinds of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import Json, Yes
from tapeline.cli.run_verbs import document_of

app = group("Kinds of training.")


@app.command()
def ls(json: Json = False) -> None:
    """List blueprints."""
    from tapeline import sdk as tl

    found = tl.get_blueprints()
    if output.wants_json(json):
        return output.document(found)
    output.table(("name", "version", "id"), ((each.name, each.version, each.id) for each in found))


@app.command()
def show(name: str, json: Json = False) -> None:
    """Show the newest blueprint of a name, with the JSON Schema of its config."""
    from tapeline import sdk as tl
    from tapeline.errors import BlueprintDoesNotExistError

    found = tl.get_blueprints(name)
    if not found:
        raise BlueprintDoesNotExistError(name=name)
    if output.wants_json(json):
        return output.document(found[0])
    output.fields(dict(found[0]))


@app.command()
def validate(
    name: str,
    file: Annotated[Path, typer.Option("-f", "--file", help="JSON or TOML with a config.")],
) -> None:
    """Check a config against a blueprint."""
    from tapeline import sdk as tl

    tl.validate_run_config(blueprint_id=tl.lookup_blueprint_id(name), config=document_of(file))
    output.said("the config is valid")


@app.command("register")
def make_known(
    file: Annotated[Path, typer.Option("-f", "--file", help="JSON or TOML: name, version, schema, entrypoint.")],
    json: Json = False,
) -> None:
    """Make a kind of training known to the team; the same content again gives the same id."""
    from tapeline import sdk as tl

    given = document_of(file)
    if left := {"name", "version", "schema", "entrypoint"} ^ set(given):
        raise typer.BadParameter(
            f"{file} must hold name, version, schema and entrypoint; see {', '.join(sorted(left))}"
        )
    id = tl.register_blueprint(**given)
    if output.wants_json(json):
        return output.document({"id": id})
    output.said(f"blueprint {given['name']} {given['version']} {id}")


@app.command()
def rm(id: str, yes: Yes = False) -> None:
    """Let no new run be made of a blueprint."""
    from tapeline import sdk as tl

    output.confirmed(f"Remove blueprint {id}?", yes)
    tl.remove_blueprint(id)
