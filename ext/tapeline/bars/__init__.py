"""Bars cut from trades: fast, causal and equal to the bit on every machine.

Read `reference.py` first: it says in plain loops what `_kernels.pyx` does fast. This front checks dtype,
order and shape once, allocates, calls, and turns a kernel's status into a `BarsError` with a code.
"""

from __future__ import annotations

from tapeline.bars.front import ISA, grid_ends, grid_rows, read_bandwidth, session_bars, time_bars
from tapeline.bars.groups import session_threshold_bars, threshold_bars, tick_bars
from tapeline.bars.status import ALL, COLUMNS, BarsError, Flag, Norm, Status
from tapeline.bars.windows import Anchored, Marked, gather, lookback, marked, ranks, running_bars, threshold_ahead

__all__ = [
    "ALL",
    "COLUMNS",
    "ISA",
    "Anchored",
    "BarsError",
    "Flag",
    "Marked",
    "Norm",
    "Status",
    "gather",
    "grid_ends",
    "grid_rows",
    "lookback",
    "marked",
    "ranks",
    "read_bandwidth",
    "running_bars",
    "session_bars",
    "session_threshold_bars",
    "threshold_ahead",
    "threshold_bars",
    "tick_bars",
    "time_bars",
]
