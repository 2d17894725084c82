"""The files of an asset, `tapeline.asset/1`: contiguous, aligned, uncompressed, equal bytes for equal content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.asset_files import TEST, TRAIN, VALIDATION
from tapeline.canvas.digest import canonical_json
from tapeline.digests import sha256_of_pieces
from tapeline.security.hdf5 import Contents, add_group
from tapeline.security.hdf5 import write as write_file

ALIGNMENT = 4096
FILE_BYTES = 1024**3
Columns = Mapping[str, NDArray[Any]]


def file_rows(part: NDArray[np.uint8], row_bytes: int) -> list[tuple[str, NDArray[np.int64]]]:
    """Which rows go into which file, by the end of its name: `test`, then `train_0`, `train_1`, ...

    Validation rows are the tail of the train files and share none with train rows; a file holds at most 1 GiB.
    """
    most = max(1, FILE_BYTES // max(row_bytes, 1))
    files: list[tuple[str, NDArray[np.int64]]] = []
    test = np.flatnonzero(part == TEST)
    for k, start in enumerate(range(0, len(test), most)):
        files.append((f"test_{k}" if k else "test", test[start : start + most]))
    number = 0
    for which in (TRAIN, VALIDATION):
        rows = np.flatnonzero(part == which)
        for start in range(0, len(rows), most):
            files.append((f"train_{number}", rows[start : start + most]))
            number += 1
    return files


@dataclass(frozen=True, slots=True, eq=False)
class Indexed:
    """Windows of bars as places in grids: what an indexed data set holds in place of the bars.

    Attributes
    ----------
    past : int64, shape (n,): in the grid of the row's symbol, the row one past the newest bar of the window
    grids : by number of the symbol the name of its grid
    scale : float64, shape (symbols, 8), what `max_values` divides by
    """

    past: NDArray[np.int64]
    grids: tuple[str, ...]
    count: int
    norm: str
    shape: tuple[int, ...]
    scale: NDArray[np.float64] | None = None


def write(
    path: Path,
    *,
    attributes: Mapping[str, str | int],
    datasets: Mapping[str, NDArray[Any] | Indexed],
    index: Columns,
    meta: Mapping[str, Any],
    symbols: list[str],
    grids: Columns | None = None,
) -> None:
    """Write one file.

    Parameters
    ----------
    datasets : features and labels, first axis = sample
    index : `t0`, `t1`, `symbol`, `session`, `part`, `sample_weight`, first axis = sample
    meta : JSON values, stored as UTF-8 bytes; attributes hold at most 64 KB
    grids : bars and their ends, by name, that indexed data sets speak of
    """

    def fill(contents: Contents) -> None:
        file = contents.file
        for name, value in attributes.items():
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else np.int64(value)
        for name, values in datasets.items():
            if isinstance(values, Indexed):
                _describe(contents.put(file, name, values.past), values)
            else:
                contents.put(file, name, values)
        folder = add_group(file, "_index")
        for name, column in index.items():
            made = contents.put(folder, name, column)
            if name == "symbol":
                made.attrs["names"] = np.array([each.encode() for each in symbols], dtype=np.bytes_)
        if grids:
            folder = add_group(file, "_grid")
            for name, column in grids.items():
                contents.put(folder, name, column)
        folder = add_group(file, "_meta")
        for name, value in meta.items():
            contents.put(folder, name, np.frombuffer(canonical_json(value), np.uint8))

    write_file(path, fill, alignment=ALIGNMENT)


def _describe(made: Any, indexed: Indexed) -> None:
    made.attrs["layout"] = np.bytes_(b"indexed")
    made.attrs["grid"] = np.array([name.encode() for name in indexed.grids], dtype=np.bytes_)
    made.attrs["count"] = np.int64(indexed.count)
    made.attrs["norm"] = np.bytes_(indexed.norm.encode())
    made.attrs["shape"] = np.array(indexed.shape, np.int64)
    if indexed.scale is not None:
        made.attrs["scale"] = indexed.scale


def data_digest(files: list[tuple[str, Columns]]) -> str:
    """SHA-256 over names, types, shapes and, in pieces, C-order bytes of the data sets of every file, in order."""
    digest = hashlib.sha256()
    for file, columns in files:
        digest.update(f"{file}\x00".encode())
        for name, values in columns.items():
            little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            digest.update(f"{name}\x00{little.dtype.str}\x00{little.shape}\x00".encode())
            digest.update(sha256_of_pieces(little.reshape(-1).view(np.uint8).data))
    return digest.hexdigest()
