"""The files of an asset, `tapeline.asset/1`: contiguous, aligned, uncompressed, equal bytes for equal content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.asset_files import TEST, TRAIN, VALIDATION
from tapeline.canvas.digest import canonical_json
from tapeline.security.hdf5 import add_group, create

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


def write(
    path: Path,
    *,
    attributes: Mapping[str, str | int],
    datasets: Columns,
    index: Columns,
    meta: Mapping[str, Any],
    symbols: list[str],
) -> None:
    """Write one file.

    Parameters
    ----------
    datasets : features and labels, first axis = sample
    index : `t0`, `t1`, `symbol`, `session`, `part`, `sample_weight`, first axis = sample
    meta : JSON values, stored as UTF-8 bytes; attributes hold at most 64 KB
    """
    with create(path, alignment=ALIGNMENT) as file:
        for name, value in attributes.items():
            file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else np.int64(value)
        for name, values in datasets.items():
            _put(file, name, values)
        folder = add_group(file, "_index")
        for name, values in index.items():
            _put(folder, name, values)
        folder["symbol"].attrs["names"] = np.array([name.encode() for name in symbols], dtype=np.bytes_)
        folder = add_group(file, "_meta")
        for name, value in meta.items():
            _put(folder, name, np.frombuffer(canonical_json(value), np.uint8))


def _put(folder: Any, name: str, values: NDArray[Any]) -> None:
    folder.create_dataset(name, data=np.ascontiguousarray(values, values.dtype.newbyteorder("<")))


def data_digest(files: list[tuple[str, Columns]]) -> str:
    """SHA-256 over names, types, shapes and C-order bytes of the data sets of every file, in order."""
    digest = hashlib.sha256()
    for file, columns in files:
        digest.update(f"{file}\x00".encode())
        for name, values in columns.items():
            little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            digest.update(f"{name}\x00{little.dtype.str}\x00{little.shape}\x00".encode())
            digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
