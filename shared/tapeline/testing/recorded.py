"""Logs as test assets: one line a commit, and the tables that they fill, folded in the plainest way."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tapeline.clock import Clock
from tapeline.log import StoredCommit, wire
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.projections import Projection
from tapeline.replay.segments import Line


def read_log(path: Path) -> list[StoredCommit]:
    """The commits of a recorded log."""
    lines = (msgspec.json.decode(raw, type=Line) for raw in path.read_bytes().splitlines())
    return [
        StoredCommit(
            position=line.p, subject=line.s, header=line.h.encode(), body=line.b.encode(),
            stored_at=wire.time_of(line.t),
        )
        for line in lines
    ]  # fmt: skip


def write_log(path: Path, commits: Iterable[StoredCommit]) -> None:
    """Write commits as the lines of a segment."""
    lines = [
        Line(one.position, wire.time_text(one.stored_at), one.subject, one.header.decode(), one.body.decode())
        for one in commits
    ]
    path.write_bytes(msgspec.json.Encoder().encode_lines(lines))


def log_of(commits: Iterable[StoredCommit], codec: Codec, clock: Clock) -> InMemoryLog:
    """A log in memory that begins with these commits and goes on."""
    log = InMemoryLog(codec, clock=clock)
    for commit in commits:
        log._commits.append(commit)
        log._of.setdefault(commit.subject, []).append(commit)
    return log


class Fold:
    """The rows of a projection in memory: the plainest way to fold one."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}

    def get(self, table: Any, *key: Any) -> dict[str, Any] | None:
        """A copy of a row."""
        row = self.tables.get(table.name, {}).get(key)
        return dict(row) if row is not None else None

    def put(self, table: Any, row: dict[str, Any]) -> None:
        """Write a row, with the defaults of its table."""
        defaults = {column.name: getattr(column.default, "arg", None) for column in table.columns}
        whole = defaults | row
        key = tuple(whole[column.name] for column in table.primary_key.columns)
        self.tables.setdefault(table.name, {})[key] = whole

    def edit(self, table: Any, *key: Any) -> dict[str, Any] | None:
        """A row, to be changed where it stands."""
        return self.tables.get(table.name, {}).get(key)

    def add(self, table: Any, row: dict[str, Any]) -> None:
        """Write a row that no other event writes."""
        self.put(table, row)

    def change(self, table: Any, *key: Any, **values: Any) -> None:
        """Change columns of a row that is there."""
        if (row := self.get(table, *key)) is not None:
            self.put(table, row | values)

    def delete(self, table: Any, *key: Any) -> None:
        """Remove a row."""
        self.tables.get(table.name, {}).pop(key, None)


def folded(
    commits: Iterable[StoredCommit], projections: Sequence[Projection], codec: Codec
) -> dict[str, list[dict[str, Any]]]:
    """Every table after these commits as plain JSON, rows in the order of their keys."""
    rows: Any = Fold()
    for commit in commits:
        for event in codec.decode(commit):
            for projection in projections:
                if event.ref.kind in projection.kinds:
                    projection.apply(rows, event)
    found = {
        name: [_plain(table[key]) for key in sorted(table, key=str)] for name, table in sorted(rows.tables.items())
    }
    plain: dict[str, list[dict[str, Any]]] = json.loads(json.dumps(found))
    return plain


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as plain JSON; a fold may keep what it only passes on as the bytes that it came in."""
    values = {
        column: msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value for column, value in row.items()
    }
    plain: dict[str, Any] = msgspec.to_builtins(values)
    return plain
