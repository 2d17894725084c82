"""Composition root of the vault service."""

from __future__ import annotations

from tapeline.bus import Verbs
from tapeline.holders import Holders
from tapeline.projections import LogSource, Projection, Projector, Reader, Tail
from tapeline.service import Platform, Service
from tapeline.uploads import Uploads, add_upload_verbs
from tapeline.vault import handlers, projection, sources


def build(platform: Platform) -> Service:
    """The vault service on a platform."""
    tail = Tail(platform.log)

    def reader(fold: Projection) -> Reader:
        source = LogSource(tail, platform.codec, fold.kinds)
        return Reader(platform.engine, Projector(source, fold, platform.engine))

    items, made_from = reader(projection), reader(sources)
    uploads = Uploads(platform.home / "uploads", platform.clock)
    verbs = Verbs("vault")
    add_upload_verbs(verbs, uploads, platform.log_id)
    handlers.add_verbs(
        verbs,
        deciders=platform.deciders,
        holders=Holders(platform.log, platform.codec, platform.deciders, "vault"),
        uploads=uploads,
        store=platform.store,
        cache=platform.home / "cache",
        items=items,
        sources=made_from,
        log_id=platform.log_id,
    )
    return Service(
        verbs=verbs,
        projectors=[items.projector, made_from.projector],
        tasks=(uploads.keep_swept,),
    )
