"""Blueprints: the kinds of training that there are."""

from __future__ import annotations

from typing import Any

from tapeline.errors import BlueprintDoesNotExistError
from tapeline.sdk import arguments
from tapeline.sdk.client import client_of
from tapeline.sdk.records import BaseModelWithDatetime, Moment


class Blueprint(BaseModelWithDatetime):
    """A kind of training: its name, version and the JSON Schema of its config."""

    id: str
    name: str
    version: str
    config_schema: dict[str, Any]
    entrypoint: str | None = None
    created_at: Moment | None = None


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
    return [Blueprint(**{key: each.get(key) for key in Blueprint.model_fields}) for each in view["items"]]


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
        raise arguments.BadValue("name is missing", hint="tapeline blueprint ls")
    found = get_blueprints(name, version_ilike)
    if not found:
        raise BlueprintDoesNotExistError(name=name, version_ilike=version_ilike)
    return found[0].id


def register_blueprint(
    *, name: str, version: str, schema: dict[str, Any], entrypoint: str, command_id: str | None = None
) -> str:
    """Make a kind of training known to the team; its id. The same content again gives the same id.

    Parameters
    ----------
    version : str
        A semantic version.
    schema : dict
        JSON Schema 2020-12 of the config of its runs; references stay inside, patterns are linear in time.
    entrypoint : str
        `package.module:name` of the code, which is installed where agents run.

    Raises
    ------
    ValidationError
        The version, the schema or the entrypoint is malformed.
    AlreadyExistsError
        That version was registered with other content, or the name comes with Tapeline.

    Examples
    --------
    >>> schema = {"type": "object", "properties": {"rate": {"type": "number"}}}
    >>> id = register_blueprint(name="mine", version="1.0.0", schema=schema, entrypoint="mine.train:go")
    >>> id == lookup_blueprint_id("mine", "1.%")
    True
    """
    if not isinstance(schema, dict):
        raise arguments.BadType(f"schema must be a dict, not {type(schema).__name__}", hint='write {"type": "object"}')
    fields = {
        "name": arguments.name("name", name),
        "version": arguments.semver(version),
        "entrypoint": arguments.name("entrypoint", entrypoint),
    }
    reply = client_of().command("runs", "register_blueprint", config_schema=schema, command_id=command_id, **fields)
    return str(reply.view["id"])


def remove_blueprint(id: str, *, command_id: str | None = None) -> None:
    """Let no new run be made of a blueprint; runs that there are stay."""
    client_of().command("runs", "remove_blueprint", blueprint_id=arguments.name("id", id), command_id=command_id)
