"""Metrics tables: columns of values, one row per example, that belong to runs; and the reduction of embeddings."""

from __future__ import annotations

import builtins
import tempfile
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, overload

from pydantic import ConfigDict

from tapeline.errors import ValidationError
from tapeline.sdk import artifacts
from tapeline.sdk.arguments import BadValue
from tapeline.sdk.client import client_of
from tapeline.sdk.errors import translated
from tapeline.sdk.records import BaseModelWithDatetime
from tapeline.sdk.urls import TABLE_FORMS, Url

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MetricData", "MetricTableInfo", "Schema", "Table", "Url", "reduce_embeddings_by_foreign_table_url",
    "reduce_embeddings_per_dataset",
]  # fmt: skip

MetricData = Any
"""A column: a list, or an array whose first axis is the row."""


class MetricTableInfo(TypedDict):
    """A metrics table of a run, as its list has it."""

    url: Url
    file_size: int
    stream_name: str
    row_count: int


class Schema(BaseModelWithDatetime):
    """What is said of a column besides its values."""

    model_config = ConfigDict(protected_namespaces=(), validate_assignment=True, extra="allow")

    display_name: str = ""
    description: str = ""
    unit: str = ""
    kind: str | None = None
    width: int | None = None


class Table:
    """A table: a metrics table of a run, or a file of an asset, whose rows are its samples.

    `Table.from_url` finds one. Bytes are fetched and checked by hash when the first value is read.
    """

    def __init__(self, url: Url, view: dict[str, Any], team: str | None = None) -> None:
        self._url = url
        self._view = view
        self._team = team

    @staticmethod
    def from_url(url: Url | str) -> Table:
        """The table that a URL names.

        Raises
        ------
        ValueError
            The URL is malformed, names no table, or is another team's.
        FileNotFoundError
            There is no such table.
        """
        return table_at(url)

    def __repr__(self) -> str:
        return f"Table({str(self._url)!r}, rows={len(self)})"

    @property
    def url(self) -> Url:
        """The canonical URL."""
        return self._url

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self._view["name"])

    @property
    def columns(self) -> builtins.list[str]:
        """The names of the columns, in order."""
        return list(self._view["columns"])

    @property
    def schema(self) -> dict[str, Schema]:
        """What is said of each column."""
        return {name: Schema(**said) for name, said in self._view["columns"].items()}

    @property
    def foreign_table_url(self) -> Url | None:
        """The table whose rows these rows are about."""
        found = self._view.get("foreign_table_url")
        return Url(found) if found else None

    @property
    def info(self) -> MetricTableInfo:
        """The entry of the table in the list of its run."""
        return info_of(self._url.team, self._view)

    def __len__(self) -> int:
        return int(self._view["rows"])

    @overload
    def __getitem__(self, key: str) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    def __getitem__(self, key: int | str) -> Any:
        """A column by its name, as an array whose first axis is the row; or a row by its number."""
        if isinstance(key, str):
            return self._column(key)
        number = range(len(self))[key]
        return self.rows(number, number + 1)[0]

    def rows(self, start: int = 0, stop: int | None = None) -> builtins.list[dict[str, Any]]:
        """Rows `start` to `stop`, each as a dict of plain values."""
        columns = {name: self._column(name)[start:stop].tolist() for name in self.columns}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def to_frame(self) -> Any:
        """The table as a data frame of pandas, or else of polars.

        Raises
        ------
        ImportError
            Neither is installed.
        """
        from tapeline.sdk.frames import frame_of

        return frame_of({name: self._column(name) for name in self.columns})

    def join(self) -> dict[str, NDArray[Any]]:
        """The columns of this table beside those of the foreign table, row by row.

        A foreign column whose name is taken is called `foreign_<name>`.

        Raises
        ------
        ValueError
            The table is about no other one.
        """
        other_url = self.foreign_table_url
        if other_url is None:
            raise BadValue(f"{self.name} names no foreign table", hint="write it with foreign_table_url")
        other, examples = table_at(other_url, self._team), self._column("example_id")
        own = {name: self._column(name) for name in self.columns}
        return own | {
            (f"foreign_{name}" if name in own else name): other._column(name)[examples] for name in other.columns
        }

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._view["columns"]:
            raise KeyError(f"{self.name} has no column {name!r}; its columns are {', '.join(self.columns)}")
        if self._url.parts.kind == "asset":
            opened = self._asset_file
            found: NDArray[Any] = opened.t0 if name == "t0" else opened.column(name)
            return found
        if name not in self._read:
            from tapeline.metric_tables import TableFile

            client = client_of(self._team)
            path = artifacts.fetch(client, "runs", self._view["file"], artifacts.cache(client, "tables", "runs"))
            with translated(), TableFile(path) as file:
                self._read[name] = file.column(name)
        return self._read[name]

    @cached_property
    def _read(self) -> dict[str, NDArray[Any]]:
        return {}

    @cached_property
    def _asset_file(self) -> Any:
        from tapeline.sdk.assets import Asset

        name, file = self._url.parts.names
        (found,) = [each for each in Asset(self._url.team, name).files if each.name == file]
        return found.opened()

    def _repr_html_(self) -> str:
        from tapeline.sdk.displays import table_html

        return table_html(self)


def info_of(team: str, view: Mapping[str, Any]) -> MetricTableInfo:
    """The entry of a table in the list of its run."""
    return MetricTableInfo(
        url=Url.of_table(team, view["id"]),
        file_size=int(view["file"]["size_bytes"]),
        stream_name=str(view["stream_name"]),
        row_count=int(view["rows"]),
    )


def table_at(url: Url | str, team: str | None = None) -> Table:
    """The table that a URL names, of the team of a client."""
    client = client_of(team)
    found = Url(url).within(client.team)
    kind, _, names = found.parts
    if kind == "table":
        view = client.query("runs", "table", table=names[0])
        return Table(Url.of_table(client.team, view["id"]), view, team)
    if kind == "asset":
        return Table(Url.of_asset(client.team, *names), _asset_view(client.team, *names), team)
    raise BadValue(f"{str(url)!r} names no table", hint=f"write {TABLE_FORMS}")


def _asset_view(team: str, name: str, file: str) -> dict[str, Any]:
    from tapeline.errors import LitModelError, TableDoesNotExistError
    from tapeline.sdk.assets import Asset

    try:
        asset = Asset(team, name)
    except LitModelError as error:
        raise TableDoesNotExistError.of("not_found", f"there is no asset {name!r}", hint="tapeline asset ls") from error
    rows = asset.view.get("rows") or {}
    if file not in rows:
        raise TableDoesNotExistError.of(
            "not_found", f"asset {name!r} has no file {file!r}", hint=f"its files are: {', '.join(rows) or 'none'}"
        )
    columns: dict[str, dict[str, Any]] = {each: {} for each in ("t0", *asset.datasets)}
    return {"id": "", "name": f"{name}/{file}", "rows": rows[file], "columns": columns, "stream_name": "", "file": {}}


def written(
    run: str,
    team: str | None,
    metrics: Mapping[str, MetricData],
    *,
    schemas: Mapping[str, Schema] | None = None,
    foreign_url: Url | str | None = None,
    foreign_name: str = "",
    name: str = "metrics",
    stream_name: str = "",
    command_id: str | None = None,
) -> MetricTableInfo:
    """The entry of a new metrics table of a run.

    Raises
    ------
    ValidationError
        Also a `ValueError`: the columns make no table, or do not fit the foreign table.
    FileNotFoundError
        There is no such foreign table.
    """
    import numpy as np

    from tapeline import metric_tables

    client = client_of(team)
    foreign = None if foreign_url is None else table_at(foreign_url, team)
    with translated():
        columns = metric_tables.columns_of(metrics)
        rows = len(next(iter(columns.values())))
        if foreign is not None:
            is_given = metric_tables.EXAMPLE_ID in columns
            columns.setdefault(metric_tables.EXAMPLE_ID, np.arange(rows))
            metric_tables.check_examples(
                columns[metric_tables.EXAMPLE_ID], rows, len(foreign), is_given=is_given
            )  # fmt: skip
            columns.setdefault("foreign_table_id", np.zeros(rows, dtype=np.int32))
    said = _said(schemas, columns)
    with tempfile.TemporaryDirectory(prefix="tapeline-") as folder:
        path = Path(folder) / "table.h5"
        with translated():
            metric_tables.write(path, columns, said)
        sha256 = artifacts.upload(client, "runs", path)
    view = client.command(
        "runs", "add_table", run=run, sha256=sha256, name=name, stream_name=stream_name, command_id=command_id,
        foreign_table_display_name=foreign_name, foreign_table_url=None if foreign is None else str(foreign.url),
    ).view  # fmt: skip
    return info_of(client.team, view["tables"][0])


def _said(schemas: Mapping[str, Schema] | None, columns: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    said = {}
    for name, schema in (schemas or {}).items():
        if name not in columns:
            raise ValidationError.of(
                "invalid", f"a schema is given for {name!r}, which is no column", hint=f"columns: {', '.join(columns)}"
            )
        found = schema if isinstance(schema, Schema) else Schema(**schema)
        said[name] = found.model_dump(exclude_defaults=True, exclude={"kind", "width"})
    return said


def reduce_embeddings_by_foreign_table_url(
    tables: Iterable[Table | Url | str],
    foreign_table_url: Url | str,
    delete_source_tables: bool = True,
    *,
    method: str = "pca",
    n_components: int = 2,
    columns: builtins.list[str] | None = None,
    seed: int = 0,
) -> dict[Url, Url]:
    """Reduce the vectors of tables as those that are about one foreign table teach; old URL to new URL.

    Parameters
    ----------
    tables : iterable of Table or Url
        Those without vectors stay as they are.
    delete_source_tables : bool
        Take the sources away from their runs.
    method : str
        `pca` (centred, deterministic), `umap` or `pacmap`, which are extras.
    columns : list of str, optional
        All columns of vectors by default.
    """
    found = [each if isinstance(each, Table) else table_at(each) for each in tables]
    wanted = Url(foreign_table_url)
    teachers = [each for each in found if each.foreign_table_url == wanted and _vectors(each, columns)]
    if not teachers:
        raise BadValue(f"no table with vectors is about {str(wanted)!r}", hint="run.metrics_tables shows what there is")
    return _reduced(found, teachers, delete_source_tables, method, n_components, columns, seed)


def reduce_embeddings_per_dataset(
    tables: Iterable[Table | Url | str],
    delete_source_tables: bool = True,
    *,
    method: str = "pca",
    n_components: int = 2,
    columns: builtins.list[str] | None = None,
    seed: int = 0,
) -> dict[Url, Url]:
    """Reduce the vectors of tables, those about each foreign table by themselves; old URL to new URL."""
    groups: dict[Url | None, list[Table]] = {}
    for each in tables:
        table = each if isinstance(each, Table) else table_at(each)
        if _vectors(table, columns):
            groups.setdefault(table.foreign_table_url, []).append(table)
    found: dict[Url, Url] = {}
    for group in groups.values():
        found |= _reduced(group, group, delete_source_tables, method, n_components, columns, seed)
    return found


def _vectors(table: Table, wanted: builtins.list[str] | None) -> builtins.list[str]:
    vectors = [name for name, schema in table.schema.items() if schema.kind == "vector"]
    return vectors if wanted is None else [name for name in vectors if name in wanted]


def _reduced(
    tables: builtins.list[Table],
    teachers: builtins.list[Table],
    delete: bool,
    method: str,
    n_components: int,
    columns: builtins.list[str] | None,
    seed: int,
) -> dict[Url, Url]:
    import numpy as np

    from tapeline.sdk.reduction import fitted

    names = list(dict.fromkeys(name for each in teachers for name in _vectors(each, columns)))
    reducers = {}
    for name in names:
        rows = [each[name] for each in teachers if name in _vectors(each, columns)]
        if len({part.shape[1] for part in rows}) > 1:
            raise BadValue(f"the vectors of column {name!r} have different lengths", hint="make them of one length")
        reducers[name] = fitted(method, np.concatenate(rows), n_components, seed)
    made: dict[Url, Url] = {}
    dropped: dict[tuple[str | None, str], list[str]] = {}
    foreign = {each.foreign_table_url for each in tables}
    # What others are about comes first, so that they are about what it becomes.
    for table in sorted(tables, key=lambda each: each.url not in foreign):
        own = [name for name in _vectors(table, columns) if name in reducers]
        if not own:
            continue
        values = {
            name: reducers[name](np.asarray(table[name], dtype=np.float64)) if name in own else table[name]
            for name in table.columns
        }
        view, about = table._view, table.foreign_table_url
        info = written(
            view["run_id"], table._team, values, schemas=table.schema,
            foreign_url=made.get(about, about) if about else None,
            foreign_name=view.get("foreign_table_display_name") or "", name=f"{table.name}_{method}",
            stream_name=view["stream_name"],
        )  # fmt: skip
        made[table.url] = info["url"]
        dropped.setdefault((table._team, view["run_id"]), []).append(view["id"])
    for (team, run), ids in dropped.items() if delete else ():
        client_of(team).command("runs", "remove_tables", run=run, tables=ids)
    return made
