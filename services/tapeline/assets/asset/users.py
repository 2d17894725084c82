"""Folds what runs and vault items say of assets: which of them needs which asset now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Table

from tapeline.assets.asset.tables import asset_users
from tapeline.contracts.runs import (
    JobCompleted,
    JobCreated,
    JobCreateFailed,
    JobFailed,
    JobTerminated,
    RunCreated,
    RunDeleted,
    RunRestartRequested,
)
from tapeline.contracts.vault import VaultItemAdded, VaultItemRemoved, VaultItemRenamed
from tapeline.log import StoredEvent
from tapeline.projections import Key, Rows

name = "assets.users"
version = 1
kinds = frozenset({"run", "vault"})
tables: Sequence[Table] = (asset_users,)


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    yield asset_users, (event.ref.team, event.ref.kind, event.ref.id)


def apply(rows: Rows, event: StoredEvent) -> None:
    key = (event.ref.team, event.ref.kind, event.ref.id)
    row = dict(zip(("team", "kind", "id"), key, strict=True))
    match event.data:
        case RunCreated() as data:
            rows.put(asset_users, {**row, "asset_id": None, "name": f"run {data.number}", "needs": False})
        case JobCreated() as data:
            rows.change(asset_users, *key, asset_id=data.asset_id, needs=data.asset_id is not None)
        case RunRestartRequested():
            known = rows.get(asset_users, *key)
            rows.change(asset_users, *key, needs=bool(known and known["asset_id"]))
        case JobCompleted() | JobFailed() | JobTerminated() | JobCreateFailed():
            rows.change(asset_users, *key, needs=False)
        case VaultItemAdded() as data:
            rows.put(
                asset_users,
                {**row, "asset_id": data.asset_id, "name": f"vault item {data.name}", "needs": bool(data.asset_id)},
            )
        case VaultItemRenamed() as data:
            rows.change(asset_users, *key, name=f"vault item {data.name}")
        case RunDeleted() | VaultItemRemoved():
            rows.delete(asset_users, *key)
        case _:
            pass  # the other events say nothing of assets
