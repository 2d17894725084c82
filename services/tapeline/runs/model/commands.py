"""Commands that the service makes of what a user asks, once names have become ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from tapeline.contracts.message import Command, Told


class MakeNamespace(Command):
    """Begin a namespace."""

    name: str
    user: str

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class NameNamespace(Command):
    """Give a namespace another name."""

    name: str

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class EndNamespace(Command):
    """Remove a namespace; the service has seen that it is empty."""

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls()


class MakeModel(Command):
    """Begin the record of a model."""

    namespace_id: str
    hash: str
    user: str
    name: str | None = None
    description: str | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class DescribeModel(Command):
    """Change name and description of a model; None leaves the description as it is."""

    name: str | None
    description: str | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class EndModel(Command):
    """Remove the record of a model."""

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls()


class AddIteration(Command):
    """Add an iteration, which has an id by then."""

    iteration_id: str
    step: int

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class AddMetric(Command):
    """Add a measurement, which has an id by then."""

    metric_id: str
    name: str
    value: Any
    step: int | None = None
    phase: str | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class AddModule(Command):
    """Add a module, which has an id by then."""

    module_id: str
    name: str
    attributes: Any = None
    iteration_id: str | None = None

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])
