"""Questions about a team's vault items, and about what an item can be made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from tapeline.contracts.artifacts import ArtifactView
from tapeline.contracts.message import Page
from tapeline.contracts.vault import VaultItemView
from tapeline.errors import TapelineError
from tapeline.subjects import Principal
from tapeline.vault.tables import agents, checkpoints, items, runs, trained_on

PAGE_BYTES = 512 * 1024
MONITORED = "val/loss"


@dataclass(frozen=True, slots=True)
class Source:
    """A complete checkpoint with a model, and all that an item says of where it comes from."""

    checkpoint: Mapping[str, Any]
    run: Mapping[str, Any]
    model: Mapping[str, Any]
    host: str
    asset_name: str | None
    lookahead: bool
    feature_shapes: dict[str, list[int]]

    @property
    def value(self) -> float | None:
        """The monitored value of the checkpoint: its validation loss, else its train loss."""
        known = self.checkpoint["monitored"]
        found = known.get(MONITORED, known.get("train/loss"))
        return None if found is None else float(found)


def get(connection: Connection, caller: Principal, name: str) -> VaultItemView:
    """The item with this name or id; `not_found` for a missing one and for another team's."""
    for column in (items.c.name, items.c.id):
        found = select(items).where(items.c.team == caller.team, column == name)
        row = connection.execute(found).mappings().first()
        if row is not None:
            return view_of(dict(row))
    raise missing(name)


def page(connection: Connection, caller: Principal, limit: int, offset: int) -> Page[VaultItemView]:
    """The team's items by name, cut where a message is full."""
    query = (
        select(items)
        .where(items.c.team == caller.team)
        .order_by(items.c.name, items.c.id)
        .limit(limit + 1)
        .offset(offset)
    )
    rows = connection.execute(query).mappings().all()
    found: list[VaultItemView] = []
    size = 0
    for row in rows[:limit]:
        view = view_of(dict(row))
        size += len(view.model_dump_json())
        if found and size > PAGE_BYTES:
            break
        found.append(view)
    return Page(items=found, next=str(offset + len(found)) if found and len(rows) > len(found) else None)


def owns(connection: Connection, caller: Principal, sha256: str) -> bool:
    """Whether a model file belongs to an item of the team."""
    found = select(items.c.id).where(items.c.team == caller.team, items.c.model_sha256 == sha256).limit(1)
    return connection.execute(found).first() is not None


def source(connection: Connection, caller: Principal, *, checkpoint_id: str | None, run: str | None) -> Source:
    """The checkpoint that was named, or the best one of a run: lowest validation loss, else the newest.

    Raises
    ------
    TapelineError
        `not_found` when there is no such run or complete checkpoint; `conflict` when it holds no model.
    """
    if checkpoint_id is not None:
        wanted = select(checkpoints).where(checkpoints.c.team == caller.team, checkpoints.c.id == checkpoint_id)
        row = connection.execute(wanted).mappings().first()
        if row is None:
            raise TapelineError(
                f"there is no complete checkpoint {checkpoint_id}", code="not_found", hint="tapeline checkpoint ls"
            )
        owner = _run(connection, caller, row["run_id"])
        if run is not None and run not in (owner["id"], str(owner["number"])):
            raise TapelineError(
                f"checkpoint {checkpoint_id} is not of run {run}", code="not_found", hint="tapeline checkpoint ls"
            )
        return _source(connection, caller, dict(row), owner)
    if run is None:
        raise TapelineError("name a checkpoint or a run", code="invalid", hint="give checkpoint_id or run")
    owner = _run(connection, caller, run)
    every = (
        select(checkpoints)
        .where(checkpoints.c.team == caller.team, checkpoints.c.run_id == owner["id"])
        .order_by(checkpoints.c.position.desc())
    )
    rows = [dict(row) for row in connection.execute(every).mappings()]
    if not rows:
        raise TapelineError(
            f"run {owner['number']} has no complete checkpoint", code="not_found", hint="wait for its first epoch"
        )
    with_model = [row for row in rows if _model(row) is not None]
    measured = [row for row in with_model if MONITORED in row["monitored"]]
    best = min(measured, key=lambda row: float(row["monitored"][MONITORED]), default=None)
    chosen = best or (with_model[0] if with_model else rows[0])
    return _source(connection, caller, chosen, owner)


def _run(connection: Connection, caller: Principal, name: str) -> dict[str, Any]:
    condition = runs.c.id == name
    if name.isascii() and name.isdecimal() and len(name) < 10:
        condition = runs.c.number == int(name)
    row = connection.execute(select(runs).where(runs.c.team == caller.team, condition)).mappings().first()
    if row is None:
        raise TapelineError(f"there is no run {name}", code="not_found", hint="tapeline run ls", data={"kind": "run"})
    return dict(row)


def _source(connection: Connection, caller: Principal, checkpoint: dict[str, Any], run: dict[str, Any]) -> Source:
    model = _model(checkpoint)
    if model is None:
        raise TapelineError(
            f"checkpoint {checkpoint['id']} holds no model, only state to go on from",
            code="conflict",
            hint="take a checkpoint of an epoch's end",
        )
    host = connection.scalar(select(agents.c.host).where(agents.c.agent == checkpoint["agent"]))
    asset = None
    if checkpoint["asset_id"] is not None:
        wanted = select(trained_on).where(trained_on.c.team == caller.team, trained_on.c.id == checkpoint["asset_id"])
        asset = connection.execute(wanted).mappings().first()
    return Source(
        checkpoint=checkpoint,
        run=run,
        model=model,
        host=host or checkpoint["agent"] or "",
        asset_name=asset["name"] if asset else None,
        lookahead=bool(asset["lookahead"]) if asset else False,
        feature_shapes=dict(asset["features"]) if asset else {},
    )


def _model(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    return next((file for file in checkpoint["files"] if file["name"].endswith(".keras")), None)


def missing(name: str) -> TapelineError:
    """The refusal for an item that is not there."""
    return TapelineError(f"there is no vault item {name!r}", code="not_found", hint="tapeline vault ls")


def view_of(row: dict[str, Any]) -> VaultItemView:
    """A row as the view that is answered."""
    made = {key: value for key, value in row.items() if key not in ("team", "model_sha256")}
    made["created_at"] = datetime.fromisoformat(row["created_at"])
    made["model"] = ArtifactView.model_validate(row["model"])
    return VaultItemView(**made)
