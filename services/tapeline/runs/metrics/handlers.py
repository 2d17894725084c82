"""Verbs of users on archived points."""

from __future__ import annotations

from tapeline.bus import Verbs, accepted, answered
from tapeline.contracts.archives import ArchiveMetrics, GetMetricsArchive, ListMetricsArchives, MetricsArchiveView
from tapeline.contracts.message import Accepted, Answer, Page
from tapeline.decider import origin_of
from tapeline.runs.metrics import archives
from tapeline.runs.metrics.archiving import Archiving
from tapeline.runs.pages import page_of
from tapeline.runs.run.handlers import Desk
from tapeline.subjects import Principal


def add_verbs(verbs: Verbs, desk: Desk, archiving: Archiving) -> None:
    """Register the verbs."""

    @verbs.user("archive_metrics")
    async def archive_metrics(caller: Principal, request: ArchiveMetrics) -> Accepted[MetricsArchiveView]:
        ref = await desk.resolve(caller, request, request.run)
        outcome, _ = await archiving.archive(ref, origin_of(caller.actor, request.command_id))
        await desk.measurements_in()
        view = await desk.reader.at(outcome.position, archives.archive, caller.team, ref.id)
        return accepted(outcome, view, desk.log_id)

    @verbs.user("metrics_archive")
    async def metrics_archive(caller: Principal, request: GetMetricsArchive) -> Answer[MetricsArchiveView]:
        await desk.measurements_in()
        view = await desk.reader.at(request.min_position, archives.archive, caller.team, request.run)
        return answered(view, desk.reader.projector.position, desk.log_id)

    @verbs.user("metrics_archives")
    async def metrics_archives(caller: Principal, request: ListMetricsArchives) -> Answer[Page[MetricsArchiveView]]:
        await desk.measurements_in()
        items = await desk.reader.at(request.min_position, archives.listed, caller.team, request)
        return answered(page_of(items), desk.reader.projector.position, desk.log_id)
