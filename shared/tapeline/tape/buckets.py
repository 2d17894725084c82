"""Rows of an import on disk, one file per symbol and trade date, so that memory holds one day at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROW = np.dtype([("ts", "<i8"), ("price", "<f8"), ("volume", "<f8"), ("flags", "u1"), ("seq", "<i8"), ("cond", "<u4")])

BLOCK = 262_144  # rows


@dataclass(frozen=True, slots=True)
class Waiting:
    """The rows of one day on disk, in the order of arrival."""

    path: Path

    def columns(self, kinds: dict[str, type[np.generic]]) -> dict[str, NDArray[Any]]:
        """Some columns as arrays of these types; the rows pass through memory in blocks."""
        n = self.path.stat().st_size // ROW.itemsize
        found: dict[str, NDArray[Any]] = {name: np.empty(n, kind) for name, kind in kinds.items()}
        with self.path.open("rb") as file:
            for first in range(0, n, BLOCK):
                rows = np.fromfile(file, ROW, BLOCK)
                for name, column in found.items():
                    column[first : first + len(rows)] = rows[name]
        return found


@dataclass(slots=True)
class Buckets:
    """Appends rows to the file of their day; `days` gives them back, sorted by symbol and date."""

    folder: Path
    files: dict[tuple[str, str], Path] = field(default_factory=dict)

    def __enter__(self) -> Buckets:
        self.folder.mkdir(parents=True, mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, symbol: str, trade_date: str, rows: NDArray[np.void]) -> None:
        """Append rows of type `ROW`; files are numbered, so no name of a user reaches the disk."""
        path = self.files.setdefault((symbol, trade_date), self.folder / f"{len(self.files)}.rows")
        with path.open("ab") as file:
            file.write(rows.view(np.uint8).data)  # `tofile` does not say why it failed

    def days(self) -> Iterator[tuple[str, str, Waiting]]:
        """Symbol, trade date and what waits; each file is gone once its rows have been used."""
        for (symbol, trade_date), path in sorted(self.files.items()):
            yield symbol, trade_date, Waiting(path)
            path.unlink()
