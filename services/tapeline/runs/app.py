"""Composition root of the runs service."""

from __future__ import annotations

from tapeline.bus import Verbs
from tapeline.holders import Holders
from tapeline.metric_archives import Files
from tapeline.projections import LogSource, Projector, Reader, Tail
from tapeline.projections.standard import standard
from tapeline.replay.worlds import Worlds
from tapeline.runs import history, projection
from tapeline.runs.attached import checkpoints as attached_checkpoints
from tapeline.runs.attached import handlers as attached_handlers
from tapeline.runs.blueprint import handlers as blueprint_handlers
from tapeline.runs.device import handlers as device_handlers
from tapeline.runs.device.presence import Presence
from tapeline.runs.dispatcher import Dispatcher
from tapeline.runs.leases import Leases
from tapeline.runs.metrics import handlers as metrics_handlers
from tapeline.runs.metrics import projection as metrics_projection
from tapeline.runs.metrics.archiving import Archiving
from tapeline.runs.metrics.intake import Intake, MetricsSource
from tapeline.runs.model import handlers as model_handlers
from tapeline.runs.model import projection as model_projection
from tapeline.runs.offers import Offers
from tapeline.runs.record import handlers as record_handlers
from tapeline.runs.rehearsed import Rehearsed
from tapeline.runs.run import handlers, reports
from tapeline.runs.run.numbers import Numbers
from tapeline.service import Platform, Service
from tapeline.uploads import Uploads, add_upload_verbs


def build(platform: Platform) -> Service:
    """The runs service on a platform."""
    service, _ = _composed(platform)
    return service


def dispatcher(platform: Platform) -> Rehearsed:
    """The dispatcher of the service, for a dry run on a recorded log."""
    service, found = _composed(platform)
    return Rehearsed(found, service.projectors[:1])


def _composed(platform: Platform) -> tuple[Service, Dispatcher]:
    tail = Tail(platform.log)
    projector = Projector(LogSource(tail, platform.codec, projection.kinds), projection, platform.engine)
    measured = Projector(
        MetricsSource(platform.metrics, platform.log_id, platform.store), metrics_projection, platform.engine
    )
    reader = Reader(platform.engine, projector)
    leases, presence = Leases(platform.clock), Presence(platform.clock, platform.agent_teams)
    found = Dispatcher(
        log=tail,
        codec=platform.codec,
        deciders=platform.deciders,
        reader=reader,
        engine=platform.engine,
        clock=platform.clock,
        publish=platform.publish,
        leases=leases,
        offers=Offers(platform.clock),
        presence=presence,
    )
    intake = Intake(platform.metrics, platform.clock)
    desk = handlers.Desk(
        deciders=platform.deciders,
        reader=reader,
        store=platform.store,
        leases=leases,
        presence=presence,
        intake=intake,
        measured=measured,
        numbers=Numbers(platform.deciders, platform.clock),
        log_id=platform.log_id,
        files=Files(platform.store, platform.home / "archived"),
    )
    gate = reports.Gate(
        desk=desk,
        dispatcher=found,
        intake=intake,
        agent_teams=platform.agent_teams,
    )
    recorded = Projector(LogSource(tail, platform.codec, model_projection.kinds), model_projection, platform.engine)
    records = model_handlers.Records(
        deciders=platform.deciders,
        holders=Holders(platform.log, platform.codec, platform.deciders, "model"),
        reader=Reader(platform.engine, recorded),
        log_id=platform.log_id,
    )
    verbs = Verbs("runs")
    handlers.add_verbs(verbs, desk)
    device_handlers.add_verbs(verbs, desk)
    blueprint_handlers.add_verbs(verbs, desk)
    reports.add_verbs(verbs, gate)
    attached_handlers.add_verbs(verbs, gate)
    model_handlers.add_verbs(verbs, records)
    uploads = Uploads(platform.home / "uploads", platform.clock)
    add_upload_verbs(verbs, uploads, platform.log_id)
    attached_checkpoints.add_verbs(verbs, gate, uploads)
    record_handlers.add_verbs(verbs, desk, record_handlers.Shelf(uploads=uploads, metrics=platform.metrics))
    pasts = history.Pasts(Worlds(platform.home / "worlds", platform.store), platform.log, platform.metrics)
    history.add_verbs(verbs, log=platform.log, codec=platform.codec, pasts=pasts, log_id=platform.log_id)
    archiving = Archiving(
        metrics=platform.metrics, store=platform.store, deciders=platform.deciders, engine=platform.engine,
        clock=platform.clock, intake=intake, after_s=platform.archive_metrics_after_s,
    )  # fmt: skip
    metrics_handlers.add_verbs(verbs, desk, archiving)
    service = Service(
        verbs=verbs,
        projectors=(projector, measured, recorded, *(standard(tail, platform.engine) if platform.standard else ())),
        tasks=(
            uploads.keep_swept,
            platform.lead("process.dispatcher", found.run),
            platform.lead("metrics.archive", archiving.run),
            *([platform.lead("archivist", platform.archivist)] if platform.archivist else []),
        ),
        start=found.start,
    )
    return service, found
