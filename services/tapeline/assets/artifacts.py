"""Downloads: files of tapes and assets that the caller's team owns, by digest, in parts."""

from __future__ import annotations

import base64

from sqlalchemy import Connection, select

from tapeline.assets.asset.tables import assets
from tapeline.assets.tape.tables import tapes
from tapeline.bus import Verbs, answered
from tapeline.contracts.artifacts import PartView, ReadArtifact
from tapeline.contracts.message import Answer
from tapeline.errors import TapelineError
from tapeline.projections import Reader
from tapeline.store import ArtifactStore
from tapeline.subjects import Principal


def add_verbs(verbs: Verbs, *, store: ArtifactStore, asset_reader: Reader, tape_reader: Reader, log_id: str) -> None:
    """Register `read_artifact`."""

    @verbs.user("read_artifact")
    async def read_artifact(caller: Principal, request: ReadArtifact) -> Answer[PartView]:
        owned = await asset_reader.at(request.min_position, _owns_asset_file, caller, request.sha256)
        if not owned:
            owned = await tape_reader.at(request.min_position, _owns_tape_file, caller, request.sha256)
        if not owned:
            raise TapelineError(
                f"there is no artifact {request.sha256[:12]}", code="not_found", hint="take its digest from a view"
            )
        size = await store.size(request.sha256)
        data = await store.read(request.sha256, request.offset, request.size_bytes) if request.offset < size else b""
        view = PartView(data=base64.b64encode(data).decode(), size_bytes=size)
        return answered(view, asset_reader.projector.position, log_id)


def _owns_asset_file(connection: Connection, caller: Principal, sha256: str) -> bool:
    rows = connection.execute(select(assets.c.files).where(assets.c.team == caller.team))
    return any(file["sha256"] == sha256 for row in rows for file in row.files)


def _owns_tape_file(connection: Connection, caller: Principal, sha256: str) -> bool:
    rows = connection.execute(select(tapes.c.manifest, tapes.c.files).where(tapes.c.team == caller.team))
    return any(file["sha256"] == sha256 for row in rows for file in (row.manifest, *row.files))
