"""Delimited text to columns, fast and exact; `TextError` names line, column and text of what it cannot read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tapeline.bars import _text
from tapeline.bars.status import BarsError


class Kind(IntEnum):
    """What a column of text becomes."""

    SKIP = 0
    DECIMAL = 1
    FIXED = 2
    HEX = 3
    TEXT = 4


class Column(NamedTuple):
    """A wanted column: its place in the row, from 0, and what it becomes.

    `places` are the digits after the point of a `FIXED` number: 1381104000.5 with 9 becomes
    1381104000500000000.
    """

    place: int
    kind: Kind
    places: int = 0


class TextError(BarsError):
    """A row that cannot be read; `line` counts from 1, `column` from 0."""

    def __init__(self, message: str, code: str, line: int, column: int, text: str) -> None:
        super().__init__(message, code)
        self.line = line
        self.column = column
        self.text = text


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a text in the order asked for, and the lines read so far."""

    columns: list[NDArray[np.float64] | NDArray[np.int64] | list[str]]
    lines: int

    def __len__(self) -> int:
        return len(self.columns[0])


REASONS = {
    1: "is not {kind}",
    2: "lacks a column",
    3: "is longer than 64 KiB",
    4: "has more than 64 columns",
}
NAMES = {
    Kind.DECIMAL: "a number",
    Kind.FIXED: "a number of that many digits",
    Kind.HEX: "a hexadecimal number",
    Kind.TEXT: "a text",
}


def parse(
    text: bytes,
    columns: Sequence[Column],
    *,
    delimiter: str = ",",
    decimal: str = ".",
    first_line: int = 1,
    on_bad: Callable[[TextError], None] | None = None,
) -> Table:
    """The wanted columns of whole lines.

    Parameters
    ----------
    text : lines, each ended by a newline, the last one perhaps not
    columns : float64 for `DECIMAL` (empty and `nan` are NaN), int64 for `FIXED` and `HEX`, str for `TEXT`
    on_bad : called with each unreadable row, which is then left out; None: the first one is raised

    Raises
    ------
    TextError
        `invalid_row`, or `limit_exceeded` for a line over 64 KiB or with over 64 columns.
    """
    if b"\0" in text:
        line = first_line + text.count(b"\n", 0, text.index(b"\0"))
        raise TextError(f"line {line} holds a NUL byte", "invalid_row", line, 0, "")
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            line = first_line + text.count(b"\n", 0, error.start)
            raise TextError(f"line {line} is not UTF-8", "invalid_row", line, 0, "") from None
    width = max(column.place for column in columns) + 1
    kinds, slots = np.zeros(width, np.int32), np.zeros(2 * width, np.int32)
    places: list[int] = []
    n_numbers = n_whole = 0
    for column in columns:
        if kinds[column.place]:
            raise BarsError(f"column {column.place} is wanted twice")
        kinds[column.place] = column.kind
        slot = n_numbers if column.kind is Kind.DECIMAL else n_whole
        slots[column.place], slots[width + column.place] = slot, column.places
        places.append(slot)
        n_numbers += column.kind is Kind.DECIMAL
        n_whole += {Kind.DECIMAL: 0, Kind.TEXT: 2}.get(column.kind, 1)
    capacity = text.count(b"\n") + 1
    numbers = np.empty((max(n_numbers, 1), capacity))
    whole = np.empty((max(n_whole, 1), capacity), np.int64)
    slow, state = np.empty((1024, 4), np.int64), np.zeros(7, np.int64)
    while True:
        status = _text.parse(text, ord(delimiter), ord(decimal), kinds, slots, numbers, whole, slow, state)
        for slot, row, first, length in slow[: state[3]].tolist():
            # Python's own conversion rounds every decimal to the nearest float64.
            numbers[slot, row] = float(text[first : first + length].decode().replace(decimal, "."))
        state[3] = 0
        if status == 0:
            break
        if status == 5:  # the room for slow numbers was full
            continue
        at, first, length = (int(state[k]) for k in (4, 5, 6))
        cut = text[first : first + min(length, 80)].decode("utf-8", "replace").split("\n")[0]
        line = first_line + int(state[2])
        kind = NAMES.get(Kind(int(kinds[at])), "") if status == 1 else ""
        what = f"line {line}, column {at + 1}" if status == 1 else f"line {line}"
        text_of = f": {cut!r}" if status < 3 else ""
        code = "invalid_row" if status < 3 else "limit_exceeded"
        fault = TextError(f"{what} {REASONS[status].format(kind=kind)}{text_of}", code, line, at, cut)
        if on_bad is None or status >= 3:
            raise fault
        on_bad(fault)
        state[2] += 1
    n = int(state[1])
    found: list[NDArray[np.float64] | NDArray[np.int64] | list[str]] = []
    for column, slot in zip(columns, places, strict=True):
        if column.kind is Kind.DECIMAL:
            found.append(numbers[slot, :n])
        elif column.kind is Kind.TEXT:
            pairs = whole[slot : slot + 2, :n].T.tolist()
            found.append([text[first : first + length].decode() for first, length in pairs])
        else:
            found.append(whole[slot, :n])
    return Table(found, int(state[2]))
