"""A tape opened for reading: the trades of a day in a view, and bar grids over trading time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tapeline import bars
from tapeline.bars import BarsError
from tapeline.errors import TapelineError
from tapeline.security.hdf5 import open_own
from tapeline.tape import day_file
from tapeline.tape.manifest import Manifest, content_sha256, sessions_of
from tapeline.tape.sessions import Segment
from tapeline.tape.trades import Trades, join, none

View = Literal["regular", "extended", "all"]
VIEWS: tuple[View, ...] = ("regular", "extended", "all")
UNITS = {"sec": 1_000_000_000, "min": 60_000_000_000, "hour": 3_600_000_000_000}


@dataclass(frozen=True, slots=True, eq=False)
class BarGrid:
    """Bars over trading time, oldest first; no rows exist outside of sessions.

    Attributes
    ----------
    bars : float64, shape (rows, 8), columns as in `tapeline.bars.COLUMNS`
    start_ns, end_ns : int64, shape (rows,), each bar covers `[start, end)` and is known from its end on
    session : int32, shape (rows,), index into `trade_dates`
    trade_dates : the sessions of the grid
    """

    bars: NDArray[np.float64]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    session: NDArray[np.int32]
    trade_dates: list[str]

    def __len__(self) -> int:
        return len(self.end_ns)


class OpenTape:
    """A tape whose day files are at hand; the digest of its manifest is checked on opening.

    Parameters
    ----------
    manifest : as `tapeline.tape.manifest.parse` gives it
    path_of : the local path of a day file by its digest; called once for each day that is read
    view : `regular`, `extended` or `all`; it filters before anything is counted
    cache_bytes : how much of the days read last is kept
    open_file : the door by which day files are opened

    Notes
    -----
    Every column is compared with its digest when a day is first read. Methods may be called from several
    threads.
    """

    def __init__(
        self,
        manifest: Manifest,
        path_of: Callable[[str], Path],
        *,
        view: View = "regular",
        cache_bytes: int = 512 * 2**20,
        open_file: Callable[[Path], Any] = open_own,
    ) -> None:
        if view not in VIEWS:
            raise TapelineError(
                f"there is no view {view!r}", code="invalid_argument", hint=f"views are {', '.join(VIEWS)}"
            )
        if content_sha256(manifest) != manifest["content_sha256"]:
            raise TapelineError(
                "the manifest does not match its content digest", code="tape_corrupt", hint="import the tape again"
            )
        self.manifest = manifest
        self.view: View = view
        self._path_of = path_of
        self._open_file = open_file
        self._sessions: dict[str, list[Segment]] = {
            day: list(rows) for day, rows in groupby(sessions_of(manifest), key=lambda row: row.trade_date)
        }
        self._days = {(day["symbol"], day["trade_date"]): day for day in manifest["days"]}
        self._cache: OrderedDict[tuple[str, str], Trades] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._lock = Lock()

    def seen_as(self, view: View) -> OpenTape:
        """The same tape in a view; this one if it already shows that."""
        if view == self.view:
            return self
        return OpenTape(
            self.manifest, self._path_of, view=view, cache_bytes=self._cache_bytes, open_file=self._open_file
        )

    def path_of(self, digest: str) -> Path:
        """The local file of a day by its digest."""
        return self._path_of(digest)

    @property
    def symbols(self) -> list[str]:
        """The symbols of the tape, sorted."""
        return [str(symbol["symbol"]) for symbol in self.manifest["symbols"]]

    def days(self, symbol: str) -> list[str]:
        """The trade dates of a symbol that have trades, in order."""
        self._known(symbol)
        return sorted(day for name, day in self._days if name == symbol)

    @property
    def trade_dates(self) -> list[str]:
        """Every trade date of the sessions table, also those without trades, in order."""
        return list(self._sessions)

    def segments(self, trade_date: str) -> NDArray[np.int64]:
        """Start and end of each segment of a trade date in the tape's view: int64 ns, shape (k, 2)."""
        rows = self._sessions.get(trade_date, [])
        if not rows:
            return np.empty((0, 2), np.int64)
        if self.view == "regular":
            return np.array([[row.open_ns, row.close_ns] for row in rows], np.int64)
        return np.array([[rows[0].pre_open_ns, rows[-1].post_close_ns]], np.int64)

    def trades(self, symbol: str, trade_date: str) -> Trades:
        """The trades of one day in the tape's view, without void ones; none for a day without trades."""
        self._known(symbol)
        key = (symbol, trade_date)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        if key not in self._days:
            return none()
        return self._read([key])[0]

    def expect(self, days: Iterable[tuple[str, str]]) -> None:
        """Read some days, each a symbol and a trade date, before they are asked for, their digests side by side.

        As many as the cache has room for; a day without trades is nothing to read.
        """
        wanted: list[tuple[str, str]] = []
        room = self._cache_bytes
        with self._lock:
            for key in days:
                if key not in self._days:
                    continue
                size = int(self._days[key]["artifact"]["size"])
                if key in self._cache:
                    self._cache.move_to_end(key)
                elif room < size and room < self._cache_bytes:
                    break
                else:
                    wanted.append(key)
                room -= size
        if wanted:
            self._read(wanted)

    def _read(self, keys: Sequence[tuple[str, str]]) -> list[Trades]:
        entries = [self._days[key] for key in keys]
        stored = day_file.read_each(
            [(self._path_of(entry["artifact"]["sha256"]), entry) for entry in entries], open_file=self._open_file
        )
        found = [self._seen(day, date) for day, (_, date) in zip(stored, keys, strict=True)]
        for day in found:
            for column in day.columns.values():
                column.flags.writeable = False
        with self._lock:
            self._cache.update(zip(keys, found, strict=True))
            held = sum(c.nbytes for t in self._cache.values() for c in t.columns.values())
            while held > self._cache_bytes and len(self._cache) > 1:
                _, gone = self._cache.popitem(last=False)
                held -= sum(c.nbytes for c in gone.columns.values())
        return found

    def all_trades(self, symbol: str) -> Trades:
        """The trades of every day in the tape's view, in tape order."""
        parts = [self.trades(symbol, day) for day in self.days(symbol)]
        return join(parts) if parts else none()

    def minute_grid(
        self,
        symbol: str,
        unit: str = "min",
        size: int = 1,
        *,
        empty: Literal["carry", "nan"] = "carry",
        first: str | None = None,
        last: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> BarGrid:
        """The bars of a symbol over all its sessions.

        Parameters
        ----------
        unit, size : `sec`, `min` or `hour` and how many of them; `day` with `size` trade dates a row
        empty : prices of a bar without trades: the close carried from before, or NaN
        first, last : the trade dates to begin and end with, both included; None: those of the first and last
            day with trades. Closes are carried from `first` on, not from before it.
        progress : called with (days done, days in all)

        Raises
        ------
        TapelineError
            `invalid_argument`, `overflow` with symbol and bar start, `tape_corrupt`.
        """
        self._known(symbol)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise TapelineError(f"size is {size!r}", code="invalid_argument", hint="take a whole number from 1")
        days = self.days(symbol)
        dates = [d for d in self._sessions if (first or days[0]) <= d <= (last or days[-1])]
        if unit == "day":
            return self._day_grid(symbol, dates, size, progress)
        if unit not in UNITS:
            raise TapelineError(
                f"there is no unit {unit!r} for a grid",
                code="invalid_argument",
                hint=f"units are {', '.join([*UNITS, 'day'])}",
            )
        width = UNITS[unit] * size
        parts: list[NDArray[np.float64]] = []
        starts: list[NDArray[np.int64]] = []
        ends: list[NDArray[np.int64]] = []
        session: list[NDArray[np.int32]] = []
        carry = float("nan")
        for number, trade_date in enumerate(dates):
            trades, segments = self.trades(symbol, trade_date), self.segments(trade_date)
            with _told(symbol, lambda row: int(segments[0, 0]) + row * width):  # noqa: B023
                part = bars.session_bars(
                    trades.ts, trades.price, trades.volume, trades.flags,
                    segments=segments, width_ns=width, carry=carry, empty=empty,
                )  # fmt: skip
                edges = [bars.grid_ends(low, high, width) for low, high in segments.tolist()]
            lasts = trades.price[trades.flags & 2 > 0]
            carry = float(lasts[-1]) if len(lasts) else carry
            parts.append(part)
            ends += edges
            starts += [
                low + width * np.arange(len(e), dtype=np.int64)
                for (low, _), e in zip(segments.tolist(), edges, strict=True)
            ]
            session.append(np.full(len(part), number, np.int32))
            if progress is not None:
                progress(number + 1, len(dates))
        if not parts:
            return BarGrid(np.empty((0, 8)), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int32), [])
        return BarGrid(
            np.concatenate(parts), np.concatenate(starts), np.concatenate(ends), np.concatenate(session), dates
        )

    def _day_grid(
        self, symbol: str, dates: list[str], size: int, progress: Callable[[int, int], None] | None
    ) -> BarGrid:
        """Bars of `size` trade dates each, blocks counted from the first."""
        blocks = [dates[k : k + size] for k in range(0, len(dates), size)]
        rows, carry = np.empty((len(blocks), 8)), float("nan")
        span = np.empty((len(blocks), 2), np.int64)
        for number, block in enumerate(blocks):
            span[number] = self.segments(block[0])[0, 0], self.segments(block[-1])[-1, 1]
            trades = join([self.trades(symbol, day) for day in block])
            inside = (trades.ts >= span[number, 0]) & (trades.ts < span[number, 1])
            kept = trades if bool(inside.all()) else trades.take(inside)
            # One bar from the first open to the last close; it may be wider than the widest grid width.
            with _told(symbol, lambda _: int(span[number, 0])):  # noqa: B023
                found, _ = bars.tick_bars(kept.price, kept.volume, kept.flags, size=max(len(kept), 1), carry=carry)
            rows[number] = found[0] if len(found) else [carry, carry, carry, carry, 0, 0, 0, 0]
            carry = float(rows[number, 3])
            if progress is not None:
                progress(number + 1, len(blocks))
        return BarGrid(
            rows, span[:, 0].copy(), span[:, 1].copy(), np.arange(len(blocks), dtype=np.int32),
            [block[-1] for block in blocks],
        )  # fmt: skip

    def _seen(self, trades: Trades, trade_date: str) -> Trades:
        """The trades that the view shows."""
        rows = [(0, len(trades))]
        if self.view != "all":
            rows = [tuple(trades.ts.searchsorted(segment).tolist()) for segment in self.segments(trade_date)]
        first, stop = (rows[0][0], rows[-1][1]) if rows else (0, 0)
        if (first, stop) != (0, len(trades)):
            trades = Trades(**{name: column[first:stop] for name, column in trades.columns.items()})
        shown = trades.flags != 0
        for (_, before), (after, _) in pairwise(rows):
            shown[before - first : after - first] = False
        return trades if bool(shown.all()) else trades.take(shown)

    def _known(self, symbol: str) -> None:
        if symbol not in self.symbols:
            some = ", ".join(self.symbols[:5])
            raise TapelineError(
                f"the tape has no symbol {symbol!r}", code="invalid_argument", hint=f"symbols are {some}"
            )


class _told:
    """Turns a refusal of the kernels into one of the project, with the symbol and the start of the bar."""

    def __init__(self, symbol: str, start_of: Callable[[int], int]) -> None:
        self.symbol, self.start_of = symbol, start_of

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BarsError):
            where = ""
            if error.row >= 0:
                start = np.datetime64(self.start_of(error.row), "ns").astype("datetime64[s]")
                where = f", bar of {start}Z"
            raise TapelineError(
                f"symbol {self.symbol!r}{where}: {error}",
                code=error.code,
                hint="tapeline tape verify checks the stored trades",
            ) from error


def open_tape(folder_manifest: Manifest, path_of: Callable[[str], Path], *, view: View = "regular") -> OpenTape:
    """A tape for reading, in one view; see `OpenTape`."""
    return OpenTape(folder_manifest, path_of, view=view)
