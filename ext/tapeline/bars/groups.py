"""The front of bars that count trades, volume or money instead of time."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tapeline.bars import front
from tapeline.bars.front import Flags, Volume
from tapeline.bars.pool import PIECES, share, split, threads
from tapeline.bars.status import ALL, BarsError

# Flags counted at once, so that no array as long as the trades is made.
STRETCH = 65_536
# Trades by which the usual length of a bar is told.
SAMPLE = 65_536

Floats = NDArray[np.float64]
Int = NDArray[np.int64]


def tick_bars(
    price: Floats,
    volume: Volume,
    flags: Flags = None,
    *,
    size: int,
    backward: bool = False,
    carry: float = math.nan,
    n_threads: int | None = None,
) -> tuple[Floats, Int]:
    """Bars of `size` trades each: float64 (rows, 8), and int64 (rows, 2) first trade and one past the last.

    Forward groups start at the first trade and the last may be short; backward groups end at the last trade,
    are all full, and come oldest first. Void trades are not counted. The result is the same for any number of
    threads.
    """
    size = front._positive("size", size)
    marks = front._trades(price, volume, flags)
    counted = None if marks is None else _counted(marks)
    n = len(price) if counted is None else int(counted[-1])
    rows, lead = (n // size, n % size) if backward else (-(-n // size), 0)
    out, edges = np.empty((rows, 8)), np.empty((rows, 2), np.int64)
    wish = _wished(n_threads, len(price))
    row = split(rows, min(PIECES * wish, rows) if wish > 1 and rows else 1)
    begin = [0, *(_after(marks, counted, lead + r * size) for r in row[1:-1]), len(price)]
    closes = np.full(len(row) - 1, math.nan)

    def cut(k: int) -> None:
        low, high = begin[k], begin[k + 1]
        part = None if marks is None else marks[low:high]
        fault, mine = np.zeros(2, np.int64), edges[row[k] : row[k + 1]]
        status = front._run.tick_bars(
            price[low:high], volume[low:high], part, size, 0 if k else lead, closes[k : k + 1],
            out[row[k] : row[k + 1]], mine, fault,
        )  # fmt: skip
        mine += low
        fault += (low, row[k])
        front._fail(status, fault)

    share(cut, len(closes), wish)
    front._carried(out, np.array(row, np.int64), closes, carry, True)
    return out, edges


def _wished(n_threads: int | None, trades: int) -> int:
    return (n_threads or threads()) if trades >= front.ONE_THREAD else 1


def _counted(marks: NDArray[np.uint8]) -> Int:
    """How many trades that count lie before each stretch, and in all."""
    parts = [np.count_nonzero(marks[low : low + STRETCH] & int(ALL)) for low in range(0, len(marks), STRETCH)]
    return np.concatenate([[0], np.cumsum(parts, dtype=np.int64)]).astype(np.int64)


def _after(marks: Flags, counted: Int | None, trades: int) -> int:
    """The place just after some trades that count."""
    if marks is None or counted is None:
        return trades
    stretch = int(np.searchsorted(counted, trades, "left")) - 1
    low = stretch * STRETCH
    inside = np.flatnonzero(marks[low : low + STRETCH] & int(ALL))
    return low + int(inside[trades - 1 - counted[stretch]]) + 1


def threshold_bars(
    price: Floats,
    volume: Volume,
    flags: Flags = None,
    *,
    limit: float,
    unit: Literal["volume", "dollar"],
    carry: float = math.nan,
    n_threads: int | None = None,
    room: tuple[Floats, Int] | None = None,
) -> tuple[Floats, Int]:
    """Bars that close when volume, or price times volume, reaches `limit`: as `tick_bars` gives them.

    They count forward from the first trade; the last is the rest that has not reached `limit`.

    Parameters
    ----------
    room : float64 (rows, 8) and int64 (rows, 2) to write into as far as the rows suffice: fresh memory costs a
        tenth of the time where bars are short

    Notes
    -----
    Where a bar begins depends on all bars before it. Further threads begin in the middle, with a bar of their own;
    their bars count from the first that begins where one of the bars before them ends. From bar to bar the two ends
    wander by about a trade, so bars of k trades meet after about k * k / 4 bars: where that is too long, one thread
    cuts them all. Sessions are independent of each other: see `session_threshold_bars`.
    """
    cutter = _Cutter(price, volume, flags, limit, unit)
    pieces = min(_wished(n_threads, len(cutter)), len(cutter) // front.ONE_THREAD)
    if pieces < 2 or not _meet_soon(cutter, pieces):
        found = cutter.cut(0, len(cutter), len(cutter), carry, room=_room(room))
        return found.bars, found.edges
    at = split(len(cutter), pieces)
    ends = [*at[2:], len(cutter), len(cutter)]
    parts: list[_Cut] = [_NOTHING] * pieces

    def cut(k: int) -> None:
        parts[k] = cutter.cut(at[k], at[k + 1], ends[k])

    try:
        share(cut, pieces, pieces)
    except BarsError:
        # A bar that does not count may be refused, and which fault comes first shall not depend on the threads.
        return threshold_bars(price, volume, flags, limit=limit, unit=unit, carry=carry, n_threads=1, room=room)
    return _together(_met(cutter, parts, at), carry, pieces, _room(room))


def _meet_soon(cutter: _Cutter, pieces: int) -> bool:
    """Whether bars that begin anywhere come to end where others do, well within a piece; by the first few bars."""
    some = min(len(cutter), SAMPLE)
    trades = some / max(len(cutter.cut(0, some, some).bars), 1)
    return trades**3 / 4 < len(cutter) / (8 * pieces)


def _room(room: tuple[Floats, Int] | None) -> tuple[Floats, Int] | None:
    if room is not None:
        out, edges = front._out(room[0], len(room[0])), room[1]
        if edges.dtype != np.int64 or edges.shape != (len(out), 2) or not edges.flags.c_contiguous:
            raise BarsError(f"edges are {edges.dtype} {edges.shape}; they must be contiguous int64 ({len(out)}, 2)")
    return room if room is not None and len(room[0]) else None


def session_threshold_bars(
    price: Floats,
    volume: Volume,
    flags: Flags = None,
    *,
    firsts: Int,
    limit: float,
    unit: Literal["volume", "dollar"],
    carry: float = math.nan,
    n_threads: int | None = None,
) -> tuple[Floats, Int, NDArray[np.bool_]]:
    """The threshold bars of many sessions, each counting from its first trade, and which of them reached `limit`.

    Parameters
    ----------
    firsts : int64, shape (k + 1,): the first trade of each session, and one past the last trade of all
    """
    cutter = _Cutter(price, volume, flags, limit, unit)
    front._column("firsts", firsts, np.int64)
    if len(firsts) and (firsts[0] < 0 or firsts[-1] > len(cutter) or bool((np.diff(firsts) < 0).any())):
        raise BarsError(f"firsts lie outside of the {len(cutter)} trades")
    at = firsts.tolist()
    parts: list[_Cut] = [_NOTHING] * max(len(at) - 1, 0)

    def cut(k: int) -> None:
        parts[k] = cutter.cut(at[k], at[k + 1], at[k + 1])

    share(cut, len(parts), _wished(n_threads, len(cutter)))
    out, edges = _together(parts, carry, 1)
    complete = np.ones(len(out), np.bool_)
    last = np.cumsum([len(part.bars) for part in parts], dtype=np.int64) - 1
    for row, part in zip(last.tolist(), parts, strict=True):
        complete[row : row + 1] = part.reached if len(part.bars) else complete[row : row + 1]
    return out, edges, complete


class _Cut(NamedTuple):
    """Bars, the first trade of each and one past its last, the trade after all of them, and whether the last
    reached the limit."""

    bars: Floats
    edges: Int
    after: int
    reached: bool

    def take(self, low: int, high: int | None = None) -> _Cut:
        """Some of the bars."""
        return self._replace(bars=self.bars[low:high], edges=self.edges[low:high])


_NOTHING = _Cut(np.empty((0, 8)), np.empty((0, 2), np.int64), 0, True)


class _Cutter:
    """Cuts the bars of one threshold out of the same trades, from any trade on."""

    def __init__(self, price: Floats, volume: Volume, flags: Flags, limit: float, unit: str) -> None:
        if unit not in ("volume", "dollar"):
            raise BarsError(f"unit is {unit!r}; it may be volume or dollar")
        if not limit > 0 or math.isinf(limit):
            raise BarsError(f"limit is {limit!r}; it must be a number above 0")
        self.price, self.volume, self.marks = price, volume, front._trades(price, volume, flags)
        self.limit, self.dollar = float(limit), unit == "dollar"

    def __len__(self) -> int:
        return len(self.price)

    def cut(
        self,
        first: int,
        until: int,
        stop: int,
        carry: float = math.nan,
        most: int = 0,
        room: tuple[Floats, Int] | None = None,
    ) -> _Cut:
        """The bars that begin in `[first, until)`, of trades before `stop`; at most `most` of them if it is not 0."""
        rows, after, reached = most or min(stop - first, (until - first) // 32 + 1024), first, True
        bars: list[Floats] = []
        edges: list[Int] = []
        carried = np.array([carry])
        marks = None if self.marks is None else self.marks[:stop]
        full = True
        while full:
            out, pairs = (np.empty((rows, 8)), np.empty((rows, 2), np.int64)) if room is None else room
            rows, room = len(out), None
            fault, state = np.zeros(2, np.int64), np.zeros(3, np.int64)
            status = front._run.threshold_bars(
                self.price[:stop], self.volume[:stop], marks, self.limit, self.dollar, after, until,
                carried, out, pairs, state, fault,
            )  # fmt: skip
            fault[1] += sum(map(len, bars))
            front._fail(status, fault)
            bars.append(out[: state[0]])
            edges.append(pairs[: state[0]])
            after, reached = int(state[1]), bool(state[2])
            full = len(bars[-1]) == rows and after < min(until, stop) and not most
            rows = min(stop - after, 4 * rows)
        if len(bars) == 1:
            return _Cut(bars[0], edges[0], after, reached)
        return _Cut(np.concatenate(bars), np.concatenate(edges), after, reached)


def _met(cutter: _Cutter, parts: list[_Cut], at: list[int]) -> list[_Cut]:
    """The bars of all trades, of parts that each began with a bar at `at[k]`."""
    n, after = len(cutter), 0
    found: list[_Cut] = []
    for k, part in enumerate(parts):
        if not part.reached and part.after < n:  # the part's trades end within its last bar
            part = part.take(0, -1)._replace(after=int(part.edges[-1, 0]))
        begins, most = part.edges[:, 0], 64
        while after < at[k + 1]:
            more, most = _NOTHING, 2 * most
            if len(begins) == 0 or begins[0] != after:
                more = cutter.cut(after, at[k + 1], n, most=most)
                if len(more.bars) == 0:  # only trades that count for nothing are left
                    return found
            here = np.append(more.edges[:, 0], more.after if len(more.bars) else after)
            where = np.searchsorted(begins, here)
            there = begins[np.minimum(where, len(begins) - 1)] if len(begins) else np.full(len(here), -1)
            same = np.flatnonzero(there == here)
            if not len(same):
                found.append(more)
                after = more.after
                continue
            found += [more.take(0, int(same[0])), part.take(int(where[same[0]]))]
            after = part.after
            break
    if after < n:
        found.append(cutter.cut(after, n, n))
    return found


def _together(
    parts: list[_Cut], carry: float, n_threads: int, room: tuple[Floats, Int] | None = None
) -> tuple[Floats, Int]:
    """The bars of parts in one array, closes handed on."""
    first = np.concatenate([[0], np.cumsum([len(part.bars) for part in parts], dtype=np.int64)]).astype(np.int64)
    rows = int(first[-1])
    if room is not None and rows <= len(room[0]):
        out, edges = room[0][:rows], room[1][:rows]
    else:
        out, edges = np.empty((rows, 8)), np.empty((rows, 2), np.int64)

    def copy(k: int) -> None:
        out[first[k] : first[k + 1]] = parts[k].bars
        edges[first[k] : first[k + 1]] = parts[k].edges

    share(copy, len(parts), n_threads)
    closes = np.array([part.bars[-1, 3] if len(part.bars) else math.nan for part in parts])
    front._carried(out, first, closes, carry, True)
    return out, edges
