"""Checks 8 and 10: rows that cannot be right, data that teaches nothing, and symbols that come and go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.asset_files import TEST, TRAIN, VALIDATION
from tapeline.assets.certificate import Check
from tapeline.assets.samples import Samples
from tapeline.assets.split import DROPPED
from tapeline.assets.view import Market, Unit, iso
from tapeline.measures import first_not_finite, price_marks, weigh

NAN_SHARE = 0.01
MAX_HASHED = 200_000
GAP_BARS = 3
SHOWN = 5
SPLITS = (2.0, 3.0, 4.0, 5.0, 10.0, 20.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 10, 1 / 20)
SPLIT_SLACK = 0.04


def soundness(
    samples: Samples,
    symbol: NDArray[np.uint16],
    part: NDArray[np.uint8],
    stats: Mapping[str, Any],
    gaps: Mapping[str, Mapping[str, Any]],
    days: Mapping[str, int],
    calendar_dates: Sequence[str],
    bar: tuple[Unit, int],
) -> Check:
    """Check 8: times ascend and values are finite; warnings for columns and rows that teach nothing, and for gaps.

    Parameters
    ----------
    gaps : by symbol what `gaps_of` and `merged_gaps` give
    days : trade dates of the build, with their numbers
    calendar_dates : trade dates that the calendar has in the range
    bar : the bars in which gaps were counted
    """
    failure: dict[str, Any] | None = None
    warnings: list[str] = []
    for number in np.unique(symbol):
        steps = np.diff(samples.t0[symbol == number])
        if bool((steps < 0).any()):
            failure = {"message": f"the times of symbol {number} do not ascend"}
        if bool((steps == 0).any()):
            warnings.append(f"symbol {number} has {int((steps == 0).sum())} duplicate times")
    for name, values in {**samples.features, **samples.labels}.items():
        bad = first_not_finite(values) if failure is None else -1
        if bad >= 0:
            row = bad // int(np.prod(values.shape[1:]))
            time = iso(samples.t0[row])
            failure = {"feature": name, "row": row, "time": time, "message": f"{name!r} is not finite at {time}"}
    total = len(samples.t0) + sum(samples.dropped.values())
    for what, counts in (("left out", samples.dropped), ("filled", samples.filled)):
        for name, count in counts.items():
            if name in samples.features and count > NAN_SHARE * total:
                warnings.append(f"{name!r} {what} {count} of {total} rows")
    for name, moments in stats["features"].items():
        warnings += [
            f"{name!r} column {j} is constant in train" for j, value in enumerate(moments["variance"]) if value == 0
        ]
    equal = _equal_rows(samples, part)
    if equal:
        warnings.append(f"{equal} rows of later parts equal a train row in every feature")
    gaps = {name: found for name, found in gaps.items() if found["count"]}
    warnings += [
        f"{name!r} has {found['count']} gaps of more than {GAP_BARS} bars of {bar[1]} {bar[0]} without a trade, the "
        f"longest of {found['longest']} from {found['from']}"
        for name, found in gaps.items()
    ]
    missing = [day for day in calendar_dates if day not in days]
    foreign = sorted(set(days) - set(calendar_dates))
    for dates, what in ((missing, "the calendar has no trades"), (foreign, "the tape are not in the calendar")):
        if dates:
            warnings.append(f"{len(dates)} sessions of {what}: {', '.join(dates[:SHOWN])}")
    verdict = "failed" if failure else "warned" if warnings else "passed"
    numbers = {
        "rows": len(samples.t0),
        "dropped": dict(samples.dropped),
        "filled": dict(samples.filled),
        "equal_rows": equal,
        "gaps": dict(gaps),
    }
    return Check(8, "soundness", verdict, numbers, failure, warnings)


def gaps_of(market: Market, days: Collection[str], bar: tuple[Unit, int]) -> dict[str, Any]:
    """Runs of more than three bars of a session without a trade: how many, the longest, and where it begins."""
    grid = market.grid(*bar)
    inside = np.array([day in days for day in market.dates], bool)
    empty = (grid.bars[:, 4] == 0) & inside[grid.session]
    edge = np.flatnonzero(np.diff(np.where(empty, grid.segment, -1), prepend=-1, append=-1))
    runs = [(a, b) for a, b in pairwise(edge.tolist()) if empty[a] and b - a > GAP_BARS]
    if not runs:
        return {"count": 0}
    first, stop = max(runs, key=lambda run: run[1] - run[0])
    return {"count": len(runs), "longest": stop - first, "from": iso(grid.end[first - 1] if first else grid.end[0])}


def merged_gaps(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The gaps of several stretches of one symbol, in order of time."""
    found = [part for part in parts if part["count"]]
    if not found:
        return {"count": 0}
    longest = max(found, key=lambda part: int(part["longest"]))
    return {**longest, "count": sum(part["count"] for part in found)}


def _equal_rows(samples: Samples, part: NDArray[np.uint8]) -> int:
    n = min(len(samples.t0), MAX_HASHED)
    flat = [values[:n].reshape(n, -1) for values in samples.features.values()]
    # A sum of words with odd weights: rows of equal sums are compared whole.
    sums = np.zeros(n, np.uint64)
    draw = np.random.Generator(np.random.PCG64(1))
    for words in flat:
        weigh(words, draw.integers(0, 2**63, size=words.shape[1], dtype=np.uint64) | np.uint64(1), sums)
    train = np.flatnonzero(part[:n] == TRAIN)
    later = np.flatnonzero((part[:n] != TRAIN) & (part[:n] != DROPPED))
    if not len(train) or not len(later):
        return 0
    known, first = np.unique(sums[train], return_index=True)
    place = np.minimum(np.searchsorted(known, sums[later]), len(known) - 1)
    alike = np.flatnonzero(known[place] == sums[later])
    pairs = zip(later[alike].tolist(), train[first[place[alike]]].tolist(), strict=True)
    return sum(
        all(np.array_equal(words[a].view(np.uint32), words[b].view(np.uint32)) for words in flat) for a, b in pairs
    )


@dataclass(frozen=True, slots=True)
class Traded:
    """How a symbol was traded in one session: its first and last price, and the share of prices in whole cents."""

    date: str
    first: float
    last: float
    cents: float


def traded(market: Market, days: Collection[str]) -> list[Traded]:
    """The sessions of a market that lie in `days` and have a price."""
    trades, found = market.trades, []
    for number in range(int(market.session[0]), int(market.session[-1]) + 1) if len(market.session) else ():
        date = market.dates[number]
        if date not in days:
            continue
        own = market.segments[slice(*market.session.searchsorted((number, number + 1)).tolist())]
        rows = slice(*trades.ts.searchsorted((own[0, 0], own[-1, 1])).tolist()) if len(own) else slice(0)
        marks = price_marks(trades.price[rows], trades.flags[rows])
        if marks is not None:
            count, whole, first, last = marks
            found.append(Traded(date, first, last, whole / count))
    return found


def universe(
    samples: Samples,
    symbol: NDArray[np.uint16],
    part: NDArray[np.uint8],
    sessions: Sequence[tuple[str, Sequence[Traded]]],
    days: Collection[str],
) -> Check:
    """Check 10: warnings for symbols that are absent in some of the range, and for prices adjusted afterwards.

    Parameters
    ----------
    sessions : each symbol, in the order of their numbers, with what `traded` gives

    Notes
    -----
    A tape holds prices as traded. Signs of others: a step over night that is the ratio of a split (not adjusted:
    a false return), and prices that are whole cents in the last session but not in the first (adjusted by what was
    known only later).
    """
    warnings: list[str] = []
    counts: dict[str, int] = {}
    for number, (name, found) in enumerate(sessions):
        rows = symbol == number
        own = {each.date for each in found}
        absent = sorted(day for day in days if day not in own)
        counts[name] = len(np.unique(samples.session[rows]))
        if absent:
            warnings.append(f"{name!r} is absent on {len(absent)} of {len(days)} sessions: "
                            f"{', '.join(absent[:SHOWN])}")  # fmt: skip
        gone = [
            which_part
            for which_part, which in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))
            if bool((part == which).any()) and not bool((part[rows] == which).any())
        ]
        if gone:
            warnings.append(f"{name!r} has no rows in {' and '.join(gone)}")
        warnings += _adjustments(name, found)
    return Check(
        10, "universe", "warned" if warnings else "passed", {"sessions": counts, "of": len(days)}, None, warnings
    )


def _adjustments(name: str, sessions: Sequence[Traded]) -> list[str]:
    found = []
    for before, after in pairwise(sessions):
        step = after.first / before.last
        ratio = next((each for each in SPLITS if abs(step / each - 1) < SPLIT_SLACK), None)
        if ratio is not None:
            found.append(f"{name!r} opens on {after.date} at {step:.3f} of its last close: a split as traded?")
    if len(sessions) > 1 and sessions[-1].cents > 0.99 and sessions[0].cents < 0.5:
        found.append(f"prices of {name!r} are whole cents on {sessions[-1].date} but not on "
                     f"{sessions[0].date}: adjusted by what was known only later?")  # fmt: skip
    return found
