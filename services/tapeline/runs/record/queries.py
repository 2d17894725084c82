"""Rows of what runs keep to views, and what a copy takes over."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, RowMapping, func, select

from tapeline.contracts.artifacts import ArtifactView
from tapeline.contracts.records import MetricsTableView, RunRecordView
from tapeline.errors import TapelineError
from tapeline.projections import Row
from tapeline.runs.known.tables import assets
from tapeline.runs.moments import moment
from tapeline.runs.run.queries import resolve
from tapeline.runs.run.tables import attempts, run_events, run_records, run_tables, runs

RENAMES = 10_000


def record(connection: Connection, team: str, name: str) -> RunRecordView:
    """What a run keeps."""
    run_id = resolve(connection, team, name)["id"]
    kept = _kept(connection, team, run_id)
    of_it = (run_tables.c.team == team) & (run_tables.c.run_id == run_id)
    rows = connection.execute(select(run_tables).where(of_it).order_by(run_tables.c.sequence)).mappings()
    last = select(func.max(run_events.c.created_us)).where(run_events.c.team == team, run_events.c.run_id == run_id)
    last_us = connection.scalar(last)
    return RunRecordView(
        run_id=run_id,
        tables=[_table(row) for row in rows],
        last_modified=None if last_us is None else moment(last_us),
        **kept,
    )


def _kept(connection: Connection, team: str, run_id: str) -> dict[str, Any]:
    of_it = (run_records.c.team == team) & (run_records.c.run_id == run_id)
    row = connection.execute(select(run_records).where(of_it)).mappings().first()
    names = ("inputs", "outputs", "parameters", "source")
    return {name: row[name] for name in names} if row else {"inputs": [], "outputs": [], "parameters": {}}


def _table(row: RowMapping) -> MetricsTableView:
    return MetricsTableView(
        id=row["table_id"],
        run_id=row["run_id"],
        name=row["name"],
        rows=row["rows"],
        columns=row["columns"],
        file=ArtifactView(**row["file"]),
        stream_name=row["stream_name"],
        foreign_table_url=row["foreign_table_url"],
        foreign_table_display_name=row["foreign_table_display_name"],
        created_at=moment(row["created_us"]),
    )


def table(connection: Connection, team: str, table_id: str) -> MetricsTableView:
    """A metrics table that an undeleted run of the team has.

    Raises
    ------
    TapelineError
        `not_found` with the kind `table`.
    """
    alive = select(runs.c.id).where(runs.c.team == team, runs.c.is_deleted.is_(False))
    statement = (
        select(run_tables)
        .where(run_tables.c.team == team, run_tables.c.table_id == table_id, run_tables.c.run_id.in_(alive))
        .order_by(run_tables.c.created_us)
    )
    row = connection.execute(statement).mappings().first()
    if row is None:
        raise missing(table_id)
    return _table(row)


def missing(table_id: str) -> TapelineError:
    """The refusal of a table that is not there, or another team's."""
    return TapelineError(
        f"there is no metrics table {table_id!r}",
        code="not_found",
        hint="run.metrics lists those of a run",
        data={"kind": "table"},
    )


def asset_rows(connection: Connection, team: str, name: str, file: str) -> int:
    """How many samples a file of an asset has; `not_found` with the kind `table` when there is none."""
    of_it = (assets.c.team == team) & (assets.c.name == name) & assets.c.status.in_(("ready", "stale"))
    row = connection.execute(select(assets.c.rows).where(of_it)).first()
    known: dict[str, int] = (row.rows or {}) if row else {}
    if file not in known:
        raise TapelineError(
            f"there is no file {file!r} of an asset {name!r}",
            code="not_found",
            hint=f"its files are: {', '.join(known)}" if known else "tapeline asset ls",
            data={"kind": "table"},
        )
    return int(known[file])


class Source(NamedTuple):
    """A run that is to be copied, as of one position."""

    run: Row
    sequence: int
    starts: list[int]
    record: RunRecordView


def source(connection: Connection, team: str, name: str) -> Source:
    """What a copy takes over."""
    run = resolve(connection, team, name)
    of_events = (run_events.c.team == team) & (run_events.c.run_id == run["id"])
    sequence = connection.scalar(select(func.max(run_events.c.sequence)).where(of_events))
    of_attempts = (attempts.c.team == team) & (attempts.c.run_id == run["id"])
    begun = {
        row.attempt: row.from_step
        for row in connection.execute(select(attempts.c.attempt, attempts.c.from_step).where(of_attempts))
    }
    starts = [-2 if begun.get(i) is None else int(begun[i]) for i in range(1, run["attempt"] + 1)]
    return Source(run, int(sequence or 0), starts, record(connection, team, run["id"]))


def named(connection: Connection, team: str, name: str, project_id: str) -> Row | None:
    """The newest undeleted run of a name in a project."""
    statement = (
        select(runs)
        .where(
            runs.c.team == team, runs.c.is_deleted.is_(False), runs.c.name == name, runs.c.project_id == project_id
        )
        .order_by(runs.c.created_us.desc(), runs.c.id.desc())
        .limit(1)
    )  # fmt: skip
    row = connection.execute(statement).mappings().first()
    return None if row is None else dict(row)


def free_name(connection: Connection, team: str, name: str, project_id: str) -> str:
    """The name, or the first of `name_1`, `name_2`, ... that no run of the project has."""
    for i in range(RENAMES):
        tried = name if i == 0 else f"{name[:240]}_{i}"
        if named(connection, team, tried, project_id) is None:
            return tried
    raise TapelineError(
        f"{RENAMES} runs are called {name!r}, {name}_1, ...", code="already_exists", hint="take another name"
    )
