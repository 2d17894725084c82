"""What can happen to a namespace of models, and to the record of a model in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import assert_never

from tapeline.contracts.models import (
    ClearModelParts,
    IterationCreated,
    ModelCreated,
    ModelDeleted,
    ModelEvent,
    ModelMetricLogged,
    ModelPartRemoved,
    ModelPartsCleared,
    ModelStepped,
    ModelUpdated,
    ModuleLogged,
    NamespaceCreated,
    NamespaceDeleted,
    NamespaceRenamed,
    Part,
    RemoveModelPart,
    SetModelStep,
)
from tapeline.errors import TapelineError
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

NamespaceCommand = MakeNamespace | NameNamespace | EndNamespace
PartCommand = AddIteration | AddMetric | AddModule | RemoveModelPart | ClearModelParts
ModelCommand = MakeModel | DescribeModel | EndModel | SetModelStep | PartCommand
MOST_PARTS = 10_000
Parts = dict[str, str | None]
"""What is kept under an id; of a module the iteration that it belongs to, if any."""


@dataclass(frozen=True, slots=True)
class Unborn:
    """Nothing has happened."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace that exists."""

    name: str


@dataclass(frozen=True, slots=True)
class Model:
    """The record of a model, and the ids of what is kept of it."""

    created: ModelCreated
    name: str | None
    description: str | None
    step: int | None = None
    iterations: dict[int, str] = field(default_factory=dict)
    metrics: Parts = field(default_factory=dict)
    modules: Parts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gone:
    """It was deleted."""


State = Unborn | Namespace | Model | Gone


def initial() -> State:
    return Unborn()


def decide(state: State, command: NamespaceCommand | ModelCommand) -> list[ModelEvent]:
    match command:
        case MakeNamespace():
            return [NamespaceCreated(name=command.name, user=command.user)] if isinstance(state, Unborn) else []
        case NameNamespace():
            if not isinstance(state, Namespace):
                raise _missing("namespace")
            if state.name == command.name:
                return []
            return [NamespaceRenamed(name=command.name, old_name=state.name)]
        case EndNamespace():
            return [NamespaceDeleted()] if isinstance(state, Namespace) else []
        case MakeModel():
            return [_created(command)] if isinstance(state, Unborn) else []
        case EndModel():
            return [ModelDeleted()] if isinstance(state, Model) else []
        case _ if not isinstance(state, Model):
            raise _missing("model")
        case DescribeModel():
            described = state.description if command.description is None else command.description
            if (state.name, state.description) == (command.name, described):
                return []
            return [ModelUpdated(name=command.name, description=described)]
        case SetModelStep():
            return [] if state.step == command.step else [ModelStepped(step=command.step, old_step=state.step)]
        case AddIteration() | AddMetric() | AddModule() | RemoveModelPart() | ClearModelParts():
            return _decide_part(state, command)
        case _:
            assert_never(command)


def _missing(what: str) -> TapelineError:
    return TapelineError(f"there is no such {what}", code="not_found", hint="tapeline model ls")


def _created(command: MakeModel) -> ModelCreated:
    return ModelCreated(
        namespace_id=command.namespace_id,
        hash=command.hash,
        user=command.user,
        name=command.name,
        description=command.description,
    )


def _decide_part(model: Model, command: PartCommand) -> list[ModelEvent]:
    for kept in (model.iterations, model.metrics, model.modules):
        if len(kept) >= MOST_PARTS and not isinstance(command, RemoveModelPart | ClearModelParts):
            raise TapelineError(
                f"the model has {len(kept)} parts of a kind; the limit is {MOST_PARTS}",
                code="too_large",
                hint="clear what is not needed, or log points as metrics of a run",
            )
    match command:
        case AddIteration():
            if command.step in model.iterations:
                return []
            return [IterationCreated(iteration_id=command.iteration_id, step=command.step)]
        case AddMetric():
            logged = ModelMetricLogged(
                metric_id=command.metric_id,
                name=command.name,
                value=command.value,
                step=command.step,
                phase=command.phase,
            )
            return [logged]
        case AddModule():
            _check_iteration(model, command.iteration_id)
            module = ModuleLogged(
                module_id=command.module_id,
                name=command.name,
                attributes=command.attributes,
                iteration_id=command.iteration_id,
            )
            return [module]
        case RemoveModelPart():
            if command.part_id not in _ids(model, command.part):
                return []
            return [ModelPartRemoved(part=command.part, id=command.part_id)]
        case ClearModelParts():
            _check_iteration(model, command.iteration_id)
            if not _cleared(model, command.part, command.iteration_id):
                return []
            return [ModelPartsCleared(part=command.part, iteration_id=command.iteration_id)]
        case _:
            assert_never(command)


def _check_iteration(model: Model, iteration_id: str | None) -> None:
    if iteration_id is not None and iteration_id not in model.iterations.values():
        raise TapelineError(f"the model has no iteration {iteration_id}", code="not_found", hint="create it first")


def _ids(model: Model, part: Part) -> set[str]:
    if part == "iterations":
        return set(model.iterations.values())
    return set(model.metrics if part == "metrics" else model.modules)


def _cleared(model: Model, part: Part, iteration_id: str | None) -> set[str]:
    """What a clearing takes away."""
    if part == "modules":
        return {id for id, owner in model.modules.items() if owner == iteration_id}
    return _ids(model, part)


def evolve(state: State, event: ModelEvent) -> State:
    match event:
        case NamespaceCreated():
            return Namespace(event.name)
        case NamespaceRenamed():
            return Namespace(event.name)
        case NamespaceDeleted() | ModelDeleted():
            return Gone()
        case ModelCreated():
            return Model(event, event.name, event.description)
        case _ if not isinstance(state, Model):
            return state
        case ModelUpdated():
            return replace(state, name=event.name, description=event.description)
        case ModelStepped():
            return replace(state, step=event.step)
        case IterationCreated():
            return replace(state, iterations=state.iterations | {event.step: event.iteration_id})
        case ModelMetricLogged():
            return replace(state, metrics=state.metrics | {event.metric_id: None})
        case ModuleLogged():
            return replace(state, modules=state.modules | {event.module_id: event.iteration_id})
        case ModelPartRemoved():
            return _without(state, event.part, {event.id})
        case ModelPartsCleared():
            return _without(state, event.part, _cleared(state, event.part, event.iteration_id))
        case _:
            assert_never(event)


def _without(model: Model, part: Part, ids: set[str]) -> Model:
    if part == "metrics":
        return replace(model, metrics=_left(model.metrics, ids))
    if part == "modules":
        return replace(model, modules=_left(model.modules, ids))
    return replace(
        model,
        iterations={step: id for step, id in model.iterations.items() if id not in ids},
        modules={id: owner for id, owner in model.modules.items() if owner not in ids},
    )


def _left(parts: Parts, ids: set[str]) -> Parts:
    return {id: owner for id, owner in parts.items() if id not in ids}
