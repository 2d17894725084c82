"""The verbs of assets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from tapeline import names
from tapeline.assets.asset import aggregate, queries
from tapeline.assets.asset.builder import Builder
from tapeline.assets.asset.work import Shards
from tapeline.assets.tape import queries as tape_queries
from tapeline.bus import Verbs, accepted, answered
from tapeline.contracts.artifacts import ArtifactView
from tapeline.contracts.assets import (
    AssetView,
    BuildAsset,
    CancelBuild,
    FeaturesView,
    GetAsset,
    ListAssets,
    ListFeatures,
    RebuildAsset,
    RebuildView,
    RemoveAsset,
    RequestBuild,
)
from tapeline.contracts.message import Accepted, Answer, Page
from tapeline.decider import Deciders, Step, origin_of
from tapeline.errors import TapelineError
from tapeline.holders import Holders
from tapeline.ids import born_of, new_id
from tapeline.names import ClaimName, ReleaseName, name_ref
from tapeline.projections import Reader
from tapeline.subjects import Principal, Ref

if TYPE_CHECKING:
    # The specs and components of features bring numpy: they are imported by the first request that needs them.
    from tapeline.assets.asset.spec import KnownTape, Resolved, TapeOf
    from tapeline.assets.components import Registry


def add_verbs(
    verbs: Verbs,
    *,
    deciders: Deciders,
    holders: Holders,
    builder: Builder,
    shards: Shards,
    components: Callable[[], Registry],
    assets: Reader,
    tapes: Reader,
    users: Reader,
    log_id: str,
) -> None:
    """Register the verbs of assets; `holders` finds assets by name."""

    @verbs.user("build")
    async def build(caller: Principal, request: BuildAsset) -> Accepted[AssetView]:
        from tapeline.assets.asset.spec import asset_name, parse, resolve

        asked = parse(request.spec)
        name = asset_name(asked, int(request.at.timestamp() * 1000))
        command_id = request.command_id or new_id()
        known = await tapes.at(request.min_position, _known_tapes, caller, asked.tapes)
        saved = await assets.at(request.min_position, queries.saved, caller)
        resolved = resolve(asked, known, components(), {each.name: each.model_dump() for each in saved})
        same = await assets.at(request.min_position, queries.of_digest, caller.team, resolved.digest)
        if same is not None and asked.rebuild and same.status != "building":
            return await again(caller, RebuildAsset(name=same.name, command_id=command_id, at=request.at))
        if same is not None:
            return Accepted(
                view=await _with_progress(caller, same, builder),
                sequence=1,
                position=max(assets.projector.position, 0),
                log_id=log_id,
                replayed=True,
            )
        await must_fit(caller, resolved, known)
        holder = await holders.of(caller.team, name)
        asset_id = holder or born_of(command_id, "asset")
        ref = Ref(caller.team, "asset", asset_id)
        command = RequestBuild(
            name=name, spec=resolved.spec, spec_digest=resolved.digest, tapes=resolved.tapes, user=caller.user
        )
        claim = ClaimName(name=name, holder=asset_id, what="asset")
        outcome, _ = await deciders.handle_together(
            [
                Step(decider=aggregate, ref=ref, command=command),
                Step(decider=names, ref=name_ref(caller.team, "asset", name), command=claim),
            ],
            origin_of(caller.actor, command_id),
        )
        builder.wake(ref)
        return accepted(outcome, _view(ref, outcome.state, request.at, builder), log_id)

    async def must_fit(caller: Principal, resolved: Resolved, known: list[KnownTape]) -> None:
        """Refuse an asset that would be too large; manifests are read only where days alone do not tell."""
        from tapeline.assets import estimate
        from tapeline.assets.asset.instances import instances_of

        spec = resolved.spec
        features, labels = (instances_of(spec[kind], components()) for kind in ("features", "labels"))
        wanted = {item["tape"]: len(item["symbols"]) for item in spec["tapes"]}
        days = sum(len(tape.days) * wanted.get(tape.id, 0) for tape in known)
        trades = sum(tape.rows for tape in known)
        row = estimate.row_bytes(spec, features, labels)
        if estimate.most_rows(spec, days, trades) * row <= estimate.LIMIT_BYTES:
            return
        state = aggregate.Building("", spec, resolved.digest, tuple(resolved.tapes))
        estimate.check(spec, await shards.tapes(caller.team, state, with_days=False), features, labels)

    @verbs.user("rebuild")
    async def rebuild(caller: Principal, request: RebuildAsset) -> Accepted[AssetView]:
        return await again(caller, request)

    async def again(caller: Principal, request: RebuildAsset) -> Accepted[AssetView]:
        from tapeline.assets.asset.instances import not_rebuildable

        ref = await _ref(holders, caller, request.name, request.command_id)
        recipe = aggregate.request_of(await deciders.state(aggregate, ref))
        why = None if recipe is None else await asyncio.to_thread(lambda: not_rebuildable(recipe.spec, components()))
        if why is not None:
            raise TapelineError(
                f"asset {request.name!r} cannot be built again: {why}",
                code="not_rebuildable",
                hint="install the version of tapeline, or of the package with the component, that it was built with",
            )
        outcome = await deciders.handle(aggregate, ref, request, origin_of(caller.actor, request.command_id))
        builder.wake(ref)
        return accepted(outcome, _view(ref, outcome.state, request.at, builder), log_id)

    @verbs.user("cancel_build")
    async def cancel(caller: Principal, request: CancelBuild) -> Accepted[AssetView]:
        ref = await _ref(holders, caller, request.name, request.command_id)
        outcome = await deciders.handle(aggregate, ref, request, origin_of(caller.actor, request.command_id))
        builder.stop(ref)
        return accepted(outcome, _view(ref, outcome.state, request.at, builder), log_id)

    @verbs.user("remove")
    async def remove(caller: Principal, request: RemoveAsset) -> Accepted[AssetView]:
        ref = await _ref(holders, caller, request.name, request.command_id)
        before = await deciders.state(aggregate, ref)
        needed = await users.at(request.min_position, queries.needed_by, caller.team, ref.id)
        if needed and not isinstance(before, aggregate.Removed):
            shown = ", ".join(needed[:10]) + (", ..." if len(needed) > 10 else "")
            raise TapelineError(
                f"asset {request.name!r} is needed by {shown}",
                code="conflict",
                hint="wait until the runs have ended, and remove the vault items, first",
            )
        outcome, _ = await deciders.handle_together(
            [
                Step(decider=aggregate, ref=ref, command=request),
                Step(
                    decider=names,
                    ref=name_ref(caller.team, "asset", request.name),
                    command=ReleaseName(name=request.name, holder=ref.id),
                ),
            ],
            origin_of(caller.actor, request.command_id),
        )
        builder.stop(ref)
        view = _view(ref, before, request.at, builder).model_copy(update={"status": "removed"})
        return accepted(outcome, view, log_id)

    @verbs.user("get")
    async def get(caller: Principal, request: GetAsset) -> Answer[AssetView]:
        from tapeline.assets.asset.instances import not_rebuildable

        found = await assets.at(request.min_position, queries.get, caller, request.name)
        view = await _with_progress(caller, found, builder)
        if view.status in ("ready", "stale"):
            why = await asyncio.to_thread(lambda: not_rebuildable(view.spec, components()))
            view = view.model_copy(update={"not_rebuildable": why})
        return answered(assets.marked(caller.team, "asset", view), assets.projector.position, log_id)

    @verbs.user("list")
    async def list_(caller: Principal, request: ListAssets) -> Answer[Page[AssetView]]:
        view = await assets.at(request.min_position, queries.page, caller, request.limit, request.offset)
        return answered(assets.page(caller.team, "asset", view), assets.projector.position, log_id)

    @verbs.user("features")
    async def features(caller: Principal, request: ListFeatures) -> Answer[FeaturesView]:
        from tapeline.assets.components import BUILT_IN, described, newest

        known = components()

        def named(kind: str) -> list[dict[str, Any]]:
            return [dict(spec) for spec in BUILT_IN.values() if known[spec["component"]].kind == kind]

        view = FeaturesView(
            components=described(newest(known)),
            features=named("feature"),
            labels=named("label"),
            saved=await assets.at(request.min_position, queries.saved, caller),
        )
        return answered(view, assets.projector.position, log_id)


def _known_tapes(connection: Connection, caller: Principal, wanted: list[TapeOf | str]) -> list[KnownTape]:
    from tapeline.assets.asset.spec import KnownTape

    known: list[KnownTape] = []
    for item in wanted:
        name = item if isinstance(item, str) else item.tape
        try:
            tape = tape_queries.get(connection, caller, name)
        except TapelineError as error:
            if error.code != "not_found":
                raise
            others = tape_queries.names(connection, caller)
            known += [KnownTape("", other, "", (), (), "") for other in others if other != name]
            continue
        known.append(
            KnownTape(
                tape.id,
                tape.name,
                tape.content_sha256,
                tuple(tape.symbols),
                tuple(tape.days),
                tape.calendar,
                tape.rows,
            )
        )
    return known


async def _ref(holders: Holders, caller: Principal, name: str, command_id: str | None) -> Ref:
    asset_id = await holders.of_or_before(caller.team, name, command_id)
    if asset_id is None:
        raise TapelineError(f"there is no asset {name!r}", code="not_found", hint="tapeline asset ls")
    return Ref(caller.team, "asset", asset_id)


async def _with_progress(caller: Principal, view: AssetView, builder: Builder) -> AssetView:
    return view.model_copy(update={"progress": await builder.progress_of(Ref(caller.team, "asset", view.id))})


def _view(ref: Ref, state: aggregate.State, at: datetime, builder: Builder) -> AssetView:
    """The asset as a command left it."""
    request = aggregate.request_of(state)
    if request is None:
        raise TapelineError("the asset is gone", code="not_found", hint="tapeline asset ls")
    made: dict[str, Any] = {"status": "building"}
    if isinstance(state, aggregate.Ended):
        made = {"status": state.status, "code": state.code, "message": state.message, "hint": state.hint}
        made["shard"] = state.shard
    elif isinstance(state, aggregate.Ready):
        built = state.built
        made = {
            "status": "stale" if state.stale else "ready",
            "files": [
                ArtifactView(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256) for file in built.files
            ],
            "rows": built.rows,
            "datasets": built.datasets,
            "features": built.features,
            "labels": built.labels,
            "data_digest": built.data_digest,
            "stats": built.stats,
            "rebuild": RebuildView(status="building", at=at) if state.rebuilding else None,
        }
    return AssetView(
        id=ref.id,
        name=request.name,
        spec=request.spec,
        spec_digest=request.spec_digest,
        tapes=list(request.tapes),
        created_at=at,
        updated_at=at,
        user=request.user,
        progress=builder.progress(ref),
        **made,
    )
