"""The data classes of runs: event, metric, progress, resources, GPU; and what they are built on."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic import ValidationError as PydanticError

from tapeline.errors import ValidationError
from tapeline.sdk import quantities
from tapeline.trusted import trusted


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _Plain(str):
    """A text that is shown without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


Moment = Annotated[datetime, AfterValidator(_utc)]
"""An aware UTC time; a naive one is read as UTC."""


class BaseModelWithDatetime(BaseModel):
    """A keyword-only data class; assignment changes the local object, never the server."""

    model_config: ClassVar[ConfigDict] = {"protected_namespaces": (), "validate_assignment": True}

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """What there is, in short: nothing that is None, and times as people write them."""
        for name, value in super().__repr_args__():
            if isinstance(value, datetime):
                yield name, _Plain(value.astimezone(UTC).isoformat(" ", "milliseconds").replace("+00:00", "Z"))
            elif value is not None:
                yield name, value


def metric_of(view: dict[str, Any]) -> Metric:
    """The measurement that a view shows."""
    value = view["value"]
    read = {"created_at": moment_of(view["created_at"]), "value": float(value) if isinstance(value, str) else value}
    return trusted(Metric, {**view, **read})


def moment_of(text: str | None) -> datetime | None:
    """The aware UTC time that a service has written."""
    return None if text is None else _utc(datetime.fromisoformat(text))


class Wish(BaseModelWithDatetime):
    """A data class that users fill in: what is malformed is refused in the class of a malformed request."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except PydanticError as error:
            first = error.errors(include_url=False)[0]
            cause: Any = first.get("ctx", {}).get("error")
            place = ".".join(str(step) for step in first["loc"])
            message = str(cause) if cause is not None else f"{place}: {first['msg']}"
            takes = f"{type(self).__name__} takes {', '.join(type(self).model_fields)}"
            raise ValidationError.of("invalid", message, hint=getattr(cause, "hint", None) or takes) from error


class Event(BaseModelWithDatetime):
    """One event of a run: `status` is the run's status after it, `details` its data plus `type`."""

    id: str
    sequence: int
    run_id: str
    created_at: Moment
    status: str
    details: dict[str, Any]


class Metric(BaseModelWithDatetime):
    """One measurement of a run; ints and floats stay what they are."""

    id: str
    created_at: Moment
    run_id: str
    global_step: int
    tag: str
    value: float | int
    job_id: str | None = None

    @field_validator("value", mode="before")
    @classmethod
    def _non_finite(cls, value: Any) -> Any:
        return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


class Progress(BaseModelWithDatetime):
    """How far one operation of a run is; `value` may exceed `final_value`."""

    operation: str
    value: float | int
    final_value: float | int
    units: str


class Gpu(Wish):
    """Wanted accelerators; the types that exist are told by `get_available_system_gpus`."""

    count: int = Field(ge=1)
    type: str


class Resources(Wish):
    """Resources that a run wants, as Kubernetes quantities; the text is kept as given.

    Examples
    --------
    >>> Resources(cpu="500m", memory="5Gi").memory
    '5Gi'
    """

    cpu: str
    memory: str
    ephemeral_storage: str | None = None
    gpu: Gpu | None = None

    @field_validator("cpu")
    @classmethod
    def _cpu(cls, value: str) -> str:
        quantities.cores(value)
        return value

    @field_validator("memory")
    @classmethod
    def _memory(cls, value: str) -> str:
        quantities.size_bytes("memory", value)
        return value

    @field_validator("ephemeral_storage")
    @classmethod
    def _ephemeral_storage(cls, value: str | None) -> str | None:
        if value is not None:
            quantities.size_bytes("ephemeral_storage", value)
        return value
