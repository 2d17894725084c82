"""Records of models: what a model is, how far it is, and what was measured of it.

`Models`, `Iterations`, `Metrics` and `Modules` are interfaces and `Model` is a protocol, so that other stores
may stand behind them; `get_models` gives those that are kept on the log.
"""

from __future__ import annotations

import builtins
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable
from uuid import UUID

from tapeline.errors import ValidationError
from tapeline.sdk.arguments import BadValue, given, paged
from tapeline.sdk.client import Client, current_client

MANY = 2**31
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_FLOAT = "$float"
Part = Literal["iterations", "metrics", "modules"]


@dataclass(frozen=True, slots=True)
class Module:
    """A part that a model is made of; `attributes` is JSON data."""

    id: UUID
    name: str
    attributes: Any = None


@dataclass(frozen=True, slots=True)
class ModelMetric:
    """Something that was measured of a model; `value` is JSON data, NaN and infinities included."""

    id: UUID
    name: str
    value: Any
    step: int | None = None
    phase: str | None = None


class Modules(ABC):
    """The modules of a model or of an iteration."""

    @abstractmethod
    def log(self, name: str, attributes: Any = None) -> Module:
        """Keep a module; `attributes` is JSON data of at most 64 KiB."""

    def add(self, name: str, attributes: Any = None) -> Module:
        """The same as `log`."""
        return self.log(name, attributes)

    @abstractmethod
    def list(self) -> builtins.list[Module]:
        """The modules as they came."""

    @abstractmethod
    def remove(self, module: Module) -> None:
        """Remove one; no matter when it is gone already."""

    @abstractmethod
    def clear(self) -> None:
        """Remove all."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """One step of a model's training or evaluation, with modules of its own."""

    id: UUID
    step: int
    modules: Modules = field(repr=False)


class Iterations(ABC):
    """The iterations of a model."""

    @abstractmethod
    def create(self, step: int) -> Iteration:
        """The iteration at a step, made when it is missing."""

    @abstractmethod
    def get(self, step: int) -> Iteration | None:
        """The iteration at a step, if there is one."""

    @abstractmethod
    def list(self) -> builtins.list[Iteration]:
        """The iterations as they came."""

    @abstractmethod
    def remove(self, iteration: Iteration) -> None:
        """Remove one, and its modules; no matter when it is gone already."""

    @abstractmethod
    def clear(self) -> None:
        """Remove all."""


class Metrics(ABC):
    """The metrics of a model."""

    @abstractmethod
    def log(self, name: str, value: Any, step: int | None = None, phase: str | None = None) -> ModelMetric:
        """Keep a measurement; `value` is JSON data of at most 64 KiB, NaN and infinities allowed."""

    def add(self, name: str, value: Any, step: int | None = None, phase: str | None = None) -> ModelMetric:
        """The same as `log`."""
        return self.log(name, value, step, phase)

    @abstractmethod
    def list(self, name: str | None = None) -> builtins.list[ModelMetric]:
        """The metrics as they came; of one name only when it is given."""

    @abstractmethod
    def remove(self, metric: ModelMetric) -> None:
        """Remove one; no matter when it is gone already."""

    @abstractmethod
    def clear(self) -> None:
        """Remove all."""


@runtime_checkable
class Model(Protocol):
    """The record of a model."""

    @property
    def id(self) -> UUID:
        """Its identity everywhere."""
        ...

    @property
    def hash(self) -> str:
        """Its identity within its namespace."""
        ...

    @property
    def name(self) -> str | None:
        """What it is called; others may be called the same."""
        ...

    @property
    def description(self) -> str | None:
        """What its maker says of it."""
        ...

    @property
    def step(self) -> int | None:
        """The step that it is at; None until one was set. Setting it is an event, and it may go back."""
        ...

    @step.setter
    def step(self, step: int) -> None: ...

    @property
    def iterations(self) -> Iterations:
        """Its iterations."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Its metrics."""
        ...

    @property
    def modules(self) -> Modules:
        """Its modules."""
        ...


class Models(ABC):
    """The models of a namespace."""

    @abstractmethod
    def create(self, hash: Any, name: str | None = None, description: str | None = None) -> Model:
        """Make the record of a model.

        Parameters
        ----------
        hash
            What identifies the model in its namespace; kept as `str(hash)`, 1 to 255 characters.

        Raises
        ------
        AlreadyExistsError
            Which is a `ValueError` too: the namespace has a model with this hash.
        """

    @abstractmethod
    def read(self, hash: Any) -> Model | None:
        """The model with a hash, if there is one."""

    @abstractmethod
    def list(self) -> builtins.list[Model]:
        """The models in the order in which they were made."""

    @abstractmethod
    def update(self, hash: Any, name: str | None, description: str | None = None) -> Model:
        """Change the name of the model with a hash, and its description when one is given.

        Raises
        ------
        NotFoundError
            No model has the hash.
        """

    @abstractmethod
    def delete(self, id: UUID | str) -> None:
        """Remove the model with an id, whose hash is free then; no matter when it is gone already."""

    @abstractmethod
    def clear(self) -> None:
        """Remove all models of the namespace."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace of models; users of the older interface call it an experiment."""

    id: UUID
    name: str
    models: Models


class Namespaces(ABC):
    """The namespaces of a team."""

    @abstractmethod
    def create(self, name: str) -> Namespace:
        """Make an empty namespace; a name that is taken is an `AlreadyExistsError`, which is a `ValueError`."""

    @abstractmethod
    def read(self, name: str) -> Namespace | None:
        """The namespace of a name, if there is one."""

    @abstractmethod
    def update(self, id: UUID | str, name: str) -> Namespace:
        """Give a namespace another name."""

    @abstractmethod
    def delete(self, id: UUID | str) -> None:
        """Remove a namespace that holds no model; no matter when it is gone already."""

    @abstractmethod
    def list(self) -> builtins.list[Namespace]:
        """The namespaces by name."""


def get_models(experiment: str) -> Models:
    """The models of a namespace; its first model makes it.

    Examples
    --------
    >>> models = get_models("digits")
    >>> model = models.create("a1b2", name="mlp", description="two layers")
    >>> model.step = 10
    >>> models.read("a1b2").step
    10
    >>> _ = model.metrics.log("loss", 0.5, step=10, phase="train")
    >>> [(metric.name, metric.value, metric.phase) for metric in model.metrics.list()]
    [('loss', 0.5, 'train')]
    >>> models.create("a1b2")
    Traceback (most recent call last):
        ...
    tapeline.errors.AlreadyExistsError: (409) already_exists: model 'a1b2' exists already
    Hint: take another name
    """
    return _Models(_text(experiment, "experiment"))


def get_namespaces() -> Namespaces:
    """The namespaces of the team."""
    return _Namespaces()


def getExperiment(name: str) -> Namespace:
    """The namespace of a name, made when it is missing; for users of the older interface."""
    namespaces = get_namespaces()
    return namespaces.read(name) or namespaces.create(name)


def getallExperiments() -> Namespaces:
    """The namespaces of the team; for users of the older interface."""
    return get_namespaces()


def _text(value: Any, what: str) -> str:
    text = str(value) if value is not None else ""
    if not 1 <= len(text) <= 255:
        raise BadValue(f"{what} has {len(text)} characters; give 1 to 255", hint=f"give another {what}")
    return text


def _step(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**53:
        raise BadValue(f"step is {value!r}; give a whole number from 0", hint="write 0 for the beginning")
    return value


def encoded(value: Any) -> Any:
    """JSON data with words for the numbers that JSON has none for.

    Raises
    ------
    ValidationError
        For what is no JSON data.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, dict):
        if set(value) == {_FLOAT} or not all(isinstance(key, str) for key in value):
            raise ValidationError.of("invalid", "the keys of JSON data are texts", hint=f"{_FLOAT!r} alone is ours")
        return {key: encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return encoded(value.item())
    raise ValidationError.of(
        "invalid", f"{type(value).__name__} is no JSON data", hint="give numbers, texts, lists and dicts"
    )


def decoded(value: Any) -> Any:
    """What `encoded` was given; tuples come back as lists."""
    if isinstance(value, dict):
        if set(value) == {_FLOAT}:
            return _SPECIAL[value[_FLOAT]]
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return value


class _Kept:
    """What speaks to the service, for all that follows."""

    @property
    def _client(self) -> Client:
        return current_client()

    def _all(self, verb: str, **fields: Any) -> builtins.list[dict[str, Any]]:
        def page(size: int, start: int) -> dict[str, Any]:
            return dict(self._client.query("runs", verb, limit=size, offset=start, **fields))

        return builtins.list(paged(page, MANY, 0))

    def _do(self, verb: str, **fields: Any) -> dict[str, Any]:
        return dict(self._client.command("runs", verb, **fields).view)


class _Parts(_Kept):
    def __init__(self, model: UUID, part: Part, iteration: UUID | None = None) -> None:
        self._model = str(model)
        self._part: Part = part
        self._iteration = str(iteration) if iteration is not None else None

    def _views(self, name: str | None = None) -> builtins.list[dict[str, Any]]:
        more = given(name=name, iteration_id=self._iteration)
        return self._all("list_model_parts", id=self._model, part=self._part, **more)

    def _remove(self, id: UUID) -> None:
        self._do("remove_model_part", id=self._model, part=self._part, part_id=str(id))

    def clear(self) -> None:
        self._do("clear_model_parts", id=self._model, part=self._part, **given(iteration_id=self._iteration))


class _Modules(_Parts, Modules):
    def log(self, name: str, attributes: Any = None) -> Module:
        more = given(iteration_id=self._iteration)
        view = self._do("log_module", id=self._model, name=_text(name, "name"), attributes=encoded(attributes), **more)
        return Module(UUID(view["id"]), name, attributes)

    def list(self) -> builtins.list[Module]:
        return [Module(UUID(view["id"]), view["name"], decoded(view.get("value"))) for view in self._views()]

    def remove(self, module: Module) -> None:
        self._remove(module.id)


class _Iterations(_Parts, Iterations):
    def _of(self, view: dict[str, Any]) -> Iteration:
        id = UUID(view["id"])
        return Iteration(id, view["step"], _Modules(UUID(self._model), "modules", id))

    def create(self, step: int) -> Iteration:
        return self._of(self._do("create_iteration", id=self._model, step=_step(step)))

    def get(self, step: int) -> Iteration | None:
        return next((iteration for iteration in self.list() if iteration.step == step), None)

    def list(self) -> builtins.list[Iteration]:
        return [self._of(view) for view in self._views()]

    def remove(self, iteration: Iteration) -> None:
        self._remove(iteration.id)


class _Metrics(_Parts, Metrics):
    def log(self, name: str, value: Any, step: int | None = None, phase: str | None = None) -> ModelMetric:
        more = given(step=None if step is None else _step(step), phase=phase)
        view = self._do("log_model_metric", id=self._model, name=_text(name, "name"), value=encoded(value), **more)
        return ModelMetric(UUID(view["id"]), name, value, step, phase)

    def list(self, name: str | None = None) -> builtins.list[ModelMetric]:
        return [
            ModelMetric(UUID(view["id"]), view["name"], decoded(view.get("value")), view.get("step"), view.get("phase"))
            for view in self._views(name)
        ]

    def remove(self, metric: ModelMetric) -> None:
        self._remove(metric.id)


class _Model(_Kept):
    def __init__(self, view: dict[str, Any]) -> None:
        self._view = view

    def __repr__(self) -> str:
        return f"Model(hash={self.hash!r}, name={self.name!r}, step={self.step!r})"

    @property
    def id(self) -> UUID:
        return UUID(self._view["id"])

    @property
    def hash(self) -> str:
        return str(self._view["hash"])

    @property
    def name(self) -> str | None:
        return self._view.get("name")

    @property
    def description(self) -> str | None:
        return self._view.get("description")

    @property
    def step(self) -> int | None:
        return self._view.get("step")

    @step.setter
    def step(self, step: int) -> None:
        self._view = self._view | {"step": self._do("set_model_step", id=str(self.id), step=_step(step))["step"]}

    @property
    def iterations(self) -> Iterations:
        return _Iterations(self.id, "iterations")

    @property
    def metrics(self) -> Metrics:
        return _Metrics(self.id, "metrics")

    @property
    def modules(self) -> Modules:
        return _Modules(self.id, "modules")


class _Models(_Kept, Models):
    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def __repr__(self) -> str:
        return f"Models({self._namespace!r})"

    def create(self, hash: Any, name: str | None = None, description: str | None = None) -> Model:
        more = given(name=name, description=description)
        return _Model(self._do("create_model", namespace=self._namespace, hash=_text(hash, "hash"), **more))

    def read(self, hash: Any) -> Model | None:
        views = self._all("list_models", namespace=self._namespace, hash=_text(hash, "hash"))
        return _Model(views[0]) if views else None

    def list(self) -> builtins.list[Model]:
        return [_Model(view) for view in self._all("list_models", namespace=self._namespace)]

    def update(self, hash: Any, name: str | None, description: str | None = None) -> Model:
        more = given(description=description)
        return _Model(self._do("update_model", namespace=self._namespace, hash=_text(hash, "hash"), name=name, **more))

    def delete(self, id: UUID | str) -> None:
        self._do("delete_model", id=str(id))

    def clear(self) -> None:
        for model in self.list():
            self.delete(model.id)


class _Namespaces(_Kept, Namespaces):
    def _of(self, view: dict[str, Any]) -> Namespace:
        return Namespace(UUID(view["id"]), view["name"], _Models(view["name"]))

    def create(self, name: str) -> Namespace:
        return self._of(self._do("create_namespace", name=_text(name, "name")))

    def read(self, name: str) -> Namespace | None:
        views = self._all("list_namespaces", name=_text(name, "name"))
        return self._of(views[0]) if views else None

    def update(self, id: UUID | str, name: str) -> Namespace:
        return self._of(self._do("rename_namespace", id=str(id), name=_text(name, "name")))

    def delete(self, id: UUID | str) -> None:
        self._do("delete_namespace", id=str(id))

    def list(self) -> builtins.list[Namespace]:
        return [self._of(view) for view in self._all("list_namespaces")]


__all__ = [
    "Iteration",
    "Iterations",
    "Metrics",
    "Model",
    "ModelMetric",
    "Models",
    "Module",
    "Modules",
    "Namespace",
    "Namespaces",
    "getExperiment",
    "get_models",
    "get_namespaces",
    "getallExperiments",
]
