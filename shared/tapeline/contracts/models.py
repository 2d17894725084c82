"""The published language of model records: what a model is, how far it is, and what was measured of it.

A record belongs to a namespace and is found there by its hash, which its maker chooses. Values of metrics and
modules are JSON data; a number that JSON has no word for travels as `{"$float": "NaN"}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from tapeline.contracts.message import Command, Notes, Query, Text255, Told, View
from tapeline.contracts.references import MODEL_PART, Makes, Names

Part = Literal["iterations", "metrics", "modules"]
Id = Annotated[str, Field(min_length=1, max_length=64)]
Step = Annotated[int, Field(ge=0, le=2**53)]
MAX_VALUE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceCreated:
    """A namespace exists: by itself, or together with its first model."""

    SCHEMA: ClassVar[int] = 1
    name: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRenamed:
    """The namespace has another name."""

    SCHEMA: ClassVar[int] = 1
    name: str
    old_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceDeleted:
    """The namespace is gone and its name is free; it held no model."""

    SCHEMA: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCreated:
    """A model has a record in a namespace."""

    SCHEMA: ClassVar[int] = 1
    namespace_id: Annotated[str, Names("model")]
    hash: str
    user: str
    name: str | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUpdated:
    """The model has another name or description."""

    SCHEMA: ClassVar[int] = 1
    name: str | None
    description: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStepped:
    """The model is at another step, which may be an earlier one."""

    SCHEMA: ClassVar[int] = 1
    step: int
    old_step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDeleted:
    """The record is gone and its hash is free."""

    SCHEMA: ClassVar[int] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationCreated:
    """The model has an iteration at a step."""

    SCHEMA: ClassVar[int] = 1
    iteration_id: Annotated[str, Makes(MODEL_PART)]
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetricLogged:
    """Something was measured of the model."""

    SCHEMA: ClassVar[int] = 1
    metric_id: Annotated[str, Makes(MODEL_PART)]
    name: str
    value: Any
    step: int | None = None
    phase: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleLogged:
    """The model, or one of its iterations, has a module."""

    SCHEMA: ClassVar[int] = 1
    module_id: Annotated[str, Makes(MODEL_PART)]
    name: str
    attributes: Any = None
    iteration_id: Annotated[str | None, Names(MODEL_PART)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPartRemoved:
    """One iteration, metric or module is gone; an iteration takes its modules with it."""

    SCHEMA: ClassVar[int] = 1
    part: Part
    id: Annotated[str, Names(MODEL_PART)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPartsCleared:
    """All iterations, metrics or modules are gone; of one iteration only when it is named."""

    SCHEMA: ClassVar[int] = 1
    part: Part
    iteration_id: Annotated[str | None, Names(MODEL_PART)] = None


MODEL_EVENTS = (
    NamespaceCreated,
    NamespaceRenamed,
    NamespaceDeleted,
    ModelCreated,
    ModelUpdated,
    ModelStepped,
    ModelDeleted,
    IterationCreated,
    ModelMetricLogged,
    ModuleLogged,
    ModelPartRemoved,
    ModelPartsCleared,
)
ModelEvent = (
    NamespaceCreated
    | NamespaceRenamed
    | NamespaceDeleted
    | ModelCreated
    | ModelUpdated
    | ModelStepped
    | ModelDeleted
    | IterationCreated
    | ModelMetricLogged
    | ModuleLogged
    | ModelPartRemoved
    | ModelPartsCleared
)


class CreateNamespace(Command):
    """Sent by a user to make an empty namespace; a model in a new one makes it by itself."""

    name: Text255


class RenameNamespace(Command):
    """Sent by a user to give a namespace another name."""

    id: Id
    name: Text255


class DeleteNamespace(Command):
    """Sent by a user to remove a namespace that holds no model; an unknown one is gone already."""

    id: Id


class CreateModel(Command):
    """Sent by a user to make the record of a model; its hash is its own within the namespace."""

    namespace: Text255
    hash: Text255
    name: Text255 | None = None
    description: Notes | None = None


class UpdateModel(Command):
    """Sent by a user to change what a model is called; a description that is left out stays."""

    namespace: Text255
    hash: Text255
    name: Text255 | None
    description: Notes | None = None


class DeleteModel(Command):
    """Sent by a user to remove the record of a model; an unknown one is gone already."""

    id: Id


class SetModelStep(Command):
    """Sent by a user to say at which step a model is."""

    id: Id
    step: Step

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], id=events[0].ref.id)


class CreateIteration(Command):
    """Sent by a user to make an iteration at a step; the same step again is the same iteration."""

    id: Id
    step: Step


class LogModelMetric(Command):
    """Sent by a user to keep a measurement of a model."""

    id: Id
    name: Text255
    value: Any
    step: Step | None = None
    phase: Text255 | None = None


class LogModule(Command):
    """Sent by a user to keep a module of a model, or of one of its iterations."""

    id: Id
    name: Text255
    attributes: Any = None
    iteration_id: Id | None = None


class RemoveModelPart(Command):
    """Sent by a user to remove one iteration, metric or module; an unknown one is gone already."""

    id: Id
    part: Part
    part_id: Id

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        told = events[0]
        return cls(id=told.ref.id, part=told.data.part, part_id=told.data.id)


class ClearModelParts(Command):
    """Sent by a user to remove all iterations, metrics or modules of a model."""

    id: Id
    part: Part
    iteration_id: Id | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], id=events[0].ref.id)


class ListNamespaces(Query):
    """Sent by a user to see the team's namespaces by name, or the one of a name."""

    name: Text255 | None = None
    limit: int = Field(default=1000, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


class ListModels(Query):
    """Sent by a user to see the models of a namespace as they were made, or the one of a hash."""

    namespace: Text255
    hash: Text255 | None = None
    limit: int = Field(default=1000, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


class GetModel(Query):
    """Sent by a user to see a model by its id."""

    id: Id


class ListModelParts(Query):
    """Sent by a user to see the iterations, metrics or modules of a model, as they came."""

    id: Id
    part: Part
    name: Text255 | None = None
    iteration_id: Id | None = None
    limit: int = Field(default=1000, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


class NamespaceView(View):
    """A namespace of models."""

    id: str
    name: str
    created_at: datetime
    models: int = 0


class ModelView(View):
    """The record of a model; `stale` is true when a later event of it could not be folded."""

    id: str
    namespace_id: str
    hash: str
    name: str | None = None
    description: str | None = None
    step: int | None = None
    created_at: datetime
    stale: bool | None = None


class ModelPartView(View):
    """One iteration (`step`), metric (`name, value, step, phase`) or module (`name, value`) of a model."""

    id: str
    created_at: datetime
    name: str | None = None
    value: Any = None
    step: int | None = None
    phase: str | None = None
    iteration_id: str | None = None
