"""Cuts samples into train, validation and test: whole sessions in order of time, purged, with an embargo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.asset_files import TEST, TRAIN, VALIDATION
from tapeline.assets.days import SymbolDays
from tapeline.assets.view import Market
from tapeline.errors import TapelineError

DROPPED = 255
"""Part of a row that purge or embargo took away; it is not stored."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The part of each sample, and where the parts meet.

    Attributes
    ----------
    part : uint8, shape (n,): 0 train, 1 validation, 2 test, 255 not stored
    of_session : uint8, shape (sessions,), the part of each session
    borders : of each later part that is there: its part, and the time at which its first session opens, ns
    """

    part: NDArray[np.uint8]
    of_session: NDArray[np.uint8]
    borders: tuple[tuple[int, int], ...]
    purged: int
    embargoed: int


def session_parts(dates: Sequence[str], split: dict[str, Any]) -> NDArray[np.uint8]:
    """The part of each session: train first, then validation, then test.

    Raises
    ------
    TapelineError
        `too_few_sessions` when no session is left to train on.
    """
    n = len(dates)
    if split["test_from"] is not None:
        n_test = sum(date >= split["test_from"] for date in dates)
    else:
        n_test = _share(n, split["test_fraction"])
    n_validation = _share(n, split["validation_fraction"])
    if n - n_test - n_validation < 1:
        raise TapelineError(
            f"{n} sessions leave none to train on after {n_validation} for validation and {n_test} for test",
            code="too_few_sessions",
            hint="use a longer range, or smaller fractions",
        )
    part = np.full(n, TRAIN, np.uint8)
    part[n - n_test - n_validation :] = VALIDATION
    part[n - n_test :] = TEST
    return part


def _share(n: int, fraction: float) -> int:
    return max(1, round(n * fraction)) if fraction > 0 else 0


def session_opens(markets: Iterable[Market | SymbolDays], days: Mapping[str, int]) -> NDArray[np.int64]:
    """When each session of a build opens, the earliest of all symbols: int64 ns, shape (sessions,)."""
    opens = np.full(len(days), np.iinfo(np.int64).max, np.int64)
    for market in markets:
        for number, (low, _) in zip(market.session.tolist(), market.segments.tolist(), strict=True):
            day = days.get(market.dates[number])
            if day is not None:
                opens[day] = min(int(opens[day]), low)
    return opens


def must_have_rows(parts: Parts) -> None:
    """Refuse a split of which a part that was asked for has no row.

    Raises
    ------
    TapelineError
        `too_few_sessions` with the part, and what purge and embargo took away.
    """
    for which, name in ((TRAIN, "train"), (VALIDATION, "validation"), (TEST, "test")):
        sessions = int((parts.of_session == which).sum())
        if sessions and not bool((parts.part == which).any()):
            raise TapelineError(
                f"no row is left in {name}: of its {sessions} sessions the embargo took {parts.embargoed} rows and "
                f"the purge {parts.purged} of all parts",
                code="too_few_sessions",
                hint="use a longer range, a shorter horizon or embargo, or other fractions",
            )


def assign(
    t0: NDArray[np.int64],
    t1: NDArray[np.int64],
    session: NDArray[np.int64],
    opens: NDArray[np.int64],
    of_session: NDArray[np.uint8],
    embargo_ns: int,
) -> Parts:
    """The part of each sample after purge and embargo.

    Parameters
    ----------
    t0 : int64 ns, shape (n,), sample times
    t1 : int64 ns, shape (n,), the latest time that any label of the sample reads
    session : int64, shape (n,), number of the sample's session
    opens : int64 ns, shape (sessions,), when each session opens

    Notes
    -----
    The embargo is cut from the start of each later part: samples before its first open plus `embargo_ns`.
    Then a sample of an earlier part is kept only if its t1 lies before the first t0 that is left there.
    """
    part = of_session[session].copy()
    borders: list[tuple[int, int]] = []
    embargoed = purged = 0
    for later in (VALIDATION, TEST):
        sessions = np.flatnonzero(of_session == later)
        if len(sessions) == 0:
            continue
        border = int(opens[sessions[0]])
        borders.append((later, border))
        near = (part == later) & (t0 < border + embargo_ns)
        embargoed += int(near.sum())
        part[near] = DROPPED
        first = t0[part == later]
        limit = int(first.min()) if len(first) else border
        late = (part < later) & (t1 >= limit)
        purged += int(late.sum())
        part[late] = DROPPED
    return Parts(part, of_session, tuple(borders), purged, embargoed)
