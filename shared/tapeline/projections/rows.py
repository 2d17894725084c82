"""The rows that a stretch of the log touches: read together, folded in memory, written once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Table, and_, delete, or_
from sqlalchemy.ext.asyncio import AsyncConnection

from tapeline.database import rows_of, upsert

Key = tuple[Any, ...]
Row = dict[str, Any]


@cache
def _plan(table: Table) -> tuple[Row, tuple[str, ...]]:
    """A row of defaults, and the names of the key: asking the table for each row would cost most of a fold."""
    blank = {
        column.name: column.default.arg if column.default is not None else None  # type: ignore[attr-defined]
        for column in table.columns
    }
    return blank, tuple(column.name for column in table.primary_key.columns)


class Rows:
    """The rows that a stretch of the log touches, in memory; a projection reads and writes them here."""

    def __init__(self, made: Mapping[str, Table] | None = None) -> None:
        """`made` maps the names that a projection uses to the tables as they are in the database."""
        self._made = made or {}
        self._rows: dict[str, dict[Key, Row | None]] = defaultdict(dict)
        self._tables: dict[str, Table] = {}
        self._changed: dict[str, set[Key]] = defaultdict(set)
        self._undo: list[tuple[str, Key, bool, Row | None, bool]] = []

    def keep(self) -> None:
        """From here on `rewind` takes back."""
        self._undo.clear()

    def rewind(self) -> None:
        """Take back what was put and deleted since the last `keep`."""
        for name, key, was_known, row, was_changed in reversed(self._undo):
            if was_known:
                self._rows[name][key] = row
            else:
                del self._rows[name][key]
            if not was_changed:
                self._changed[name].discard(key)
        self._undo.clear()

    def _remember(self, name: str, key: Key) -> None:
        known = self._rows[name]
        self._undo.append((name, key, key in known, known.get(key), key in self._changed[name]))

    def get(self, table: Table, *key: Any) -> Row | None:
        """A copy of the row with this primary key, or None. The key must be among `keys` of the event."""
        if key not in self._rows[table.name]:
            raise LookupError(f"{table.name} {key} was read but is not among the keys of its event")
        row = self._rows[table.name][key]
        return dict(row) if row is not None else None

    def put(self, table: Table, row: Row) -> None:
        """Write a whole row; a column that is left out takes its default, or NULL."""
        blank, names = _plan(table)
        whole = {**blank, **row}
        if len(whole) != len(blank):
            whole = {column: whole[column] for column in blank}
        key = tuple([whole[column] for column in names])
        self._tables[table.name] = table
        self._remember(table.name, key)
        self._rows[table.name][key] = whole
        self._changed[table.name].add(key)

    def change(self, table: Table, *key: Any, **values: Any) -> None:
        """Overwrite some columns of a row; a row that is not there stays away."""
        row = self.get(table, *key)
        if row is not None:
            self.put(table, row | values)

    def delete(self, table: Table, *key: Any) -> None:
        """Remove the row with this primary key."""
        self._tables[table.name] = table
        self._remember(table.name, key)
        self._rows[table.name][key] = None
        self._changed[table.name].add(key)

    def expect(self, table: Table, keys: Iterable[Key]) -> None:
        """Take rows as missing without looking: what follows makes them anew."""
        for key in keys:
            self._rows[table.name].setdefault(key, None)

    async def load(self, connection: AsyncConnection, table: Table, keys: Iterable[Key]) -> None:
        """Read the rows with these keys; those that are not there are remembered as missing."""
        wanted = [key for key in keys if key not in self._rows[table.name]]
        known = self._rows[table.name]
        known.update(dict.fromkeys(wanted))
        columns = [column.name for column in table.primary_key.columns]
        for row in await rows_of(connection, self._made.get(table.name, table), wanted):
            known[tuple(row[column] for column in columns)] = row

    async def store(self, connection: AsyncConnection) -> None:
        """Write what has changed."""
        for name, keys in self._changed.items():
            table = self._made.get(name, self._tables[name])
            # Sorted, so that two writers lock rows in one order.
            rows = [row for key in sorted(keys) if (row := self._rows[name][key]) is not None]
            await upsert(connection, table, rows)
            gone = [key for key in keys if self._rows[name][key] is None]
            columns = list(table.primary_key.columns)
            for start in range(0, len(gone), 500):
                conditions = [
                    and_(*(column == value for column, value in zip(columns, key, strict=True)))
                    for key in gone[start : start + 500]
                ]
                await connection.execute(delete(table).where(or_(*conditions)))
