"""Every commit as it stands on the log: an exact second copy to compare with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Table

from tapeline.log import StoredCommit
from tapeline.projections.rows import Rows
from tapeline.projections.standard.tables import commits
from tapeline.projections.statements import Key
from tapeline.subjects import KINDS

_EPOCH = datetime.fromtimestamp(0, UTC)

name = "commits"
version = 1
kinds: frozenset[str] = frozenset(KINDS)
tables: Sequence[Table] = (commits,)


def keys(commit: StoredCommit) -> Iterable[tuple[Table, Key]]:
    """Nothing is read back: each commit has a row of its own."""
    return ()


def apply(rows: Rows, commit: StoredCommit) -> None:
    """Copy one commit."""
    rows.put(
        commits,
        {
            "position": commit.position, "subject": commit.subject, "header": commit.header, "body": commit.body,
            "stored_us": (commit.stored_at - _EPOCH) // timedelta(microseconds=1),
        },
    )  # fmt: skip
