"""Files of metrics tables: columns of equal length in HDF5, written by the SDK and checked by the runs service.

Data set `c0`, `c1`, ... holds one column each, in order; `_columns` is the JSON that names them, as bytes. Text is
UTF-8 of a fixed length, a truth value a byte, a vector a row of a matrix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tapeline.contracts.records import MAX_TABLE_COLUMNS, MAX_TABLE_ROWS
from tapeline.errors import TapelineError
from tapeline.security import hdf5

SCHEMA = "tapeline.metrics-table/1"
KINDS = ("int", "float", "bool", "text", "vector")
EXAMPLE_ID = "example_id"
_NAMES = "_columns"


def columns_of(metrics: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Columns as arrays of equal length.

    Returns
    -------
    dict of ndarray
        Shape (rows,), or (rows, n) for vectors.

    Raises
    ------
    TapelineError
        `invalid` for no column at all, unequal lengths, or cells that are neither numbers, truth values, texts nor
        vectors of one length; `too_large` beyond 10 million rows or 9,990 columns.
    """
    if not isinstance(metrics, Mapping) or not metrics:
        raise TapelineError("a metrics table needs at least one column", code="invalid", hint="give {name: values}")
    found = {_named(name): _column(name, values) for name, values in metrics.items()}
    lengths = {name: len(column) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:10])
        raise TapelineError(
            f"columns have different lengths: {told}", code="invalid", hint="every column has one value a row"
        )
    if len(found) > MAX_TABLE_COLUMNS or next(iter(lengths.values())) > MAX_TABLE_ROWS:
        raise TapelineError(
            f"a table of {next(iter(lengths.values()))} rows and {len(found)} columns; the limits are "
            f"{MAX_TABLE_ROWS} and {MAX_TABLE_COLUMNS}",
            code="too_large",
            hint="write several tables",
        )
    return found


def _named(name: Any) -> str:
    if not isinstance(name, str) or not 1 <= len(name) <= 255 or not name.isprintable():
        raise TapelineError(
            f"column {str(name)[:60]!r} is not 1 to 255 visible characters", code="invalid", hint="give it another name"
        )
    return name


def _column(name: str, values: Any) -> NDArray[Any]:
    try:
        column = np.asarray(values)
    except ValueError as error:
        # Vectors of different lengths.
        raise _cells(name, "rows of different lengths") from error
    if column.ndim == 0 or column.ndim > 2 or (column.ndim == 2 and column.dtype.kind not in "iufb"):
        raise _cells(name, f"an array of {column.ndim} dimensions")
    if column.dtype.kind == "U" and column.ndim == 1:
        return column
    if column.dtype.kind not in "iufb" or column.dtype.itemsize > 8:
        raise _cells(name, f"cells of type {column.dtype}")
    if column.ndim == 2 and column.dtype.kind != "f":
        return column.astype(np.float64)
    return column


def _cells(name: str, what: str) -> TapelineError:
    return TapelineError(
        f"column {name!r} has {what}",
        code="invalid",
        hint="a cell is a number, a truth value, a text, or a vector as long as the others",
    )


def kind_of(column: NDArray[Any]) -> str:
    """What a column holds, one of `KINDS`."""
    if column.ndim == 2:
        return "vector"
    return {"b": "bool", "U": "text", "f": "float"}.get(column.dtype.kind, "int")


def write(
    path: Path, columns: Mapping[str, NDArray[Any]], said: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """Write columns to a new file; what is said of each, with its kind."""
    told = {name: {**(said or {}).get(name, {}), "kind": kind_of(column)} for name, column in columns.items()}
    for name, column in columns.items():
        if column.ndim == 2:
            told[name]["width"] = column.shape[1]
    with hdf5.create(path) as file:
        file.attrs["schema"] = np.bytes_(SCHEMA)
        text = json.dumps(told, ensure_ascii=False).encode()
        file.create_dataset(_NAMES, data=np.frombuffer(text, np.uint8))
        for i, column in enumerate(columns.values()):
            file.create_dataset(f"c{i}", data=_stored(column))
    return told


def _stored(column: NDArray[Any]) -> NDArray[Any]:
    match column.dtype.kind:
        case "U":
            encoded = np.char.encode(column, "utf-8")
            return encoded if encoded.dtype.itemsize else encoded.astype("S1")
        case "b":
            return column.astype(np.uint8)
        case _:
            return np.ascontiguousarray(column)


class TableFile:
    """The file of a metrics table, read whole columns at a time.

    Attributes
    ----------
    columns : dict
        By name, in order: what is said of each column, its kind among it.
    """

    def __init__(self, path: Path, *, is_foreign: bool = False) -> None:
        """`is_foreign`: somebody else wrote the file, and every object in it is looked at first."""
        # What a name in a file stands for is looked at below.
        self._file: Any = hdf5.open_asset(path) if is_foreign else hdf5.open_own(path)
        try:
            self.columns = self._named(path.name)
            self._rows = self._lengths(path.name)
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return self._rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def column(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows of a column.

        Raises
        ------
        TapelineError
            `not_found`, with the columns that there are.
        """
        if name not in self.columns:
            raise TapelineError(
                f"there is no column {name!r}", code="not_found", hint=f"columns are: {', '.join(self.columns)}"
            )
        stored = np.asarray(self._file[f"c{list(self.columns).index(name)}"][start:stop])
        match self.columns[name].get("kind"):
            case "text":
                return np.char.decode(stored, "utf-8")
            case "bool":
                return stored.astype(bool)
            case _:
                return stored

    def _named(self, where: str) -> dict[str, dict[str, Any]]:
        schema = self._file.attrs.get("schema", b"")
        if (schema.decode("utf-8", "replace") if isinstance(schema, bytes) else schema) != SCHEMA:
            raise _refused(f"{where} is no metrics table")
        if _NAMES not in self._file:
            raise _refused(f"{where} does not name its columns")
        try:
            told = json.loads(bytes(np.asarray(self._file[_NAMES], dtype=np.uint8)))
        except ValueError as error:
            raise _refused(f"the names of the columns of {where} are not JSON") from error
        if not isinstance(told, dict) or not 1 <= len(told) <= MAX_TABLE_COLUMNS:
            raise _refused(f"{where} names no columns")
        for name, said in told.items():
            if not isinstance(said, dict) or said.get("kind") not in KINDS:
                raise _refused(f"column {_named(name)!r} of {where} does not say what it holds")
        if {_NAMES, *(f"c{i}" for i in range(len(told)))} != set(self._file):
            raise _refused(f"{where} has other data sets than columns")
        return told

    def _lengths(self, where: str) -> int:
        lengths = set()
        for i, (name, said) in enumerate(self.columns.items()):
            dataset = self._file[f"c{i}"]
            wanted = {"text": "S", "bool": "u", "int": "iu", "float": "f", "vector": "f"}[said["kind"]]
            if dataset.ndim != (2 if said["kind"] == "vector" else 1) or dataset.dtype.kind not in wanted:
                raise _refused(f"column {name!r} of {where} is not of kind {said['kind']}")
            lengths.add(int(dataset.shape[0]))
        if len(lengths) != 1 or max(lengths) > MAX_TABLE_ROWS:
            raise _refused(f"the columns of {where} have different lengths")
        return lengths.pop()


def _refused(why: str) -> TapelineError:
    return TapelineError(why, code="invalid", hint="write it with Run.add_metrics")


def check_examples(examples: NDArray[Any], rows: int, foreign_rows: int, *, is_given: bool) -> None:
    """Refuse rows that do not belong to the rows of a foreign table.

    Parameters
    ----------
    examples : ndarray of int, shape (rows,)
        The row of the foreign table that each row is about.

    Raises
    ------
    TapelineError
        `invalid` when the numbers of rows differ although no column says which is which, or when an example is not
        a row of the foreign table.
    """
    if not is_given and rows != foreign_rows:
        raise TapelineError(
            f"the metrics have {rows} rows, the foreign table has {foreign_rows}",
            code="invalid",
            hint=f"give a column {EXAMPLE_ID} that says which row of the table each row is about",
        )
    if examples.dtype.kind not in "iu" or examples.ndim != 1:
        raise TapelineError(f"{EXAMPLE_ID} must hold integers", code="invalid", hint="0 is the first row of the table")
    if len(examples) and (int(examples.min()) < 0 or int(examples.max()) >= foreign_rows):
        raise TapelineError(
            f"{EXAMPLE_ID} reaches from {int(examples.min())} to {int(examples.max())}, the foreign table has "
            f"{foreign_rows} rows",
            code="invalid",
            hint=f"0 to {foreign_rows - 1} are its rows",
        )
