"""What an import mends or marks in a day of trades; each thing is counted, never silent."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tapeline.tape.options import ImportOptions, ImportReport
from tapeline.tape.trades import Trades

# A price is an outlier if it is further than half of the median of the last 50 good prices from it.
SPAN = 50
BLOCK = 4096


def bad_prices(price: NDArray[np.float64], allow_nonpositive: bool) -> NDArray[np.bool_]:
    """Which prices are none: NaN, infinite, or not above 0."""
    bad = ~np.isfinite(price)
    return bad if allow_nonpositive else bad | ~(price > 0)


def ordered(trades: Trades) -> Trades:
    """The trades by time, equal times by sequence, else as they came."""
    steps = np.diff(trades.ts)
    if trades.seq is None:
        return trades if not bool((steps < 0).any()) else trades.take(np.argsort(trades.ts, kind="stable"))
    turned = (steps < 0) | ((steps == 0) & (np.diff(trades.seq) < 0))
    return trades if not bool(turned.any()) else trades.take(np.lexsort((trades.seq, trades.ts)))


def drop_equal(trades: Trades, options: ImportOptions, report: ImportReport) -> Trades:
    """Count rows equal to the one before; leave them out if the user asked for it."""
    if len(trades) < 2:
        return trades
    names = ["ts", "price", "volume", *(name for name in ("seq", "cond") if name in trades.columns)]
    same = np.ones(len(trades) - 1, np.bool_)
    for name in names:
        column = trades.columns[name]
        same &= column[1:] == column[:-1]
    report.equal_rows += int(same.sum())
    if options.drop_duplicates == "seq" and trades.seq is not None:
        same = trades.seq[1:] == trades.seq[:-1]
    elif options.drop_duplicates != "exact":
        return trades
    report.dropped_duplicates += int(same.sum())
    return trades.take(np.concatenate([[True], ~same]))


def outliers(price: NDArray[np.float64], flags: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Rows whose price is further than 50 % from the median of the last 50 good prices, void rows left out.

    Notes
    -----
    A price within half of the lowest and one and a half of the highest of its neighbours cannot be one, so
    whole blocks pass on their extremes and medians are taken only where something stands out.
    """
    good = None if bool((flags != 0).all()) else np.flatnonzero(flags != 0)
    values = price if good is None else price[good]
    if len(values) <= SPAN or values.max() <= 1.5 * values.min():
        return np.empty(0, np.int64)
    found: list[NDArray[np.int64]] = []
    for start in range(SPAN, len(values), BLOCK):
        stop = min(start + BLOCK, len(values))
        part = values[start - SPAN : stop]
        if part.max() <= 1.5 * part.min():
            continue
        medians = np.median(sliding_window_view(part, SPAN)[: stop - start], axis=1)
        far = np.abs(values[start:stop] - medians) > 0.5 * np.abs(medians)
        here = np.flatnonzero(far) + start
        found.append(here if good is None else good[here])
    return np.concatenate(found) if found else np.empty(0, np.int64)
