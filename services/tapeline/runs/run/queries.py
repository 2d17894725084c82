"""Rows of runs to views; the team comes first, and a foreign id is answered as a missing one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Table, bindparam, false, func, or_, select

from tapeline.contracts.artifacts import ArtifactView
from tapeline.contracts.runs import (
    CheckpointView,
    CountRuns,
    EventView,
    ListCheckpoints,
    ListEvents,
    ListRuns,
    ProgressView,
    RunView,
    Status,
)
from tapeline.errors import TapelineError
from tapeline.projections import Row, row_of
from tapeline.runs.metrics.queries import progress_of
from tapeline.runs.moments import moment, us_of
from tapeline.runs.patterns import literal, lowered
from tapeline.runs.run.tables import artifacts, checkpoints, run_events, runs
from tapeline.trusted import trusted_rows

_COLUMNS = {
    "id": "id", "project_id": "project_id", "user_id": "user_id", "created_at": "created_us", "name": "name",
    "version": "version", "blueprint_id": "blueprint_id", "task_type": "task_type", "config": "config",
    "resources": "resources", "status": "status", "status_updated_at": "status_updated_us", "notes": "notes",
    "number": "number",
}  # fmt: skip
_EVERYTHING = (
    *_COLUMNS, "device", "wanted_device", "agent", "attempt", "session_name", "reason", "message", "hint", "exit_code",
)  # fmt: skip
_TIMES = ("created_at", "status_updated_at")
_BY_NUMBER = select(runs).where(runs.c.team == bindparam("of"), runs.c.number == bindparam("named"))
_PROGRESS = frozenset({"progress", "progress_updated_at"})


def missing(name: str) -> TapelineError:
    """The refusal of a run that does not exist, was deleted, or is another team's."""
    return TapelineError(f"no run {name!r}", code="not_found", hint="tapeline run ls", data={"kind": "run"})


def resolve(connection: Connection, team: str, name: str, *, deleted: bool = False) -> Row:
    """The row of a run that is named by its id or by its number."""
    row: Row | None
    if name.isascii() and name.isdecimal() and len(name) < 10:
        found = connection.execute(_BY_NUMBER, {"of": team, "named": int(name)}).mappings().first()
        row = None if found is None else dict(found)
    else:
        row = row_of(connection, runs, team, name)
    if row is None or (row["is_deleted"] and not deleted):
        raise missing(name)
    return row


def one(connection: Connection, team: str, name: str) -> RunView:
    """A run with everything."""
    row = resolve(connection, team, name)
    said = progress_of(connection, team, [row["id"]])
    values = [row[_COLUMNS.get(field, field)] for field in _EVERYTHING]
    return _view(_EVERYTHING, values, said.get(row["id"]), _PROGRESS)


def _view(
    names: Sequence[str],
    values: Iterable[Any],
    said: tuple[list[ProgressView], int] | None,
    progress: Collection[str],
) -> RunView:
    """The view of some columns of a run."""
    fields = dict(zip(names, values, strict=True))
    for name in _TIMES:
        if name in fields:
            fields[name] = moment(fields[name])
    if "wanted_device" in fields:
        fields["device"] = fields["device"] or fields["wanted_device"]
        del fields["wanted_device"]
    if progress:
        views, updated_us = said or ([], 0)
        if "progress" in progress:
            fields["progress"] = views
        if "progress_updated_at" in progress and views:
            fields["progress_updated_at"] = moment(updated_us)
    return RunView(**fields)


def listed(connection: Connection, team: str, query: ListRuns) -> list[RunView]:
    """A page of runs."""
    if query.limit == 0:
        return []
    if query.select == []:
        raise TapelineError("select is empty", code="invalid", hint='leave it out, or select "*"')
    wanted = set(query.select or "*")
    everything = "*" in wanted
    names = _EVERYTHING if everything else tuple(field for field in _COLUMNS if field in wanted)
    progress = _PROGRESS if everything else _PROGRESS & wanted
    found = _filters(team, query)
    if found is None:
        return []
    shape, values = found
    statement = _page_of(names, shape, tuple(query.sort or ("created_at:desc",)))
    rows = connection.execute(statement, values | {"most": query.limit, "passed": query.offset}).all()
    said: dict[str, tuple[list[ProgressView], int]] = {}
    if progress:
        said = progress_of(connection, team, [row[0] for row in rows])
    return _views(names, rows, said, progress)


def _views(
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    said: dict[str, tuple[list[ProgressView], int]],
    progress: Collection[str],
) -> list[RunView]:
    """The views of some columns of runs, column by column; what the tables hold was checked when it was written."""
    keys, *given = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(len(names) + 1)]
    columns: dict[str, Any] = dict(zip(names, given, strict=True))
    for name in _TIMES:
        if name in columns:
            columns[name] = [moment(time_us) for time_us in columns[name]]
    if (wanted := columns.pop("wanted_device", None)) is not None:
        columns["device"] = [device or wish for device, wish in zip(columns["device"], wanted, strict=True)]
    if "progress" in progress:
        columns["progress"] = [said[key][0] if key in said else [] for key in keys]
    if "progress_updated_at" in progress:
        columns["progress_updated_at"] = [moment(said[key][1]) if key in said else None for key in keys]
    return trusted_rows(RunView, columns, len(rows))


def counted(connection: Connection, team: str, query: CountRuns) -> int:
    """How many runs there are."""
    found = _filters(team, query)
    if found is None:
        return 0
    shape, values = found
    return int(connection.scalar(_filtered(select(func.count()).select_from(runs), shape), values) or 0)


@dataclass(frozen=True)
class _Shape:
    """Which filters a question has, whatever their values: questions of one shape are one statement."""

    lists: tuple[str, ...]
    exact: bool
    patterns: int
    edges: tuple[str, ...]


def _filters(team: str, query: CountRuns) -> tuple[_Shape, dict[str, Any]] | None:
    """The shape of a question and the values of its filters; None when nothing can match."""
    lists: dict[str, Sequence[Any] | None] = {
        "blueprint_id": query.blueprint_ids, "id": query.ids, "number": query.numbers,
        "project_id": query.project_ids, "status": query.statuses, "task_type": query.task_types,
        "version": query.versions, "user_id": query.user_ids,
    }  # fmt: skip
    if query.name_ilikes == [] or any(each == [] for each in lists.values()):
        return None
    values: dict[str, Any] = {"of": team} | {
        name: [str(v) if isinstance(v, Status) else v for v in given]
        for name, given in lists.items()
        if given is not None
    }
    names = [(literal(each), lowered(each)) for each in query.name_ilikes or ()]
    exact = [name for name, _ in names if name is not None]
    patterns = [pattern for name, pattern in names if name is None]
    values |= {"names": exact} if exact else {}
    values |= {f"pattern_{i}": pattern for i, pattern in enumerate(patterns)}
    edges = {
        "after_us": None if query.created_after is None else us_of(query.created_after),
        "before_us": None if query.created_before is None else us_of(query.created_before),
        "after_id": query.id_after,
    }
    given = {name: edge for name, edge in edges.items() if edge is not None}
    in_lists = tuple(name for name in lists if name in values)
    return _Shape(in_lists, bool(exact), len(patterns), tuple(given)), values | given


# To put a statement together takes longer than to run it.
@lru_cache(maxsize=256)
def _page_of(names: tuple[str, ...], shape: _Shape, sort: tuple[str, ...]) -> Select[Any]:
    columns = [runs.c[_COLUMNS.get(name, name)] for name in names]
    statement = _filtered(select(runs.c.id.label("key"), *columns), shape)
    return _sorted(statement, runs, sort).limit(bindparam("most")).offset(bindparam("passed"))


def _filtered(statement: Select[Any], shape: _Shape) -> Select[Any]:
    """A statement for the runs that match."""
    statement = statement.where(runs.c.team == bindparam("of"), runs.c.is_deleted.is_(False))
    for name in shape.lists:
        statement = statement.where(runs.c[name].in_(bindparam(name, expanding=True)))
    named: list[ColumnElement[bool]] = []
    if shape.exact:
        named.append(runs.c.name_lower.in_(bindparam("names", expanding=True)))
    named += [runs.c.name_lower.like(bindparam(f"pattern_{i}"), escape="\\") for i in range(shape.patterns)]
    if named:
        statement = statement.where(or_(*named))
    edges: dict[str, ColumnElement[bool]] = {
        "after_us": runs.c.created_us > bindparam("after_us"),
        "before_us": runs.c.created_us < bindparam("before_us"),
        "after_id": runs.c.id > bindparam("after_id"),
    }
    return statement.where(*(edges[name] for name in shape.edges))


def _within(statement: Select[Any], table: Table, after: Any, before: Any) -> Select[Any]:
    if after is not None:
        statement = statement.where(table.c.created_us > us_of(after))
    if before is not None:
        statement = statement.where(table.c.created_us < us_of(before))
    return statement


def _sorted(statement: Select[Any], table: Table, sort: Sequence[str] | None) -> Select[Any]:
    order = list(sort or ["created_at:desc"])
    fields = [each.split(":")[0] for each in order]
    if len(set(fields)) < len(fields):
        raise TapelineError(f"sort names {fields[0]!r} twice", code="invalid", hint="name each field once")
    if "id" not in fields:
        order.append(f"id:{order[0].split(':')[1]}")
    for each in order:
        field, direction = each.split(":")
        column = table.c.created_us if field == "created_at" else table.c.id
        statement = statement.order_by(column.desc() if direction == "desc" else column.asc())
    return statement


def events(connection: Connection, team: str, query: ListEvents) -> list[EventView]:
    """Events of a run."""
    run_id = resolve(connection, team, query.run)["id"]
    column = run_events.c.sequence
    statement = (
        select(run_events)
        .where(run_events.c.team == team, run_events.c.run_id == run_id, column > query.after)
        .order_by(column.asc() if query.sort == "sequence:asc" else column.desc())
        .limit(query.limit)
        .offset(query.offset)
    )
    return [
        EventView(
            id=row["id"],
            sequence=row["sequence"],
            run_id=run_id,
            created_at=moment(row["created_us"]),
            status=row["status"],
            details=row["details"],
            position=row["position"],
        )
        for row in connection.execute(statement).mappings()
    ]


_CHECKPOINT_FIELDS = (
    "id", "run_id", "global_step", "project_id", "created_at", "status", "status_updated_at",
)  # fmt: skip


def checkpoints_listed(connection: Connection, team: str, query: ListCheckpoints) -> list[CheckpointView]:
    """A page of checkpoints; those of deleted runs are gone."""
    lists: dict[str, Sequence[Any] | None] = {
        "id": query.ids, "run_id": query.run_ids, "project_id": query.project_ids,
        "global_step": query.global_steps, "status": query.statuses,
    }  # fmt: skip
    if query.limit == 0 or any(each == [] for each in lists.values()):
        return []
    if query.select == []:
        raise TapelineError("select is empty", code="invalid", hint="leave it out")
    table = checkpoints
    alive = select(runs.c.id).where(runs.c.team == team, runs.c.is_deleted.is_(False))
    statement: Select[Any] = select(table).where(table.c.team == team, table.c.run_id.in_(alive))
    for column, values in lists.items():
        if values is not None:
            statement = statement.where(table.c[column].in_(values) if values else false())
    statement = _within(statement, table, query.created_after, query.created_before)
    statement = _sorted(statement, table, query.sort).limit(query.limit).offset(query.offset)
    rows = connection.execute(statement).mappings().all()
    return [checkpoint_view(row, query.select) for row in rows]


def checkpoint_view(row: RowMapping, wanted: Sequence[str] | None = None) -> CheckpointView:
    """A checkpoint with everything, or with the fields that are wanted."""
    files = [ArtifactView(**file) for file in row["files"] or []]
    model = next((file for file in files if file.name.endswith(".keras")), files[0] if files else None)
    fields: dict[str, Any] = {
        "id": row["id"], "run_id": row["run_id"], "global_step": row["global_step"],
        "project_id": row["project_id"], "created_at": moment(row["created_us"]), "status": row["status"],
        "status_updated_at": moment(row["status_updated_us"]),
    }  # fmt: skip
    if wanted is not None:
        return CheckpointView(**{key: fields[key] for key in _CHECKPOINT_FIELDS if key in wanted})
    return CheckpointView(
        **fields,
        bucket_name="artifacts",
        key_prefix=f"sha256/{model.sha256[:2]}/{model.sha256[2:]}" if model else None,
        training_epoch=row["training_epoch"],
        attempt=row["attempt"],
        monitored=row["monitored"],
        files=files,
        pinned=row["pinned"],
    )


def checkpoint_owners(
    connection: Connection, team: str, ids: list[str] | None, run_ids: list[str] | None
) -> dict[str, list[str]]:
    """The checkpoints that ids and runs name, together, by run."""
    statement = select(checkpoints.c.id, checkpoints.c.run_id).where(checkpoints.c.team == team)
    if ids is not None:
        statement = statement.where(checkpoints.c.id.in_(ids))
    if run_ids is not None:
        statement = statement.where(checkpoints.c.run_id.in_(run_ids))
    found: dict[str, list[str]] = {}
    for row in connection.execute(statement.order_by(checkpoints.c.created_us, checkpoints.c.id)):
        found.setdefault(row.run_id, []).append(row.id)
    return found


def owned_artifact(connection: Connection, team: str, sha256: str) -> int:
    """The size of a file of one of the team's checkpoints."""
    statement = select(artifacts.c.size_bytes).where(artifacts.c.team == team, artifacts.c.sha256 == sha256)
    size = connection.scalar(statement)
    if size is None:
        raise TapelineError(
            f"no checkpoint of this team has a file {sha256[:12]}", code="not_found", hint="tapeline checkpoint ls"
        )
    return int(size)


def live_session(connection: Connection, team: str, session_name: str) -> int | None:
    """The number of the run whose live attempt has this session name."""
    ended = ["job_create_failed", "job_terminated", "job_failed", "job_completed"]
    statement = select(runs.c.number).where(
        runs.c.team == team,
        runs.c.session_name == session_name,
        runs.c.status.not_in(ended),
        runs.c.is_deleted.is_(False),
    )
    found: int | None = connection.scalar(statement)
    return found
