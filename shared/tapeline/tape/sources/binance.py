"""Binance trades: `id, price, qty, quoteQty, time, isBuyerMaker[, isBestMatch]`, CSV or zip, header optional.

Aggregated trades are `agg_trade_id, price, qty, first_trade_id, last_trade_id, timestamp, is_buyer_maker[,
is_best_match]`; a row counts as one trade.

Spot times are ms before 2025 and us from then on: the unit is found per file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tapeline.bars.text import Column, Kind, TextError, parse
from tapeline.errors import TapelineError
from tapeline.tape.options import ImportOptions, ImportReport
from tapeline.tape.sources.archive import pieces
from tapeline.tape.sources.chunk import Chunk, Skipping, Source, misread, needs_symbol, normal, sizes
from tapeline.tape.times import PLACES, same_unit, unit_of

ROWS = {
    4: "id, price, qty, quoteQty, time, isBuyerMaker",
    5: "agg_trade_id, price, qty, first_trade_id, last_trade_id, timestamp, is_buyer_maker",
}


def binance_trades(paths: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    """The reader of Binance files; the trade's id is its sequence."""
    name = needs_symbol(symbol, "binance-trades")
    files: list[Path] = []
    for path in paths:
        files += sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    report.files = len(files)
    return Source(files, "24/7", sizes(files), _chunks(files, name, options, report))


def binance_aggtrades(paths: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    """The reader of Binance's aggregated trades; the aggregate's id is its sequence."""
    name = needs_symbol(symbol, "binance-aggtrades")
    plain = binance_trades(paths, name, options, report)
    return replace(plain, chunks=_chunks(plain.files, name, options, report, time=5), aggregated=True)


def _chunks(
    files: list[Path], symbol: str, options: ImportOptions, report: ImportReport, time: int = 4
) -> Iterator[Chunk]:
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
                if len(first) not in (time + 2, time + 3):
                    raise TapelineError(
                        f"{path.name} has rows of {len(first)} columns",
                        code="unsupported_format",
                        hint=f"they have {time + 2} or {time + 3}: {ROWS[time]}",
                    )
                unit = options.ts_unit or unit_of(first[time].decode("utf-8", "replace"), path.name)
                report.ts_unit = unit
            columns = [
                Column(0, Kind.FIXED),
                Column(1, Kind.DECIMAL),
                Column(2, Kind.DECIMAL),
                Column(time, Kind.FIXED, PLACES[unit]),
            ]
            try:
                table = parse(text, columns, first_line=line, on_bad=skipping)
            except TextError as error:
                misread(path.name, error, -1 if options.ts_unit else time)
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
