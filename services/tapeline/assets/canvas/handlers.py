"""The verbs of canvases."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from tapeline import names
from tapeline.assets.asset import queries as asset_queries
from tapeline.assets.canvas import aggregate, queries
from tapeline.bus import Verbs, accepted, answered
from tapeline.contracts.canvases import (
    CanvasView,
    ComponentsView,
    DuplicateCanvas,
    GetCanvas,
    ListCanvases,
    ListComponents,
    ListRevisions,
    RemoveCanvas,
    RenameCanvas,
    SaveCanvas,
    StoreCanvas,
    ValidateCanvas,
    ValidationView,
)
from tapeline.contracts.message import Accepted, Answer, Page
from tapeline.decider import Deciders, Outcome, Step, origin_of
from tapeline.errors import TapelineError
from tapeline.holders import Holders
from tapeline.ids import born_of, new_id
from tapeline.names import ClaimName, ReleaseName, name_ref
from tapeline.projections import Reader
from tapeline.security.names import display_name
from tapeline.subjects import Principal, Ref

if TYPE_CHECKING:
    # The nodes of a canvas take a moment to import: the first request that looks into one does that.
    from tapeline.canvas import LabelColumns, Validation

COPIES = 1000


def add_verbs(
    verbs: Verbs, *, deciders: Deciders, holders: Holders, canvases: Reader, assets: Reader, log_id: str
) -> None:
    """Register the verbs of canvases; `holders` finds canvases by name."""

    @verbs.user("save_canvas")
    async def save(caller: Principal, request: SaveCanvas) -> Accepted[CanvasView]:
        from tapeline.canvas.parse import parsed

        name = display_name(request.name)
        command = StoreCanvas(
            name=name,
            content=parsed(request.content),
            digest=_digest(request.content),
            user=caller.user,
            expected_revision=request.expected_revision,
        )
        outcome, canvas_id = await _store(deciders, holders, caller, command, request.command_id)
        return accepted(outcome, await _view(canvases, caller, canvas_id, outcome, request), log_id)

    @verbs.user("duplicate_canvas")
    async def duplicate(caller: Principal, request: DuplicateCanvas) -> Accepted[CanvasView]:
        command_id = request.command_id or new_id()
        source_id = await holders.of(caller.team, request.name)
        if source_id is None:
            raise _missing(request.name)
        source = await deciders.state(aggregate, Ref(caller.team, "canvas", source_id))
        if not isinstance(source, aggregate.Canvas):
            raise _missing(request.name)
        copy_id = born_of(command_id, "canvas")
        copied = await deciders.state(aggregate, Ref(caller.team, "canvas", copy_id))
        if isinstance(copied, aggregate.Canvas):
            name = copied.name
        else:
            name = await _free_name(holders, caller.team, source.name)
        command = StoreCanvas(
            name=name,
            content=dict(source.content),
            digest=source.digest,
            user=caller.user,
            copied_from=source_id,
        )
        outcome = await _create(deciders, caller, copy_id, command, command_id)
        return accepted(outcome, await _view(canvases, caller, copy_id, outcome, request), log_id)

    @verbs.user("rename_canvas")
    async def rename(caller: Principal, request: RenameCanvas) -> Accepted[CanvasView]:
        canvas_id = await holders.of_or_before(caller.team, request.name, request.command_id)
        if canvas_id is None:
            raise _missing(request.name)
        command = request.model_copy(update={"new_name": display_name(request.new_name, field="new_name")})
        steps: list[Step[Any]] = [Step(decider=aggregate, ref=Ref(caller.team, "canvas", canvas_id), command=command)]
        if command.new_name != request.name:
            claim = ClaimName(name=command.new_name, holder=canvas_id, what="canvas")
            release = ReleaseName(name=request.name, holder=canvas_id)
            steps += [
                Step(decider=names, ref=name_ref(caller.team, "canvas", command.new_name), command=claim),
                Step(decider=names, ref=name_ref(caller.team, "canvas", request.name), command=release),
            ]
        outcome, *_ = await deciders.handle_together(steps, origin_of(caller.actor, request.command_id))
        return accepted(outcome, await _view(canvases, caller, canvas_id, outcome, request), log_id)

    @verbs.user("remove_canvas")
    async def remove(caller: Principal, request: RemoveCanvas) -> Accepted[CanvasView]:
        canvas_id = await holders.of_or_before(caller.team, request.name, request.command_id)
        if canvas_id is None:
            raise _missing(request.name)
        ref = Ref(caller.team, "canvas", canvas_id)
        try:
            view = await canvases.at(request.min_position, queries.get, caller, canvas_id)
        except TapelineError as error:
            if error.code != "not_found":
                raise
            view = _gone(canvas_id, request)
        outcome, _ = await deciders.handle_together(
            [
                Step(decider=aggregate, ref=ref, command=request),
                Step(
                    decider=names,
                    ref=name_ref(caller.team, "canvas", request.name),
                    command=ReleaseName(name=request.name, holder=canvas_id),
                ),
            ],
            origin_of(caller.actor, request.command_id),
        )
        return accepted(outcome, view, log_id)

    @verbs.user("get_canvas")
    async def get(caller: Principal, request: GetCanvas) -> Answer[CanvasView]:
        view = await canvases.at(request.min_position, queries.get, caller, request.name, request.revision)
        return answered(canvases.marked(caller.team, "canvas", view), canvases.projector.position, log_id)

    @verbs.user("list_revisions")
    async def list_revisions(caller: Principal, request: ListRevisions) -> Answer[Page[CanvasView]]:
        view = await canvases.at(
            request.min_position, queries.all_revisions, caller, request.name, request.limit, request.offset
        )
        return answered(canvases.page(caller.team, "canvas", view), canvases.projector.position, log_id)

    @verbs.user("list_canvases")
    async def list_(caller: Principal, request: ListCanvases) -> Answer[Page[CanvasView]]:
        view = await canvases.at(request.min_position, queries.page, caller, request.limit, request.offset)
        return answered(canvases.page(caller.team, "canvas", view), canvases.projector.position, log_id)

    @verbs.user("validate_canvas")
    async def check(caller: Principal, request: ValidateCanvas) -> Answer[ValidationView]:
        from tapeline.canvas import LabelColumns, validate

        if (request.content is None) == (request.name is None):
            raise TapelineError("give either content or name", code="invalid", hint="content is the document itself")
        content: dict[str, Any] | None = request.content
        if request.name is not None:
            content = (await canvases.at(request.min_position, queries.get, caller, request.name)).content
        shapes: dict[str, list[int]] | None = None
        labels: dict[str, LabelColumns] | None = None
        if request.asset is not None:
            asset = await assets.at(request.min_position, asset_queries.get, caller, request.asset)
            if asset.status not in ("ready", "stale"):
                raise TapelineError(
                    f"asset {asset.name!r} is {asset.status}; its features are known once it is ready",
                    code="conflict",
                    hint=f"tapeline asset show {asset.name}",
                )
            shapes = asset.features
            labels = {name: LabelColumns.of(*types) for name, types in asset.labels.items()}
        found = validate(content or {}, feature_shapes=shapes, labels=labels)
        return answered(_validation_view(found), canvases.projector.position, log_id)

    @verbs.user("components")
    async def components(caller: Principal, request: ListComponents) -> Answer[ComponentsView]:
        from tapeline.canvas.catalogue import get_available_components

        view = ComponentsView(components=get_available_components())
        return answered(view, canvases.projector.position, log_id)


def _validation_view(found: Validation) -> ValidationView:
    made = found.to_json()
    return ValidationView(
        ok=made["ok"],
        errors=made["errors"],
        warnings=made["warnings"],
        shapes=made["shapes"],
        parameters=made["parameters"] or 0,
        digest=made["digest"] or "",
    )


def _digest(content: dict[str, Any]) -> str:
    from tapeline.canvas.digest import canonical_json
    from tapeline.canvas.validate import validate

    # A draft with errors has no meaning to digest: its text stands for it.
    return validate(content).digest or hashlib.sha256(canonical_json(content)).hexdigest()


async def _store(
    deciders: Deciders, holders: Holders, caller: Principal, command: StoreCanvas, command_id: str | None
) -> tuple[Outcome[Any], str]:
    command_id = command_id or new_id()
    canvas_id = await holders.of(caller.team, command.name)
    if canvas_id is not None and canvas_id != born_of(command_id, "canvas"):
        ref = Ref(caller.team, "canvas", canvas_id)
        return await deciders.handle(aggregate, ref, command, origin_of(caller.actor, command_id)), canvas_id
    canvas_id = born_of(command_id, "canvas")
    return await _create(deciders, caller, canvas_id, command, command_id), canvas_id


async def _create(
    deciders: Deciders, caller: Principal, canvas_id: str, command: StoreCanvas, command_id: str
) -> Outcome[Any]:
    outcome, _ = await deciders.handle_together(
        [
            Step(decider=aggregate, ref=Ref(caller.team, "canvas", canvas_id), command=command),
            Step(
                decider=names,
                ref=name_ref(caller.team, "canvas", command.name),
                command=ClaimName(name=command.name, holder=canvas_id, what="canvas"),
            ),
        ],
        origin_of(caller.actor, command_id),
    )
    return outcome


async def _free_name(holders: Holders, team: str, name: str) -> str:
    for number in range(1, COPIES):
        copy = f"{name[:245]}_copy" + (f"_{number}" if number > 1 else "")
        if await holders.of(team, copy) is None:
            return copy
    raise TapelineError(
        f"canvas {name!r} has {COPIES - 1} copies", code="conflict", hint="remove some, or save under a name"
    )


async def _view(
    canvases: Reader,
    caller: Principal,
    canvas_id: str,
    outcome: Outcome[Any],
    request: SaveCanvas | DuplicateCanvas | RenameCanvas,
) -> CanvasView:
    """The canvas as the command left it; only its birth may come from the tables, which may lag."""
    state = outcome.state
    if not isinstance(state, aggregate.Canvas):
        raise _missing(canvas_id)
    born, copied_from, saved = request.at, state.copied_from, request.at
    try:
        row = await canvases.at(None, queries.get, caller, canvas_id)
        born = row.created_at
        saved = row.updated_at if row.revision == state.revision else saved
    except TapelineError as error:
        if error.code != "not_found":
            raise
    return CanvasView(
        id=canvas_id,
        name=state.name,
        revision=state.revision,
        content=dict(state.content),
        digest=state.digest,
        created_at=born,
        updated_at=saved,
        user=state.user,
        copied_from=copied_from,
    )


def _gone(canvas_id: str, request: RemoveCanvas) -> CanvasView:
    return CanvasView(
        id=canvas_id,
        name=request.name,
        revision=0,
        content={},
        digest="",
        created_at=request.at,
        updated_at=request.at,
    )


def _missing(name: str) -> TapelineError:
    return TapelineError(f"there is no canvas {name!r}", code="not_found", hint="tapeline canvas ls")
