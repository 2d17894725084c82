"""The front of the kernels: checks once, allocates, calls, and maps a status to an error."""

from __future__ import annotations

import math
import os
import warnings
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tapeline.bars.pool import PIECES, share, split, threads
from tapeline.bars.status import BarsError, Status

Volume = NDArray[np.int32] | NDArray[np.int64] | NDArray[np.float64]
Flags = NDArray[np.uint8] | None
Empty = Literal["carry", "nan"]

DAY_NS = 86_400_000_000_000
# Below this many trades starting threads costs more than it saves.
ONE_THREAD = 200_000


def _choose() -> tuple[str, ModuleType]:
    """The build of the kernels that this processor runs, or the one that the environment asks for."""
    wish = os.environ.get("TAPELINE_BARS_ISA", "")
    if wish not in ("", "baseline", "v3", "python"):
        raise BarsError(f"TAPELINE_BARS_ISA is {wish!r}; it may be baseline, v3 or python")
    if wish == "python":
        from tapeline.bars import reference

        warnings.warn("bars are cut by plain Python, hundreds of times slower", RuntimeWarning, stacklevel=2)
        return "python", reference
    from tapeline.bars import _kernels

    if wish == "v3" and not _kernels.has_v3():
        raise BarsError("TAPELINE_BARS_ISA is v3, but this processor has no AVX2")
    if wish == "baseline" or not _kernels.has_v3():
        return "baseline", _kernels
    from tapeline.bars import _kernels_v3

    return "v3", _kernels_v3


ISA, _run = _choose()


def _fail(status: int, fault: NDArray[np.int64]) -> None:
    index, row = int(fault[0]), int(fault[1])
    match Status(status):
        case Status.OK:
            return
        case Status.UNSORTED:
            raise BarsError(f"trade {index} is earlier than the one before it", "tape_unsorted", index, row)
        case Status.OVERFLOW:
            text = f"the volumes of bar {row} add up to more than 2**53 at trade {index}"
            raise BarsError(text, "overflow", index, row)
        case Status.NEGATIVE:
            raise BarsError(f"trade {index} has a negative volume", "invalid_volume", index, row)
        case Status.OUTSIDE:
            raise BarsError(f"trade {index} lies outside of the segment", "invalid_argument", index, row)
        case Status.NO_ROW:
            raise BarsError(f"row {index} of `past` lies outside of the grid", "invalid_argument", index, row)


def _column(name: str, array: NDArray[np.generic], *dtypes: type[np.generic]) -> None:
    if array.dtype not in [np.dtype(kind) for kind in dtypes]:
        allowed = " or ".join(np.dtype(kind).name for kind in dtypes)
        raise BarsError(f"{name} is {array.dtype}; it must be {allowed}")
    if array.ndim != 1 or not array.flags.c_contiguous:
        raise BarsError(f"{name} must be one-dimensional and contiguous")


def _trades(price: NDArray[np.float64], volume: Volume, flags: Flags) -> Flags:
    """The flags a kernel needs: none where every trade carries all of them."""
    _column("price", price, np.float64)
    _column("volume", volume, np.int32, np.int64, np.float64)
    if len(volume) != len(price):
        raise BarsError(f"there are {len(price)} prices but {len(volume)} volumes")
    if flags is None:
        return None
    _column("flags", flags, np.uint8)
    if len(flags) != len(price):
        raise BarsError(f"there are {len(price)} prices but {len(flags)} flags")
    return None if _run.plain(flags) else flags


def _times(ts: NDArray[np.int64], price: NDArray[np.float64]) -> None:
    _column("ts", ts, np.int64)
    if len(ts) != len(price):
        raise BarsError(f"there are {len(price)} prices but {len(ts)} times")


def _positive(name: str, value: int, most: int = 2**62) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= most:
        raise BarsError(f"{name} is {value!r}; it must be a whole number from 1 to {most}")
    return int(value)


def _width(width_ns: int) -> int:
    return _positive("width_ns", width_ns, DAY_NS)


def grid_rows(open_ns: int, close_ns: int, width_ns: int) -> int:
    """How many bars of `width_ns` a segment `[open_ns, close_ns)` has; the last may be short."""
    if close_ns < open_ns:
        raise BarsError(f"the segment closes at {close_ns}, before it opens at {open_ns}")
    return -((open_ns - close_ns) // _width(width_ns))


def grid_ends(open_ns: int, close_ns: int, width_ns: int) -> NDArray[np.int64]:
    """The end of each bar of a segment: int64 ns, shape (rows,)."""
    ends = open_ns + width_ns * np.arange(1, grid_rows(open_ns, close_ns, width_ns) + 1, dtype=np.int64)
    return np.minimum(ends, close_ns)


def _out(out: NDArray[np.float64] | None, rows: int) -> NDArray[np.float64]:
    if out is None:
        return np.empty((rows, 8), np.float64)
    if out.dtype != np.float64 or out.shape != (rows, 8) or not out.flags.c_contiguous:
        raise BarsError(f"out is {out.dtype} {out.shape}; it must be contiguous float64 ({rows}, 8)")
    return out


def time_bars(
    ts: NDArray[np.int64],
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags = None,
    *,
    open_ns: int,
    close_ns: int,
    width_ns: int,
    carry: float = math.nan,
    empty: Empty = "carry",
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The bars of one session segment: float64, shape (rows, 8), columns as in `COLUMNS`.

    Parameters
    ----------
    ts : int64 ns, shape (n,), non-decreasing, all in `[open_ns, close_ns)`
    price : float64, shape (n,), finite where flags are not 0
    volume : int32, int64 or float64, shape (n,), >= 0
    flags : uint8, shape (n,), what each trade counts for; None: everything
    carry : close of the last earlier bar with a price
    empty : prices of a bar without trades: the carried close, or NaN

    Raises
    ------
    BarsError
        `tape_unsorted`, `overflow`, `invalid_volume`, `invalid_argument`.
    """
    marks = _trades(price, volume, flags)
    _times(ts, price)
    out = _out(out, grid_rows(open_ns, close_ns, width_ns))
    fault, closes = np.zeros(2, np.int64), np.array([carry], np.float64)
    segments, edges = np.array([[open_ns, close_ns]], np.int64), np.array([[0, len(ts)]], np.int64)
    status = _run.time_bars(ts, price, volume, marks, segments, edges, width_ns, empty == "carry", closes, out, fault)
    _fail(status, fault)
    return out


def session_bars(
    ts: NDArray[np.int64],
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags = None,
    *,
    segments: NDArray[np.int64],
    width_ns: int,
    carry: float = math.nan,
    empty: Empty = "carry",
    n_threads: int | None = None,
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The bars of many segments, one after another: float64, shape (sum of their rows, 8).

    Trades outside of every segment are in no bar. Closes are carried from segment to segment. The segments
    are shared among threads; the result is the same for any number of them.

    Parameters
    ----------
    segments : int64 ns, shape (k, 2), open and close of each, in order and disjoint
    """
    marks = _trades(price, volume, flags)
    _times(ts, price)
    width_ns = _width(width_ns)
    if segments.ndim != 2 or segments.shape[1] != 2 or segments.dtype != np.int64:
        raise BarsError(f"segments are {segments.dtype} {segments.shape}; they must be int64 (k, 2)")
    if bool((np.diff(segments.ravel()) < 0).any()):
        raise BarsError("segments must be in order and must not overlap")
    n = (n_threads or threads()) if len(ts) >= ONE_THREAD else 1
    parts = segments if n == 1 else _divided(ts, segments, width_ns, PIECES * n)
    first = np.concatenate([[0], np.cumsum(-((parts[:, 0] - parts[:, 1]) // width_ns))]).astype(np.int64)
    out = _out(out, int(first[-1]))
    if len(parts) == 0:
        return out
    edges = np.searchsorted(ts, parts.ravel(), "left").astype(np.int64).reshape(-1, 2)
    _in_order(ts, edges)
    closes, fill = np.full(len(parts), math.nan), empty == "carry"

    def cut(low: int, high: int) -> None:
        fault = np.zeros(2, np.int64)
        status = _run.time_bars(
            ts, price, volume, marks, parts[low:high], edges[low:high], width_ns, fill,
            closes[low:high], out[first[low] : first[high]], fault,
        )  # fmt: skip
        fault[1] += first[low]
        _fail(status, fault)

    if n == 1:
        cut(0, len(parts))
    else:
        borders = np.searchsorted(edges[:, 0], split(len(ts), PIECES * n)[1:-1]).tolist()
        borders = [0, *borders, len(parts)]
        try:
            share(lambda k: cut(borders[k], borders[k + 1]), len(borders) - 1, n)
        except BarsError:
            # Which fault comes first shall not depend on the threads.
            return session_bars(
                ts, price, volume, flags, segments=segments, width_ns=width_ns, carry=carry, empty=empty,
                n_threads=1, out=out,
            )  # fmt: skip
    _carried(out, first, closes, carry, fill)
    return out


def _divided(ts: NDArray[np.int64], segments: NDArray[np.int64], width_ns: int, pieces: int) -> NDArray[np.int64]:
    """Segments cut further, on borders of bars, where about equal shares of the trades end."""
    if not len(segments) or not len(ts):
        return segments
    when = ts[split(len(ts), pieces)[1:-1]]
    inside = np.searchsorted(segments[:, 0], when, "right") - 1
    when, inside = when[inside >= 0], inside[inside >= 0]
    border = segments[inside, 0] + (when - segments[inside, 0]) // width_ns * width_ns
    border = border[(border > segments[inside, 0]) & (border < segments[inside, 1])]
    every = np.sort(np.concatenate([segments.ravel(), border, border]))
    return every.reshape(-1, 2)


def _in_order(ts: NDArray[np.int64], edges: NDArray[np.int64]) -> None:
    """Refuse times that decrease where no kernel looks: between segments, and from one to the next."""
    left = np.concatenate([[0], edges[:, 1]])
    right = np.concatenate([edges[:, 0], [len(ts)]])
    touching = left == right
    joint = left[touching & (left > 0) & (left < len(ts))]
    wrong = bool((left > right).any()) or bool((ts[joint] < ts[joint - 1]).any())
    for low, high in zip(left[~touching].tolist(), right[~touching].tolist(), strict=True):
        wrong = wrong or bool((np.diff(ts[max(low - 1, 0) : high + 1]) < 0).any())
    if wrong:
        raise BarsError("the times of the trades decrease", "tape_unsorted")


def _carried(
    out: NDArray[np.float64], first: NDArray[np.int64], closes: NDArray[np.float64], carry: float, fill: bool
) -> None:
    """Give each part's rows before its first price the close of the parts before it."""
    known = np.concatenate([[carry], closes])
    last = np.maximum.accumulate(np.where(np.isnan(known), 0, np.arange(len(known))))
    before = known[last][:-1]
    some = first[1:] > first[:-1]
    begins = np.isnan(out[np.where(some, first[:-1], 0), 3]) if len(out) else some
    for k in np.flatnonzero(some & begins & ~np.isnan(before)).tolist():
        rows, close = out[first[k] : first[k + 1]], float(before[k])
        if fill:
            _run.carry_forward(rows, close)
            continue
        for row in rows:  # rows without trades keep their NaN
            if row[4] > 0:
                if not math.isnan(row[3]):
                    break
                _run.carry_forward(row.reshape(1, 8), close)


def read_bandwidth(ts: NDArray[np.int64], price: NDArray[np.float64], volume: Volume, n_threads: int = 1) -> float:
    """The sum of the three columns; the time it takes is the yardstick for kernels that read them."""
    _trades(price, volume, None)
    _times(ts, price)
    if n_threads == 1:
        return float(_run.read_bandwidth(ts, price, volume))
    at = split(len(ts), PIECES * n_threads)
    sums = [0.0] * (len(at) - 1)

    def add(k: int) -> None:
        part = slice(at[k], at[k + 1])
        sums[k] = _run.read_bandwidth(ts[part], price[part], volume[part])

    share(add, len(sums), n_threads)
    return math.fsum(sums)
