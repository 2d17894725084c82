"""Every event by its id, its aggregate, and what it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import Table

from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.contracts.references import ATTEMPT, HOLDER, LEASE, Makes, named_in
from tapeline.log import StoredCommit, StoredEvent
from tapeline.log.codec import Codec, digest
from tapeline.projections.rows import Rows
from tapeline.projections.standard.tables import event_index, event_names
from tapeline.projections.statements import Key
from tapeline.subjects import KINDS

CALLED = "called"
"""The kind under which the names of vault items are kept."""
_FOUND_BY_SUBJECT = frozenset({*KINDS, HOLDER, ATTEMPT, LEASE})
_EPOCH = datetime.fromtimestamp(0, UTC)

name = "event_index"
version = 1
kinds: frozenset[str] = frozenset(KINDS)
tables: Sequence[Table] = (event_index, event_names)


@cache
def codec() -> Codec:
    """The codec of every event that there is."""
    return Codec(EVENTS, UPCASTERS, TOMBSTONES)


def keys(commit: StoredCommit) -> Iterable[tuple[Table, Key]]:
    """Nothing is read back: each event has rows of its own."""
    return ()


def apply(rows: Rows, commit: StoredCommit) -> None:
    """Put the events of one commit into the index."""
    of_commit = digest(commit.subject, commit.header, commit.body)
    for event in codec().decode(commit):
        ref = event.ref
        rows.put(
            event_index,
            {
                "position": event.position, "index": event.index, "team": ref.team, "aggregate": str(ref),
                "kind": ref.kind, "sequence": event.sequence, "event_id": event.id, "type": event.type,
                "created_us": _us_of(event.created_at), "actor": event.actor, "command": event.command,
                "command_id": event.command_id, "cause": event.cause, "digest": of_commit,
            },
        )  # fmt: skip
        for kind, value, made in named_by(event):
            rows.put(
                event_names,
                {
                    "value": value, "kind": kind, "position": event.position, "index": event.index,
                    "team": ref.team, "made": made,
                },
            )  # fmt: skip


def named_by(event: StoredEvent) -> Iterator[tuple[str, str, bool]]:
    """What an event names, and whether it brings it about, where no subject leads to it."""
    found: dict[tuple[str, str], bool] = {}
    for mark, value in named_in(event.data):
        if mark.kind not in _FOUND_BY_SUBJECT:
            found[mark.kind, value] = found.get((mark.kind, value), False) or isinstance(mark, Makes)
    if (called := called_by(event)) is not None:
        found[CALLED, called] = False
    for (kind, value), made in found.items():
        yield kind, value, made


def called_by(event: StoredEvent) -> str | None:
    """The name that an event gives a vault item."""
    given: Any = getattr(event.data, "name", None)
    if event.ref.kind == "vault" and event.type.startswith("VaultItem") and isinstance(given, str):
        return given
    return None


def _us_of(at: datetime) -> int:
    between = at - _EPOCH
    return (between.days * 86_400 + between.seconds) * 1_000_000 + between.microseconds
