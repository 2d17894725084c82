"""Small random tapes: ties, gaps, lunch breaks, early closes, empty sessions, void and ineligible trades."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tapeline.tape.prepared import TapeWriter
from tapeline.tape.sessions import Calendar, Segment, place, trade_dates
from tapeline.tape.trades import Trades, join
from tapeline.tape.view import OpenTape

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND
BEGIN = 19_000 * DAY


@dataclass(frozen=True)
class Case:
    """A sessions table and trades in it, which can be written as a tape."""

    sessions: tuple[Segment, ...]
    trades: Trades
    view: str

    def shown(self) -> Trades:
        """The trades that the view shows."""
        t = self.trades
        inside = np.zeros(len(t), np.bool_)
        for _, rows in groupby(self.sessions, key=lambda row: row.trade_date):
            day = list(rows)
            spans = [(row.open_ns, row.close_ns) for row in day]
            for low, high in spans if self.view == "regular" else [(day[0].pre_open_ns, day[-1].post_close_ns)]:
                inside |= (t.ts >= low) & (t.ts < high)
        if self.view == "all":
            inside[:] = True
        return t.take(inside & (t.flags != 0))

    def opened(self) -> OpenTape:
        """The tape, written to disk and read into memory."""
        with tempfile.TemporaryDirectory() as folder:
            writer = TapeWriter(Path(folder), Calendar("24/7"))
            placed = place(self.trades.ts, self.sessions)
            for number, day in enumerate(trade_dates(self.sessions)):
                some = placed.day == number
                if some.any():
                    writer.add("X", day, self.trades.take(some))
            tape = writer.finish(self.sessions, {})
            opened = OpenTape(tape.manifest, tape.path_of, view=self.view)  # type: ignore[arg-type]
            opened.all_trades("X")
        return opened

    def having(self, trades: Trades) -> Case:
        """The same sessions with other trades."""
        return replace(self, trades=trades)


def random_sessions(rng: np.random.Generator) -> tuple[Segment, ...]:
    """Two to four dates of one or two segments of some minutes, one of them short."""
    rows: list[Segment] = []
    for number in range(int(rng.integers(2, 5))):
        low = BEGIN + number * DAY + int(rng.integers(0, 7)) * SECOND
        parts = []
        for _ in range(int(rng.integers(1, 3))):
            high = low + int(rng.integers(1, 8)) * MINUTE + int(rng.choice([0, 0, 17])) * SECOND
            parts.append((low, high))
            low = high + int(rng.integers(1, 5)) * MINUTE
        for k, (start, end) in enumerate(parts):
            pre = start - 2 * MINUTE if k == 0 else start
            post = end + 3 * MINUTE if k == len(parts) - 1 else end
            rows.append(Segment(f"2022-01-{8 + number:02d}", k, start, end, pre, post))
    return tuple(rows)


def random_trades(
    rng: np.random.Generator, sessions: tuple[Segment, ...], n: int, kind: str, plain: bool, since: int = 0
) -> Trades:
    """Trades at times of the sessions from `since` on, some of them outside of hours."""
    step = int(rng.choice([1, SECOND, 7 * SECOND]))
    ts = []
    for row in rng.choice(len(sessions), n):
        low, high = sessions[row].pre_open_ns - 30 * SECOND * int(rng.random() < 0.1), sessions[row].post_close_ns
        low = max(low, sessions[row - 1].post_close_ns if row and sessions[row].segment == 0 else low)
        at = int(rng.integers(low, high))
        ts.append(low + (at - low) // step * step if step > 1 and at - low >= step else at)
    times = np.sort(np.array([t for t in ts if t >= since], np.int64))
    n = len(times)
    price = np.round(rng.uniform(10, 20, n), 2)
    whole = rng.integers(0, 1000, n)
    volume = whole if kind == "int64" else whole * rng.choice([0.1, 1.0, 1e-7, 1e9], n)
    flags = np.full(n, 7, np.uint8)
    if not plain:
        odd = rng.random(n) < 0.3
        flags[odd] = rng.integers(0, 8, int(odd.sum()))
    return Trades(times, price, volume, flags)


def random_case(seed: int, plain: bool | None = None) -> Case:
    """A case for a seed; it has at least two trades that the view shows."""
    rng = np.random.default_rng(seed)
    sessions = random_sessions(rng)
    kind, clean = str(rng.choice(["int64", "float64"])), bool(rng.random() < 0.4) if plain is None else plain
    view = str(rng.choice(["regular", "extended", "all"]))
    while True:
        case = Case(sessions, random_trades(rng, sessions, int(rng.integers(8, 120)), kind, clean), view)
        if len(case.shown()) >= 2:
            return case


def other_future(case: Case, index: int, seed: int) -> Case:
    """The case with every trade from the index of the view on changed, none of them earlier."""
    rng = np.random.default_rng(seed)
    shown, all_ = case.shown(), case.trades
    now = int(shown.ts[index])
    kept = all_.take(_before(case, index))
    later = random_trades(rng, case.sessions, int(rng.integers(0, 80)), all_.volume_kind, False, now)
    price = np.array([rng.uniform(1, 99)])
    at = Trades(np.array([now]), price, np.array([5]).astype(all_.volume.dtype), np.array([7], np.uint8))
    return case.having(join([kept, at, later]))


def cut_after(case: Case, index: int) -> Case:
    """The tape that ends with the trade at the index of the view."""
    kept = _before(case, index)
    kept[np.flatnonzero(_visible(case))[index]] = True
    return case.having(case.trades.take(kept))


def other_past(case: Case, index: int, seed: int) -> Case:
    """The case with price, volume and flags of every trade before the index changed."""
    rng = np.random.default_rng(seed)
    t, mask = case.trades, _before(case, index)
    price, volume, flags = t.price.copy(), t.volume.copy(), t.flags.copy()
    price[mask] = rng.uniform(1, 99, int(mask.sum()))
    volume[mask] = rng.integers(0, 99, int(mask.sum())).astype(volume.dtype)
    some = mask & (flags != 0)
    flags[some] = rng.integers(1, 8, int(some.sum()))
    return case.having(Trades(t.ts, price, volume, flags))


def _visible(case: Case) -> Any:
    mark = np.arange(len(case.trades))
    shown = case.having(replace(case.trades, seq=mark)).shown().seq
    return np.isin(mark, shown)


def _before(case: Case, index: int) -> Any:
    mask = np.zeros(len(case.trades), np.bool_)
    mask[: np.flatnonzero(_visible(case))[index]] = True
    return mask


@pytest.fixture(scope="session")
def cases() -> SimpleNamespace:
    """The functions above, for tests of this folder."""
    return SimpleNamespace(
        random=random_case, other_future=other_future, cut_after=cut_after, other_past=other_past, Case=Case
    )
