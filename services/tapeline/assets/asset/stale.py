"""The verb that says that a tape was wrong: assets that were cut from what differs are marked stale."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.assets.asset import aggregate, queries
from tapeline.assets.tape import aggregate as tape_aggregate
from tapeline.bus import Verbs
from tapeline.contracts.assets import CorrectionView, CorrectTape, MarkStale
from tapeline.contracts.message import Accepted
from tapeline.decider import Deciders, origin_of
from tapeline.errors import TapelineError
from tapeline.holders import Holders
from tapeline.ids import derived_id, new_id
from tapeline.projections import Reader
from tapeline.store import ArtifactStore
from tapeline.subjects import Principal, Ref

if TYPE_CHECKING:
    from tapeline.tape.manifest import Manifest


def add_verbs(
    verbs: Verbs,
    *,
    deciders: Deciders,
    holders: Holders,
    store: ArtifactStore,
    cache: Path,
    assets: Reader,
    log_id: str,
) -> None:
    """Register `correct_tape`; `holders` finds tapes by name."""

    async def manifest_of(caller: Principal, name: str) -> tuple[str, Manifest]:
        from tapeline.tape.manifest import parse

        tape_id = await holders.of(caller.team, name)
        missing = TapelineError(f"there is no tape {name!r}", code="not_found", hint="tapeline tape ls")
        if tape_id is None:
            raise missing
        state = await deciders.state(tape_aggregate, Ref(caller.team, "tape", tape_id))
        if not isinstance(state, tape_aggregate.Tape):
            raise missing
        path = await store.local_path(state.manifest.sha256, cache)
        return tape_id, parse(await asyncio.to_thread(path.read_bytes))

    @verbs.user("correct_tape")
    async def correct(caller: Principal, request: CorrectTape) -> Accepted[CorrectionView]:
        wrong_id, wrong = await manifest_of(caller, request.name)
        right_id, right = await manifest_of(caller, request.by)
        if wrong_id == right_id:
            raise TapelineError(
                f"tape {request.name!r} cannot correct itself", code="invalid", hint="name the tape that is right"
            )
        differing = changed_days(wrong, right)
        command_id = request.command_id or new_id()
        position, marked = 0, []
        for asset_id, name, spec in await assets.at(request.min_position, queries.cut_from, caller, wrong_id):
            if reads(spec, wrong_id, differing):
                outcome = await deciders.handle(
                    aggregate,
                    Ref(caller.team, "asset", asset_id),
                    MarkStale(tape=wrong_id),
                    origin_of(caller.actor, derived_id(command_id, asset_id)),
                )
                position = max(position, outcome.position)
                marked.append(name)
        view = CorrectionView(name=request.name, by=request.by, days=len(differing), assets=marked)
        return Accepted(
            view=view,
            sequence=1,
            position=max(position, assets.projector.position, 0),
            log_id=log_id,
            replayed=position == 0,
        )


def changed_days(wrong: Manifest, right: Manifest) -> set[tuple[str, str]]:
    """The days of a tape, by symbol and trade date, of which another does not have the same trades, by digest."""
    there = {(day["symbol"], day["trade_date"]): day["columns"] for day in right["days"]}
    days = {(day["symbol"], day["trade_date"]): day["columns"] for day in wrong["days"]}
    return {day for day, columns in days.items() if there.get(day) != columns}


def reads(spec: dict[str, Any], tape_id: str, differing: set[tuple[str, str]]) -> bool:
    """Whether an asset was cut from days that differ: history before its range counts, what comes after does not."""
    symbols = {symbol for item in spec["tapes"] if item["tape"] == tape_id for symbol in item["symbols"]}
    return any(symbol in symbols and date <= spec["range"]["to"] for symbol, date in differing)
