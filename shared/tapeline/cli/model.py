"""`tapeline model`: records of models, by namespace."""

from __future__ import annotations

from typing import Annotated

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import Json, Yes

app = group("Records of models.")


@app.command()
def ls(
    namespace: Annotated[str | None, typer.Argument(help="Its models; without one the namespaces.")] = None,
    json: Json = False,
) -> None:
    """List namespaces, or the models of one in the order in which they were made."""
    from tapeline.sdk import models

    if namespace is None:
        spaces = [{"name": each.name, "id": str(each.id)} for each in models.get_namespaces().list()]
        if output.wants_json(json):
            return output.document(spaces)
        return output.table(("namespace", "id"), ((each["name"], each["id"]) for each in spaces))
    found = models.get_models(namespace).list()
    rows = [
        {"hash": each.hash, "name": each.name, "step": each.step, "description": each.description, "id": str(each.id)}
        for each in found
    ]
    if output.wants_json(json):
        return output.document(rows)
    output.table(("hash", "name", "step", "description", "id"), (tuple(row.values()) for row in rows))


@app.command()
def show(namespace: str, hash: str, json: Json = False) -> None:
    """Show a model with its iterations, metrics and modules."""
    from tapeline.errors import NotFoundError
    from tapeline.sdk import models

    model = models.get_models(namespace).read(hash)
    if model is None:
        raise NotFoundError.of(
            "not_found", f"{namespace!r} has no model {hash!r}", hint=f"tapeline model ls {namespace}"
        )
    metrics = [(each.name, each.value, each.step, each.phase) for each in model.metrics.list()]
    whole = {
        "id": str(model.id), "hash": model.hash, "name": model.name, "description": model.description,
        "step": model.step, "iterations": [each.step for each in model.iterations.list()],
        "modules": [each.name for each in model.modules.list()],
    }  # fmt: skip
    if output.wants_json(json):
        return output.document(whole | {"metrics": [list(each) for each in metrics]})
    output.fields(whole)
    output.table(("metric", "value", "step", "phase"), metrics)


@app.command()
def rm(namespace: str, hash: str, yes: Yes = False) -> None:
    """Delete the record of a model; its hash is free then."""
    from tapeline.sdk import models

    output.confirmed(f"Delete the record of {hash} in {namespace}?", yes)
    found = models.get_models(namespace)
    model = found.read(hash)
    if model is not None:
        found.delete(model.id)
    output.said(f"{hash} is gone from {namespace}")
