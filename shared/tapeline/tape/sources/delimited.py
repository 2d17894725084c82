"""Delimited text with columns named by the user: `--map ts=Time,price=Px,volume=Qty`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tapeline.bars.text import Column, Kind, TextError, parse
from tapeline.errors import TapelineError
from tapeline.tape.options import ImportOptions, ImportReport
from tapeline.tape.sources.archive import MOST_LINE, Piece, pieces
from tapeline.tape.sources.chunk import Chunk, Skipping, Source, misread, needs_symbol, normal, sizes
from tapeline.tape.times import PLACES, from_text, same_unit, unit_of, zone_of

NEEDED = ("ts", "price", "volume")


def named(options: ImportOptions) -> ImportOptions:
    """The options with a map: without one, columns bear our own names."""
    return options if options.map else replace(options, map={name: name for name in NEEDED})


def must_have(file: str, options: ImportOptions, columns: Sequence[str]) -> None:
    """Refuse a file that lacks a column, and list those that it has."""
    lacking = [wanted for wanted in options.map.values() if wanted not in columns]
    if not lacking:
        return
    what = f"column {lacking[0]!r}" if len(lacking) == 1 else f"columns {', '.join(lacking)}"
    raise TapelineError(
        f"{file} has no {what}",
        code="column_missing",
        hint=f"it has {', '.join(columns[:20])[:400]}; say which is which: --map ts=Time,price=Price,volume=Size",
    )


def delimited(paths: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    """The reader of CSV files, also gzipped or zipped."""
    files: list[Path] = []
    for path in paths:
        files += sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    for path in files:
        if path.suffix.lower() in (".parquet", ".arrow", ".h5", ".hdf5", ".dbn", ".zst", ".xlsx"):
            raise TapelineError(
                f"{path.name} is no delimited text", code="unsupported_format", hint="name its --format"
            )
    options = named(options)
    lacking = [name for name in NEEDED if name not in options.map]
    if lacking:
        raise TapelineError(
            f"--map does not name {', '.join(lacking)}",
            code="column_missing",
            hint="--map ts=Time,price=Price,volume=Size",
        )
    if "symbol" not in options.map and symbol is None:
        # A file that is no table of trades is told so, and not asked for its symbol.
        for path in files[:1]:
            for piece in islice(pieces(path), 1):
                _columns(path, piece, options)
        needs_symbol(symbol, "csv")
    report.files = len(files)
    return Source(files, None, sizes(files), _chunks(files, symbol, options, report))


def kraken(paths: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    """The reader of Kraken's trades: seconds with decimals, price, volume; no header."""
    needs_symbol(symbol, "kraken-csv")
    known = replace(options, map={"ts": "0", "price": "1", "volume": "2"}, ts_unit="s")
    return replace(delimited(paths, symbol, known, report), calendar="24/7")


def tardis(paths: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    """The reader of Tardis trades by their header; a file of several symbols gives each of them."""
    named = {"ts": "timestamp", "price": "price", "volume": "amount", "symbol": "symbol"}
    return replace(delimited(paths, symbol, replace(options, map=named, ts_unit="us"), report), calendar="24/7")


def _columns(path: Path, first: Piece, options: ImportOptions) -> tuple[dict[str, int], bytes, int]:
    """The place of each mapped column, what is left of the first piece, and its first line."""
    if all(place.isascii() and place.isdigit() for place in options.map.values()):
        return {name: int(place) for name, place in options.map.items()}, first.text, first.first_line
    line, _, rest = first.text.partition(b"\n")
    if len(line) > MOST_LINE:
        raise TapelineError(
            f"{path.name}: line 1 is longer than 64 KiB", code="limit_exceeded", hint="leave columns out"
        )
    try:
        text = line.decode("utf-8-sig").strip("\r")
    except UnicodeDecodeError:
        raise TapelineError(
            f"{path.name}: line 1 is not UTF-8", code="invalid_row", hint="check that the file is text"
        ) from None
    names = [name.strip() for name in next(csv.reader([text], delimiter=options.delimiter), [])]
    must_have(path.name, options, names)
    return {name: names.index(wanted) for name, wanted in options.map.items()}, rest, first.first_line + 1


def _field(text: bytes, place: int, options: ImportOptions) -> str:
    """One field of the first row that is not empty."""
    for line in text.splitlines():
        if line.strip():
            row = next(csv.reader([line.decode("utf-8", "replace")], delimiter=options.delimiter), [])
            return row[place].strip() if place < len(row) else ""
    return ""


def _chunks(files: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Iterator[Chunk]:
    before = 0
    for path in files:
        member = None
        places: dict[str, int] = {}
        columns: list[Column] = []
        unit = ""
        skipping = Skipping(path.name, options, report) if options.skip_bad else None
        for piece in pieces(path):
            text, line = piece.text, piece.first_line
            if piece.member != member:
                member = piece.member
                places, text, line = _columns(path, piece, options)
                stamp = _field(text, places["ts"], options)
                unit = _unit(stamp, options, path.name)
                columns = _wanted(places, unit)
            if not text.strip():
                continue
            report.ts_unit = unit or "text"
            try:
                table = parse(
                    text,
                    columns,
                    delimiter=options.delimiter,
                    decimal=options.decimal,
                    first_line=line,
                    on_bad=skipping,
                )
            except TextError as error:
                misread(path.name, error, -1 if options.ts_unit else places["ts"])
            found = dict(zip(places, table.columns, strict=True))
            ts = _times(found["ts"], unit, options, path.name, line)
            seq = np.asarray(found["seq"], np.int64) if "seq" in found else None
            cond = np.asarray(found["cond"], np.int64).astype(np.uint32) if "cond" in found else None
            price, volume = np.asarray(found["price"]), np.asarray(found["volume"])
            names = found.get("symbol")
            for name, rows in _split(names if isinstance(names, list) else None, symbol, len(ts)):
                yield Chunk(
                    symbol=name,
                    where=path.name,
                    first_row=line,
                    done_bytes=before + piece.done_bytes,
                    ts=ts[rows],
                    price=price[rows],
                    volume=volume[rows],
                    flags=normal(len(ts[rows])),
                    seq=None if seq is None else seq[rows],
                    cond=None if cond is None else cond[rows],
                )
        before += path.stat().st_size


def _unit(stamp: str, options: ImportOptions, where: str) -> str:
    """The unit of times written as numbers; empty for times written as text."""
    if options.ts_unit is not None:
        return options.ts_unit
    number = stamp.replace(options.decimal, "", 1)
    return unit_of(stamp, where) if number.isascii() and number.isdigit() else ""


def _wanted(places: dict[str, int], unit: str) -> list[Column]:
    """The columns to read, in the order of `places`."""
    kinds = {
        "ts": (Kind.FIXED, PLACES[unit]) if unit else (Kind.TEXT, 0),
        "price": (Kind.DECIMAL, 0),
        "volume": (Kind.DECIMAL, 0),
        "seq": (Kind.FIXED, 0),
        "cond": (Kind.FIXED, 0),
        "symbol": (Kind.TEXT, 0),
    }
    return [Column(place, *kinds[name]) for name, place in places.items()]


def _times(
    column: NDArray[np.float64] | NDArray[np.int64] | list[str],
    unit: str,
    options: ImportOptions,
    where: str,
    line: int,
) -> NDArray[np.int64]:
    if isinstance(column, list):
        return from_text(column, zone_of(options.tz) if options.tz else None, where, line)
    ts = np.asarray(column, np.int64)
    if options.ts_unit is None:
        same_unit(ts, unit, where, line)
    return ts


def _split(names: list[str] | None, symbol: str | None, n: int) -> Iterator[tuple[str, slice | NDArray[np.int64]]]:
    """The rows of each symbol; all of them when the file has no column of symbols."""
    if names is None:
        yield str(symbol), slice(0, n)
        return
    unique, place = np.unique(np.array(names), return_inverse=True)
    for number, name in enumerate(unique.tolist()):
        if symbol is None or name == symbol:
            yield name, np.flatnonzero(place == number)
