"""Lean tick data: a zip archive per day, without header, folder and file names say what it is.

`<type>/<market>/tick/<symbol>/<yyyymmdd>_trade.zip`, rows `ms, price, size, exchange, condition (hex),
suspicious`. Equities: price times 10,000, ms since midnight New York. Futures: plain price, ms since midnight
UTC, one member per contract. Crypto: plain price, UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from tapeline.bars.text import Column, Kind, TextError, parse
from tapeline.errors import TapelineError
from tapeline.tape.options import ImportOptions, ImportReport
from tapeline.tape.sessions import calendar_for
from tapeline.tape.sources.archive import members, pieces
from tapeline.tape.sources.chunk import Chunk, Skipping, Source, misread, normal, sizes
from tapeline.tape.times import midnight_ns

FILE = re.compile(r"(\d{8})_(trade|quote|openinterest)\.zip")
COLUMNS = [
    Column(0, Kind.FIXED, 6),
    Column(1, Kind.DECIMAL),
    Column(2, Kind.DECIMAL),
    Column(4, Kind.HEX),
    Column(5, Kind.FIXED),
]
DAY_NS = 86_400_000_000_000


class Place(NamedTuple):
    """What the folders of a file say."""

    kind: str
    market: str
    symbol: str
    day: date


def is_lean(path: Path) -> bool:
    """Whether a file or folder is named as Lean names its trades."""
    return bool(FILE.fullmatch(path.name)) or (path.is_dir() and any(_trade_files(path)))


def _trade_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*_trade.zip")) if FILE.fullmatch(path.name))


def _placed(path: Path) -> Place:
    found = FILE.fullmatch(path.name)
    parts = path.resolve().parts[:-1]
    if found is None or found[2] != "trade":
        raise TapelineError(
            f"{path.name} is no Lean file of trades",
            code="unsupported_format",
            hint="Lean names them 20131007_trade.zip",
        )
    if len(parts) < 4 or parts[-4] not in ("equity", "future", "crypto", "cryptofuture"):
        raise TapelineError(
            f"{path.name} does not lie in folders as Lean has them",
            code="unsupported_format",
            hint="keep its folders, such as equity/usa/tick/spy",
        )
    if parts[-2] != "tick":
        raise TapelineError(
            f"{path.name} lies under {parts[-2]}: it holds bars, not trades",
            code="unsupported_format",
            hint="name the folder of ticks, such as equity/usa/tick/spy",
        )
    text = found[1]
    try:
        day = date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        raise TapelineError(
            f"{path.name} names no date", code="invalid_date", hint="Lean names files 20131007_trade.zip"
        ) from None
    return Place(parts[-4], parts[-3], parts[-1].upper(), day)


def lean(paths: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    """The reader of Lean folders and files; `symbol` picks one of several."""
    files: list[Path] = []
    for path in paths:
        files += _trade_files(path) if path.is_dir() else [path]
    if not files:
        raise TapelineError(
            f"{paths[0]} holds no Lean files of trades",
            code="empty_input",
            hint="name a folder such as equity/usa/tick/spy",
        )
    placed = sorted(((_placed(path), path) for path in files), key=lambda both: (both[0].symbol, both[0].day))
    calendars = {calendar_for(f"{place.kind}/{place.market}") for place, _ in placed}
    report.files = len(files)
    if symbol is not None:
        wanted = symbol.upper().split("-")[0]
        placed = [both for both in placed if both[0].symbol == wanted]
    if not placed:
        raise TapelineError(
            f"there are no trades of {symbol!r} in {paths[0].name}", code="empty_input", hint="leave --symbol out"
        )
    chosen = [path for _, path in placed]
    return Source(
        files=chosen,
        calendar=calendars.pop() if len(calendars) == 1 else None,
        total_bytes=sizes(chosen),
        chunks=_chunks(placed, symbol, options, report),
    )


def _chunks(
    placed: list[tuple[Place, Path]], symbol: str | None, options: ImportOptions, report: ImportReport
) -> Iterator[Chunk]:
    before = 0
    for place, path in placed:
        zone = ZoneInfo("America/New_York" if place.kind == "equity" else "UTC")
        start = midnight_ns(place.day, zone)
        scale = 10_000.0 if place.kind == "equity" else 1.0
        skipping = Skipping(path.name, options, report)
        for member in members(path):
            name = place.symbol
            if place.kind == "future":
                name = f"{name}-{member.removesuffix('.csv').rsplit('_', 1)[-1]}"
            if symbol is not None and name.upper() != symbol.upper():
                continue
            previous = b""
            for piece in pieces(path, member):
                text = piece.text
                lines = text.rstrip().rsplit(b"\n", 2)
                before_last = lines[-2] if len(lines) > 1 else previous
                # The vendor's futures files end with their last trade twice.
                repeated = place.kind == "future" and piece.is_last and lines[-1].rstrip() == before_last.rstrip()
                if repeated and not options.keep_final_duplicate:
                    text = text.rstrip()[: -len(lines[-1])]
                    report.final_duplicates += 1
                    report.rows_read += 1
                previous = lines[-1]
                if not text.strip():
                    continue
                try:
                    table = parse(
                        text, COLUMNS, first_line=piece.first_line, on_bad=skipping if options.skip_bad else None
                    )
                except TextError as error:
                    misread(path.name, error)
                ms, price, size, cond, suspicious = (np.asarray(column) for column in table.columns)
                odd = np.flatnonzero((ms < 0) | (ms >= DAY_NS))
                if len(odd):
                    raise TapelineError(
                        f"{path.name}: row {piece.first_line + int(odd[0])} is not within a day",
                        code="invalid_row",
                        hint="Lean counts milliseconds since midnight",
                    )
                flags = normal(len(ms))
                flags[suspicious != 0] = 4
                report.suspicious += int((suspicious != 0).sum())
                yield Chunk(
                    symbol=name,
                    where=path.name,
                    first_row=piece.first_line,
                    done_bytes=before + piece.done_bytes,
                    ts=start + ms,
                    price=price / scale,
                    volume=size,
                    flags=flags,
                    cond=cond.astype(np.uint32),
                )
        before += path.stat().st_size
