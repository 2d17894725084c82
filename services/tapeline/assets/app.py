"""Composition root of the assets service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapeline.assets import artifacts
from tapeline.assets.asset import features as feature_handlers
from tapeline.assets.asset import handlers as asset_handlers
from tapeline.assets.asset import projection as asset_projection
from tapeline.assets.asset import stale
from tapeline.assets.asset import users as users_projection
from tapeline.assets.asset.builder import Builder
from tapeline.assets.asset.work import Shards, Worker
from tapeline.assets.canvas import handlers as canvas_handlers
from tapeline.assets.canvas import projection as canvas_projection
from tapeline.assets.tape import handlers as tape_handlers
from tapeline.assets.tape import projection as tape_projection
from tapeline.bus import Verbs
from tapeline.holders import Holders
from tapeline.projections import LogSource, Projection, Projector, Reader, Tail
from tapeline.service import Platform, Service, Task
from tapeline.subjects import Kind
from tapeline.uploads import Uploads, add_upload_verbs

if TYPE_CHECKING:
    from tapeline.assets.components import Registry


def build(platform: Platform, components: Registry | None = None) -> Service:
    """The assets service on a platform; `components` in place of the built-in ones."""

    def known() -> Registry:
        from tapeline.assets.components import registry

        return components or registry()

    tail = Tail(platform.log)

    def reader(projection: Projection) -> Reader:
        source = LogSource(tail, platform.codec, projection.kinds)
        return Reader(platform.engine, Projector(source, projection, platform.engine))

    def holders(kind: Kind) -> Holders:
        return Holders(platform.log, platform.codec, platform.deciders, kind)

    tapes, canvases = reader(tape_projection), reader(canvas_projection)
    assets, users = reader(asset_projection), reader(users_projection)
    uploads = Uploads(platform.home / "uploads", platform.clock)
    shards = Shards(deciders=platform.deciders, store=platform.store, folder=platform.home, components=known)
    builder = Builder(
        deciders=platform.deciders,
        store=platform.store,
        assets=assets,
        metrics=platform.metrics,
        folder=platform.home / "builds",
        shards=shards,
        queue=platform.builds,
    )
    verbs = Verbs("assets")
    add_upload_verbs(verbs, uploads, platform.log_id)
    tape_handlers.add_verbs(
        verbs,
        deciders=platform.deciders,
        holders=holders("tape"),
        uploads=uploads,
        store=platform.store,
        cache=platform.home / "cache",
        tapes=tapes,
        assets=assets,
        log_id=platform.log_id,
    )
    canvas_handlers.add_verbs(
        verbs,
        deciders=platform.deciders,
        holders=holders("canvas"),
        canvases=canvases,
        assets=assets,
        log_id=platform.log_id,
    )
    asset_handlers.add_verbs(
        verbs,
        deciders=platform.deciders,
        holders=holders("asset"),
        builder=builder,
        shards=shards,
        components=known,
        assets=assets,
        tapes=tapes,
        users=users,
        log_id=platform.log_id,
    )
    stale.add_verbs(
        verbs,
        deciders=platform.deciders,
        holders=holders("tape"),
        store=platform.store,
        cache=platform.home / "cache",
        assets=assets,
        log_id=platform.log_id,
    )
    feature_handlers.add_verbs(
        verbs, deciders=platform.deciders, components=known, assets=assets, log_id=platform.log_id
    )
    artifacts.add_verbs(verbs, store=platform.store, asset_reader=assets, tape_reader=tapes, log_id=platform.log_id)
    return Service(
        verbs=verbs,
        projectors=[each.projector for each in (tapes, canvases, assets, users)],
        tasks=(platform.lead("assets.builds", builder.run), *_workers(platform, shards), uploads.keep_swept),
    )


def build_worker(platform: Platform, components: Registry | None = None) -> Service:
    """Nothing but a worker that computes shards of builds: as many processes of it as there are cores to spare."""

    def known() -> Registry:
        from tapeline.assets.components import registry

        return components or registry()

    # Other processes of this home have their own.
    shards = Shards(deciders=platform.deciders, store=platform.store, folder=platform.home, components=known)
    return Service(verbs=Verbs("assets"), projectors=[], tasks=_workers(platform, shards))


def _workers(platform: Platform, shards: Shards) -> tuple[Task, ...]:
    if platform.builds is None:
        return ()
    return (Worker(deciders=platform.deciders, queue=platform.builds, shards=shards).run,)
