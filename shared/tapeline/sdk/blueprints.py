"""Blueprints: the kinds of training that there are."""

from __future__ import annotations

from typing import Any

from tapeline.errors import BlueprintDoesNotExistError
from tapeline.sdk import arguments
from tapeline.sdk.client import client_of
from tapeline.sdk.records import BaseModelWithDatetime


class Blueprint(BaseModelWithDatetime):
    """A kind of training: its name, version and the JSON Schema of its config."""

    id: str
    name: str
    version: str
    config_schema: dict[str, Any]


def get_blueprints(name: str | None = None, version_ilike: str | None = None) -> list[Blueprint]:
    """The kinds of training, newest first.

    Examples
    --------
    >>> "canvas" in [blueprint.name for blueprint in get_blueprints()]
    True
    """
    if version_ilike is not None:
        arguments.patterns("version_ilike", [version_ilike])
    view = client_of().query("runs", "blueprints", **arguments.given(name=name, version_ilike=version_ilike))
    return [Blueprint(**{key: each[key] for key in Blueprint.model_fields}) for each in view["items"]]


def lookup_blueprint_id(name: str, version_ilike: str | None = None) -> str:
    """The id of the latest blueprint of a name, or of the latest whose version matches a pattern.

    Raises
    ------
    ValueError
        The name is missing.
    BlueprintDoesNotExistError
        There is none.

    Examples
    --------
    >>> lookup_blueprint_id("canvas", "1.%") == get_blueprints("canvas")[0].id
    True
    >>> lookup_blueprint_id("canvsa")
    Traceback (most recent call last):
    ...
    tapeline.errors.BlueprintDoesNotExistError: (404) not_found: no blueprint with name 'canvsa'
    Hint: tapeline blueprint ls
    """
    if not name:
        raise ValueError("name is missing")
    found = get_blueprints(name, version_ilike)
    if not found:
        raise BlueprintDoesNotExistError(name=name, version_ilike=version_ilike)
    return found[0].id
