"""Reading the files of an asset: columns as memory maps, and the arrays that a canvas trains on.

An asset file is HDF5 with contiguous data sets, so a column is read as a plain memory map at its offset: no
HDF5 lock, safe across threads and processes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from tapeline.cold import zstd
from tapeline.errors import TapelineError
from tapeline.indexed import IndexedColumn
from tapeline.security import hdf5

SCHEMA = "tapeline.asset/1"
TRAIN, VALIDATION, TEST = 0, 1, 2
"""Values of `/_index/part`."""


class AssetFile:
    """One file of an asset, open for reading.

    Attributes
    ----------
    names : list of str
        Features and labels in the order in which the file lists them; nothing that begins with `_`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._columns: dict[str, Any] = {}
        self.attributes: dict[str, Any] = {}
        self.names: list[str] = []
        # The path may be a link of ours into the artifact store.
        with hdf5.open_own(self.path) as file:
            schema = _text(file.attrs.get("schema", ""))
            if schema != SCHEMA:
                raise TapelineError(
                    f"{self.path.name} is no asset file: its schema is {schema!r}",
                    code="asset_refused",
                    hint=f"expected {SCHEMA!r}",
                )
            self.attributes = {name: _text(value) for name, value in file.attrs.items()}
            for group in ("_index", "_meta", "_grid"):
                folder = file.get(group)
                if isinstance(folder, h5py.Group):
                    for name, item in folder.items():
                        if isinstance(item, h5py.Dataset):
                            self._columns[f"{group}/{name}"] = _map(self.path, item)
            for name, item in file.items():
                if isinstance(item, h5py.Dataset):
                    is_indexed = _text(item.attrs.get("layout", b"")) == "indexed"
                    self._columns[name] = self._indexed(name, item) if is_indexed else _map(self.path, item)
                    self.names.append(name)
        if "_index/part" not in self._columns:
            raise TapelineError(f"{self.path.name} is no asset file: it has no /_index/part", code="asset_refused")
        rows = len(self)
        for name in self.names:
            if len(self._columns[name]) != rows:
                raise TapelineError(
                    f"{name} of {self.path.name} has {len(self._columns[name])} rows where /_index has {rows}",
                    code="asset_refused",
                )

    def _indexed(self, name: str, dataset: h5py.Dataset) -> IndexedColumn:
        """A column of places; every place must lie in its grid."""
        attributes = dataset.attrs
        past = _map(self.path, dataset)
        codes = self._columns.get("_index/symbol", np.zeros(len(past), np.uint16))
        window = tuple(int(size) for size in np.atleast_1d(attributes.get("shape", ())))
        grids = [self._columns.get(f"_grid/{_text(each)}") for each in np.atleast_1d(attributes.get("grid", ()))]
        scale = attributes.get("scale")
        known = [grid for grid in grids if grid is not None and grid.ndim == 2 and grid.shape[1] == 8]
        sound = (
            len(known) == len(grids) > 0
            and len(window) == 2
            and window[1] == 8
            and past.dtype == np.int64
            and len(codes) == len(past)
            and (len(past) == 0 or int(codes.max()) < len(grids))
            and (scale is None or scale.shape == (len(grids), 8))
        )
        if sound and len(past):
            most = np.array([len(grid) for grid in known], np.int64)[np.asarray(codes, np.int64)]
            sound = bool(((past >= 0) & (past <= most)).all())
        if not sound:
            raise TapelineError(
                f"{name} of {self.path.name} speaks of bars that the file has not", code="asset_refused"
            )
        return IndexedColumn(past, codes, known, window, str(_text(attributes.get("norm", b"none"))), scale)

    def __len__(self) -> int:
        return len(self._columns["_index/part"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the memory maps; arrays that were read stay valid."""
        self._columns.clear()

    @property
    def part(self) -> NDArray[np.uint8]:
        """Part of each row: 0 train, 1 validation, 2 test. Shape (n,)."""
        return np.asarray(self._columns["_index/part"], dtype=np.uint8)

    @property
    def sample_weight(self) -> NDArray[np.float32]:
        """Weight of each row, ones where the file has none. Shape (n,)."""
        stored = self._columns.get("_index/sample_weight")
        return np.ones(len(self), np.float32) if stored is None else np.asarray(stored, dtype=np.float32)

    @property
    def symbol(self) -> NDArray[np.uint16]:
        """Number of each row's symbol, in the order of their names. Shape (n,)."""
        return np.asarray(self._columns["_index/symbol"], dtype=np.uint16)

    @property
    def t0(self) -> NDArray[np.int64]:
        """Time of each row, ns UTC. Shape (n,)."""
        return np.asarray(self._columns["_index/t0"], dtype=np.int64)

    def column(self, name: str) -> NDArray[Any]:
        """A feature or label as a read-only view, first axis = row; of an indexed one, rows are made when taken.

        Raises
        ------
        TapelineError
            `not_found` when the file has no such column, with those that it has.
        """
        if name not in self.names:
            raise TapelineError(
                f"{self.path.name} has no column {name!r}", code="not_found", hint=f"it has: {', '.join(self.names)}"
            )
        found: NDArray[Any] = self._columns[name]
        return found

    def read(self, name: str, start: int = 0, stop: int | None = None, step: int = 1) -> NDArray[Any]:
        """Rows `start:stop:step` of a feature or label, as a read-only view where the file holds them."""
        return self.column(name)[start:stop:step]

    def meta(self, name: str) -> Any:
        """The JSON value stored at `/_meta/<name>`; None when there is none."""
        stored = self._columns.get(f"_meta/{name}")
        return None if stored is None else json.loads(bytes(np.asarray(stored, dtype=np.uint8)))


def _map(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    offset = dataset.id.get_offset()
    if offset is None:
        # Empty or chunked data has no single place in the file; chunks of ours are compressed.
        if dataset.chunks:
            zstd()
        array: NDArray[Any] = np.asarray(dataset[()])
        array.setflags(write=False)
        return array
    return np.memmap(path, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def nodes_of(canvas: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """The nodes of a kind in canvas order."""
    return [node for node in canvas["nodes"] if node["kind"] == kind]


def input_array(node: Mapping[str, Any], file: AssetFile, rows: slice | NDArray[np.intp]) -> NDArray[np.float32]:
    """What an input node sees of some rows: its features, joined on the last axis.

    Returns
    -------
    ndarray of float32
        Shape (rows, ...); a feature with one value per row counts as (rows, 1).
    """
    parts = []
    for name in node["features"]:
        part = np.asarray(file.column(name)[rows], dtype=np.float32)
        parts.append(part[:, None] if part.ndim == 1 else part)
    return np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts, axis=-1)


def output_array(node: Mapping[str, Any], file: AssetFile, rows: slice | NDArray[np.intp]) -> NDArray[np.float32]:
    """What an output node is to say of some rows: one column of its label.

    Returns
    -------
    ndarray of float32
        Shape (rows, 1).

    Raises
    ------
    TapelineError
        `invalid` when the label has no column of that index.
    """
    label = file.column(node["feature"])
    index = int(node.get("label_index") or 0)
    if label.ndim == 1:
        label = label[:, None]
    if not 0 <= index < label.shape[1]:
        raise TapelineError(
            f"label {node['feature']!r} has no column {index}",
            code="invalid",
            hint=f"its columns are 0 to {label.shape[1] - 1}",
        )
    return np.ascontiguousarray(label[rows, index : index + 1], dtype=np.float32)


def model_inputs(
    canvas: Mapping[str, Any],
    files: AssetFile | Sequence[AssetFile],
    part: int | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    step: int = 1,
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """The arrays that a model of a canvas takes and is to give, in canvas order.

    Parameters
    ----------
    canvas : mapping
        A `tapeline.canvas/1` document.
    files : AssetFile or sequence of them
        Their rows follow one another.
    part : int, optional
        Only rows of this part (0 train, 1 validation, 2 test); None for all.
    start, stop, step : int
        Slice of the rows of each file before parts are chosen.

    Returns
    -------
    (x, y) : lists of float32 arrays
        `x` has one array per input node, `y` one of shape (rows, 1) per output node.
    """
    opened = [files] if isinstance(files, AssetFile) else list(files)
    chosen: list[slice | NDArray[np.intp]] = []
    for file in opened:
        if part is None:
            chosen.append(slice(start, stop, step))
        else:
            chosen.append(rows_of(file, part, start=start, stop=stop, step=step))
    x = [
        _joined([input_array(node, file, rows) for file, rows in zip(opened, chosen, strict=True)])
        for node in nodes_of(canvas, "input")
    ]
    y = [
        _joined([output_array(node, file, rows) for file, rows in zip(opened, chosen, strict=True)])
        for node in nodes_of(canvas, "output")
    ]
    return x, y


def rows_of(
    file: AssetFile, part: int, *, start: int = 0, stop: int | None = None, step: int = 1
) -> slice | NDArray[np.intp]:
    """The rows of a part: a slice where they lie together, else their indices."""
    within = slice(start, stop, step)
    rows = np.flatnonzero(file.part == part)
    if step == 1 and start == 0 and stop is None and len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    wanted = np.zeros(len(file), bool)
    wanted[within] = True
    return rows[wanted[rows]]


def _joined(arrays: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    if not arrays:
        raise TapelineError("there is no asset file to read", code="no_asset", hint="name an asset with files")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
