"""Verbs of users on blueprints."""

from __future__ import annotations

import asyncio

import semver

from tapeline.bus import Verbs, accepted, answered
from tapeline.contracts.blueprints import RegisterBlueprint, RemoveBlueprint
from tapeline.contracts.message import Accepted, Answer, Page
from tapeline.contracts.runs import BlueprintView, ListBlueprints, ValidateRunConfig
from tapeline.decider import origin_of
from tapeline.errors import TapelineError
from tapeline.runs.blueprint import aggregate, queries, schema
from tapeline.runs.blueprint import config as configs
from tapeline.runs.blueprint.builtin import RESERVED, blueprint_id
from tapeline.runs.run.handlers import Desk
from tapeline.security.names import display_name
from tapeline.subjects import Principal, Ref


def add_verbs(verbs: Verbs, desk: Desk) -> None:
    """Register the verbs."""

    @verbs.user("register_blueprint")
    async def register_blueprint(caller: Principal, request: RegisterBlueprint) -> Accepted[BlueprintView]:
        name, version = display_name(request.name), _version(request.version)
        if name in RESERVED:
            raise TapelineError(
                f"blueprint {name!r} comes with Tapeline", code="already_exists", hint="take another name"
            )
        await asyncio.to_thread(schema.checked, request.config_schema)
        id = blueprint_id(caller.team, name, version)
        command = request.model_copy(update={"name": name, "version": version, "user": caller.user})
        origin = origin_of(caller.actor, request.command_id)
        outcome = await desk.deciders.handle(aggregate, Ref(caller.team, "blueprint", id), command, origin)
        view = BlueprintView(
            id=id,
            name=name,
            version=version,
            config_schema=request.config_schema,
            entrypoint=request.entrypoint,
            created_at=request.at,
        )
        return accepted(outcome, view, desk.log_id)

    @verbs.user("remove_blueprint")
    async def remove_blueprint(caller: Principal, request: RemoveBlueprint) -> Accepted[BlueprintView]:
        found = await desk.reader.at(
            request.min_position, lambda at: queries.find(at, caller.team, request.blueprint_id, removed=True)
        )
        if found.team is None:
            raise TapelineError(
                f"blueprint {found.name!r} comes with Tapeline", code="conflict", hint="it cannot be removed"
            )
        ref, origin = Ref(caller.team, "blueprint", found.id), origin_of(caller.actor, request.command_id)
        outcome = await desk.deciders.handle(aggregate, ref, request, origin)
        return accepted(outcome, found.view(), desk.log_id)

    @verbs.user("blueprints")
    async def blueprints(caller: Principal, request: ListBlueprints) -> Answer[Page[BlueprintView]]:
        items = await desk.reader.at(request.min_position, queries.listed, caller.team, request)
        return answered(Page(items=items), desk.reader.projector.position, desk.log_id)

    @verbs.user("validate_config")
    async def validate_config(caller: Principal, request: ValidateRunConfig) -> Answer[BlueprintView]:
        found = await desk.reader.at(request.min_position, queries.find, caller.team, request.blueprint_id)
        configs.checked(found, request.config)
        return answered(found.view(), desk.reader.projector.position, desk.log_id)


def _version(text: str) -> str:
    try:
        return str(semver.Version.parse(text))
    except ValueError as error:
        raise TapelineError(
            f"version {text!r} is not a semantic version", code="invalid", hint="write it as 1.0.0"
        ) from error
