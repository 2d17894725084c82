"""Checks 1 to 4, by experiment: disturb the future, take it away, cut the past off, and look at what changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.certificate import Check
from tapeline.assets.component import Instance, LabelParams
from tapeline.assets.view import Market, View, iso, number
from tapeline.errors import TapelineError

CUTS = 32
CUTS_PER_SYMBOL = 8
WINDOW = 50_000
NEAR = 256
NOISE = 0.05
TOLERANCE = 1e-9


def cut_points(times: NDArray[np.int64], session: NDArray[np.int64], digest: str, symbol: str, n: int) -> list[int]:
    """Rows at which the tape is cut: fixed by the spec's digest, one in the first and one in the last session."""
    if len(times) == 0:
        return []
    seed = int.from_bytes(hashlib.sha256(f"{digest}|{symbol}".encode()).digest()[:8], "big")
    draw = np.random.Generator(np.random.PCG64(seed))
    first, last = np.flatnonzero(session == session[0]), np.flatnonzero(session == session[-1])
    rows = {int(first[draw.integers(len(first))]), int(last[draw.integers(len(last))])}
    rows |= {int(row) for row in draw.integers(0, len(times), size=max(0, n - 2))}
    return sorted(rows)


def disturbed(market: Market, cut: int, digest: str) -> Market:
    """The market with every price and volume from a time on changed by 5 % noise."""
    trades = market.trades
    start = int(np.searchsorted(trades.ts, cut, "left"))
    seed = int.from_bytes(hashlib.sha256(f"{digest}|{cut}".encode()).digest()[:8], "big")
    draw = np.random.Generator(np.random.PCG64(seed))
    n = len(trades.ts) - start
    price, volume = trades.price.copy(), trades.volume.copy()
    price[start:] = price[start:] * (1.0 + NOISE * draw.standard_normal(n).clip(-3, 3))
    changed = volume[start:] * (1.0 + NOISE * draw.standard_normal(n).clip(-3, 3))
    if volume.dtype == np.int64:
        # A few units more at least: 5 % of a small whole number would often be no change.
        changed = np.rint(changed) + draw.integers(1, 4, size=n)
    volume[start:] = changed.astype(volume.dtype)
    return market.changed(price, volume)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One symbol under examination, with the times of all its samples before any was dropped.

    Attributes
    ----------
    sampled : gives the sample times of a market: they too must not know the future
    ahead : whether features may ask for the future (`allow_lookahead`)
    """

    market: Market
    times: NDArray[np.int64]
    session: NDArray[np.int64]
    sampled: Callable[[Market], NDArray[np.int64]] | None = None
    ahead: bool = False
    _known: dict[int, dict[str, Any]] = field(default_factory=dict)

    def view(self, market: Market, times: NDArray[np.int64]) -> View:
        """A market at some sample times, as the build shows it to a component."""
        return View(market, times, ahead=self.ahead)

    def undisturbed(self, low: int, instances: Sequence[Instance]) -> dict[str, Any]:
        """What each instance gives for the window of samples that begins at row `low`; computed once."""
        if low not in self._known:
            self._known.clear()
            view = self.view(self.market, self.times[low : low + WINDOW])
            self._known[low] = {each.name: each.compute(view) for each in instances}
        return self._known[low]


@dataclass(slots=True)
class _Finding:
    failure: dict[str, Any] | None = None
    compared: int = 0
    largest: float = 0.0

    def fail(self, failure: dict[str, Any]) -> None:
        if self.failure is None:
            self.failure = failure

    def check(self, number: int, name: str, numbers: dict[str, Any]) -> Check:
        verdict = "failed" if self.failure else "passed"
        return Check(number, name, verdict, numbers | {"values": self.compared}, self.failure)


@dataclass(slots=True)
class _Findings:
    causality: _Finding = field(default_factory=_Finding)
    truncation: _Finding = field(default_factory=_Finding)
    adapter: _Finding = field(default_factory=_Finding)
    label_time: _Finding = field(default_factory=_Finding)


def causality(
    subjects: Sequence[Subject], features: Sequence[Instance], labels: Sequence[Instance], digest: str, tell: Any
) -> list[Check]:
    """Checks 1 to 4 over all subjects, at 32 cuts or at 8 of each symbol, whichever is more.

    Notes
    -----
    1: with all data from the cut on disturbed, features and sample times up to the cut are equal to the byte.
    2: with the warm-up alone, features at the cut are equal within 1e-9 standard deviations. 3: with no data from
    the cut on, and the future refused, features shortly before the cut are equal as closely. 4: see `_label_time`.
    """
    per_symbol = max(CUTS_PER_SYMBOL, -(-CUTS // max(len(subjects), 1)))
    found = _Findings()
    plan = [
        (subject, row)
        for subject in subjects
        for row in cut_points(subject.times, subject.session, digest, subject.market.symbol, per_symbol)
    ]
    for done, (subject, row) in enumerate(plan):
        _examine(subject, row, features, labels, digest, found)
        tell("check", done + 1, len(plan), "cuts")
    numbers = {"cuts": len(plan), "features": len(features)}
    return [
        found.causality.check(1, "causality", numbers),
        found.truncation.check(2, "truncation", numbers | {"largest_sd": found.truncation.largest}),
        found.adapter.check(3, "adapter_flags", numbers | {"largest_sd": found.adapter.largest}),
        found.label_time.check(4, "label_time", {"cuts": len(plan), "labels": len(labels)}),
    ]


def _examine(
    subject: Subject,
    row: int,
    features: Sequence[Instance],
    labels: Sequence[Instance],
    digest: str,
    found: _Findings,
) -> None:
    # Windows begin at multiples, so that neighbouring cuts share what is not disturbed.
    low = max(0, (row - WINDOW // 2) // (WINDOW // 4) * (WINDOW // 4)) if len(subject.times) > WINDOW else 0
    times = subject.times[low : low + WINDOW]
    here = row - low
    cut = int(times[here])
    known = subject.undisturbed(low, [*features, *labels])
    view = subject.view(subject.market, times)
    other = subject.view(disturbed(subject.market, cut, digest), times)
    ended = subject.market.until(cut)
    seen = int(np.searchsorted(times, cut, "right"))
    for feature in features:
        before, after = np.asarray(known[feature.name]), np.asarray(feature.compute(other))
        found.causality.compared += seen
        leak = _first_difference(before[:seen], after[:seen])
        if leak is not None:
            found.causality.fail(_leak(feature, subject, times, leak, cut))
        spread = _spread(before)
        _truncation(feature, subject, times, here, before, spread, found.truncation)
        _refused(feature, subject, ended, times, here, before, spread, found.adapter)
    if subject.sampled is not None:
        again = subject.sampled(other.market)
        if not np.array_equal(again[again <= cut], subject.times[subject.times <= cut]):
            message = f"samples up to {iso(cut)} were taken at other times when data from then on was changed"
            found.causality.fail({"symbol": subject.market.symbol, "cut": iso(cut), "message": message})
    for label in labels:
        _label_time(label, known[label.name][:2], view, other, cut, found.label_time)


def _first_difference(a: NDArray[Any], b: NDArray[Any]) -> tuple[int, int, float, float] | None:
    """Row, column, and both values of the first difference in bytes; NaN equals NaN."""
    if a.shape == b.shape and a.dtype == b.dtype and np.array_equal(_bits(a), _bits(b)):
        return None
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    differs = (flat_a != flat_b) & ~(np.isnan(flat_a) & np.isnan(flat_b))
    if not bool(differs.any()):
        return None
    row = int(np.flatnonzero(differs.any(axis=1))[0])
    column = int(np.flatnonzero(differs[row])[0])
    return row, column, float(flat_a[row, column]), float(flat_b[row, column])


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8 if values.itemsize < 4 else np.uint32)


def _leak(
    feature: Instance, subject: Subject, times: NDArray[np.int64], found: tuple[int, int, float, float], cut: int
) -> dict[str, Any]:
    row, column, before, after = found
    return {
        "feature": feature.name,
        "column": column,
        "row": row,
        "symbol": subject.market.symbol,
        "time": iso(times[row]),
        "cut": iso(cut),
        "values": [number(before), number(after)],
        "message": f"feature {feature.name!r} column {column} changed at {iso(times[row])} "
        f"when data from {iso(cut)} on was changed",
    }


def _spread(whole: NDArray[Any]) -> NDArray[np.float64]:
    """The standard deviation of each value of a sample; some hundred rows tell it."""
    if len(whole) < 2:
        return np.zeros(int(np.prod(whole.shape[1:])))
    rows = whole[:: max(1, len(whole) // 500)].reshape(-1, int(np.prod(whole.shape[1:]))).astype(np.float64)
    known = np.isfinite(rows)
    count = np.maximum(known.sum(axis=0), 1)
    about = np.where(known, rows - np.where(known, rows, 0.0).sum(axis=0) / count, 0.0)
    return np.asarray(np.sqrt(np.square(about).sum(axis=0) / count), dtype=np.float64)


def _apart(
    a: NDArray[Any], b: NDArray[Any], spread: NDArray[np.float64], finding: _Finding
) -> tuple[int, int, float, float] | None:
    """Row, column and both values of the first that are more than 1e-9 deviations apart."""
    a, b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    difference = np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b))
    finding.compared += a.size
    share = np.divide(difference, spread, out=np.zeros_like(difference), where=(spread > 0) & (difference > 0))
    finding.largest = max(finding.largest, float(np.nan_to_num(share).max(initial=0.0)))
    bad = ~(difference <= TOLERANCE * spread + 1e-300)
    if not bool(bad.any()):
        return None
    row = int(np.flatnonzero(bad.any(axis=1))[0])
    column = int(np.flatnonzero(bad[row])[0])
    return row, column, float(a[row, column]), float(b[row, column])


def _truncation(
    feature: Instance,
    subject: Subject,
    times: NDArray[np.int64],
    here: int,
    whole: NDArray[Any],
    spread: NDArray[np.float64],
    finding: _Finding,
) -> None:
    past = View(subject.market, times[here : here + 1]).past(feature.params.unit, feature.params.size)
    if int(past[0]) < feature.warmup_bars:
        return
    view = View(subject.market, times[here : here + 1], feature.history, ahead=subject.ahead)
    leak = _apart(whole[here : here + 1], np.asarray(feature.compute(view)), spread, finding)
    if leak is not None:
        _, column, before, after = leak
        finding.fail(
            {
                "feature": feature.name,
                "column": column,
                "row": here,
                "symbol": subject.market.symbol,
                "time": iso(times[here]),
                "values": [number(before), number(after)],
                "message": f"feature {feature.name!r} column {column} at {iso(times[here])} needs more than its "
                f"{feature.warmup_bars} bars of history",
            }
        )


def _refused(
    feature: Instance,
    subject: Subject,
    ended: Market,
    times: NDArray[np.int64],
    here: int,
    whole: NDArray[Any],
    spread: NDArray[np.float64],
    finding: _Finding,
) -> None:
    """Shortly before the cut a feature does without the future, and without a bar that had not ended."""
    low = max(0, here + 1 - NEAR)
    where = {"feature": feature.name, "symbol": subject.market.symbol, "cut": iso(times[here])}
    try:
        alone = np.asarray(feature.compute(View(ended, times[low : here + 1])))
    except TapelineError as error:
        if error.code != "lookahead_refused":
            raise
        time = iso(times[low])
        message = f"feature {feature.name!r} asked for the future at {time}: {error.message}"
        finding.fail(where | {"row": low, "time": time, "message": message})
        return
    leak = _apart(whole[low : here + 1], alone, spread, finding)
    if leak is not None:
        row, column, before, after = leak
        time = iso(times[low + row])
        finding.fail(
            where
            | {
                "column": column,
                "row": low + row,
                "time": time,
                "values": [number(before), number(after)],
                "message": f"feature {feature.name!r} column {column} changed at {time} when the data from "
                f"{iso(times[here])} on was taken away",
            }
        )


def _label_time(label: Instance, known: Any, view: View, other: View, cut: int, finding: _Finding) -> None:
    """t1 is the last time read: a label whose t1 lies before the disturbance does not change."""
    before, t1 = known
    after = label.compute(other)[0]
    settled = (t1 >= 0) & (t1 <= cut)
    finding.compared += int(settled.sum())
    found = _first_difference(before[settled], after[settled])
    if found is not None:
        row = int(np.flatnonzero(settled)[found[0]])
        finding.fail(
            {
                "label": label.name,
                "column": found[1],
                "row": row,
                "time": iso(view.times[row]),
                "cut": iso(cut),
                "values": [number(found[2]), number(found[3])],
                "message": f"label {label.name!r} at {iso(view.times[row])} says that it read up to {iso(t1[row])}, "
                f"but changed when data from {iso(cut)} on was changed",
            }
        )
    params = label.params
    if isinstance(params, LabelParams):
        grid = view.market.grid(params.unit, params.size)
        last = np.searchsorted(grid.end, t1, "left")
        early = (t1 >= 0) & (last < view.past(params.unit, params.size) - 1 + params.entry_delay)
        past_end = t1 > (grid.end[-1] if len(grid.end) else -1)
        for rows, what in ((early, "before its entry"), (past_end, "after the end of the data")):
            if bool(rows.any()):
                row = int(np.flatnonzero(rows)[0])
                text = f"label {label.name!r} at {iso(view.times[row])} ends {what}, at {iso(t1[row])}"
                finding.fail({"label": label.name, "row": row, "time": iso(view.times[row]), "message": text})
