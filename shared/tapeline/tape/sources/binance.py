"""Binance trades: `id, price, qty, quoteQty, time, isBuyerMaker[, isBestMatch]`, CSV or zip, header optional.

Spot times are ms before 2025 and us from then on: the unit is found per file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tapeline.bars.text import Column, Kind, TextError, parse
from tapeline.errors import TapelineError
from tapeline.tape.options import ImportOptions, ImportReport
from tapeline.tape.sources.archive import pieces
from tapeline.tape.sources.chunk import Chunk, Skipping, Source, misread, needs_symbol, normal, sizes
from tapeline.tape.times import PLACES, same_unit, unit_of


def binance_trades(paths: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    """The reader of Binance files; the trade's id is its sequence."""
    name = needs_symbol(symbol, "binance-trades")
    files: list[Path] = []
    for path in paths:
        files += sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    report.files = len(files)
    return Source(files, "24/7", sizes(files), _chunks(files, name, options, report))


def _chunks(files: list[Path], symbol: str, options: ImportOptions, report: ImportReport) -> Iterator[Chunk]:
    before = 0
    for path in files:
        skipping = Skipping(path.name, options, report) if options.skip_bad else None
        member, unit = None, ""
        for piece in pieces(path):
            text, line = piece.text, piece.first_line
            if piece.member != member:
                member = piece.member
                if text[:1].isalpha():
                    text, line = text.partition(b"\n")[2], line + 1
                first = text.lstrip().partition(b"\n")[0].split(b",")
                if len(first) not in (6, 7):
                    raise TapelineError(
                        f"{path.name} has rows of {len(first)} columns",
                        code="unsupported_format",
                        hint="Binance trades have 6 or 7: id, price, qty, quoteQty, time, isBuyerMaker",
                    )
                unit = options.ts_unit or unit_of(first[4].decode("utf-8", "replace"), path.name)
                report.ts_unit = unit
            columns = [
                Column(0, Kind.FIXED),
                Column(1, Kind.DECIMAL),
                Column(2, Kind.DECIMAL),
                Column(4, Kind.FIXED, PLACES[unit]),
            ]
            try:
                table = parse(text, columns, first_line=line, on_bad=skipping)
            except TextError as error:
                misread(path.name, error, -1 if options.ts_unit else 4)
            seq, price, volume, ts = (np.asarray(column) for column in table.columns)
            if options.ts_unit is None:
                same_unit(ts, unit, path.name, line)
            yield Chunk(
                symbol=symbol,
                where=path.name,
                first_row=line,
                done_bytes=before + piece.done_bytes,
                ts=ts,
                price=price,
                volume=volume,
                flags=normal(len(ts)),
                seq=seq,
            )
        before += path.stat().st_size
