"""Databento's binary files of trades (`.dbn`, `.dbn.zst`), versions 1 to 3; needs databento-dbn, the extra `dbn`.

The library reads the metadata: schema and symbology. Records have one size, so they are taken as an array. The time
is that of the event, or of its receipt with `--ts recv`; prices are whole numbers of 1e-9; an undefined price is void.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tapeline.errors import TapelineError
from tapeline.tape.options import ImportOptions, ImportReport
from tapeline.tape.sources.archive import MOST_MEMBER, MOST_RATIO, RATIO_FROM, broken
from tapeline.tape.sources.chunk import Chunk, Source, normal, sizes

RECORD = np.dtype(
    [
        ("length", "u1"), ("rtype", "u1"), ("publisher_id", "<u2"), ("instrument_id", "<u4"), ("ts_event", "<i8"),
        ("price", "<i8"), ("size", "<u4"), ("action", "S1"), ("side", "S1"), ("flags", "u1"), ("depth", "u1"),
        ("ts_recv", "<i8"), ("ts_in_delta", "<i4"), ("sequence", "<u4"),
    ]
)  # fmt: skip
RECORD_OUT = np.dtype([*((name, RECORD[name]) for name in RECORD.names or ()), ("ts_out", "<i8")])
TRADE = 0  # the type of a record of trades
UNDEFINED = np.iinfo(np.int64).max
PIECE = 8 * 2**20
MOST_METADATA = 64 * 2**20
DAY_NS = 86_400_000_000_000


class Named(NamedTuple):
    """A symbol and the dates, first and one past the last, on which an instrument has it."""

    first: int
    stop: int
    symbol: str


def databento(paths: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    """The reader of DBN files; `symbol` picks one of several, or names instruments that the file does not."""
    try:
        import databento_dbn  # noqa: F401
    except ImportError:
        raise TapelineError(
            "DBN files need the package databento-dbn", code="dependency_missing", hint="pip install 'tapeline[dbn]'"
        ) from None
    files: list[Path] = []
    for path in paths:
        files += sorted(p for p in path.iterdir() if is_dbn(p)) if path.is_dir() else [path]
    report.files = len(files)
    report.ts_unit = "ns"
    return Source(files, None, sizes(files), _chunks(files, symbol, options))


def is_dbn(path: Path) -> bool:
    """Whether a file is named as Databento names its own."""
    return path.name.endswith((".dbn", ".dbn.zst"))


def _blocks(path: Path) -> Iterator[tuple[bytes, int]]:
    """The bytes of a file, unpacked, and how much of it has been read."""
    with path.open("rb") as file:
        if path.suffix != ".zst":
            while block := file.read(PIECE):
                yield block, file.tell()
            return
        import zstandard

        packed, total = path.stat().st_size, 0
        unpacking = zstandard.ZstdDecompressor().decompressobj()
        try:
            while block := file.read(PIECE // 64):
                while block:
                    if unpacking.eof:
                        unpacking = zstandard.ZstdDecompressor().decompressobj()
                    found = unpacking.decompress(block)
                    block = unpacking.unused_data
                    total += len(found)
                    if total > MOST_MEMBER or (total > RATIO_FROM and total > MOST_RATIO * packed):
                        raise TapelineError(
                            f"{path.name} unpacks to more than {total - len(found):,} bytes",
                            code="limit_exceeded",
                            hint=f"a file may have 16 GiB and {MOST_RATIO} times its packed size",
                        )
                    if found:
                        yield found, file.tell()
        except zstandard.ZstdError as error:
            raise broken(path, f"is no complete Zstandard file: {error}") from error
        if not unpacking.eof:
            raise broken(path, "is no complete Zstandard file: it ends within a frame")


def _chunks(files: list[Path], symbol: str | None, options: ImportOptions) -> Iterator[Chunk]:
    before = 0
    for path in files:
        held, names, kind, row = b"", None, RECORD, 1
        for block, done in _blocks(path):
            held += block
            if names is None:
                opened = _metadata(held, path)
                if opened is None:
                    continue
                names, kind, used = opened
                held = held[used:]
            whole = len(held) // kind.itemsize * kind.itemsize
            if whole < PIECE // 4 and len(block) < PIECE // 4:
                continue  # blocks of a packed file are small
            yield from _trades(np.frombuffer(held[:whole], kind), path, row, before + done, names, symbol, options)
            row, held = row + whole // kind.itemsize, held[whole:]
        if names is None:
            raise broken(path, "ends within its metadata")
        if len(held) % kind.itemsize:
            raise broken(path, "ends within a record")
        yield from _trades(np.frombuffer(held, kind), path, row, before + path.stat().st_size, names, symbol, options)
        before += path.stat().st_size


def _metadata(held: bytes, path: Path) -> tuple[dict[int, list[Named]], np.dtype[np.void], int] | None:
    """The names of instruments, the type of records and the length of the metadata; None when more bytes are needed."""
    from databento_dbn import DBNError, Metadata

    if len(held) < 8:
        return None
    if held[:3] != b"DBN" or not 1 <= held[3] <= 3:
        raise TapelineError(
            f"{path.name} is no DBN file of version 1 to 3", code="unsupported_format", hint="check --format"
        )
    length = 8 + int.from_bytes(held[4:8], "little")
    if length > MOST_METADATA:
        raise TapelineError(
            f"{path.name} has metadata of {length:,} bytes", code="limit_exceeded", hint="ask for fewer symbols a file"
        )
    if len(held) < length:
        return None
    try:
        found = Metadata.decode(held[:length])
    except DBNError as error:
        raise broken(path, f"has metadata that cannot be read: {error}") from error
    if str(found.schema) != "trades":
        raise TapelineError(
            f"{path.name} holds {found.schema or 'mixed records'}, not trades",
            code="unsupported_format",
            hint="ask Databento for the schema trades",
        )
    return _names(found), RECORD_OUT if found.ts_out else RECORD, length


def _names(metadata: Any) -> dict[int, list[Named]]:
    """The symbols of each instrument; mappings go from symbols to instruments, or the other way."""
    names: dict[int, list[Named]] = {}
    epoch = date(1970, 1, 1).toordinal()
    for key, intervals in metadata.mappings.items():
        for interval in intervals:
            symbol, number = (key, interval["symbol"])
            if str(metadata.stype_in) == "instrument_id":
                symbol, number = number, symbol
            if number.isascii() and number.isdigit():
                first, stop = (interval[end].toordinal() - epoch for end in ("start_date", "end_date"))
                names.setdefault(int(number), []).append(Named(first, stop, symbol))
    return names


def _trades(
    rows: NDArray[np.void],
    path: Path,
    first_row: int,
    done: int,
    names: dict[int, list[Named]],
    symbol: str | None,
    options: ImportOptions,
) -> Iterator[Chunk]:
    odd = np.flatnonzero((rows["rtype"] != TRADE) | (rows["length"].astype(np.int64) * 4 != rows.dtype.itemsize))
    if len(odd):
        raise TapelineError(
            f"{path.name}: record {first_row + int(odd[0])} is no trade",
            code="invalid_row",
            hint="fetch the file again, with the schema trades",
        )
    ts = np.ascontiguousarray(rows["ts_event" if options.ts == "event" else "ts_recv"])
    price = np.where(rows["price"] == UNDEFINED, np.nan, rows["price"] / 1e9)
    days = rows["ts_recv"] // DAY_NS  # Databento maps symbols by the day of receipt
    for number, name, mine in _named(rows["instrument_id"], days, names):
        if name is None and symbol is None:
            raise TapelineError(
                f"{path.name}: instrument {number} has no symbol in the file at record {first_row + int(mine[0])}",
                code="invalid_row",
                hint="name it with --symbol, or fetch the file with its symbology",
            )
        if name is not None and symbol is not None and name != symbol:
            continue
        yield Chunk(
            symbol=name or str(symbol),
            where=path.name,
            first_row=first_row,
            done_bytes=done,
            ts=ts[mine],
            price=price[mine],
            volume=rows["size"][mine].astype(np.float64),
            flags=normal(len(mine)),
            seq=rows["sequence"][mine].astype(np.int64),
        )


def _named(
    instruments: NDArray[np.uint32], days: NDArray[np.int64], names: dict[int, list[Named]]
) -> Iterator[tuple[int, str | None, NDArray[np.int64]]]:
    """The rows of each instrument under each of its symbols; the symbol is None where the file has none."""
    for number in np.unique(instruments).tolist():
        mine = instruments == number
        for first, stop, name in names.get(number, []):
            held = mine & (days >= first) & (days < stop)
            if held.any():
                yield number, name, np.flatnonzero(held)
                mine &= ~held
        if mine.any():
            yield number, None, np.flatnonzero(mine)


__all__ = ["databento", "is_dbn"]
