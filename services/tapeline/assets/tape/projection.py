"""Folds the events of tapes into their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from sqlalchemy import Table

from tapeline.assets.tape.tables import tapes
from tapeline.contracts.tapes import TapeImported, TapeImportFailed, TapeRemoved
from tapeline.log import StoredEvent
from tapeline.projections import Key, Rows

name = "assets.tapes"
version = 2
kinds = frozenset({"tape"})
tables: Sequence[Table] = (tapes,)


def keys(event: StoredEvent) -> Iterable[tuple[Table, Key]]:
    yield tapes, (event.ref.team, event.ref.id)


def apply(rows: Rows, event: StoredEvent) -> None:
    team, tape_id = event.ref.team, event.ref.id
    match event.data:
        case TapeImported() as data:
            rows.put(
                tapes,
                {
                    "team": team,
                    "id": tape_id,
                    "name": data.name,
                    "content_sha256": data.content_sha256,
                    "symbols": data.symbols,
                    "days": data.days,
                    "rows": data.rows,
                    "calendar": data.calendar,
                    "synthetic": data.synthetic,
                    "parent": data.parent,
                    "report": data.report,
                    "manifest": asdict(data.manifest),
                    "files": [asdict(file) for file in data.files],
                    "created_at": event.created_at.isoformat(),
                    "user": data.user,
                },
            )
        case TapeRemoved():
            rows.delete(tapes, team, tape_id)
        case TapeImportFailed():
            pass
        case _:
            pass  # names and counters have streams of their own
