"""The published language of measurements that were moved to the artifact store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.message import Command, Query, Told, View
from tapeline.contracts.records import RunName
from tapeline.contracts.references import ARTIFACT, Makes, Names


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsArchived:
    """Every point of the run up to there lies in the artifact store.

    `through` is the position on METRICS of the last message that the archive covers; `manifest` names every object
    with its digest and what is in it, `objects` are those that hold it.
    """

    SCHEMA: ClassVar[int] = 1
    through: int
    points: int
    manifest: Annotated[Artifact, Makes(ARTIFACT)]
    objects: Annotated[list[Artifact], Makes(ARTIFACT)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPurged:
    """The archive alone tells of the run's points up to there: it was compared with the batches, and they go.

    `before` is the position on METRICS of the marker that takes their place, `messages` how many were there.
    """

    SCHEMA: ClassVar[int] = 1
    before: int
    messages: int
    points: int
    manifest: Annotated[str, Names(ARTIFACT)]


ARCHIVE_EVENTS = (MetricsArchived, MetricsPurged)
ArchiveEvent = MetricsArchived | MetricsPurged


class ArchiveMetrics(Command):
    """Sent by a user to have the points of a run that has ended moved to the artifact store now."""

    run: RunName


class PurgeMetrics(Command):
    """From an admin, who has compared the archive with the batches that it stands for."""

    before: int
    messages: int
    points: int
    manifest: str

    @classmethod
    def from_events(cls, events: Sequence[Told], state: Any) -> Self:
        return cls.of(events[0])


class GetMetricsArchive(Query):
    """Sent by a user to see what of a run's points lies in the artifact store."""

    run: RunName


class ListMetricsArchives(Query):
    """Sent by a user to page through the archives of the team's runs, the newest first."""

    limit: int = Field(default=100, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


class MetricsArchiveView(View):
    """The archive of a run's points; without `manifest` there is none.

    `points` and `batches` are what it holds, `size_bytes` what its objects take, `later_points` what was measured
    since and lies in the tables; `purged` when the batches are gone from METRICS.
    """

    run_id: str
    manifest: str | None = None
    through: int = 0
    points: int = 0
    batches: int = 0
    objects: int = 0
    size_bytes: int = 0
    later_points: int = 0
    archived_at: datetime | None = None
    purged: bool = False
