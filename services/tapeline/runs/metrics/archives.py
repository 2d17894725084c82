"""What the tables tell of archived points: of one run, and which runs are due."""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, exists, func, select

from tapeline.contracts.archives import ListMetricsArchives, MetricsArchiveView
from tapeline.contracts.runs import FINISHED
from tapeline.projections import Row, row_of
from tapeline.runs.metrics.tables import metric_archives, metric_attempts
from tapeline.runs.moments import moment
from tapeline.runs.run.queries import resolve
from tapeline.runs.run.tables import run_events, runs
from tapeline.subjects import Ref

AT_ONCE = 1000
LEAST = 4096
"""Fewer points than this stay in the tables: three files of a store take more room than they do."""
ARCHIVED, PURGED = "MetricsArchived", "MetricsPurged"


def archive(connection: Connection, team: str, name: str) -> MetricsArchiveView:
    """The archive of a run that is named by its id or its number."""
    run_id = resolve(connection, team, name)["id"]
    m = metric_attempts.c
    points = connection.scalar(select(func.sum(m.points)).where(m.team == team, m.run_id == run_id)) or 0
    row = row_of(connection, metric_archives, team, run_id)
    if row is None:
        return MetricsArchiveView(run_id=run_id, later_points=int(points))
    return _view(connection, row, int(points))


def listed(connection: Connection, team: str, query: ListMetricsArchives) -> list[MetricsArchiveView]:
    """The archives of a team's runs, deleted ones too, the newest first."""
    a, m = metric_archives.c, metric_attempts.c
    points = select(func.sum(m.points)).where(m.team == a.team, m.run_id == a.run_id).scalar_subquery()
    statement = (
        select(metric_archives, points.label("measured"))
        .where(a.team == team)
        .order_by(a.position.desc())
        .limit(query.limit)
        .offset(query.offset)
    )
    rows = connection.execute(statement).mappings().all()
    return [_view(connection, row, int(row["measured"] or 0)) for row in rows]


def _view(connection: Connection, row: Row | RowMapping, points: int) -> MetricsArchiveView:
    e = run_events.c
    last = (
        select(e.details)
        .where(e.team == row["team"], e.run_id == row["run_id"], e.type == PURGED)
        .order_by(e.sequence.desc())
        .limit(1)
    )
    purged = connection.scalar(last)
    return MetricsArchiveView(
        run_id=row["run_id"], manifest=row["manifest"], through=row["through"], points=row["points"],
        batches=row["batches"], objects=row["objects"], size_bytes=row["size_bytes"],
        later_points=points - row["points"], archived_at=moment(row["archived_us"]),
        purged=purged is not None and int(purged["before"]) >= row["position"],
    )  # fmt: skip


def due(connection: Connection, ended_before_us: int) -> list[Ref]:
    """Runs that ended before a moment with `LEAST` points more than are archived, the first to end first."""
    r, m, a = runs.c, metric_attempts.c, metric_archives.c
    measured = select(func.sum(m.points)).where(m.team == r.team, m.run_id == r.id).scalar_subquery()
    archived = select(a.points).where(a.team == r.team, a.run_id == r.id).scalar_subquery()
    statement = (
        select(r.team, r.id)
        .where(
            r.status.in_([status.value for status in FINISHED]),
            r.status_updated_us < ended_before_us,
            measured >= func.coalesce(archived, 0) + LEAST,
        )
        .order_by(r.status_updated_us)
        .limit(AT_ONCE)
    )
    return [Ref(row.team, "run", row.id) for row in connection.execute(statement)]


def unmarked(connection: Connection) -> list[Ref]:
    """Runs that the log says are archived, and of which METRICS has said nothing yet."""
    e, a = run_events.c, metric_archives.c
    statement = (
        select(e.team, e.run_id)
        .where(e.type == ARCHIVED, ~exists().where(a.team == e.team, a.run_id == e.run_id))
        .distinct()
        .order_by(e.team, e.run_id)
    )
    return [Ref(row.team, "run", row.run_id) for row in connection.execute(statement)]
