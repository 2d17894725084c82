"""One reader per format of raw trades; each gives chunks of columns, in the order of its files.

`open_source` takes what the user names and answers with a `Source`. Raw files are read in place, archives
are never unpacked to disk, and nothing of a file's content is executed or followed.
"""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

from tapeline.errors import TapelineError
from tapeline.tape.options import FORMATS, ImportOptions, ImportReport
from tapeline.tape.sources.archive import first_lines, is_zip
from tapeline.tape.sources.binance import binance_aggtrades, binance_trades
from tapeline.tape.sources.chunk import Chunk, Source
from tapeline.tape.sources.dbn import databento, is_dbn
from tapeline.tape.sources.delimited import delimited, kraken, tardis
from tapeline.tape.sources.lean import is_lean, lean
from tapeline.tape.sources.parquet import arrow, parquet

__all__ = ["Chunk", "Source", "guess", "open_source"]


def open_source(
    paths: list[Path], format: str, symbol: str | None, options: ImportOptions, report: ImportReport
) -> Source:
    """The reader of these files.

    Raises
    ------
    TapelineError
        `not_found` for a missing path, `unsupported_format` for an unknown or wrong format,
        `empty_input` when nothing is there to read.
    """
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, 1)
        raise TapelineError(
            f"there is no format {format!r}",
            code="unsupported_format",
            hint=f"did you mean {near[0]}?" if near else f"formats are {', '.join(FORMATS)}",
        )
    there(paths)
    taken = guess(paths) if format == "auto" else format
    report.format = taken
    source = _opened(taken, paths, symbol, options, report)
    if taken != "lean":  # whose files of quiet days may be equal
        _once(source.files)
    return source


def _once(files: list[Path]) -> None:
    """Refuse two files with the same bytes."""
    alike: dict[int, list[Path]] = {}
    for path in files:
        alike.setdefault(path.stat().st_size, []).append(path)
    for same in alike.values():
        found: dict[str, Path] = {}
        for path in same if len(same) > 1 else []:
            with path.open("rb") as file:
                first = found.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), path)
            if first is not path:
                raise TapelineError(
                    f"{path.name} holds the same bytes as {first.name}",
                    code="invalid_argument",
                    hint="name one of them: its trades would count twice",
                )


def _opened(format: str, paths: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    match format:
        case "lean":
            return lean(paths, symbol, options, report)
        case "binance-trades":
            return binance_trades(paths, symbol, options, report)
        case "binance-aggtrades":
            return binance_aggtrades(paths, symbol, options, report)
        case "databento-dbn":
            return databento(paths, symbol, options, report)
        case "kraken-csv":
            return kraken(paths, symbol, options, report)
        case "tardis-csv":
            return tardis(paths, symbol, options, report)
        case "parquet":
            return parquet(paths, symbol, options, report)
        case "arrow":
            return arrow(paths, symbol, options, report)
        case _:
            return delimited(paths, symbol, options, report)


def there(paths: list[Path]) -> None:
    """Refuse no path, a path to nothing, and a file that is named twice.

    Raises
    ------
    TapelineError
        `empty_input`, `not_found`, `invalid_argument`.
    """
    if not paths:
        raise TapelineError("no file is named", code="empty_input", hint="name files or a folder")
    seen: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise TapelineError(f"there is no file {path}", code="not_found", hint="check the path")
        first = seen.setdefault(path.resolve(), path)
        if first is not path:
            raise TapelineError(
                f"{path} is named twice",
                code="invalid_argument",
                hint="name each file once: its trades would count twice",
            )


def guessed(paths: list[Path]) -> str:
    """The format of files that are looked at before an import; refusals as in `open_source`."""
    there(paths)
    return guess(paths)


def guess(paths: list[Path]) -> str:
    """The format of files by their names and first rows.

    Raises
    ------
    TapelineError
        `unsupported_format` when they look like none.
    """
    if all(is_lean(path) for path in paths):
        return "lean"
    files = [path for path in paths if path.is_file()]
    if files and all(path.suffix == ".parquet" for path in files):
        return "parquet"
    if files and all(path.suffix in (".arrow", ".feather") for path in files):
        return "arrow"
    if files and all(is_dbn(path) for path in files):
        return "databento-dbn"
    if files and all(path.suffix in (".csv", ".txt", ".gz") or is_zip(path) for path in files):
        row = [line.split(",") for line in first_lines(files[0], 2)][-1:]
        if row and len(row[0]) in (6, 7) and row[0][5].strip().lower() in ("true", "false"):
            return "binance-trades"
        if row and len(row[0]) in (7, 8) and row[0][6].strip().lower() in ("true", "false"):
            return "binance-aggtrades"
        if first_lines(files[0], 1)[:1] == ["exchange,symbol,timestamp,local_timestamp,id,side,price,amount"]:
            return "tardis-csv"
        return "csv"
    raise TapelineError(
        f"{paths[0].name} looks like no known format",
        code="unsupported_format",
        hint=f"name it: --format {'|'.join(FORMATS[1:])}",
    )
