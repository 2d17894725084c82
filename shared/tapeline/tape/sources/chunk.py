"""What a reader gives, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from tapeline.bars.text import TextError
from tapeline.errors import TapelineError
from tapeline.tape.options import ImportOptions, ImportReport


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Rows of one file and symbol as columns, not yet checked.

    Attributes
    ----------
    where, first_row : the file's name, and the number in it of the first row, from 1
    done_bytes : how much of the input, as it lies on disk, has been read so far
    flags : what each trade counts for by the vendor's own marks
    """

    symbol: str
    where: str
    first_row: int
    done_bytes: int
    ts: NDArray[np.int64]
    price: NDArray[np.float64]
    volume: NDArray[np.float64]
    flags: NDArray[np.uint8]
    seq: NDArray[np.int64] | None = None
    cond: NDArray[np.uint32] | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A reader: its chunks can be taken once.

    Attributes
    ----------
    calendar : the calendar that fits the format, or None where the user must name one
    total_bytes : the size of its files on disk
    """

    files: list[Path]
    calendar: str | None
    total_bytes: int
    chunks: Iterator[Chunk]
    aggregated: bool = False


def sizes(files: list[Path]) -> int:
    """How many bytes the files have on disk."""
    return sum(path.stat().st_size for path in files)


def normal(n: int) -> NDArray[np.uint8]:
    """Flags of `n` normal trades."""
    return np.full(n, 7, np.uint8)


def needs_symbol(symbol: str | None, format: str) -> str:
    """The symbol, refused if the user gave none."""
    if symbol is None:
        raise TapelineError(
            f"files of format {format} do not say their symbol",
            code="invalid_argument",
            hint="give it: --symbol BTCUSDT",
        )
    return symbol


def misread(name: str, error: TextError, time_column: int = -1) -> NoReturn:
    """The refusal of a row, with its file.

    `time_column` is the place of times whose unit was guessed: a whole number there that is too long for it
    is a time of another unit.
    """
    if error.column == time_column and error.text.isdigit():
        raise TapelineError(
            f"{name}: line {error.line}: the time {error.text} is not in the unit of the first one",
            code="timestamp_unit_ambiguous",
            hint="give the unit with --ts-unit, or split the file",
        ) from error
    raise TapelineError(
        f"{name}: {error}", code=error.code, hint="check --format and --map, or leave rows out with --skip-bad"
    ) from error


class Skipping:
    """Leaves out unreadable rows as long as there are few, and counts them."""

    def __init__(self, name: str, options: ImportOptions, report: ImportReport) -> None:
        self.name, self.options, self.report = name, options, report

    def __call__(self, error: TextError) -> None:
        if self.report.bad_rows >= self.options.skip_bad:
            misread(self.name, error)
        self.report.bad_rows += 1
        self.report.example(f"{self.name}: {error}")
