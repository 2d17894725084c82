"""What the tables tell of archived points: of one run, and which runs are due."""

from __future__ import annotations

from sqlalchemy import Connection, exists, func, select

from tapeline.contracts.archives import MetricsArchiveView
from tapeline.contracts.runs import FINISHED
from tapeline.projections import row_of
from tapeline.runs.metrics.tables import metric_archives, metric_attempts
from tapeline.runs.moments import moment
from tapeline.runs.run.queries import resolve
from tapeline.runs.run.tables import run_events, runs
from tapeline.subjects import Ref

AT_ONCE = 1000
ARCHIVED, PURGED = "MetricsArchived", "MetricsPurged"


def archive(connection: Connection, team: str, name: str) -> MetricsArchiveView:
    """The archive of a run that is named by its id or its number."""
    run_id = resolve(connection, team, name)["id"]
    m = metric_attempts.c
    points = connection.scalar(select(func.sum(m.points)).where(m.team == team, m.run_id == run_id)) or 0
    row = row_of(connection, metric_archives, team, run_id)
    if row is None:
        return MetricsArchiveView(run_id=run_id, later_points=int(points))
    e = run_events.c
    last = (
        select(e.details)
        .where(e.team == team, e.run_id == run_id, e.type == PURGED)
        .order_by(e.sequence.desc())
        .limit(1)
    )
    purged = connection.scalar(last)
    return MetricsArchiveView(
        run_id=run_id, manifest=row["manifest"], through=row["through"], points=row["points"], batches=row["batches"],
        objects=row["objects"], size_bytes=row["size_bytes"], later_points=int(points) - row["points"],
        archived_at=moment(row["archived_us"]),
        purged=purged is not None and int(purged["before"]) >= row["position"],
    )  # fmt: skip


def due(connection: Connection, ended_before_us: int) -> list[Ref]:
    """Runs that ended before a moment and have measured more than is archived, the first to end first."""
    r, m, a = runs.c, metric_attempts.c, metric_archives.c
    measured = select(func.sum(m.points)).where(m.team == r.team, m.run_id == r.id).scalar_subquery()
    archived = select(a.points).where(a.team == r.team, a.run_id == r.id).scalar_subquery()
    statement = (
        select(r.team, r.id)
        .where(
            r.status.in_([status.value for status in FINISHED]),
            r.status_updated_us < ended_before_us,
            measured > func.coalesce(archived, 0),
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
