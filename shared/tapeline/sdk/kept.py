"""What a run keeps besides measurements: its URL, inputs, outputs, parameters, metrics tables; copies and forks."""

from __future__ import annotations

import builtins
import contextlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PrivateAttr

from tapeline.errors import ValidationError
from tapeline.sdk import arguments
from tapeline.sdk.client import Client, client_of
from tapeline.sdk.projects import get_project_id
from tapeline.sdk.records import BaseModelWithDatetime, Moment
from tapeline.sdk.urls import TABLE_FORMS, Url

if TYPE_CHECKING:
    from tapeline.sdk.runs import Run
    from tapeline.sdk.tables import MetricData, MetricTableInfo, Schema, Table

IF_EXISTS = ("raise", "rename", "overwrite")
STATUS_NUMBERS = {1.0: "job_completed", 2.0: "run_created", 3.0: "job_running"}
"""The statuses that a number stands for when a run is made by hand."""


class Kept(BaseModelWithDatetime):
    """The part of a run that is not about training."""

    id: str | None = None
    created_at: Moment | None = None
    notes: str | None = None
    _team: str | None = PrivateAttr(default=None)
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(
        self,
        url: Url | None = None,
        created: str | None = None,
        last_modified: str | None = None,
        description: str | None = None,
        metrics: builtins.list[dict[str, Any]] | None = None,
        constants: dict[str, Any] | None = None,
        status: float | str | None = None,
        init_parameters: Any = None,
        **fields: Any,
    ) -> None:
        given: dict[str, Any] = {}
        if url is not None:
            given["url"] = Url(url)
            if given["url"].parts.kind == "run":
                fields.setdefault("id", given["url"].parts.names[0])
        if created is not None:
            fields.setdefault("created_at", datetime.fromisoformat(created))
        if description is not None:
            fields.setdefault("notes", description)
        if isinstance(status, int | float):
            if status not in STATUS_NUMBERS or isinstance(status, bool):
                raise arguments.BadValue(
                    "Invalid status", hint="a number is 1.0 (completed), 2.0 (created) or 3.0 (running)"
                )
            status = STATUS_NUMBERS[status]
        more = {"last_modified": last_modified, "metrics": metrics, "constants": constants}
        super().__init__(**fields | ({} if status is None else {"status": status}))
        self._given = given | arguments.given(**more, init_parameters=init_parameters)

    def _named(self) -> str:
        if not self.id:
            raise arguments.BadValue(
                "id is not set on this run", hint="get it by Run.from_id, or by get_runs with its id selected"
            )
        return self.id

    def _client(self) -> Client:
        return client_of(self._team)

    def _record(self) -> dict[str, Any]:
        return dict(self._client().query("runs", "record", run=self._named()))

    def _keep(self, verb: str, command_id: str | None, **fields: Any) -> Any:
        return self._client().command("runs", verb, run=self._named(), command_id=command_id, **fields).view

    @property
    def url(self) -> Url:
        """The canonical URL: `tapeline://<team>/runs/<id>`."""
        if not self.id and "url" in self._given:
            return Url(self._given["url"])
        return Url.of_run(self._client().team, self._named())

    @property
    def bulk_data_url(self) -> Url:
        """The URL of the run's bulk data."""
        return Url(f"{Url.of_run(self._client().team, self._named())}/bulk")

    @property
    def web_url(self) -> str | None:
        """The page of the run in the console, if one is served; `#seq=<n>` after it shows an event."""
        from tapeline.home import read_instance

        instance = read_instance(self._client().settings.home)
        return f"{instance.web_url}/runs/{self._named()}" if instance is not None and instance.web_url else None

    @property
    def created(self) -> str | None:
        """When the run was made, in ISO 8601."""
        return None if self.created_at is None else self.created_at.isoformat()

    @property
    def last_modified(self) -> str | None:
        """When the run's last event was, in ISO 8601."""
        if not self.id:
            found: str | None = self._given.get("last_modified")
            return found
        last = self._record().get("last_modified")
        return None if last is None else datetime.fromisoformat(last).isoformat()

    @property
    def description(self) -> str | None:
        """The notes of the run, under another name."""
        return self.notes

    @property
    def constants(self) -> dict[str, Any]:
        """Inputs, outputs and parameters, together."""
        if not self.id:
            return {"inputs": [], "outputs": [], "parameters": {}} | dict(self._given.get("constants") or {})
        record = self._record()
        return {name: record[name] for name in ("inputs", "outputs", "parameters")}

    @property
    def inputs(self) -> builtins.list[dict[str, Any]]:
        """What the run was given, in the order in which it was added."""
        return list(self.constants["inputs"])

    @property
    def outputs(self) -> builtins.list[dict[str, Any]]:
        """What the run gave, in the order in which it was added."""
        return list(self.constants["outputs"])

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the run."""
        return dict(self.constants["parameters"])

    @property
    def metrics(self) -> builtins.list[MetricTableInfo]:
        """The list of the run's metrics tables."""
        if not self.id:
            return list(self._given.get("metrics") or [])
        from tapeline.sdk.tables import info_of

        return [info_of(self._client().team, view) for view in self._record()["tables"]]

    @property
    def metrics_tables(self) -> builtins.list[Table]:
        """The run's metrics tables."""
        from tapeline.sdk.tables import Table

        team = self._client().team
        return [Table(Url.of_table(team, view["id"]), view, self._team) for view in self._record()["tables"]]

    def add_input_table(self, input_table: Table | Url | str, *, command_id: str | None = None) -> None:
        """Add a table to the inputs; one that is among them already stays as it is.

        A table that does not exist yet has -1 examples.
        """
        from tapeline.sdk.tables import Table, table_at

        examples = -1
        if isinstance(input_table, Table):
            url, examples = input_table.url, len(input_table)
        else:
            url = Url(input_table).within(self._client().team)
            if url.parts.kind not in ("table", "asset"):
                raise arguments.BadValue(f"{str(url)!r} names no table", hint=f"write {TABLE_FORMS}")
            with contextlib.suppress(FileNotFoundError):
                examples = len(table_at(url, self._team))
        if all(each.get("input_table_url") != str(url) for each in self.inputs):
            value = {"input_table_url": str(url), "num_examples": examples}
            self._keep("add_input", command_id, value=value)

    def add_input_value(self, input_value: dict[str, Any], *, command_id: str | None = None) -> None:
        """Add a value to the inputs; an equal one that is among them already is enough."""
        self._keep("add_input", command_id, value=_object("input_value", input_value))

    def add_output_value(self, output_value: dict[str, Any], *, command_id: str | None = None) -> None:
        """Add a value to the outputs."""
        self._keep("add_output", command_id, value=_object("output_value", output_value))

    def set_parameters(self, parameters: dict[str, Any], *, command_id: str | None = None) -> None:
        """Set parameters; others stay as they are."""
        self._keep("set_parameters", command_id, parameters=_object("parameters", parameters))

    def set_description(self, description: str, *, command_id: str | None = None) -> None:
        """Replace the notes of the run."""
        self._keep("set_notes", command_id, notes=description)
        self.notes = description

    def update_metrics(
        self,
        metric_infos: builtins.list[MetricTableInfo] = [],  # noqa: B006
        *,
        command_id: str | None = None,
    ) -> None:
        """Give the run metrics tables that are there already; those that it has stay as they are.

        Raises
        ------
        FileNotFoundError
            There is no such table.
        """
        ids = []
        for info in metric_infos:
            url = Url(info["url"]).within(self._client().team)
            if url.parts.kind != "table":
                raise arguments.BadValue(
                    f"{str(url)!r} names no metrics table", hint="write tapeline://<team>/tables/<id>"
                )
            ids.append(url.parts.names[0])
        if ids:
            self._keep("attach_tables", command_id, tables=ids)

    def add_metrics_table(self, metrics_table: Table | Url, *, command_id: str | None = None) -> None:
        """Give the run a metrics table that is there already."""
        from tapeline.sdk.tables import Table

        url = metrics_table.url if isinstance(metrics_table, Table) else Url(metrics_table)
        self.update_metrics([{"url": url, "file_size": 0, "stream_name": "", "row_count": 0}], command_id=command_id)

    def add_metrics(
        self,
        metrics: dict[str, MetricData],
        column_schemas: dict[str, Schema] | None = None,
        foreign_table_url: Url | str | None = None,
        foreign_table_display_name: str = "",
        *,
        schema: dict[str, Schema] | None = None,
        command_id: str | None = None,
    ) -> builtins.list[MetricTableInfo]:
        """Write columns to a new metrics table of the run.

        Parameters
        ----------
        metrics : dict
            Columns of equal length: numbers, truth values, texts, or vectors of one length.
        column_schemas : dict, optional
            What is said of columns; `schema` is another name of it.
        foreign_table_url : Url, optional
            The table that the rows are about. Without a column `example_id` there is one row for each of its rows.

        Raises
        ------
        ValueError
            The columns differ in length or hold something else, the rows do not fit, or the URL is malformed.
        FileNotFoundError
            There is no such table.

        Examples
        --------
        >>> from tapeline.sdk.runs import Run
        >>> run = Run.from_names("demo", "my_project")
        >>> vectors = [[1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [2.0, 3.0, 1.0]]
        >>> [info] = run.add_metrics({"loss": [0.5, 0.25, 0.125], "embedding": vectors})
        >>> info["row_count"], run.metrics[0] == info
        (3, True)
        >>> made = run.reduce_embeddings_per_dataset()
        >>> run.metrics_tables[0]["embedding"].shape
        (3, 2)
        """
        from tapeline.sdk.tables import written

        info = written(
            self._named(), self._team, metrics, schemas=column_schemas or schema, foreign_url=foreign_table_url,
            foreign_name=foreign_table_display_name, command_id=command_id,
        )  # fmt: skip
        return [info]

    def add_metrics_data(
        self,
        metrics: dict[str, MetricData],
        override_column_schemas: dict[str, Schema] = {},  # noqa: B006
        input_table_url: Url | str | None = None,
        table_writer_base_name: str = "metrics",
        stream_name: str = "",
        *,
        command_id: str | None = None,
    ) -> builtins.list[MetricTableInfo]:
        """Write columns to a new metrics table of the run; see `add_metrics`."""
        from tapeline.sdk.tables import written

        info = written(
            self._named(), self._team, metrics, schemas=override_column_schemas, foreign_url=input_table_url,
            name=table_writer_base_name, stream_name=stream_name, command_id=command_id,
        )  # fmt: skip
        return [info]

    def reduce_embeddings_by_foreign_table_url(
        self, foreign_table_url: Url | str, delete_source_tables: bool = True, **kwargs: Any
    ) -> dict[Url, Url]:
        """Reduce the vectors of all metrics tables as those about one foreign table teach; old URL to new URL."""
        from tapeline.sdk.tables import reduce_embeddings_by_foreign_table_url

        return reduce_embeddings_by_foreign_table_url(
            self.metrics_tables, foreign_table_url, delete_source_tables, **kwargs
        )

    def reduce_embeddings_per_dataset(self, delete_source_tables: bool = True, **kwargs: Any) -> dict[Url, Url]:
        """Reduce the vectors of the metrics tables about each foreign table by themselves; old URL to new URL."""
        from tapeline.sdk.tables import reduce_embeddings_per_dataset

        return reduce_embeddings_per_dataset(self.metrics_tables, delete_source_tables, **kwargs)

    @staticmethod
    def from_url(url: Url | str) -> Run:
        """The run that a URL names; of a name, the newest one.

        Raises
        ------
        ValueError
            The URL is malformed, names no run, or is another team's.
        RunDoesNotExistError
            There is no such run.
        """
        from tapeline.sdk import runs

        found = Url(url).within(client_of().team)
        match found.parts.kind:
            case "run" | "bulk":
                return runs.find(found.parts.names[0])
            case "named":
                return runs.newest(*found.parts.names)
            case _:
                raise arguments.BadValue(f"{str(found)!r} names no run", hint="write tapeline://<team>/runs/<id>")

    @staticmethod
    def from_names(
        run_name: str | None = None, project_name: str | None = None, root_url: Url | str | None = None
    ) -> Run:
        """The newest run of a name in a project, `default` if none is named.

        Raises
        ------
        ValueError
            The name of the run is missing.
        RunDoesNotExistError
            There is no such run.
        """
        from tapeline.sdk import runs

        if not run_name:
            raise arguments.BadValue("run_name is missing", hint="tapeline run ls")
        _root(root_url)
        return runs.newest(get_project_id(project_name or "default"), run_name)

    def copy(  # type: ignore[override]  # pydantic's own, which is deprecated, is hidden on purpose
        self,
        run_name: str | None = None,
        project_name: str | None = None,
        root_url: Url | str | None = None,
        if_exists: Literal["raise", "rename", "overwrite"] = "raise",
        *,
        destination_url: Url | None = None,
        command_id: str | None = None,
    ) -> Run:
        """A new run with everything that this one has but checkpoints; this one must have ended.

        Parameters
        ----------
        run_name, project_name : str, optional
            By default the name of this run with `_copy`, in its project.
        if_exists : str
            What to do when a run of the project has that name: `raise`, take the next free one of `_1`, `_2`, ...
            (`rename`), or remove the other (`overwrite`).
        destination_url : Url, optional
            `tapeline://<team>/<project>/runs/<name>`, instead of names.

        Raises
        ------
        AlreadyExistsError
            The name is taken.
        ConflictError
            This run, or the one to be overwritten, has not ended.

        Examples
        --------
        >>> from tapeline.sdk.runs import Run
        >>> run = Run.from_names("demo", "my_project")
        >>> run.set_parameters({"learning_rate": 0.001})
        >>> copy = run.copy("second", "copies")
        >>> copy.status, copy.parameters
        ('job_completed', {'learning_rate': 0.001})
        >>> Run.from_url(copy.url).name
        'second'
        """
        from tapeline.sdk import runs

        arguments.one_of("if_exists", if_exists, IF_EXISTS)
        _root(root_url)
        project = None if project_name is None else get_project_id(project_name)
        if destination_url is not None:
            if run_name or project_name or root_url:
                raise arguments.BadValue(
                    "either names or destination_url say where the copy goes, not both", hint="leave one of them out"
                )
            there = Url(destination_url).within(self._client().team)
            if there.parts.kind != "named":
                raise arguments.BadValue(
                    f"{str(there)!r} does not name a run", hint="write tapeline://<team>/<project>/runs/<name>"
                )
            project, run_name = there.parts.names
        fields = arguments.given(name=run_name, project_id=project)
        return runs.find(self._keep("copy", command_id, if_exists=if_exists, **fields)["id"], self._team)

    def fork(self, from_checkpoint: str = "latest", *, name: str | None = None, command_id: str | None = None) -> Run:
        """A new run with the same config that starts from a checkpoint of this one."""
        from tapeline.sdk import runs

        view = self._keep("fork", command_id, from_checkpoint=from_checkpoint, **arguments.given(name=name))
        return runs.find(view["id"], self._team)


def _root(root_url: Url | str | None) -> None:
    if root_url is not None and Url(root_url).within(client_of().team).parts.kind != "root":
        raise arguments.BadValue(f"{str(root_url)!r} is not the URL of a team", hint="write tapeline://<team>")


def _object(name: str, value: Any) -> dict[str, Any]:
    """A dict as plain JSON data; scalars of NumPy become Python's."""
    if not isinstance(value, Mapping):
        raise arguments.BadType(f"{name} must be a dict, not {type(value).__name__}", hint='write {"name": value}')
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False, default=_scalar))
    except (TypeError, ValueError) as error:
        raise ValidationError.of(
            "invalid", f"{name} is not plain JSON data: {error}", hint="NaN, infinities and objects have no JSON form"
        ) from error
    return found


def _scalar(value: Any) -> Any:
    if getattr(value, "shape", None) == () and callable(item := getattr(value, "item", None)):
        return item()
    raise TypeError(f"{type(value).__name__} is not JSON data")
