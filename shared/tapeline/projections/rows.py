"""The rows that a stretch of the log touches: read together, folded in memory, written once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Table

from tapeline.projections.statements import Key, Row, delete, rows_of, upsert

KEPT = 5_000
"""Rows of a table that are kept for the next stretch."""
KEPT_WHOLE = 50_000
"""So many of a table that is filled from nothing: as long as all are here, none has to be looked for."""
_ABSENT: Any = object()
_ADDED: Any = object()


class _Kept:
    """The rows of one table, in memory."""

    __slots__ = ("added", "blank", "changed", "is_read", "is_whole", "key_of", "rows", "table", "width")

    def __init__(self, table: Table, made: Table, is_whole: bool) -> None:
        self.blank, self.key_of = _plan(table)
        self.width = len(self.blank)
        self.table = made
        self.rows: dict[Key, Row | None] = {}
        self.changed: set[Key] = set()
        self.added: list[Row] = []
        self.is_read = False
        # Whether every row that the table has is here.
        self.is_whole = is_whole

    def forget(self) -> None:
        """Know nothing of the table any more."""
        self.is_whole = self.is_whole and not self.rows
        self.rows.clear()
        self.changed.clear()
        self.added.clear()


@cache
def _plan(table: Table) -> tuple[Row, Any]:
    """A row of defaults, and what takes the key out of a row: asking the table each time would cost most of a fold."""
    blank = {
        column.name: column.default.arg if column.default is not None else None  # type: ignore[attr-defined]
        for column in table.columns
    }
    names = tuple(column.name for column in table.primary_key.columns)
    if len(names) == 1:
        (name,) = names
        return blank, lambda row: (row[name],)
    return blank, itemgetter(*names)


class Rows:
    """The rows that a stretch of the log touches, in memory; a projection reads and writes them here."""

    __slots__ = ("_is_whole", "_made", "_tables", "_undo", "written")

    def __init__(self, made: Mapping[str, Table] | None = None, *, is_whole: bool = False) -> None:
        """`made` maps the names that a projection uses to the tables as they are in the database.

        `is_whole` says that these are empty.
        """
        self._made = made or {}
        self._is_whole = is_whole
        self._tables: dict[Table, _Kept] = {}
        self._undo: list[tuple[_Kept, Key, Row | None]] | None = None
        self.written: set[str] = set()
        """The tables of which rows were stored."""

    def _kept(self, table: Table) -> _Kept:
        kept = self._tables.get(table)
        if kept is None:
            kept = self._tables[table] = _Kept(table, self._made.get(table.name, table), self._is_whole)
        return kept

    def keep(self) -> None:
        """From here on `rewind` takes back."""
        self._undo = []

    def rewind(self) -> None:
        """Take back what was put and deleted since the last `keep`."""
        for kept, key, row in reversed(self._undo or ()):
            if row is _ADDED:
                kept.added.pop()
            elif row is _ABSENT:
                del kept.rows[key]
                kept.changed.discard(key)
            else:
                # It counts as changed all the same: what is written is what is there.
                kept.rows[key] = row
        self._undo = []

    def forget(self) -> None:
        """Know no row any more: what was put and not stored is as if it had never been."""
        self._undo, self._is_whole = None, False
        for kept in self._tables.values():
            kept.forget()
            kept.is_whole = False

    def get(self, table: Table, *key: Any) -> Row | None:
        """A copy of the row with this primary key, or None. The key must be among `keys` of the event."""
        kept = self._tables.get(table) or self._kept(table)
        kept.is_read = True
        row = kept.rows.get(key, _ABSENT)
        if row is _ABSENT:
            if self._is_whole and kept.is_whole:
                return None
            raise LookupError(f"{table.name} {key} was read but is not among the keys of its event")
        return row.copy() if row is not None else None

    def edit(self, table: Table, *key: Any) -> Row | None:
        """The row with this primary key, to be changed where it stands, or None; as `get`, but without the copy."""
        kept = self._tables.get(table) or self._kept(table)
        kept.is_read = True
        row: Row | None = kept.rows.get(key, _ABSENT)
        if row is _ABSENT:
            if self._is_whole and kept.is_whole:
                return None
            raise LookupError(f"{table.name} {key} was changed but is not among the keys of its event")
        if row is None:
            return None
        if self._undo is not None:
            # What is taken back is the row as it was.
            self._undo.append((kept, key, row))
            row = kept.rows[key] = row.copy()
        kept.changed.add(key)
        return row

    def add(self, table: Table, row: Row) -> None:
        """Write a row, with every column, that no other event writes and that no fold reads."""
        kept = self._tables.get(table) or self._kept(table)
        kept.added.append(row)
        if self._undo is not None:
            self._undo.append((kept, (), _ADDED))

    def put(self, table: Table, row: Row) -> None:
        """Write a whole row, which is the table's from then on; a column left out takes its default, or NULL."""
        kept = self._tables.get(table) or self._kept(table)
        # A row that was read, or is written out, has every column.
        if len(row) != kept.width:
            row = kept.blank | row
        key = kept.key_of(row)
        if self._undo is not None:
            self._undo.append((kept, key, kept.rows.get(key, _ABSENT)))
        kept.rows[key] = row
        kept.changed.add(key)

    def every(self, table: Table) -> list[Row]:
        """The rows of a table that are here, by their keys; all that it has where nothing was before the fold."""
        rows = self._kept(table).rows
        return [row.copy() for key in sorted(rows) if (row := rows[key]) is not None]

    def change(self, table: Table, *key: Any, **values: Any) -> None:
        """Overwrite some columns of a row; a row that is not there stays away."""
        row = self.get(table, *key)
        if row is not None:
            self.put(table, row | values)

    def delete(self, table: Table, *key: Any) -> None:
        """Remove the row with this primary key."""
        kept = self._kept(table)
        if self._undo is not None:
            self._undo.append((kept, key, kept.rows.get(key, _ABSENT)))
        kept.rows[key] = None
        kept.changed.add(key)

    def expect(self, table: Table, keys: Iterable[Key]) -> None:
        """Take rows as missing without looking: what follows makes them anew."""
        kept = self._kept(table)
        kept.is_read = True
        rows = kept.rows
        for key in keys:
            rows.setdefault(key, None)

    def load(self, connection: Connection, table: Table, keys: Iterable[Key]) -> None:
        """Read the rows with these keys; those that are not there are remembered as missing."""
        kept = self._kept(table)
        kept.is_read = True
        known = kept.rows
        wanted = [key for key in keys if key not in known]
        known.update(dict.fromkeys(wanted))
        if kept.is_whole:
            return
        for row in rows_of(connection, kept.table, wanted):
            known[kept.key_of(row)] = row

    def store(self, connection: Connection) -> None:
        """Write what has changed."""
        for table, kept in self._tables.items():
            if kept.added or kept.changed:
                self.written.add(table.name)
            if kept.added:
                upsert(connection, kept.table, kept.added)
                kept.added.clear()
            if not kept.changed:
                continue
            # Sorted, so that two writers lock rows in one order.
            keys = sorted(kept.changed)
            rows = kept.rows
            upsert(connection, kept.table, [row for key in keys if (row := rows[key]) is not None])
            delete(connection, kept.table, [key for key in keys if rows[key] is None])
            kept.changed.clear()

    @property
    def is_whole(self) -> bool:
        """Whether every row that a fold has read so far is here: then none has to be looked for before the next."""
        return self._is_whole

    def trim(self) -> None:
        """Forget what need not be known for the next stretch: it may go on with the rows of this one."""
        self._undo = None
        for kept in self._tables.values():
            if self._is_whole:
                if len(kept.rows) <= KEPT_WHOLE:
                    continue
                # What only writes to a table need not know it. If it is read after all, that fold is done over.
                self._is_whole = not kept.is_read
                kept.forget()
            elif not kept.is_read or len(kept.rows) > (KEPT_WHOLE if kept.is_whole else KEPT):
                kept.forget()
