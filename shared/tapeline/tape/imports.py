"""Raw trades to a prepared tape: read, sort into days, check, repair and count, write.

Parsing runs where the user is. Rows wait in files of one day each, so memory holds a piece of the input and
one day of one symbol. The manifest is written last: a folder without it is no tape.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tapeline.errors import TapelineError
from tapeline.tape.buckets import ROW, Buckets, Waiting
from tapeline.tape.options import FIRST, ImportOptions, ImportReport
from tapeline.tape.prepared import PreparedTape, Progress, TapeWriter
from tapeline.tape.repair import bad_prices, drop_equal, ordered, outliers
from tapeline.tape.sessions import Calendar, Segment, place, trade_dates, utc_date
from tapeline.tape.sources import Chunk, Source, open_source
from tapeline.tape.sources.ahead import ahead
from tapeline.tape.staging import room
from tapeline.tape.trades import DTYPES, LAST_NS, MOST_VOLUME, Trades

BUCKETS = ".buckets"
# A piece with more stretches of days than this is sorted by day first.
SHUFFLED = 1000


def import_tape(
    paths: Sequence[str | Path],
    format: str = "auto",
    *,
    symbol: str | None = None,
    out_dir: Path,
    options: ImportOptions | None = None,
    progress: Progress | None = None,
    fractions: Collection[str] = (),
) -> PreparedTape:
    """A tape made of raw files, complete in `out_dir`: day files and manifest.

    Parameters
    ----------
    paths : files or folders, read in place
    format : one of `tapeline.tape.options.FORMATS`
    symbol : the symbol of files that do not say it; picks one where they hold several
    progress : called with `{stage, done, total, unit, rows}`; stages are `read` (bytes) and `write` (days).
        What it raises ends the import.
    fractions : symbols whose volumes become float64 even if all of them are whole

    Raises
    ------
    TapelineError
        `not_found`, `unsupported_format`, `empty_input`, `invalid_row`, `invalid_volume`,
        `invalid_timestamp`, `tape_unsorted`, `too_many_bad_rows`, `timestamp_unit_ambiguous`,
        `timezone_required`, `column_missing`, `calendar_unknown`, `limit_exceeded`, `dependency_missing`,
        `insufficient_storage`, `conflict` for a file that changes meanwhile. Nothing but day files without a
        manifest is left in `out_dir` then.
    """
    if symbol is not None:
        _named(symbol)
    with room(out_dir):
        return _imported(
            paths, format, symbol, out_dir, options or ImportOptions(), progress or (lambda _: None), fractions
        )


def _imported(
    paths: Sequence[str | Path],
    format: str,
    symbol: str | None,
    out_dir: Path,
    chosen: ImportOptions,
    told: Progress,
    fractions: Collection[str],
) -> PreparedTape:
    report = ImportReport()
    source = open_source([Path(path) for path in paths], format, symbol, chosen, report)
    stamps = {path: _stamp(path) for path in source.files}
    calendar = _calendar(source, chosen)
    writer = TapeWriter(
        out_dir,
        calendar,
        currency=chosen.currency,
        tick_size=chosen.tick_size,
        codec=chosen.codec,
        allow_nonpositive=chosen.allow_nonpositive,
    )
    with Buckets(out_dir / BUCKETS) as buckets:
        reading = Reading(chosen, report, Cover(calendar), buckets)
        reading.whole |= dict.fromkeys(fractions, False)
        for chunk in ahead(source.chunks):
            reading.take(chunk)
            told(_progress("read", min(chunk.done_bytes, source.total_bytes), source.total_bytes, "bytes", report))
        if report.rows_read == 0:
            raise TapelineError(
                "there is no row in the input", code="empty_input", hint="check the files, and --symbol"
            )
        _unchanged(stamps)
        told(_progress("read", source.total_bytes, source.total_bytes, "bytes", report))
        days = len(buckets.files)
        for number, (name, trade_date, waiting) in enumerate(buckets.days()):
            reading.finish(name, trade_date, waiting, writer)
            told(_progress("write", number + 1, days, "days", report))
    sessions = reading.cover.between(*_span(writer))
    report.missing_days = sorted(set(trade_dates(sessions)) - {str(day["trade_date"]) for day in writer.days})
    if report.missing_days and chosen.require_complete:
        raise TapelineError(
            f"{len(report.missing_days)} sessions have no trades: {', '.join(report.missing_days[:5])}",
            code="empty_input",
            hint="add their files, or leave --require-complete out",
        )
    if report.void > chosen.max_void * report.rows_read:
        raise TapelineError(
            f"{report.void:,} of {report.rows_read:,} rows are void",
            code="too_many_bad_rows",
            hint="check the columns, or allow a larger share with --max-void",
        )
    return writer.finish(
        sessions,
        report.as_dict(),
        eligibility=[list(pair) for pair in chosen.conditions] or report.eligibility,
        aggregated=source.aggregated,
    )


def _progress(stage: str, done: int, total: int, unit: str, report: ImportReport) -> dict[str, Any]:
    return {"stage": stage, "done": done, "total": total, "unit": unit, "rows": report.rows_read}


def _stamp(path: Path) -> tuple[int, int]:
    """What tells that a file has been written to."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _unchanged(stamps: dict[Path, tuple[int, int]]) -> None:
    """Refuse files that were cut off, or written to, while they were read."""
    for path, stamp in stamps.items():
        now = _stamp(path) if path.exists() else (0, 0)
        if now != stamp:
            raise TapelineError(
                f"{path.name} changed while it was read: {stamp[0]:,} bytes before, {now[0]:,} now",
                code="conflict",
                hint="import it again when nothing writes to it",
            )


def _named(symbol: str) -> None:
    """Refuse a symbol that could not be shown or stored."""
    plain = unicodedata.normalize("NFC", symbol) == symbol and symbol == symbol.strip()
    if not plain or not 1 <= len(symbol) <= 128 or any(unicodedata.category(c) == "Cc" for c in symbol):
        raise TapelineError(
            f"{symbol[:80]!r} is no symbol", code="invalid_argument", hint="take 1 to 128 plain characters"
        )


def _calendar(source: Source, options: ImportOptions) -> Calendar:
    name = options.calendar or source.calendar
    if name is None:
        raise TapelineError(
            "the files do not say which calendar they follow",
            code="calendar_unknown",
            hint="give it: --calendar 24/7, SIM, XNYS, CMES or another name of exchange-calendars",
        )
    return Calendar(name, options.close_grace_s, options.extended)


def _span(writer: TapeWriter) -> tuple[str, str]:
    dates = sorted(str(day["trade_date"]) for day in writer.days)
    if not dates:
        raise TapelineError("no row is left", code="empty_input", hint="see what was dropped, and why")
    return dates[0], dates[-1]


class Cover:
    """The sessions around the times seen so far, looked up as they come."""

    def __init__(self, calendar: Calendar) -> None:
        self.calendar = calendar
        self.first: date | None = None
        self.last: date | None = None
        self.sessions: tuple[Segment, ...] = ()

    def around(self, low_ns: int, high_ns: int) -> tuple[Segment, ...]:
        """A table that holds these times and ten days on both sides."""
        low, high = utc_date(low_ns) - timedelta(days=10), utc_date(high_ns) + timedelta(days=10)
        if self.first is None or self.last is None or low < self.first or high > self.last:
            # Widened by a month, so that a sorted input of years does not look up a table every day.
            first = min(low, self.first or low)
            last = max(high + timedelta(days=30), self.last or high)
            self.first, self.last = first, last
            self.sessions = self.calendar.sessions(first, last)
        return self.sessions

    def between(self, first: str, last: str) -> tuple[Segment, ...]:
        """The sessions from one trade date to another, both included."""
        return tuple(row for row in self.sessions if first <= row.trade_date <= last)


class Reading:
    """Checks chunks as they come and days as they are finished; all that is odd is counted in the report."""

    def __init__(self, options: ImportOptions, report: ImportReport, cover: Cover, buckets: Buckets) -> None:
        self.options, self.report, self.cover, self.buckets = options, report, cover, buckets
        self.whole: dict[str, bool] = {}
        self.optional: dict[str, set[str]] = {}
        self.latest: dict[str, int] = {}
        self.masks = [(mask, flags) for mask, flags in options.conditions]

    def take(self, chunk: Chunk) -> None:
        """Check a chunk and put its rows where their trade dates are."""
        n = len(chunk.ts)
        if n == 0:
            return
        _named(chunk.symbol)
        report, symbol = self.report, chunk.symbol
        report.rows_read += n
        self._check_times(chunk)
        self._check_volumes(chunk)
        price = chunk.price + 0.0  # turns -0.0 into 0.0, so that a maximum does not depend on order
        flags = chunk.flags.copy()
        if self.masks and chunk.cond is not None:
            for mask, kept in self.masks:
                flags[(chunk.cond & np.uint32(mask)) != 0] &= np.uint8(kept)
        bad = bad_prices(price, self.options.allow_nonpositive)
        flags[bad] = 0
        price[~np.isfinite(price)] = np.nan
        report.bad_price += int(bad.sum())
        present = {name for name in ("seq", "cond") if getattr(chunk, name) is not None}
        self.optional[symbol] = self.optional.get(symbol, present) & present
        self.whole[symbol] = self.whole.get(symbol, True) and bool((chunk.volume == np.floor(chunk.volume)).all())

        rows = np.zeros(n, ROW)
        rows["ts"], rows["price"], rows["volume"], rows["flags"] = chunk.ts, price, chunk.volume, flags
        if chunk.seq is not None:
            rows["seq"] = chunk.seq
        if chunk.cond is not None:
            rows["cond"] = chunk.cond
        sessions = self.cover.around(int(chunk.ts.min()), int(chunk.ts.max()))
        placed = place(chunk.ts, sessions)
        report.outside_sessions += placed.outside
        dates = trade_dates(sessions)
        # Most pieces lie in one day or two, in order: stretches of equal days are added one after another.
        turns = (0, *(np.flatnonzero(np.diff(placed.day)) + 1).tolist(), n)
        if len(turns) > SHUFFLED:
            order = np.argsort(placed.day, kind="stable")
            rows, day = rows[order], placed.day[order]
            turns = (0, *(np.flatnonzero(np.diff(day)) + 1).tolist(), n)
        else:
            day = placed.day
        for first, stop in pairwise(turns):
            self.buckets.add(symbol, dates[int(day[first])], rows[first:stop])

    def _check_times(self, chunk: Chunk) -> None:
        ts = chunk.ts
        odd = np.flatnonzero((ts < 0) | (ts >= LAST_NS))
        if len(odd):
            raise TapelineError(
                f"{chunk.where}, row {chunk.first_row + int(odd[0])}: the time is before 1970 or after 2199",
                code="invalid_timestamp",
                hint="check --ts-unit and --map",
            )
        before = self.latest.get(chunk.symbol, 0)
        steps = np.flatnonzero(np.diff(ts, prepend=before) < 0)
        self.latest[chunk.symbol] = int(ts[-1])
        if len(steps) and self.options.strict:
            raise TapelineError(
                f"{chunk.where}, row {chunk.first_row + int(steps[0])}: the time is earlier than the one before it",
                code="tape_unsorted",
                hint="sort the file, or leave --strict out",
            )
        self.report.unsorted += len(steps)

    def _check_volumes(self, chunk: Chunk) -> None:
        volume = chunk.volume
        odd = np.flatnonzero(~((volume >= 0) & (volume <= MOST_VOLUME)))
        if len(odd):
            raise TapelineError(
                f"{chunk.where}, row {chunk.first_row + int(odd[0])}: the volume is {volume[odd[0]]}",
                code="invalid_volume",
                hint="volumes are numbers from 0 to 2**53",
            )
        self.report.zero_volume += int((volume == 0).sum())

    def finish(self, symbol: str, trade_date: str, waiting: Waiting, writer: TapeWriter) -> None:
        """Sort, repair, count and write one day; nothing of it stays in memory."""
        trades = self._mended(symbol, trade_date, waiting)
        if len(trades):
            writer.add(symbol, trade_date, trades)

    def _mended(self, symbol: str, trade_date: str, waiting: Waiting) -> Trades:
        report, optional = self.report, self.optional[symbol]
        kinds = {name: kinds[0] for name, kinds in DTYPES.items() if name in optional or name not in ("seq", "cond")}
        kinds["volume"] = np.int64 if self.whole[symbol] else np.float64
        trades = ordered(Trades(**waiting.columns(kinds)))
        trades = drop_equal(trades, self.options, report)
        self._gaps(trades)
        found = outliers(trades.price, trades.flags)
        report.outliers += len(found)
        for row in found[: max(FIRST - len(report.examples), 0)].tolist():
            report.example(f"{symbol} {trade_date}, row {row}: price {trades.price[row]} is far from its neighbours")
        if self.options.void_outliers and len(found):
            flags = trades.flags.copy()
            flags[found] = 0
            trades = replace(trades, flags=flags)
        self._count(symbol, trade_date, trades)
        return trades

    def _gaps(self, trades: Trades) -> None:
        if trades.seq is not None and len(trades) > 1:
            steps = np.diff(np.sort(trades.seq)) - 1
            wide = steps[steps > 0]
            self.report.seq_gaps += len(wide)
            self.report.largest_seq_gap = max(self.report.largest_seq_gap, int(wide.max()) if len(wide) else 0)

    def _count(self, symbol: str, trade_date: str, trades: Trades) -> None:
        report = self.report
        if len(trades) == 0:
            return
        report.rows += len(trades)
        report.void += int((trades.flags == 0).sum())
        report.rows_per_day[f"{symbol} {trade_date}"] = len(trades)
        report.first_ts = min(report.first_ts or int(trades.ts[0]), int(trades.ts[0]))
        report.last_ts = max(report.last_ts, int(trades.ts[-1]))
        good = trades.price[trades.flags != 0]
        if len(good):
            low, high = report.price_range.get(symbol, [float("inf"), float("-inf")])
            report.price_range[symbol] = [min(low, float(good.min())), max(high, float(good.max()))]


def day_counts(tape: PreparedTape) -> dict[str, int]:
    """Trades of each trade date, over all symbols."""
    entries = sorted(tape.manifest["days"], key=lambda day: str(day["trade_date"]))
    return {
        date: sum(int(day["rows"]) for day in group)
        for date, group in groupby(entries, key=lambda day: str(day["trade_date"]))
    }
