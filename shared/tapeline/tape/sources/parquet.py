"""Parquet and Arrow (IPC) files with columns named by the user; needs pyarrow, which is the extra `io`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.errors import TapelineError
from tapeline.tape.options import ImportOptions, ImportReport
from tapeline.tape.sources.chunk import Chunk, Source, needs_symbol, normal, sizes
from tapeline.tape.sources.delimited import NEEDED, must_have, named
from tapeline.tape.times import PLACES, from_local, same_unit, unit_of, zone_of

MOST_FOOTER = 16 * 2**20
MOST_GROUP = 256 * 2**20
MOST_COLUMNS = 64


def parquet(paths: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    """The reader of Parquet files."""
    return _source(paths, "parquet", symbol, options, report)


def arrow(paths: list[Path], symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    """The reader of Arrow files (the IPC file format, which Feather 2 is)."""
    return _source(paths, "arrow", symbol, options, report)


def _source(paths: list[Path], format: str, symbol: str | None, options: ImportOptions, report: ImportReport) -> Source:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise TapelineError(
            f"{format.capitalize()} files need the package pyarrow",
            code="dependency_missing",
            hint="pip install 'tapeline[io]'",
        ) from None
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob(f"*.{format}")) if path.is_dir() else [path]
    options = named(options)
    lacking = [name for name in NEEDED if name not in options.map]
    if lacking:
        raise TapelineError(
            f"--map does not name {', '.join(lacking)}",
            code="column_missing",
            hint="--map ts=timestamp,price=price,volume=quantity",
        )
    name = needs_symbol(symbol, format)
    report.files = len(files)
    return Source(files, None, sizes(files), _chunks(files, name, options, report, format))


class _ArrowFile:
    """An Arrow file with the face of a Parquet one."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        try:
            self._file = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        except (pyarrow.ArrowException, OSError) as error:
            raise TapelineError(
                f"{path.name} is no complete Arrow file: {str(error)[:200]}",
                code="unsupported_format",
                hint="write it in the IPC file format",
            ) from error
        self.schema_arrow = self._file.schema
        if len(self.schema_arrow) > MOST_COLUMNS:
            raise TapelineError(
                f"{path.name} has {len(self.schema_arrow)} columns", code="limit_exceeded", hint="leave some out"
            )
        self._name = path.name
        self.batches = self._file.num_record_batches

    def iter_batches(self, batch_size: int, columns: list[str]) -> Iterator[Any]:
        """Slices of the record batches with the columns wanted."""
        import pyarrow

        for number in range(self.batches):
            try:
                batch = self._file.get_batch(number)
            except (pyarrow.ArrowException, OSError) as error:
                raise TapelineError(
                    f"{self._name} cannot be read: {str(error)[:200]}", code="unsupported_format", hint="fetch it again"
                ) from error
            if batch.nbytes > 8 * MOST_GROUP:
                raise TapelineError(
                    f"{self._name} has a batch of {batch.nbytes:,} bytes",
                    code="limit_exceeded",
                    hint="write it smaller",
                )
            kept = batch.select(columns)
            for row in range(0, kept.num_rows, batch_size):
                yield kept.slice(row, batch_size)


def _opened(path: Path) -> Any:
    """A Parquet file within limits: footer, columns, types and the size of its row groups."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    with path.open("rb") as raw:
        head = raw.read(4)
        raw.seek(-min(8, path.stat().st_size), 2)
        tail = raw.read(8)
    if head != b"PAR1" or tail[4:] != b"PAR1":
        raise TapelineError(
            f"{path.name} is no complete Parquet file", code="unsupported_format", hint="fetch the file again"
        )

    def limit(why: str) -> TapelineError:
        return TapelineError(f"{path.name} {why}", code="limit_exceeded", hint="write it anew in smaller parts")

    if int.from_bytes(tail[:4], "little") > MOST_FOOTER:
        raise limit("has a footer of over 16 MiB")
    try:
        file = ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise TapelineError(
            f"{path.name} cannot be read: {str(error)[:200]}", code="unsupported_format", hint="fetch it again"
        ) from error
    if len(file.schema_arrow) > MOST_COLUMNS:
        raise limit(f"has {len(file.schema_arrow)} columns")
    for group in range(file.metadata.num_row_groups):
        if file.metadata.row_group(group).total_byte_size > MOST_GROUP:
            raise limit(f"has a row group of over {MOST_GROUP // 2**20} MiB")
    return file


def _chunks(
    files: list[Path], symbol: str, options: ImportOptions, report: ImportReport, format: str = "parquet"
) -> Iterator[Chunk]:
    before = 0
    for path in files:
        file: Any = _ArrowFile(path) if format == "arrow" else _opened(path)
        rows = None if format == "arrow" else max(file.metadata.num_rows, 1)
        schema = file.schema_arrow
        must_have(path.name, options, schema.names)
        row = 1
        names = list(options.map.values())
        for batch in file.iter_batches(batch_size=262_144, columns=names):
            found = {name: batch.column(batch.schema.get_field_index(c)) for name, c in options.map.items()}
            ts = _times(found["ts"], options, path.name, row, report)
            more = {
                name: _numbers(found[name], kind, path.name)
                for name, kind in (("seq", np.int64), ("cond", np.uint32))
                if name in found
            }
            row += len(ts)
            yield Chunk(
                symbol=symbol,
                where=path.name,
                first_row=row - len(ts),
                done_bytes=before + (int(path.stat().st_size * (row - 1) / rows) if rows else 0),
                ts=ts,
                price=_numbers(found["price"], np.float64, path.name),
                volume=_numbers(found["volume"], np.float64, path.name),
                flags=normal(len(ts)),
                **more,
            )
        before += path.stat().st_size


def _numbers(column: Any, kind: type[np.generic], where: str) -> NDArray[Any]:
    """A column as numbers: floating, whole or decimal ones, and text that holds such."""
    import pyarrow
    import pyarrow.compute

    target = pyarrow.from_numpy_dtype(np.dtype(kind))
    try:
        if pyarrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if column.type != target:
            column = pyarrow.compute.cast(column, target)
        return np.asarray(column.to_numpy(zero_copy_only=False), kind)
    except (pyarrow.ArrowException, ValueError) as error:
        raise TapelineError(
            f"{where}: a column of {column.type} holds no numbers: {str(error)[:120]}",
            code="invalid_row",
            hint="check --map",
        ) from error


def _times(column: Any, options: ImportOptions, where: str, row: int, report: ImportReport) -> NDArray[np.int64]:
    """Times of a timestamp column, or of whole numbers by their digits."""
    import pyarrow
    import pyarrow.compute

    if column.null_count:
        raise TapelineError(
            f"{where} has {column.null_count} rows without a time from row {row} on",
            code="invalid_row",
            hint="write the file without them",
        )
    kind = column.type
    if pyarrow.types.is_timestamp(kind):
        report.ts_unit = str(kind)
        places = PLACES[kind.unit]
        values = np.asarray(pyarrow.compute.cast(column, pyarrow.int64()).to_numpy(zero_copy_only=False), np.int64)
        bound = 2**62 // 10**places
        if len(values) and (int(values.min()) < -bound or int(values.max()) > bound):
            raise TapelineError(
                f"{where} has a time before 1970 or after 2199", code="invalid_timestamp", hint="check --map"
            )
        ns: NDArray[np.int64] = values * 10**places
        if kind.tz is not None:
            return ns
        if options.tz is None:
            raise TapelineError(f"{where}: the times name no zone", code="timezone_required", hint="give it: --tz UTC")
        return from_local(ns, zone_of(options.tz))
    values = np.asarray(_numbers(column, np.int64, where), np.int64)
    unit = options.ts_unit or unit_of(str(int(values[0])), where)
    report.ts_unit = unit
    places = PLACES[unit]
    if len(values) and int(np.abs(values).max()) > 2**63 // 10**places:
        raise TapelineError(
            f"{where} has a time before 1970 or after 2199", code="invalid_timestamp", hint="check --ts-unit"
        )
    ns = values * 10**places
    if options.ts_unit is None:
        same_unit(ns, unit, where, row)
    return ns
