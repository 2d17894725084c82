"""Verbs of users on namespaces, models and what is kept of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tapeline import names
from tapeline.bus import Verbs, accepted, answered
from tapeline.contracts.message import Accepted, Answer, Command, Page
from tapeline.contracts.models import (
    MAX_VALUE_BYTES,
    ClearModelParts,
    CreateIteration,
    CreateModel,
    CreateNamespace,
    DeleteModel,
    DeleteNamespace,
    GetModel,
    ListModelParts,
    ListModels,
    ListNamespaces,
    LogModelMetric,
    LogModule,
    ModelPartView,
    ModelView,
    NamespaceView,
    RemoveModelPart,
    RenameNamespace,
    SetModelStep,
    UpdateModel,
)
from tapeline.decider import Deciders, Outcome, Step, origin_of
from tapeline.errors import TapelineError
from tapeline.holders import Holders
from tapeline.ids import born_of, derived_id, new_id
from tapeline.names import ClaimName, ReleaseName, name_ref
from tapeline.projections import Reader
from tapeline.runs.model import aggregate, queries
from tapeline.runs.model.commands import (
    AddIteration,
    AddMetric,
    AddModule,
    DescribeModel,
    EndModel,
    EndNamespace,
    MakeModel,
    MakeNamespace,
    NameNamespace,
)
from tapeline.subjects import Principal, Ref

NAMESPACE_TRIES = 3


@dataclass(slots=True, kw_only=True)
class Records:
    """What the verbs of model records work with."""

    deciders: Deciders
    holders: Holders
    reader: Reader
    log_id: str

    async def state(self, caller: Principal, id: str) -> aggregate.State:
        """What an id stands for."""
        return await self.deciders.state(aggregate, Ref(caller.team, "model", id))

    async def command(self, caller: Principal, id: str, command: Command, *, as_of: Command) -> Outcome[Any]:
        """Run a command on one aggregate."""
        ref = Ref(caller.team, "model", id)
        return await self.deciders.handle(aggregate, ref, command, origin_of(caller.actor, as_of.command_id))

    async def namespace(self, caller: Principal, name: str) -> str | None:
        """The id of a namespace by its name."""
        return await self.holders.of(caller.team, namespace_key(name))


def namespace_key(name: str) -> str:
    """What is claimed for a namespace."""
    return f"namespace {name}"


def hash_key(namespace_id: str, hash: str) -> str:
    """What is claimed for a model in its namespace."""
    return f"model {namespace_id} {hash}"


def _claim(caller: Principal, key: str, name: str, holder: str, what: str) -> Step[Any]:
    claim = ClaimName(name=name, holder=holder, what=what)
    return Step(decider=names, ref=name_ref(caller.team, "model", key), command=claim)


def _release(caller: Principal, key: str, name: str, holder: str) -> Step[Any]:
    release = ReleaseName(name=name, holder=holder)
    return Step(decider=names, ref=name_ref(caller.team, "model", key), command=release)


def add_verbs(verbs: Verbs, records: Records) -> None:
    """Register the verbs of model records."""
    _add_namespaces(verbs, records)
    _add_models(verbs, records)
    _add_parts(verbs, records)


def _add_namespaces(verbs: Verbs, records: Records) -> None:
    @verbs.user("create_namespace")
    async def create_namespace(caller: Principal, request: CreateNamespace) -> Accepted[NamespaceView]:
        command_id = request.command_id or new_id()
        id = born_of(command_id, "namespace", caller.team)
        steps = _birth(caller, id, request.name)
        outcome, _ = await records.deciders.handle_together(steps, origin_of(caller.actor, command_id))
        return accepted(outcome, NamespaceView(id=id, name=request.name, created_at=request.at), records.log_id)

    @verbs.user("rename_namespace")
    async def rename_namespace(caller: Principal, request: RenameNamespace) -> Accepted[NamespaceView]:
        before = await records.state(caller, request.id)
        steps: list[Step[Any]] = [
            Step(decider=aggregate, ref=Ref(caller.team, "model", request.id), command=NameNamespace(name=request.name))
        ]
        if isinstance(before, aggregate.Namespace) and before.name != request.name:
            steps += [
                _claim(caller, namespace_key(request.name), request.name, request.id, "namespace"),
                _release(caller, namespace_key(before.name), before.name, request.id),
            ]
        outcome = (await records.deciders.handle_together(steps, origin_of(caller.actor, request.command_id)))[0]
        view = NamespaceView(id=request.id, name=request.name, created_at=request.at)
        return accepted(outcome, view, records.log_id)

    @verbs.user("delete_namespace")
    async def delete_namespace(caller: Principal, request: DeleteNamespace) -> Accepted[NamespaceView]:
        before = await records.state(caller, request.id)
        if await records.reader.at(request.min_position, queries.holds_models, caller.team, request.id):
            raise TapelineError(
                "the namespace holds models", code="conflict", hint="delete its models first: models.clear()"
            )
        name = before.name if isinstance(before, aggregate.Namespace) else ""
        steps: list[Step[Any]] = [
            Step(decider=aggregate, ref=Ref(caller.team, "model", request.id), command=EndNamespace())
        ]
        if name:
            steps.append(_release(caller, namespace_key(name), name, request.id))
        outcome = (await records.deciders.handle_together(steps, origin_of(caller.actor, request.command_id)))[0]
        return accepted(outcome, NamespaceView(id=request.id, name=name, created_at=request.at), records.log_id)

    @verbs.user("list_namespaces")
    async def list_namespaces(caller: Principal, request: ListNamespaces) -> Answer[Page[NamespaceView]]:
        items = await records.reader.at(request.min_position, queries.listed_namespaces, caller.team, request)
        return answered(Page(items=items), records.reader.projector.position, records.log_id)


def _birth(caller: Principal, id: str, name: str) -> list[Step[Any]]:
    made = MakeNamespace(name=name, user=caller.user)
    return [
        Step(decider=aggregate, ref=Ref(caller.team, "model", id), command=made),
        _claim(caller, namespace_key(name), name, id, "namespace"),
    ]


def _add_models(verbs: Verbs, records: Records) -> None:
    @verbs.user("create_model")
    async def create_model(caller: Principal, request: CreateModel) -> Accepted[ModelView]:
        command_id = request.command_id or new_id()
        id = born_of(command_id, "model", caller.team)
        for attempt in range(NAMESPACE_TRIES):
            known = await records.namespace(caller, request.namespace)
            namespace_id = known or born_of(command_id, "namespace", caller.team)
            made = MakeModel(
                namespace_id=namespace_id,
                hash=request.hash,
                user=caller.user,
                name=request.name,
                description=request.description,
            )
            steps = [
                Step(decider=aggregate, ref=Ref(caller.team, "model", id), command=made),
                _claim(caller, hash_key(namespace_id, request.hash), request.hash, id, "model"),
                *([] if known else _birth(caller, namespace_id, request.namespace)),
            ]
            try:
                outcome = (await records.deciders.handle_together(steps, origin_of(caller.actor, command_id)))[0]
            except TapelineError as error:
                # Somebody else's model made the namespace in between: go into that one.
                if known or error.code != "already_exists" or attempt == NAMESPACE_TRIES - 1:
                    raise
                continue
            return accepted(outcome, _view(id, outcome.state, request), records.log_id)
        raise TapelineError("the namespace comes and goes", code="conflict", hint="repeat the command")

    @verbs.user("update_model")
    async def update_model(caller: Principal, request: UpdateModel) -> Accepted[ModelView]:
        namespace_id = await records.namespace(caller, request.namespace)
        id = await records.holders.of(caller.team, hash_key(namespace_id or "", request.hash))
        if namespace_id is None or id is None:
            raise TapelineError(
                f"no model in {request.namespace!r} has the hash {request.hash!r}",
                code="not_found",
                hint="tapeline model ls",
            )
        command = DescribeModel(name=request.name, description=request.description)
        outcome = await records.command(caller, id, command, as_of=request)
        return accepted(outcome, _view(id, outcome.state, request), records.log_id)

    @verbs.user("delete_model")
    async def delete_model(caller: Principal, request: DeleteModel) -> Accepted[ModelView]:
        before = await records.state(caller, request.id)
        steps: list[Step[Any]] = [
            Step(decider=aggregate, ref=Ref(caller.team, "model", request.id), command=EndModel())
        ]
        if isinstance(before, aggregate.Model):
            key = hash_key(before.created.namespace_id, before.created.hash)
            steps.append(_release(caller, key, before.created.hash, request.id))
        outcome = (await records.deciders.handle_together(steps, origin_of(caller.actor, request.command_id)))[0]
        return accepted(outcome, _view(request.id, before, request), records.log_id)

    @verbs.user("set_model_step")
    async def set_model_step(caller: Principal, request: SetModelStep) -> Accepted[ModelView]:
        outcome = await records.command(caller, request.id, request, as_of=request)
        return accepted(outcome, _view(request.id, outcome.state, request), records.log_id)

    @verbs.user("get_model")
    async def get_model(caller: Principal, request: GetModel) -> Answer[ModelView]:
        view = await records.reader.at(request.min_position, queries.one, caller.team, request.id)
        marked = records.reader.marked(caller.team, "model", view)
        return answered(marked, records.reader.projector.position, records.log_id)

    @verbs.user("list_models")
    async def list_models(caller: Principal, request: ListModels) -> Answer[Page[ModelView]]:
        items = await records.reader.at(request.min_position, queries.listed, caller.team, request)
        page = records.reader.page(caller.team, "model", Page(items=items))
        return answered(page, records.reader.projector.position, records.log_id)


def _view(id: str, state: aggregate.State, request: Command) -> ModelView:
    if not isinstance(state, aggregate.Model):
        return ModelView(id=id, namespace_id="", hash="", created_at=request.at)
    return ModelView(
        id=id,
        namespace_id=state.created.namespace_id,
        hash=state.created.hash,
        name=state.name,
        description=state.description,
        step=state.step,
        created_at=request.at,
    )


def _part_id(request: CreateIteration | LogModelMetric | LogModule) -> str:
    """The id of what a request adds to a model: the same whenever it is repeated."""
    return derived_id("model part", request.id, str(request.command_id))


def _add_parts(verbs: Verbs, records: Records) -> None:
    @verbs.user("create_iteration")
    async def create_iteration(caller: Principal, request: CreateIteration) -> Accepted[ModelPartView]:
        command = AddIteration(iteration_id=_part_id(request), step=request.step)
        outcome = await records.command(caller, request.id, command, as_of=request)
        id = outcome.state.iterations[request.step]
        return accepted(outcome, ModelPartView(id=id, step=request.step, created_at=request.at), records.log_id)

    @verbs.user("log_model_metric")
    async def log_model_metric(caller: Principal, request: LogModelMetric) -> Accepted[ModelPartView]:
        _check_size("value", request.value)
        fields = {"name": request.name, "value": request.value, "step": request.step, "phase": request.phase}
        command = AddMetric(metric_id=_part_id(request), **fields)
        outcome = await records.command(caller, request.id, command, as_of=request)
        return accepted(outcome, ModelPartView(id=command.metric_id, created_at=request.at, **fields), records.log_id)

    @verbs.user("log_module")
    async def log_module(caller: Principal, request: LogModule) -> Accepted[ModelPartView]:
        _check_size("attributes", request.attributes)
        command = AddModule(
            module_id=_part_id(request),
            name=request.name,
            attributes=request.attributes,
            iteration_id=request.iteration_id,
        )
        outcome = await records.command(caller, request.id, command, as_of=request)
        view = ModelPartView(
            id=command.module_id, name=request.name, value=request.attributes, iteration_id=request.iteration_id,
            created_at=request.at,
        )  # fmt: skip
        return accepted(outcome, view, records.log_id)

    @verbs.user("remove_model_part")
    async def remove_model_part(caller: Principal, request: RemoveModelPart) -> Accepted[ModelPartView]:
        outcome = await records.command(caller, request.id, request, as_of=request)
        return accepted(outcome, ModelPartView(id=request.part_id, created_at=request.at), records.log_id)

    @verbs.user("clear_model_parts")
    async def clear_model_parts(caller: Principal, request: ClearModelParts) -> Accepted[ModelPartView]:
        outcome = await records.command(caller, request.id, request, as_of=request)
        return accepted(outcome, ModelPartView(id=request.id, created_at=request.at), records.log_id)

    @verbs.user("list_model_parts")
    async def list_model_parts(caller: Principal, request: ListModelParts) -> Answer[Page[ModelPartView]]:
        items = await records.reader.at(request.min_position, queries.parts_of, caller.team, request)
        return answered(Page(items=items), records.reader.projector.position, records.log_id)


def _check_size(field: str, value: Any) -> None:
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_VALUE_BYTES:
        raise TapelineError(
            f"{field} takes {size} bytes as JSON; the limit is {MAX_VALUE_BYTES}",
            code="too_large",
            hint="keep large values as files of a checkpoint",
        )
