"""The verbs of the vault."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import semver

from tapeline import names
from tapeline.bus import Verbs, accepted, answered
from tapeline.contracts.artifacts import ArtifactView, PartView, ReadArtifact
from tapeline.contracts.message import Accepted, Answer, Page
from tapeline.contracts.vault import (
    AddVaultItem,
    GetVaultItem,
    ImportModel,
    ListVaultItems,
    PromoteModel,
    RemoveVaultItem,
    RenameVaultItem,
    VaultItemView,
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
from tapeline.vault import aggregate, model_file, queries

if TYPE_CHECKING:
    from tapeline.security.models import ModelScan

IMPORTED_NAME = "new_model"
COPIES = 10_000


def add_verbs(
    verbs: Verbs,
    *,
    deciders: Deciders,
    holders: Holders,
    uploads: Uploads,
    store: ArtifactStore,
    cache: Path,
    items: Reader,
    sources: Reader,
    log_id: str,
) -> None:
    """Register the verbs of the vault; `holders` finds items by name."""

    reading = asyncio.Lock()

    async def append(caller: Principal, item_id: str, command: PromoteModel, command_id: str) -> Outcome[Any]:
        """Add an item and claim its name, both or neither."""
        claim = ClaimName(name=command.name, holder=item_id, what="vault item")
        outcome, _ = await deciders.handle_together(
            [
                Step(decider=aggregate, ref=Ref(caller.team, "vault", item_id), command=command),
                Step(decider=names, ref=name_ref(caller.team, "vault", command.name), command=claim),
            ],
            origin_of(caller.actor, command_id),
        )
        return outcome

    async def known(caller: Principal, item_id: str) -> aggregate.Item | None:
        """The item that this very command made before, if it did."""
        state = await deciders.state(aggregate, Ref(caller.team, "vault", item_id))
        return state if isinstance(state, aggregate.Item) else None

    @verbs.user("add")
    async def add(caller: Principal, request: AddVaultItem) -> Accepted[VaultItemView]:
        name, command_id = display_name(request.name), request.command_id or new_id()
        version = _version(request.version)
        item_id = born_of(command_id, "vault")
        made = await known(caller, item_id)
        if made is not None:
            return _again(item_id, made, request.at, items, log_id)
        await _refuse_taken(holders, caller, name)
        found = await sources.at(
            request.min_position, queries.source, caller, checkpoint_id=request.checkpoint_id, run=request.run
        )
        path = await store.local_path(found.model["sha256"], cache)
        scanned = await asyncio.to_thread(model_file.checked, path, found.model["name"])
        checkpoint = found.checkpoint
        features, shapes = model_file.of_canvas(checkpoint["canvas"], found.feature_shapes)
        if not shapes:
            shapes = await asyncio.to_thread(model_file.input_shapes, path, scanned)
        command = PromoteModel(
            name=name,
            version=version,
            summary=request.summary,
            model=dict(found.model),
            model_file=found.model["name"],
            project_id=request.project_id or found.run["project_id"],
            user=caller.user,
            host=found.host,
            run_id=found.run["id"],
            run_number=found.run["number"],
            checkpoint_id=checkpoint["id"],
            global_step=checkpoint["global_step"],
            training_epoch=checkpoint["training_epoch"],
            canvas=checkpoint["canvas"],
            asset_id=checkpoint["asset_id"],
            asset_name=found.asset_name,
            lookahead=found.lookahead,
            features=features,
            input_shapes=shapes,
            value=found.value,
        )
        outcome = await append(caller, item_id, command, command_id)
        return accepted(outcome, _view(item_id, outcome, request.at), log_id)

    @verbs.user("import_model")
    async def import_model(caller: Principal, request: ImportModel) -> Accepted[VaultItemView]:
        command_id = request.command_id or new_id()
        request = request.model_copy(update={"command_id": command_id})
        item_id = born_of(command_id, "vault")
        made = await known(caller, item_id)
        if made is not None:
            return _again(item_id, made, request.at, items, log_id)
        if request.name is not None:
            name = display_name(request.name)
            await _refuse_taken(holders, caller, name)
        else:
            name = await _free_name(holders, caller)
        # One at a time: a model in HDF5 is converted by a process that takes a GiB for some seconds.
        async with reading:
            if (made := await known(caller, item_id)) is not None:  # by the same command, while this one waited
                return _again(item_id, made, request.at, items, log_id)
            upload = uploads.path(caller.team, request.sha256)
            with tempfile.TemporaryDirectory(prefix="model-", dir=made_folder(cache)) as folder:
                try:
                    path, scanned = await asyncio.to_thread(model_file.readied, upload, Path(folder))
                    shapes = await asyncio.to_thread(model_file.input_shapes, path, scanned)
                except TapelineError:
                    uploads.forget(caller.team, request.sha256)
                    raise
                return await keep(caller, request, name, path, scanned, shapes)

    async def keep(
        caller: Principal,
        request: ImportModel,
        name: str,
        path: Path,
        scanned: ModelScan,
        shapes: list[list[int]],
    ) -> Accepted[VaultItemView]:
        """Put an imported model into the store, and append its item."""
        command_id = request.command_id or new_id()
        item_id = born_of(command_id, "vault")
        features = request.features or [[name] for name in scanned.inputs]
        if len(features) != len(scanned.inputs):
            raise TapelineError(
                f"{len(features)} lists of features were given, the model has {len(scanned.inputs)} inputs",
                code="invalid",
                hint=f"its inputs are {', '.join(scanned.inputs)}",
            )
        sha256, size = await store.put(path)
        if sha256 != scanned.sha256:
            raise TapelineError("the upload changed while it was scanned", code="corrupt", hint="upload it again")
        command = PromoteModel(
            name=name,
            model={"name": "model.keras", "size_bytes": size, "sha256": sha256},
            model_file="model.keras",
            user=caller.user,
            features=features,
            input_shapes=shapes,
        )
        outcome = await append(caller, item_id, command, command_id)
        uploads.forget(caller.team, request.sha256)
        return accepted(outcome, _view(item_id, outcome, request.at), log_id)

    @verbs.user("rename")
    async def rename(caller: Principal, request: RenameVaultItem) -> Accepted[VaultItemView]:
        item_id = await holders.of_or_before(caller.team, request.name, request.command_id)
        if item_id is None:
            raise queries.missing(request.name)
        command = request.model_copy(update={"new_name": display_name(request.new_name, field="new_name")})
        steps: list[Step[Any]] = [Step(decider=aggregate, ref=Ref(caller.team, "vault", item_id), command=command)]
        if command.new_name != request.name:
            steps += [
                Step(
                    decider=names,
                    ref=name_ref(caller.team, "vault", command.new_name),
                    command=ClaimName(name=command.new_name, holder=item_id, what="vault item"),
                ),
                Step(
                    decider=names,
                    ref=name_ref(caller.team, "vault", request.name),
                    command=ReleaseName(name=request.name, holder=item_id),
                ),
            ]
        outcome, *_ = await deciders.handle_together(steps, origin_of(caller.actor, request.command_id))
        return accepted(outcome, _view(item_id, outcome, await _born(items, caller, item_id, request.at)), log_id)

    @verbs.user("remove")
    async def remove(caller: Principal, request: RemoveVaultItem) -> Accepted[VaultItemView]:
        item_id = await holders.of_or_before(caller.team, request.name, request.command_id)
        if item_id is None:
            raise queries.missing(request.name)
        before = await known(caller, item_id)
        born = await _born(items, caller, item_id, request.at)
        outcome, _ = await deciders.handle_together(
            [
                Step(decider=aggregate, ref=Ref(caller.team, "vault", item_id), command=request),
                Step(
                    decider=names,
                    ref=name_ref(caller.team, "vault", request.name),
                    command=ReleaseName(name=request.name, holder=item_id),
                ),
            ],
            origin_of(caller.actor, request.command_id),
        )
        view = _gone(item_id, request) if before is None else _item_view(item_id, before, born)
        return accepted(outcome, view, log_id)

    @verbs.user("get")
    async def get(caller: Principal, request: GetVaultItem) -> Answer[VaultItemView]:
        view = await items.at(request.min_position, queries.get, caller, request.name)
        return answered(items.marked(caller.team, "vault", view), items.projector.position, log_id)

    @verbs.user("list")
    async def list_(caller: Principal, request: ListVaultItems) -> Answer[Page[VaultItemView]]:
        view = await items.at(request.min_position, queries.page, caller, request.limit, request.offset)
        return answered(items.page(caller.team, "vault", view), items.projector.position, log_id)

    @verbs.user("read_artifact")
    async def read_artifact(caller: Principal, request: ReadArtifact) -> Answer[PartView]:
        if not await items.at(request.min_position, queries.owns, caller, request.sha256):
            raise TapelineError(
                f"there is no artifact {request.sha256[:12]}", code="not_found", hint="take its digest from a view"
            )
        size = await store.size(request.sha256)
        data = await store.read(request.sha256, request.offset, request.size_bytes) if request.offset < size else b""
        view = PartView(data=base64.b64encode(data).decode(), size_bytes=size)
        return answered(view, items.projector.position, log_id)


def made_folder(path: Path) -> Path:
    """The folder, made when it is not there."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _version(text: str) -> str:
    try:
        return str(semver.Version.parse(text))
    except ValueError as error:
        raise TapelineError(
            f"version {text!r} is not a semantic version", code="invalid", hint="write it as 1.0.0"
        ) from error


async def _refuse_taken(holders: Holders, caller: Principal, name: str) -> None:
    # Said before the scan: the append itself decides again.
    if await holders.of(caller.team, name) is not None:
        raise TapelineError(f"vault item {name!r} exists already", code="already_exists", hint="take another name")


async def _free_name(holders: Holders, caller: Principal) -> str:
    for number in range(1, COPIES):
        name = IMPORTED_NAME if number == 1 else f"{IMPORTED_NAME}_{number}"
        if await holders.of(caller.team, name) is None:
            return name
    raise TapelineError(f"{COPIES} imported models have no name of their own", code="conflict", hint="give a name")


async def _born(items: Reader, caller: Principal, item_id: str, otherwise: datetime) -> datetime:
    try:
        return (await items.at(None, queries.get, caller, item_id)).created_at
    except TapelineError as error:
        if error.code != "not_found":
            raise
        return otherwise


def _again(item_id: str, item: aggregate.Item, at: datetime, items: Reader, log_id: str) -> Accepted[VaultItemView]:
    position = max(items.projector.position, 0)
    return Accepted(view=_item_view(item_id, item, at), sequence=1, position=position, log_id=log_id, replayed=True)


def _view(item_id: str, outcome: Outcome[Any], at: datetime) -> VaultItemView:
    if not isinstance(outcome.state, aggregate.Item):
        raise queries.missing(item_id)
    return _item_view(item_id, outcome.state, at)


def _item_view(item_id: str, item: aggregate.Item, at: datetime) -> VaultItemView:
    made = asdict(item.added) | {"id": item_id, "name": item.name, "created_at": at}
    made["model"] = ArtifactView.model_validate(asdict(item.added.model))
    return VaultItemView(**made)


def _gone(item_id: str, request: RemoveVaultItem) -> VaultItemView:
    return VaultItemView(
        id=item_id,
        name=request.name,
        version="",
        summary="",
        model=ArtifactView(name="", size_bytes=0, sha256=""),
        model_file="",
        project_id="",
        user="",
        host="",
        created_at=request.at,
    )
