"""Seeded synthetic tapes with a documented, learnable signal.

A hidden state moves in every minute and drives, weakly, the prices of the minute after it; it also scales
the size of trades, so it shows itself, noisily, in `vol_mean`. Only raw draws of PCG64 and `+ - * /`, square
root, floor and rint are used, no transcendental function, so that one seed gives one `content_sha256` on
every platform. Every (seed, symbol, day, purpose) has a stream of its own: more days never change earlier ones.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, timedelta
from enum import IntEnum
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tapeline.errors import TapelineError
from tapeline.tape.prepared import PreparedTape, Progress, TapeWriter
from tapeline.tape.sessions import Calendar, Segment
from tapeline.tape.trades import Trades

MINUTE_NS = 60_000_000_000
MS = 1_000_000
TABLE = 4096
# A session of this length gets `trades_per_day`; others in proportion.
FULL_NS = 390 * MINUTE_NS


class Purpose(IntEnum):
    """What a stream of draws is for."""

    TIMES = 0
    TIES = 1
    STATE = 2
    STEPS = 3
    JUMPS = 4
    SIZES = 5
    ODD = 6
    GAP = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What a synthetic tape is made of; stored in its manifest.

    Attributes
    ----------
    signal : share of a minute's move that comes from the hidden state of the minute before, 0 to 1
    ties : probability that a trade takes the stamp of its predecessor
    jumps : price jumps a session, on average
    """

    seed: int = 7
    symbols: int = 1
    days: int = 60
    start: str = "2024-01-02"
    calendar: str = "SIM"
    trades_per_day: int = 20_000
    signal: float = 0.15
    ties: float = 0.3
    jumps: float = 0.5
    price: float = 100.0
    tick: float = 0.01

    def __post_init__(self) -> None:
        checks = {
            "seed": 0 <= self.seed < 2**63,
            "symbols": 1 <= self.symbols <= 1000,
            "days": 1 <= self.days <= 10_000,
            "trades_per_day": 10 <= self.trades_per_day <= 50_000_000,
            "signal": 0 <= self.signal <= 1,
            "ties": 0 <= self.ties < 1,
            "jumps": 0 <= self.jumps <= 100,
            "tick": 0 < self.tick <= self.price / 1000,
            "price": 0 < self.price <= 1e9,
        }
        for name, holds in checks.items():
            if not holds:
                raise TapelineError(
                    f"{name} is {getattr(self, name)!r}, which no synthetic tape can have",
                    code="invalid_argument",
                    hint="tapeline tape simulate --help lists what each may be",
                )


def raw(s: Simulation, symbol: int, day: int, purpose: Purpose, n: int) -> NDArray[np.float64]:
    """`n` uniforms in [0, 1) of one child stream."""
    stream = np.random.PCG64(np.random.SeedSequence([s.seed, symbol, day, int(purpose)]))
    draws = np.asarray(stream.random_raw(n), np.uint64)
    uniforms: NDArray[np.float64] = (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniforms


def normals(s: Simulation, symbol: int, day: int, purpose: Purpose, n: int) -> NDArray[np.float64]:
    """`n` near-normal draws: twelve uniforms minus 6, added in a fixed order."""
    uniforms = raw(s, symbol, day, purpose, 12 * n).reshape(12, n)
    total: NDArray[np.float64] = uniforms[0].copy()
    for row in uniforms[1:]:
        total += row
    return total - 6.0


def weight(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """The U-shaped activity at the share u of a session."""
    middle = 2.0 * u - 1.0
    return 1.0 + 3.0 * middle * middle


def _inverse() -> NDArray[np.float64]:
    """Cumulated activity at the edges of the table's steps, from 0 to 1."""
    steps = np.cumsum(weight((np.arange(TABLE) + 0.5) / TABLE))
    return np.concatenate([[0.0], steps / steps[-1]])


CUMULATED = _inverse()


def times(s: Simulation, symbol: int, day: int, open_ns: int, close_ns: int) -> NDArray[np.int64]:
    """The stamps of one session, ms, sorted, some repeated."""
    n = max(int(np.rint(s.trades_per_day * ((close_ns - open_ns) / FULL_NS))), 10)
    if s.calendar == "24/7":
        n = s.trades_per_day
    draws = np.sort(raw(s, symbol, day, Purpose.TIMES, n))
    step = np.searchsorted(CUMULATED, draws, "right") - 1
    share = (step + (draws - CUMULATED[step]) / (CUMULATED[step + 1] - CUMULATED[step])) / TABLE
    stamps = np.floor(share * ((close_ns - open_ns) // MS)).astype(np.int64)
    fresh = raw(s, symbol, day, Purpose.TIES, n) >= s.ties
    fresh[0] = True
    return open_ns + MS * stamps[np.maximum.accumulate(np.where(fresh, np.arange(n), 0))]


def hidden_state(s: Simulation, symbol: int, day: int, minutes: int) -> NDArray[np.float64]:
    """The state x of each minute, preceded by that of the minute before the open: shape (minutes + 1,)."""
    shocks = normals(s, symbol, day, Purpose.STATE, minutes + 1)
    kept, fresh = 0.9, float(np.sqrt(0.19))
    x = float(shocks[0])
    states = [x]
    for shock in shocks[1:].tolist():
        x = kept * x + fresh * shock
        states.append(x)
    return np.array(states)


def session(s: Simulation, symbol: int, day: int, segment: Segment, begin: float) -> tuple[Trades, float]:
    """The trades of one session that opens at `begin` ticks, and the ticks at its end."""
    low, high = segment.open_ns, segment.close_ns
    ts = times(s, symbol, day, low, high)
    n = len(ts)
    minutes = -(-(high - low) // MINUTE_NS)
    x = hidden_state(s, symbol, day, minutes)
    minute = (ts - low) // MINUTE_NS
    count = np.bincount(minute, minlength=minutes).astype(np.float64)[minute]

    scale = 8.0 * np.sqrt(weight((np.arange(minutes) + 0.5) / minutes) / 2.0)[minute]
    noise = normals(s, symbol, day, Purpose.STEPS, n)
    moves = scale * (noise * np.sqrt((1.0 - s.signal * s.signal) / count) + s.signal * x[minute] / count)
    chance = raw(s, symbol, day, Purpose.JUMPS, 3 * n).reshape(3, n)
    jump = (20.0 + np.floor(61.0 * chance[1])) * np.where(chance[2] < 0.5, -1.0, 1.0)
    moves += np.where(chance[0] < s.jumps / n, jump, 0.0)
    # Reflected at a fifth of the start price: no price comes near zero.
    floor = np.rint(s.price / s.tick / 5.0)
    path = floor + np.abs(begin + np.cumsum(moves) - floor)
    ticks = np.rint(path)

    sizes = raw(s, symbol, day, Purpose.SIZES, n)
    # A Pareto tail of exponent 4/3, cut at 60 times the mean: sizes are as unruly as real ones.
    root = np.sqrt(1.0 - sizes)
    heavy = np.minimum(0.25 / (root * np.sqrt(root)), 60.0)
    seen = 1.0 + 0.4 * np.minimum(np.maximum(x[minute + 1], -2.0), 2.0)
    volume = (1.0 + np.floor(150.0 * heavy * seen)).astype(np.int64)

    odd = raw(s, symbol, day, Purpose.ODD, 3 * n).reshape(3, n)
    flags = np.full(n, 7, np.uint8)
    off = odd[0] < 0.005
    flags[off] = 4
    away = (5.0 + np.floor(11.0 * odd[1])) * np.where(odd[2] < 0.5, -1.0, 1.0)
    ticks = np.where(off, ticks + away, ticks)
    void = np.floor(odd[1][:3] * n).astype(np.int64)
    flags[void] = 0
    ticks[void] = np.rint(ticks[void] * 0.5)
    per_unit = np.rint(1.0 / s.tick)
    exact = abs(per_unit * s.tick - 1.0) < 1e-9
    price = ticks / per_unit if exact else ticks * s.tick
    return Trades(ts, price, volume, flags), float(path[-1])


def simulate(
    out_dir: Path,
    *,
    seed: int = 7,
    symbols: int = 1,
    days: int = 60,
    start: str = "2024-01-02",
    calendar: str = "SIM",
    trades_per_day: int = 20_000,
    signal: float = 0.15,
    ties: float = 0.3,
    jumps: float = 0.5,
    price: float = 100.0,
    tick: float = 0.01,
    progress: Progress | None = None,
) -> PreparedTape:
    """A synthetic tape in `out_dir`, marked as such with all its parameters.

    Parameters
    ----------
    days : trade dates from `start` on
    progress : called with `{stage, done, total, unit, rows}` after every day
    """
    s = Simulation(
        seed=seed, symbols=symbols, days=days, start=start, calendar=calendar, trades_per_day=trades_per_day,
        signal=signal, ties=ties, jumps=jumps, price=price, tick=tick,
    )  # fmt: skip
    rows = table(s)
    names = [f"SIM{k + 1}" for k in range(s.symbols)]
    writer = TapeWriter(out_dir, Calendar(s.calendar), currency="USD", tick_size=s.tick)
    done = 0
    written = 0
    for index, name in enumerate(names):
        ticks = float(np.rint(s.price / s.tick))
        for day, (trade_date, group) in enumerate(groupby(rows, key=lambda row: row.trade_date)):
            if day:
                ticks += 20.0 * float(normals(s, index, day, Purpose.GAP, 1)[0])
            segment = next(group)
            trades, ticks = session(s, index, day, segment, ticks)
            writer.add(name, trade_date, trades)
            done += 1
            written += len(trades)
            if progress is not None:
                progress(
                    {"stage": "simulate", "done": done, "total": s.symbols * s.days, "unit": "days", "rows": written}
                )
    report = {"rows": written, "eligibility": "synthetic", "synthetic": True}
    return writer.finish(rows, report, eligibility="synthetic", synthetic=asdict(s))


def table(s: Simulation) -> tuple[Segment, ...]:
    """The sessions of a synthetic tape: the first `days` trade dates from `start` on."""
    try:
        first = date.fromisoformat(s.start)
    except ValueError:
        raise TapelineError(f"start is {s.start!r}", code="invalid_date", hint="write it as 2024-01-02") from None
    found = Calendar(s.calendar).sessions(first, first + timedelta(days=2 * s.days + 20))
    dates = sorted({row.trade_date for row in found})[: s.days]
    kept = tuple(row for row in found if row.trade_date in set(dates))
    if len(dates) < s.days or len(kept) != len(dates):
        raise TapelineError(
            f"calendar {s.calendar} has no {s.days} plain sessions from {s.start} on",
            code="invalid_argument",
            hint="take SIM, 24/7 or XNYS",
        )
    return kept
