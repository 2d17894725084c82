"""One day of one symbol as an HDF5 file: written byte for byte alike, read back with every column checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.digests import sha256_of_each
from tapeline.errors import TapelineError
from tapeline.security.hdf5 import image, open_asset, open_own
from tapeline.tape.trades import DTYPES, Trades, check

SCHEMA = "tapeline.tape.day/1"
CHUNK = 65_536
ALIGNED = 64
CODECS: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
}


def write(
    path: Path,
    trades: Trades,
    *,
    symbol: str,
    trade_date: str,
    currency: str = "",
    tick_size: float | None = None,
    codec: str = "none",
) -> str:
    """Write a day; equal trades give equal bytes, whose SHA-256 is the answer.

    Strings are stored with a fixed length: a variable one would be a pointer into a heap, which the walk of
    files from elsewhere refuses.
    """
    if codec not in CODECS:
        raise TapelineError(f"there is no codec {codec!r}", code="invalid_argument", hint=f"take {' or '.join(CODECS)}")
    texts = {
        "schema": SCHEMA,
        "symbol": symbol,
        "trade_date": trade_date,
        "volume_kind": trades.volume_kind,
        "currency": currency,
    }

    def fill(file: Any) -> None:
        for name, text in texts.items():
            if text:
                file.attrs[name] = np.bytes_(text.encode())
        file.attrs["rows"] = np.int64(len(trades))
        if tick_size is not None:
            file.attrs["tick_size"] = np.float64(tick_size)
        for name, column in trades.columns.items():
            data = np.ascontiguousarray(column, column.dtype.newbyteorder("<"))
            file.create_dataset(name, data=data, chunks=(min(CHUNK, len(data)),), **CODECS[codec])

    data = image(fill)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def places(path: Path) -> dict[str, dict[str, Any]]:
    """Where the columns of a day file lie: by name their type, and the offset of each chunk in bytes.

    Nothing for a compressed file. With these a reader needs no more of HDF5 than of any file.
    """
    found: dict[str, dict[str, Any]] = {}
    with open_own(path) as file:
        for name, data in file.items():
            chunks = [data.id.get_chunk_info(k) for k in range(data.id.get_num_chunks())]
            if data.compression is not None or any(chunk.byte_offset is None for chunk in chunks):
                return {}
            found[name] = {"dtype": data.dtype.str, "at": [int(chunk.byte_offset) for chunk in chunks]}
    return found


def read(path: Path, entry: dict[str, Any], *, open_file: Callable[[Path], Any] = open_own) -> Trades:
    """The trades of a day, equal to what its manifest entry says.

    Parameters
    ----------
    entry : the day's entry in the manifest: `symbol`, `trade_date`, `rows`, `columns`
    open_file : the door to use; a file that came from elsewhere goes through the one for assets

    Raises
    ------
    TapelineError
        `tape_corrupt` when the file or a column differs, `not_found` when there is no file.
    """
    return read_each([(path, entry)], open_file=open_file)[0]


def read_each(
    days: Sequence[tuple[Path, dict[str, Any]]], *, open_file: Callable[[Path], Any] = open_own
) -> list[Trades]:
    """The trades of some days, as `read` gives each of them; their digests are computed side by side."""
    if len(days) > 1 and all("places" in entry.get("artifact", {}) for _, entry in days):
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
            found = list(pool.map(lambda day: _stored(day[0], day[1], open_file), days))
    else:
        found = [_stored(path, entry, open_file) for path, entry in days]
    columns = [(entry, name, column) for (_, entry), day in zip(days, found, strict=True)
               for name, column in day.columns.items()]  # fmt: skip
    little = [np.ascontiguousarray(column, column.dtype.newbyteorder("<")) for _, _, column in columns]
    for (entry, name, _), digest in zip(columns, sha256_of_each(little), strict=True):
        if digest != entry["columns"][name]:
            raise _corrupt(entry, f"has a column {name} that does not match its digest")
    return found


def _corrupt(entry: dict[str, Any], why: str) -> TapelineError:
    where = f"{entry['symbol']} {entry['trade_date']}"
    return TapelineError(f"the day {where} {why}", code="tape_corrupt", hint="import the tape again")


def _stored(path: Path, entry: dict[str, Any], open_file: Callable[[Path], Any]) -> Trades:
    """The columns of a day as they are stored, their digests not yet looked at."""
    where = entry.get("artifact", {}).get("places")
    is_ours = where and open_file is open_own
    columns = _at_places(path, entry, where) if is_ours else _by_hdf5(path, entry, open_file)
    if not {"ts", "price", "volume", "flags"} <= set(columns):
        raise _corrupt(entry, "lacks a column")
    return Trades(**columns)


def _at_places(path: Path, entry: dict[str, Any], where: dict[str, dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """The columns by the offsets that the manifest has of them: their digests say whether it is right."""
    rows = entry["rows"]
    if set(where) != set(entry["columns"]) or not set(where) <= set(DTYPES):
        raise _corrupt(entry, f"has columns {sorted(where)}, not {sorted(entry['columns'])}")
    kinds = {name: np.dtype(place["dtype"]) for name, place in where.items()}
    for name, kind in kinds.items():
        if kind not in [np.dtype(each) for each in DTYPES[name]]:
            raise _corrupt(entry, f"has column {name} as {kind}")
        if len(where[name]["at"]) != -(-rows // CHUNK):
            raise _corrupt(entry, f"has {len(where[name]['at'])} chunks of column {name}")
    # One piece of memory for a day: where it is large, it comes in large pages.
    starts = np.cumsum([0, *(-(-rows * kind.itemsize // ALIGNED) * ALIGNED for kind in kinds.values())]).tolist()
    memory = np.empty(starts[-1], np.uint8)
    columns: dict[str, NDArray[Any]] = {}
    try:
        with path.open("rb", buffering=0) as file:
            for (name, kind), start in zip(kinds.items(), starts[:-1], strict=True):
                whole = memory[start : start + rows * kind.itemsize]
                chunk = CHUNK * kind.itemsize
                for k, offset in enumerate(where[name]["at"]):
                    part = whole[k * chunk : (k + 1) * chunk]
                    if os.preadv(file.fileno(), [part.data], offset) != part.nbytes:
                        raise _corrupt(entry, f"ends within column {name}")
                columns[name] = whole.view(kind)
    except FileNotFoundError as error:
        raise TapelineError(
            f"there is no file {path.name}", code="not_found", hint="fetch the artifact again"
        ) from error
    except OSError as error:
        raise _corrupt(entry, f"cannot be read: {error}") from error
    return columns


def _by_hdf5(path: Path, entry: dict[str, Any], open_file: Callable[[Path], Any]) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    try:
        with open_file(path) as file:
            attributes = {name: file.attrs.get(name) for name in ("schema", "symbol", "trade_date")}
            expected = {"schema": SCHEMA, "symbol": entry["symbol"], "trade_date": entry["trade_date"]}
            for name, text in expected.items():
                stored = attributes[name]
                if not isinstance(stored, bytes) or stored.decode("utf-8", "replace") != text:
                    raise _corrupt(entry, f"says {name} {stored!r} in its file, not {text!r}")
            if set(file) != set(entry["columns"]) or not set(file) <= set(DTYPES):
                raise _corrupt(entry, f"has columns {sorted(file)}, not {sorted(entry['columns'])}")
            for name in entry["columns"]:
                data = file[name]
                if data.shape != (entry["rows"],) or data.dtype not in [np.dtype(k) for k in DTYPES[name]]:
                    raise _corrupt(entry, f"has column {name} as {data.dtype} {data.shape}")
                columns[name] = data[()]
    except (OSError, RuntimeError, KeyError, AttributeError) as error:
        raise _corrupt(entry, f"cannot be read: {error}") from error
    return columns


def verify_day_file(
    path: Path,
    entry: dict[str, Any],
    *,
    volume_kind: str | None = None,
    allow_nonpositive: bool = False,
    open_file: Callable[[Path], Any] = open_asset,
) -> Trades:
    """The trades of an uploaded day file, after every check that an import makes.

    The bytes are hashed first: a file whose digest differs from the entry's artifact is not opened. It is
    opened as a foreign file, after a walk over all that is in it.

    Raises
    ------
    TapelineError
        `tape_corrupt`, `tape_unsorted`, `invalid_volume`, `invalid_timestamp`, `empty_input`,
        `asset_refused`.
    """
    where = f"{entry['symbol']} {entry['trade_date']}"
    if file_sha256(path) != entry["artifact"]["sha256"]:
        raise TapelineError(
            f"the file of day {where} does not match its digest", code="tape_corrupt", hint="upload it again"
        )
    trades = read(path, entry, open_file=open_file)
    if entry["artifact"].get("places") not in (None, places(path)):
        raise TapelineError(
            f"the manifest says of the day {where} that its columns lie elsewhere than they do",
            code="tape_corrupt",
            hint="import the tape again",
        )
    check(trades, where=where, allow_nonpositive=allow_nonpositive)
    if volume_kind is not None and trades.volume_kind != volume_kind:
        raise TapelineError(
            f"the day {where} has {trades.volume_kind} volumes, its symbol {volume_kind}",
            code="tape_corrupt",
            hint="import the tape again",
        )
    return trades


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
