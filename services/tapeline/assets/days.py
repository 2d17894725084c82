"""The sessions of one symbol of a tape: trades and bars by trade date, kept while they are wanted again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.component import Instance
from tapeline.assets.grids import CLOSE, Grid, Stretch, Unit, joined_grids
from tapeline.assets.view import Market
from tapeline.tape.trades import Trades, join, none
from tapeline.tape.view import OpenTape

KEPT_BYTES = 256 * 2**20
EVERYTHING = 1 << 62

Needs = Mapping[tuple[str, int], tuple[int, int]]
"""By unit and size of bars: how many bars before a session, and how many sessions, something reads."""


def needs_of(instances: Iterable[Instance]) -> dict[tuple[str, int], tuple[int, int]]:
    """What some features and labels read of the time before a session's first sample."""
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for each in instances:
        key = (each.params.unit, each.params.size)
        bars, sessions = found.get(key, (1, 0))
        history = each.history
        # The newest bar that counts may itself lie `shift` bars, and so in an earlier session, back.
        own = 0 if history.sessions is None else history.sessions + 1 + history.shift
        found[key] = (max(bars, history.bars), max(sessions, own))
        for read, (more_bars, more_sessions) in needs_of(each.inputs.values()).items():
            bars, sessions = found.get(read, (1, 0))
            found[read] = (max(bars, more_bars), max(sessions, more_sessions))
    return found


@dataclass(eq=False)
class Pieces:
    """Bars of single sessions, those used last, up to some bytes; may be shared among threads."""

    most_bytes: int = KEPT_BYTES
    _held: OrderedDict[tuple[str, int, str, int], Grid] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def find(self, key: tuple[str, int, str, int]) -> Grid | None:
        """The bars of a symbol, session, unit and size, if they are held."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def keep(self, key: tuple[str, int, str, int], piece: Grid) -> None:
        """Hold some bars; the longest unused give way."""
        with self._lock:
            if key not in self._held:
                self._held[key] = piece
                self._bytes += piece.bars.nbytes
            while self._bytes > self.most_bytes and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1].bars.nbytes


class SymbolDays:
    """One symbol of an open tape by trade date.

    Attributes
    ----------
    dates : trade dates with trades, in order; a session's number is its place here
    segments : int64 ns, shape (k, 2): open and close of each segment of these dates
    session : int64, shape (k,): the number of the trade date that a segment belongs to
    """

    def __init__(self, tape: OpenTape, symbol: str, pieces: Pieces | None = None) -> None:
        self.tape, self.symbol = tape, symbol
        self.dates = tuple(tape.days(symbol))
        rows = [tape.segments(date) for date in self.dates]
        self.segments: NDArray[np.int64] = np.ascontiguousarray(np.concatenate([*rows, np.empty((0, 2), np.int64)]))
        self.session = np.repeat(np.arange(len(rows), dtype=np.int64), [len(each) for each in rows])
        self._pieces = pieces or Pieces()
        self._sizes = {
            str(day["trade_date"]): int(day["artifact"]["size"])
            for day in tape.manifest["days"]
            if day["symbol"] == symbol
        }

    def trades(self, number: int) -> Trades:
        """The trades of one session."""
        return self.tape.trades(self.symbol, self.dates[number])

    def size(self, number: int) -> int:
        """The bytes of one session's trades, about."""
        return self._sizes[self.dates[number]]

    def first_segment(self, number: int) -> int:
        """The first segment of a session."""
        return int(np.searchsorted(self.session, number, "left"))

    def piece(self, number: int, unit: Unit, size: int) -> Grid:
        """The bars of one session by itself; those before its first price have none."""
        key = (self.symbol, number, unit, size)
        found = self._pieces.find(key)
        if found is None:
            first, stop = self.first_segment(number), self.first_segment(number + 1)
            own = Stretch(
                self.symbol, self.trades(number), self.segments[:stop], self.session[:stop], first, self.trades
            )
            found = own.grid(unit, size)
            self._pieces.keep(key, found)
        return found

    def only(self, first: int, stop: int) -> Market:
        """The market of the sessions from `first` to before `stop` and nothing else, as bars; read when asked for."""
        end = self.first_segment(stop)
        past = SymbolPast(self, stop, {}, oldest=first, whole=True)
        return Market(self.symbol, none(), self.segments[:end], self.session[:end], self.dates, past)

    def market(self, first: int, stop: int, needs: Needs) -> Market:
        """The market of the sessions from `first` to before `stop`, and as much before them as is needed."""
        own = [self.trades(number) for number in range(first, stop)]
        past = SymbolPast(self, first, needs)
        end = self.first_segment(stop)
        trades = own[0] if len(own) == 1 else join(own) if own else none()
        made = DaysMarket(self.symbol, trades, self.segments[:end], self.session[:end], self.dates, past)
        made.is_of(self, first, stop)
        return made

    def ahead(self, number: int, last: int, labels: Iterable[Instance]) -> int:
        """One past the last session, `last` at most, that labels of a session may read."""
        stop = number + 1
        for label in labels:
            # A label of an operator that does not say how far it reads may read everything.
            if not getattr(label.params, "cross_session", True):
                continue
            bars = getattr(label.params, "horizon_bars", EVERYTHING) + getattr(label.params, "entry_delay", 0)
            there, found = number + 1, 0
            while there <= last and found < bars:
                found += len(self.piece(there, label.params.unit, label.params.size))
                there += 1
            stop = max(stop, there)
        return stop


class DaysMarket(Market):
    """The market of some sessions whose bars, each session by itself, are kept."""

    _of: tuple[SymbolDays, int, int]

    def is_of(self, days: SymbolDays, first: int, stop: int) -> None:
        """Say which sessions these are."""
        object.__setattr__(self, "_of", (days, first, stop))

    def _cut(self, unit: Unit, size: int) -> Grid:
        days, first, stop = self._of
        before = None if self.past is None else self.past.grid(unit, size)
        parts = [days.piece(number, unit, size) for number in range(first, stop)]
        return joined_grids([before, *parts]) if before is not None and parts else super()._cut(unit, size)


class SymbolPast:
    """The sessions of a symbol before one of them, as bars; reads back as far as is needed."""

    def __init__(self, days: SymbolDays, first: int, needs: Needs, *, oldest: int = 0, whole: bool = False) -> None:
        self.segments = days.first_segment(first)
        self._days, self._first, self._needs, self._oldest = days, first, needs, oldest
        self._least = (EVERYTHING, EVERYTHING) if whole else (1, 0)

    def trades(self, session: int) -> Trades:
        return self._days.trades(session)

    def grid(self, unit: Unit, size: int) -> Grid:
        bars, sessions = self._needs.get((unit, size), self._least)
        parts: list[Grid] = []
        rows = 0
        for number in range(self._first - 1, self._oldest - 1, -1):
            if rows >= bars and len(parts) >= sessions and not np.isnan(parts[-1].bars[0, CLOSE]):
                break
            piece = self._days.piece(number, unit, size)
            if len(piece):
                parts.append(piece)
                rows += len(piece)
        if parts:
            return joined_grids(parts[::-1])
        empty = np.empty(0, np.int64)
        return Grid(unit, size, np.empty((0, 8)), empty, empty, empty)
