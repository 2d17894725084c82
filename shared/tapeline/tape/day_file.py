"""One day of one symbol as an HDF5 file: written byte for byte alike, read back with every column checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tapeline.errors import TapelineError
from tapeline.security.hdf5 import image, open_asset, open_own
from tapeline.tape.trades import DTYPES, Trades, check

SCHEMA = "tapeline.tape.day/1"
CHUNK = 65_536
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
    where = f"{entry['symbol']} {entry['trade_date']}"

    def corrupt(why: str) -> TapelineError:
        return TapelineError(f"the day {where} {why}", code="tape_corrupt", hint="import the tape again")

    columns: dict[str, Any] = {}
    try:
        with open_file(path) as file:
            attributes = {name: file.attrs.get(name) for name in ("schema", "symbol", "trade_date")}
            expected = {"schema": SCHEMA, "symbol": entry["symbol"], "trade_date": entry["trade_date"]}
            for name, text in expected.items():
                stored = attributes[name]
                if not isinstance(stored, bytes) or stored.decode("utf-8", "replace") != text:
                    raise corrupt(f"says {name} {stored!r} in its file, not {text!r}")
            if set(file) != set(entry["columns"]) or not set(file) <= set(DTYPES):
                raise corrupt(f"has columns {sorted(file)}, not {sorted(entry['columns'])}")
            for name in entry["columns"]:
                data = file[name]
                if data.shape != (entry["rows"],) or data.dtype not in [np.dtype(k) for k in DTYPES[name]]:
                    raise corrupt(f"has column {name} as {data.dtype} {data.shape}")
                columns[name] = data[()]
    except (OSError, RuntimeError, KeyError, AttributeError) as error:
        raise corrupt(f"cannot be read: {error}") from error
    if not {"ts", "price", "volume", "flags"} <= set(columns):
        raise corrupt("lacks a column")
    trades = Trades(**columns)
    for name, found in trades.digests().items():
        if found != entry["columns"][name]:
            raise corrupt(f"has a column {name} that does not match its digest")
    return trades


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
