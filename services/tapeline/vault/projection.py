"""Folds the events of vault items into their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from sqlalchemy import Table

from tapeline.contracts.vault import VaultItemAdded, VaultItemRemoved, VaultItemRenamed
from tapeline.log import StoredEvent
from tapeline.projections import Key, Rows
from tapeline.vault.tables import items

name = "vault.items"
version = 2
kinds = frozenset({"vault"})
tables: Sequence[Table] = (items,)


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    yield items, (event.ref.team, event.ref.id)


def apply(rows: Rows, event: StoredEvent) -> None:
    team, item_id = event.ref.team, event.ref.id
    match event.data:
        case VaultItemAdded() as data:
            row = asdict(data)
            row |= {
                "team": team,
                "id": item_id,
                "model_sha256": data.model.sha256,
                "created_at": event.created_at.isoformat(),
            }
            rows.put(items, row)
        case VaultItemRenamed() as data:
            rows.change(items, team, item_id, name=data.name)
        case VaultItemRemoved():
            rows.delete(items, team, item_id)
        case _:
            pass  # names have streams of their own
