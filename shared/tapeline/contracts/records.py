"""What a run keeps besides measurements: inputs, outputs, parameters, metrics tables; and copies of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from tapeline.contracts.artifacts import Artifact, ArtifactView
from tapeline.contracts.message import Command, Digest, Query, Text255, Told, View
from tapeline.contracts.references import ARTIFACT, CHECKPOINT, TABLE, Makes, Names

MAX_VALUE_BYTES = 64 * 1024
"""Of one input, output, or set of parameters, as JSON."""
MAX_VALUES = 10_000
"""Inputs of a run, and outputs, and tables."""
MAX_TABLE_ROWS = 10_000_000
MAX_TABLE_COLUMNS = 9_990

RunName = Annotated[str, Field(min_length=1, max_length=64)]
"""A run by its id, or by its number in the team."""
TableUrl = Annotated[str, Field(min_length=1, max_length=1024)]
TableIds = Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(min_length=1, max_length=1000)]


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputAdded:
    """The run has one more input."""

    SCHEMA: ClassVar[int] = 1
    value: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutputAdded:
    """The run has one more output."""

    SCHEMA: ClassVar[int] = 1
    value: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParametersSet:
    """Some parameters of the run are other ones now: `new` holds them, `old` what those that were there were."""

    SCHEMA: ClassVar[int] = 1
    new: dict[str, Any]
    old: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsTableAdded:
    """A metrics table belongs to the run; written with it, or taken from another run or a copy's source.

    `columns` tells each column's type and what is said of it; the rows are in the file.
    """

    SCHEMA: ClassVar[int] = 1
    table_id: Annotated[str, Makes(TABLE)]
    name: str
    rows: int
    columns: dict[str, Any]
    file: Annotated[Artifact, Makes(ARTIFACT)]
    stream_name: str = ""
    foreign_table_url: str | None = None
    foreign_table_display_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsTableRemoved:
    """A metrics table no longer belongs to the run."""

    SCHEMA: ClassVar[int] = 1
    table_id: Annotated[str, Names(TABLE)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCopied:
    """The run that was just born is a copy of another one as of `source_sequence`; it trains nothing.

    `starts` holds, for each attempt of the source, the step it began at: -1 for from nothing, -2 for not begun.
    """

    SCHEMA: ClassVar[int] = 1
    source: Annotated[str, Names("run")]
    source_sequence: int
    status: str
    attempt: int
    starts: list[int] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForked:
    """The run that was just born begins with a checkpoint of another one."""

    SCHEMA: ClassVar[int] = 1
    source: Annotated[str, Names("run")]
    checkpoint_id: Annotated[str, Names(CHECKPOINT)]
    global_step: int
    files: Annotated[list[Artifact], Names(ARTIFACT)]


RECORD_EVENTS = (
    RunInputAdded, RunOutputAdded, RunParametersSet, MetricsTableAdded, MetricsTableRemoved, RunCopied, RunForked,
)  # fmt: skip
RecordEvent = (
    RunInputAdded | RunOutputAdded | RunParametersSet | MetricsTableAdded | MetricsTableRemoved | RunCopied | RunForked
)


# --- commands and queries of users ----------------------------------------------------------------


class AddRunInput(Command):
    """Sent by a user to add an input to a run; an equal one that is there already is enough."""

    run: RunName
    value: dict[str, Any]

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], run=events[0].ref.id)


class AddRunOutput(Command):
    """Sent by a user to add an output to a run."""

    run: RunName
    value: dict[str, Any]

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0], run=events[0].ref.id)


class SetRunParameters(Command):
    """Sent by a user to set parameters of a run; others stay as they are."""

    run: RunName
    parameters: dict[str, Any]

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(run=events[0].ref.id, parameters=events[0].data.new)


class AddMetricsTable(Command):
    """Sent by a user to give a run a metrics table, whose file was uploaded before."""

    run: RunName
    sha256: Digest
    name: Text255 = "metrics"
    stream_name: str = Field(default="", max_length=255)
    foreign_table_url: TableUrl | None = None
    foreign_table_display_name: str = Field(default="", max_length=255)


class AttachMetricsTables(Command):
    """Sent by a user to give a run metrics tables that are there already; those it has stay as they are."""

    run: RunName
    tables: TableIds


class RemoveMetricsTables(Command):
    """Sent by a user to take metrics tables away from a run."""

    run: RunName
    tables: TableIds

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls(run=events[0].ref.id, tables=[each.data.table_id for each in events])


class CopyRun(Command):
    """Sent by a user to copy a run that has ended; the name is that of the source with `_copy` by default."""

    run: RunName
    name: Text255 | None = None
    project_id: str | None = Field(default=None, min_length=1, max_length=63)
    if_exists: Literal["raise", "rename", "overwrite"] = "raise"


class ForkRun(Command):
    """Sent by a user to make a run with the same config that starts from a checkpoint of another."""

    run: RunName
    from_checkpoint: str = Field(default="latest", min_length=1, max_length=64)
    name: Text255 | None = None


class GetRunRecord(Query):
    """Sent by a user to see what a run keeps besides measurements."""

    run: RunName


class GetMetricsTable(Query):
    """Sent by a user to see a metrics table of any run of the team."""

    table: str = Field(min_length=1, max_length=64)


class MetricsTableView(View):
    """A metrics table: what it is called, how long it is, what its columns are, and its file."""

    id: str
    run_id: str
    name: str
    rows: int
    columns: dict[str, Any]
    file: ArtifactView
    stream_name: str = ""
    foreign_table_url: str | None = None
    foreign_table_display_name: str = ""
    created_at: datetime | None = None


class RunRecordView(View):
    """What a run keeps besides measurements, and when its last event was."""

    run_id: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    parameters: dict[str, Any]
    tables: list[MetricsTableView]
    last_modified: datetime | None = None
    source: str | None = None


class TablesView(View):
    """The metrics tables that a command has added, or taken away."""

    tables: list[MetricsTableView]


def added(table: MetricsTableView) -> MetricsTableAdded:
    """The event that gives a run a table that a view shows."""
    fields = table.model_dump(exclude={"id", "run_id", "created_at", "file"})
    return MetricsTableAdded(table_id=table.id, file=Artifact(**table.file.model_dump()), **fields)


def view_of_table(run_id: str, event: MetricsTableAdded, at: datetime | None = None) -> MetricsTableView:
    """The view of a table that was added to a run."""
    fields = asdict(event)
    return MetricsTableView(id=fields.pop("table_id"), run_id=run_id, created_at=at, **fields)
