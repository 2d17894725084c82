"""The naive twin of the kernels: plain loops, one function per kernel with the same arguments.

It is the page to read for what a bar is, the oracle of the tests, and what runs where no kernel was built
(`TAPELINE_BARS_ISA=python`). It is never optimised.

A bar is made of the trades of `[start, end)` in their order. A trade with flags 0 is void and is skipped;
every other one is counted. Open and close are the first and last trade that may set them (`LAST`), high and
low come from those that may (`HILO`) and are widened to include open and close; volumes from `VOLUME` ones.
Without a `LAST` trade open and close are the close carried from before, NaN if there was never a price.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.bars.status import ALL, EXACT, Flag, Norm, Status

Volume = NDArray[np.int32] | NDArray[np.int64] | NDArray[np.float64]
Flags = NDArray[np.uint8] | None


def lane_sum(volumes: list[float]) -> float:
    """The sum of float volumes in the one order that every kernel uses: 8 lanes by ordinal, then a tree."""
    lane = [0.0] * 8
    for ordinal, volume in enumerate(volumes):
        lane[ordinal % 8] += volume
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]))


def _bar(
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags,
    first: int,
    stop: int,
    carry: NDArray[np.float64],
    fill: bool,
    row: NDArray[np.float64],
    fault: NDArray[np.int64],
) -> Status:
    """Write the bar of the trades `[first, stop)` to `row` and its close to `carry`."""
    whole = volume.dtype != np.float64
    ranged: list[float] = []
    lasts: list[float] = []
    volumes: list[Any] = []
    for i in range(first, stop):
        mark = int(ALL) if flags is None else int(flags[i]) & int(ALL)
        if mark == 0:
            continue
        if mark & Flag.HILO:
            ranged.append(float(price[i]))
        if mark & Flag.LAST:
            lasts.append(float(price[i]))
        counted = volume[i].item() if mark & Flag.VOLUME else 0
        if whole and counted < 0:
            fault[0] = i
            return Status.NEGATIVE
        volumes.append(counted)
        if whole and sum(volumes) > EXACT:
            fault[0] = i
            return Status.OVERFLOW
    if not volumes:
        close = float(carry[0]) if fill else math.nan
        row[:] = [close, close, close, close, 0.0, 0.0, 0.0, 0.0]
        return Status.OK
    if lasts:
        carry[0] = lasts[-1]
    o, c = (lasts[0], lasts[-1]) if lasts else (float(carry[0]), float(carry[0]))
    seen = [p for p in (*ranged, o, c) if not math.isnan(p)]
    high, low = (max(seen), min(seen)) if seen else (math.nan, math.nan)
    total = float(sum(volumes)) if whole else lane_sum(volumes)
    row[:] = [o, high, low, c, len(volumes), total, total / len(volumes), float(max(volumes))]
    return Status.OK


def time_bars(
    ts: NDArray[np.int64],
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags,
    segments: NDArray[np.int64],
    edges: NDArray[np.int64],
    width_ns: int,
    fill: bool,
    closes: NDArray[np.float64],
    out: NDArray[np.float64],
    fault: NDArray[np.int64],
) -> int:
    """Bars `[open + m w, min(open + (m + 1) w, close))` of each segment, one row for each m, also empty ones.

    Segment k is cut from the trades `edges[k]`; `closes[k]` is the close before it and becomes its own.
    """
    row = 0
    for k in range(len(segments)):
        (open_ns, close_ns), (i, stop) = segments[k].tolist(), edges[k].tolist()
        if i < stop and ts[i] < open_ns:
            fault[:] = i, row
            return Status.OUTSIDE
        first = i
        for start in range(open_ns, close_ns, width_ns):
            begin = i
            while i < stop:
                if i > first and ts[i] < ts[i - 1]:
                    fault[:] = i, row
                    return Status.UNSORTED
                if ts[i] >= min(start + width_ns, close_ns):
                    break
                i += 1
            status = _bar(price, volume, flags, begin, i, closes[k : k + 1], fill, out[row], fault)
            if status != Status.OK:
                fault[1] = row
                return status
            row += 1
        if i < stop:
            fault[:] = i, row
            return Status.OUTSIDE
    return Status.OK


def tick_bars(
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags,
    size: int,
    lead: int,
    carry: NDArray[np.float64],
    out: NDArray[np.float64],
    edges: NDArray[np.int64],
    fault: NDArray[np.int64],
) -> int:
    """Groups of `size` counting trades after the first `lead`, which only leave their price to be carried."""
    n = len(price)
    i = 0
    while lead > 0 and i < n:
        mark = int(ALL) if flags is None else int(flags[i]) & int(ALL)
        lead -= mark != 0
        if mark & Flag.LAST:
            carry[0] = price[i]
        i += 1
    for row in range(len(out) if n else 0):
        first, left = i, size
        while i < n and left > 0:
            left -= flags is None or (int(flags[i]) & int(ALL)) != 0
            i += 1
        edges[row] = first, i
        status = _bar(price, volume, flags, first, i, carry, True, out[row], fault)
        if status != Status.OK:
            fault[1] = row
            return status
    return Status.OK


def threshold_bars(
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags,
    limit: float,
    dollar: bool,
    first: int,
    until: int,
    carry: NDArray[np.float64],
    out: NDArray[np.float64],
    edges: NDArray[np.int64],
    found: NDArray[np.int64],
    fault: NDArray[np.int64],
) -> int:
    """Bars that close on the trade with which volume (or price times volume) reaches `limit`.

    They begin with trade `first` and then one after another, as far as they begin before `until` and there are
    rows. Overshoot stays in the bar and the next sum starts at 0; a rest with a trade that counts is one bar more.
    The running sum is float64, one trade after another. `found` is how many bars, the trade after them, and
    whether the last reached the limit.
    """
    i, n, row, reached = first, len(price), 0, True
    while i < n and i < until and row < len(out):
        total, stop, reached = 0.0, i, False
        while stop < n and not reached:
            if flags is None or flags[stop] & Flag.VOLUME:
                total += float(price[stop]) * float(volume[stop]) if dollar else float(volume[stop])
                reached = total >= limit
            stop += 1
        if not reached and not any(flags is None or flags[j] & ALL for j in range(i, n)):
            reached = True
            break
        edges[row] = i, stop
        status = _bar(price, volume, flags, i, stop, carry, True, out[row], fault)
        if status != Status.OK:
            fault[1] = row
            return status
        i, row = stop, row + 1
    found[:] = row, i, reached
    return Status.OK


def carry_forward(out: NDArray[np.float64], carry: float) -> None:
    """Give rows before the first known price the price of an earlier segment, widening high and low."""
    for row in out:
        if not math.isnan(row[3]):
            break
        row[0] = row[3] = carry
        row[1] = row[1] if row[1] >= carry else carry
        row[2] = row[2] if row[2] <= carry else carry


def _over(a: float, b: float) -> float:
    """The quotient; NaN, never infinity, where the divisor is 0."""
    return a / b if b != 0.0 else math.nan


def gather(
    grid: NDArray[np.float64],
    past: NDArray[np.int64],
    count: int,
    norm: int,
    scale: NDArray[np.float64],
    out: NDArray[np.float32],
    fault: NDArray[np.int64],
) -> int:
    """Windows of `count` bars that end before grid row `past[k]`, normalised in float64, cast to float32.

    Rows before the grid begins have NaN prices and 0 for the rest. `LAST_PRICE_PCT` gives prices as percent
    from the window's last close and the rest as share of their maximum in the window; `ZSCORE_WINDOW` takes
    each column's mean and population deviation over the window; `MAX_VALUES` divides by `scale`.
    """
    for k in range(len(past) if count else 0):
        stop = int(past[k])
        if not 0 <= stop <= len(grid):
            fault[0] = k
            return Status.NO_ROW
        rows = [
            [float(x) for x in grid[r]] if r >= 0 else [math.nan] * 4 + [0.0] * 4 for r in range(stop - count, stop)
        ]
        for c in range(8):
            column = [row[c] for row in rows]
            if norm == Norm.LAST_PRICE_PCT and c < 4:
                values = [(_over(x, rows[-1][3]) - 1.0) * 100.0 for x in column]
            elif norm == Norm.LAST_PRICE_PCT:
                values = [_over(x, max(column)) for x in column]
            elif norm == Norm.ZSCORE_WINDOW:
                total = 0.0
                for x in column:
                    total += x
                mean = total / count
                total = 0.0
                for x in column:
                    total += (x - mean) * (x - mean)
                values = [_over(x - mean, math.sqrt(total / count)) for x in column]
            elif norm == Norm.MAX_VALUES:
                values = [_over(x, float(scale[c])) for x in column]
            else:
                values = column
            out[k, :, c] = values
    return Status.OK


def _nothing(row: NDArray[Any]) -> None:
    """A row before the tape begins or after it ends."""
    row[:] = [math.nan] * 4 + [0.0] * 4


def ranks(ordered: NDArray[np.int64], values: NDArray[np.int64], right: bool, out: NDArray[np.int64]) -> int:
    """How many of `ordered` lie before each value, or at it too if `right`."""
    for k, value in enumerate(values.tolist()):
        out[k] = sum(one < value or (right and one == value) for one in ordered.tolist())
    return Status.OK


def lookback(
    grid: NDArray[np.float64],
    first: NDArray[np.int64],
    count: int,
    out: NDArray[np.float64] | NDArray[np.float32],
    fault: NDArray[np.int64],
) -> int:
    """Rows `[first[k], first[k] + count)` of a grid; those that it does not have have NaN prices and 0."""
    for k, start in enumerate(first.tolist() if count else []):
        if not -count <= start <= len(grid):
            fault[0] = k
            return Status.NO_ROW
        for r in range(count):
            if 0 <= start + r < len(grid):
                out[k, r] = grid[start + r]
            else:
                _nothing(out[k, r])
    return Status.OK


def running_bars(
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags,
    edges: NDArray[np.int64],
    carry: NDArray[np.float64],
    fill: bool,
    out: NDArray[np.float64],
    fault: NDArray[np.int64],
) -> int:
    """The bar of each pair of `edges` by itself, `carry[r]` being the close before it.

    A pair that begins with a negative number is missing.
    """
    for row, (first, stop) in enumerate(edges.tolist()):
        if first < 0:
            _nothing(out[row])
            continue
        status = _bar(price, volume, flags, first, stop, carry[row : row + 1].copy(), fill, out[row], fault)
        if status != Status.OK:
            fault[1] = row
            return status
    return Status.OK


def threshold_ahead(
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags,
    spans: NDArray[np.int64],
    limit: float,
    dollar: bool,
    edges: NDArray[np.int64],
) -> int:
    """The first bars that close on `limit` in each of `spans`; a span's rest is one more.

    A row is the first trade, one past the last, and whether the limit was reached; -1 where there is no more.
    """
    for k, (first, stop) in enumerate(spans.tolist()):
        pairs: list[tuple[int, int, int]] = []
        start, total = first, 0.0
        for i in range(first, stop):
            if flags is None or flags[i] & Flag.VOLUME:
                total += float(price[i]) * float(volume[i]) if dollar else float(volume[i])
                if total >= limit:
                    pairs.append((start, i + 1, 1))
                    start, total = i + 1, 0.0
        if start < stop:
            pairs.append((start, stop, 0))
        edges[k] = -1
        for row, pair in enumerate(pairs[: edges.shape[1]]):
            edges[k, row] = pair
    return Status.OK


def blocks(
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags,
    range_: NDArray[np.float64],
    whole: NDArray[np.int64],
) -> int:
    """Lowest and highest of every 64 trades; sum, bits and greatest of whole volumes, and whether all count."""
    for j in range(len(range_)):
        part = slice(64 * j, 64 * j + 64)
        range_[j] = min(price[part].tolist()), max(price[part].tolist())
        whole[j] = 0
        if volume.dtype != np.float64:
            counted = [int(v) for v in volume[part]]
            bits = 0
            for v in counted:
                bits |= v
            whole[j, :3] = sum(counted), bits, max(0, *counted)
        whole[j, 3] = flags is None or all(int(mark) == ALL for mark in flags[part])
    return Status.OK


def anchored(
    clock: NDArray[np.int64],
    coarse: NDArray[np.int64],
    price: NDArray[np.float64],
    volume: Volume,
    flags: Flags,
    before: NDArray[np.int64] | None,
    range_: NDArray[np.float64],
    whole: NDArray[np.int64],
    at: NDArray[np.int64],
    when: NDArray[np.int64],
    slot: NDArray[np.int64],
    width: int,
    total: int,
    future: bool,
    fill: bool,
    edge: NDArray[np.int64],
    out: NDArray[np.float64],
    fault: NDArray[np.int64],
) -> int:
    """Windows of bars of `width` that end, or with `future` begin, at the elapsed trading time `when[k]`.

    `coarse`, `before`, `range_`, `whole` and `edge` only save the kernel's time.
    """
    count = out.shape[1]
    for index, moment, place in zip(at.tolist(), when.tolist(), slot.tolist(), strict=True):
        begin = moment if future else moment - count * width
        for x in range(count):
            low, high = begin + x * width, begin + (x + 1) * width
            if low < 0 or high > total:
                _nothing(out[place, x])
                continue
            inside = [i for i in range(len(clock)) if low <= clock[i] < high and (not future or i >= index)]
            first = inside[0] if inside else next((i for i in range(len(clock)) if clock[i] >= high), len(clock))
            carry = np.full(1, math.nan)
            for i in range(first):
                if flags is None or flags[i] & Flag.LAST:
                    carry[0] = price[i]
            status = _bar(price, volume, flags, first, first + len(inside), carry, fill, out[place, x], fault)
            if status != Status.OK:
                fault[1] = x
                return status
    return Status.OK


def read_bandwidth(ts: NDArray[np.int64], price: NDArray[np.float64], volume: Volume) -> float:
    """The sum of the columns; how long it takes is the limit of any kernel that reads them."""
    return float(ts.sum(dtype=np.uint64)) + float(price.sum()) + float(volume.sum())


def plain(flags: NDArray[np.uint8]) -> bool:
    """Whether every trade counts for everything."""
    return all(mark == ALL for mark in flags.tolist())
