"""The verbs of tapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from tapeline import names
from tapeline.assets.asset import queries as asset_queries
from tapeline.assets.tape import aggregate, imports, queries
from tapeline.assets.tape.tables import tapes as tape_table
from tapeline.bus import Verbs, accepted, answered
from tapeline.contracts.artifacts import ArtifactView
from tapeline.contracts.message import UNSET_TIME, Accepted, Answer, Page
from tapeline.contracts.tapes import (
    FailImport,
    GetTape,
    ImportTape,
    ImportUploads,
    ListTapes,
    RemoveTape,
    TapeView,
)
from tapeline.decider import Deciders, Outcome, Step, origin_of
from tapeline.errors import TapelineError
from tapeline.holders import Holders
from tapeline.ids import born_of, new_id
from tapeline.names import ClaimName, ReleaseName, name_ref
from tapeline.projections import Reader
from tapeline.security.names import display_name
from tapeline.store import ArtifactStore
from tapeline.subjects import Principal, Ref
from tapeline.uploads import Uploads

NAME_LIMIT = 128
NOT_THE_TAPES_FAULT = frozenset({"not_found", "unavailable", "insufficient_storage", "timeout", "unknown_outcome"})


def add_verbs(
    verbs: Verbs,
    *,
    deciders: Deciders,
    holders: Holders,
    uploads: Uploads,
    store: ArtifactStore,
    cache: Path,
    tapes: Reader,
    assets: Reader,
    log_id: str,
) -> None:
    """Register the verbs of tapes; `holders` finds tapes by name."""

    @verbs.user("import_tape")
    async def import_tape(caller: Principal, request: ImportTape) -> Accepted[TapeView]:
        name = display_name(request.name, limit=NAME_LIMIT)
        command_id = request.command_id or new_id()
        existing = await _existing(deciders, holders, tapes, uploads, caller, name, request)
        if existing is not None:
            return existing
        tape_id = born_of(command_id, "tape")
        ref = Ref(caller.team, "tape", tape_id)
        origin = origin_of(caller.actor, command_id)
        with uploads.hold() as held:
            try:
                owned = await tapes.at(request.min_position, _owned, caller)
                checked = await imports.check(held, store, cache, caller.team, request.manifest_sha256, owned)
                parent = None
                if checked.manifest["parent"] is not None:
                    content = str(checked.manifest["parent"])
                    parent, parent_sha256 = await tapes.at(request.min_position, queries.parent_of, caller, content)
                    await imports.check_parent(checked.manifest, parent_sha256, store, cache)
            except TapelineError as error:
                if error.code not in NOT_THE_TAPES_FAULT:
                    failed = FailImport(name=name, code=str(error.code), message=error.message)
                    await deciders.handle(aggregate, ref, failed, origin)
                    uploads.forget(caller.team, request.manifest_sha256)
                raise
            manifest, files = await imports.promote(checked, store)
        outcome, _ = await deciders.handle_together(
            [
                Step(
                    decider=aggregate,
                    ref=ref,
                    command=_command(name, caller, checked.manifest, manifest, files, parent),
                ),
                Step(
                    decider=names,
                    ref=name_ref(caller.team, "tape", name),
                    command=ClaimName(name=name, holder=tape_id, what="tape"),
                ),
            ],
            origin,
        )
        uploads.forget(caller.team, request.manifest_sha256, *checked.files)
        return accepted(outcome, _view(tape_id, outcome, request), log_id)

    async def _existing(
        deciders: Deciders,
        holders: Holders,
        tapes: Reader,
        uploads: Uploads,
        caller: Principal,
        name: str,
        request: ImportTape,
    ) -> Accepted[TapeView] | None:
        """The answer when the name is taken: the tape itself when its numbers are the same, else a refusal."""
        tape_id = await holders.of(caller.team, name)
        if tape_id is None:
            return None
        state = await deciders.state(aggregate, Ref(caller.team, "tape", tape_id))
        if not isinstance(state, aggregate.Tape):
            return None
        if state.manifest.sha256 != request.manifest_sha256:
            with uploads.hold() as held:
                manifest = await imports.read_manifest(held, caller.team, request.manifest_sha256)
            if manifest["content_sha256"] != state.content_sha256:
                raise TapelineError(
                    f"tape {name!r} exists already with other contents, {state.content_sha256[:12]}",
                    code="already_exists",
                    hint="import it under another name",
                )
        try:
            born = (await tapes.at(None, queries.get, caller, tape_id)).created_at
        except TapelineError as error:
            if error.code != "not_found":
                raise
            born = request.at
        view = _view_of(tape_id, state).model_copy(update={"created_at": born})
        return Accepted(view=view, sequence=1, position=max(tapes.projector.position, 0), log_id=log_id, replayed=True)

    @verbs.user("get_tape")
    async def get(caller: Principal, request: GetTape) -> Answer[TapeView]:
        view = await tapes.at(request.min_position, queries.get, caller, request.name)
        return answered(tapes.marked(caller.team, "tape", view), tapes.projector.position, log_id)

    @verbs.user("list_tapes")
    async def list_(caller: Principal, request: ListTapes) -> Answer[Page[TapeView]]:
        view = await tapes.at(request.min_position, queries.page, caller, request.limit, request.offset)
        return answered(tapes.page(caller.team, "tape", view), tapes.projector.position, log_id)

    @verbs.user("remove_tape")
    async def remove(caller: Principal, request: RemoveTape) -> Accepted[TapeView]:
        tape_id = await holders.of_or_before(caller.team, request.name, request.command_id)
        if tape_id is None:
            raise _missing(request.name)
        ref = Ref(caller.team, "tape", tape_id)
        before = await deciders.state(aggregate, ref)
        users = await assets.at(request.min_position, asset_queries.of_tape, caller, tape_id)
        if users and isinstance(before, aggregate.Tape):
            named = ", ".join(users[:10])
            raise TapelineError(
                f"tape {request.name!r} is named by {len(users)} assets: {named}",
                code="conflict",
                hint=f"remove them first: tapeline asset rm {users[0]}",
            )
        outcome, _ = await deciders.handle_together(
            [
                Step(decider=aggregate, ref=ref, command=request),
                Step(
                    decider=names,
                    ref=name_ref(caller.team, "tape", request.name),
                    command=ReleaseName(name=request.name, holder=tape_id),
                ),
            ],
            origin_of(caller.actor, request.command_id),
        )
        view = _view_of(tape_id, before) if isinstance(before, aggregate.Tape) else _gone(tape_id, request)
        return accepted(outcome, view.model_copy(update={"created_at": request.at}), log_id)


def _owned(connection: Connection, caller: Principal) -> set[str]:
    rows = connection.execute(select(tape_table.c.files).where(tape_table.c.team == caller.team))
    return {file["sha256"] for row in rows for file in row.files}


def _command(
    name: str,
    caller: Principal,
    content: dict[str, Any],
    manifest: dict[str, Any],
    files: list[dict[str, Any]],
    parent: str | None,
) -> ImportUploads:
    calendars = sorted({str(symbol.get("calendar", "")) for symbol in content["symbols"]})
    return ImportUploads(
        name=name,
        content_sha256=content["content_sha256"],
        manifest=manifest,
        files=files,
        symbols=[symbol["symbol"] for symbol in content["symbols"]],
        days=sorted({day["trade_date"] for day in content["days"]}),
        rows=sum(day["rows"] for day in content["days"]),
        calendar=",".join(calendars),
        synthetic=content["synthetic"],
        parent=parent,
        report=content["report"],
        user=caller.user,
    )


def _view(tape_id: str, outcome: Outcome[Any], request: ImportTape) -> TapeView:
    state = outcome.state
    if not isinstance(state, aggregate.Tape):
        raise _missing(request.name)
    return _view_of(tape_id, state).model_copy(update={"created_at": request.at})


def _view_of(tape_id: str, state: aggregate.Tape) -> TapeView:
    def artifact(file: Any) -> ArtifactView:
        return ArtifactView(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256)

    return TapeView(
        id=tape_id,
        name=state.name,
        content_sha256=state.content_sha256,
        symbols=list(state.symbols),
        days=list(state.days),
        rows=state.rows,
        calendar=state.calendar,
        synthetic=state.synthetic,
        parent=state.parent,
        report=state.report,
        manifest=artifact(state.manifest),
        files=[artifact(file) for file in state.files],
        created_at=UNSET_TIME,
        user=state.user,
    )


def _gone(tape_id: str, request: RemoveTape) -> TapeView:
    return TapeView(
        id=tape_id,
        name=request.name,
        content_sha256="",
        symbols=[],
        days=[],
        rows=0,
        calendar="",
        manifest=ArtifactView(name="", size_bytes=0, sha256=""),
        created_at=request.at,
    )


def _missing(name: str) -> TapelineError:
    return TapelineError(f"there is no tape {name!r}", code="not_found", hint="tapeline tape ls")
