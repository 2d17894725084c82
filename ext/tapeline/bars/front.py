"""The front of the kernels: checks once, allocates, calls, and maps a status to an error."""

from __future__ import annotations

import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tapeline.bars.status import ALL, BarsError, Norm, Status

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
    return None if bool((flags == int(ALL)).all()) else flags


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
    fault = np.zeros(2, np.int64)
    carried = np.array([carry], np.float64)
    fill = empty == "carry"
    _fail(
        _run.time_bars(ts, price, volume, marks, open_ns, close_ns, width_ns, carried, fill, out, fault),
        fault,
    )
    return out


def threads() -> int:
    """How many threads cut bars: `TAPELINE_BARS_THREADS`, else the processors, at most 8."""
    wish = os.environ.get("TAPELINE_BARS_THREADS", "")
    if wish and not (wish.isascii() and wish.isdigit() and int(wish) >= 1):
        raise BarsError(f"TAPELINE_BARS_THREADS is {wish!r}; it must be a whole number from 1")
    return int(wish) if wish else min(os.cpu_count() or 1, 8)


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
    if segments.ndim != 2 or segments.shape[1] != 2 or segments.dtype != np.int64:
        raise BarsError(f"segments are {segments.dtype} {segments.shape}; they must be int64 (k, 2)")
    if bool((np.diff(segments.ravel()) < 0).any()):
        raise BarsError("segments must be in order and must not overlap")
    first = [0]
    for open_ns, close_ns in segments.tolist():
        first.append(first[-1] + grid_rows(open_ns, close_ns, width_ns))
    out = _out(out, first[-1])
    if len(segments) == 0:
        return out
    edges = np.searchsorted(ts, segments.ravel(), "left").reshape(-1, 2).tolist()
    # Trades between segments are in no bar and no kernel sees them: their order is checked at the joints.
    for (_, left), (right, _) in pairwise([(0, 0), *edges, (len(ts), len(ts))]):
        if left > right or bool((np.diff(ts[max(left - 1, 0) : right + 1]) < 0).any()):
            raise BarsError("the times of the trades decrease", "tape_unsorted")
    fill = empty == "carry"

    def cut(k: int) -> float:
        (low, high), (open_ns, close_ns) = edges[k], segments[k].tolist()
        fault, carried = np.zeros(2, np.int64), np.full(1, math.nan)
        rows = out[first[k] : first[k + 1]]
        part = None if marks is None else marks[low:high]
        status = _run.time_bars(
            ts[low:high], price[low:high], volume[low:high], part,
            open_ns, close_ns, width_ns, carried, fill, rows, fault,
        )  # fmt: skip
        fault += (low, first[k])
        _fail(status, fault)
        return float(carried[0])

    n = min(n_threads or threads(), len(segments)) if len(ts) >= ONE_THREAD else 1
    if n > 1:
        with ThreadPoolExecutor(n) as pool:
            closes = list(pool.map(cut, range(len(segments))))
    else:
        closes = [cut(k) for k in range(len(segments))]
    for k, close in enumerate(closes):
        if fill and not math.isnan(carry):
            _run.carry_forward(out[first[k] : first[k + 1]], carry)
        elif not fill and not math.isnan(carry):
            _carry_traded(out[first[k] : first[k + 1]], carry)
        carry = carry if math.isnan(close) else close
    return out


def _carry_traded(rows: NDArray[np.float64], carry: float) -> None:
    """As `carry_forward`, but rows without trades keep their NaN."""
    for row in rows:
        if row[4] > 0:
            if not math.isnan(row[3]):
                return
            _run.carry_forward(row.reshape(1, 8), carry)


def tick_bars(
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags = None,
    *,
    size: int,
    backward: bool = False,
    carry: float = math.nan,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Bars of `size` trades each: float64 (rows, 8), and int64 (rows, 2) first trade and one past the last.

    Forward groups start at the first trade and the last may be short; backward groups end at the last trade,
    are all full, and come oldest first. Void trades are not counted.
    """
    size = _positive("size", size)
    marks = _trades(price, volume, flags)
    n = len(price) if marks is None else int(np.count_nonzero(marks & int(ALL)))
    rows, lead = (n // size, n % size) if backward else (-(-n // size), 0)
    out, edges = np.empty((rows, 8)), np.empty((rows, 2), np.int64)
    fault = np.zeros(2, np.int64)
    _fail(_run.tick_bars(price, volume, marks, size, lead, np.array([carry]), out, edges, fault), fault)
    return out, edges


def threshold_bars(
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags = None,
    *,
    limit: float,
    unit: Literal["volume", "dollar"],
    carry: float = math.nan,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Bars that close when volume, or price times volume, reaches `limit`: as `tick_bars` gives them.

    They count forward from the first trade; the last is the rest that has not reached `limit`.
    """
    if unit not in ("volume", "dollar"):
        raise BarsError(f"unit is {unit!r}; it may be volume or dollar")
    if not limit > 0 or math.isinf(limit):
        raise BarsError(f"limit is {limit!r}; it must be a number above 0")
    marks = _trades(price, volume, flags)
    dollar = unit == "dollar"
    most = min(len(price), len(price) // 32 + 1024)
    while True:
        out, edges = np.empty((most, 8)), np.empty((most, 2), np.int64)
        fault, found = np.zeros(2, np.int64), np.zeros(1, np.int64)
        _fail(
            _run.threshold_bars(
                price, volume, marks, float(limit), dollar, np.array([carry]), out, edges, found, fault
            ),
            fault,
        )
        if found[0] >= 0:
            return out[: found[0]], edges[: found[0]]
        most = int(_run.threshold_edges(price, volume, marks, float(limit), dollar, np.empty((0, 2), np.int64)))


def gather(
    grid: NDArray[np.float64],
    past: NDArray[np.int64],
    count: int,
    norm: str | Norm = Norm.NONE,
    *,
    scale: NDArray[np.float64] | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Windows of the `count` bars that end before grid row `past[k]`: float32, shape (n, count, 8).

    Parameters
    ----------
    grid : float64, shape (rows, 8)
    past : int64, shape (n,), 0 to rows: one past the newest bar of each window
    norm : `none`, `last_price_pct`, `zscore_window` or `max_values` (by `scale`, float64, shape (8,))

    Notes
    -----
    Rows before the grid begins have NaN prices and 0 for the rest. Prices and sums are normalised in float64
    and cast once. A divisor of 0 gives NaN.
    """
    try:
        way = norm if isinstance(norm, Norm) else Norm[norm.upper()]
    except KeyError:
        known = ", ".join(kind.name.lower() for kind in Norm)
        raise BarsError(f"norm is {norm!r}; it may be {known}") from None
    count = _positive("count", count, 1_000_000)
    _column("past", past, np.int64)
    if grid.dtype != np.float64 or grid.ndim != 2 or grid.shape[1] != 8 or not grid.flags.c_contiguous:
        raise BarsError(f"grid is {grid.dtype} {grid.shape}; it must be contiguous float64 (rows, 8)")
    if way is Norm.MAX_VALUES and scale is None:
        raise BarsError("norm max_values needs `scale`, the maxima of the eight columns")
    scale = np.ones(8) if scale is None else np.ascontiguousarray(scale, np.float64)
    if scale.shape != (8,):
        raise BarsError(f"scale has shape {scale.shape}; it must be (8,)")
    shape = (len(past), count, 8)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.dtype != np.float32 or out.shape != shape or not out.flags.c_contiguous:
        raise BarsError(f"out is {out.dtype} {out.shape}; it must be contiguous float32 {shape}")
    fault = np.zeros(2, np.int64)
    _fail(_run.gather(grid, past, count, int(way), scale, out, fault), fault)
    return out


def read_bandwidth(ts: NDArray[np.int64], price: NDArray[np.float64], volume: Volume) -> float:
    """The sum of the three columns; the time it takes is the yardstick for kernels that read them."""
    _trades(price, volume, None)
    _times(ts, price)
    return float(_run.read_bandwidth(ts, price, volume))
