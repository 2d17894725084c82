"""`tapeline feature`: features and labels that the team has named."""

from __future__ import annotations

from json import JSONDecodeError, loads
from typing import Annotated, Any

import typer

from tapeline.cli import asset_shown, output
from tapeline.cli.asset import team
from tapeline.cli.nouns import group
from tapeline.cli.output import Json, Yes

app = group("Features and labels that the team has named.")


@app.command()
def ls(json: Json = False) -> None:
    """List the team's features and labels by name."""
    from tapeline import sdk as tl

    found = tl.get_features(team())
    if output.wants_json(json):
        return output.document([each.model_dump(mode="json") for each in found])
    output.table(
        ("name", "kind", "version", "component", "params"),
        ((each.name, each.kind, each.version, each.component, asset_shown.written(each.params)) for each in found),
    )


@app.command()
def save(
    name: str,
    component: str,
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="A parameter as key=value.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Refuse a name that is there already.")] = False,
    json: Json = False,
) -> None:
    """Name a component with parameters, or give a name another meaning."""
    from tapeline import sdk as tl

    params = dict(_given(text) for text in param or [])
    saved = tl.save_feature(team(), name, component, params, expected_version=0 if new else None)
    if output.wants_json(json):
        return output.document(saved.model_dump(mode="json"))
    output.said(f"{saved.kind} {saved.name} is {saved.component}, version {saved.version}")


@app.command()
def rm(name: str, yes: Yes = False) -> None:
    """Free the name of a feature or label."""
    from tapeline import sdk as tl

    output.confirmed(f"Remove {name}?", yes)
    tl.remove_feature(team(), name)


def _given(text: str) -> tuple[str, Any]:
    """A parameter as it was written: JSON where it is that, else a text."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise typer.BadParameter(f"{text!r} is not key=value", param_hint="--param")
    try:
        return key, loads(value)
    except JSONDecodeError:
        return key, value
