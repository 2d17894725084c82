"""The causality certificate `tapeline.certificate/1`: proofs by experiment that no feature saw the future.

Each check is a function that gives its verdict with numbers. F fails the build, W is a warning. What is not
exercised is not proved: the certificate lists what was, and which checks were not run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.asset_files import TRAIN
from tapeline.assets.component import Instance, LabelParams
from tapeline.assets.samples import Samples
from tapeline.assets.split import DROPPED, Parts
from tapeline.assets.view import Market, View

SCHEMA = "tapeline.certificate/1"
CUTS = 32
CUTS_PER_SYMBOL = 8
WINDOW = 50_000
NOISE = 0.05
TOLERANCE = 1e-9
NAN_SHARE = 0.01
MAX_HASHED = 200_000
NOT_RUN = {3: "adapter_flags", 6: "overlap", 9: "too_good", 10: "universe"}


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found."""

    number: int
    name: str
    verdict: str
    numbers: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {"check": self.number, "name": self.name, "verdict": self.verdict}
        made["numbers"] = self.numbers
        if self.failure is not None:
            made["failure"] = self.failure
        if self.warnings:
            made["warnings"] = self.warnings
        return made


def iso(ns: int) -> str:
    """A time in UTC: whole seconds as `2013-10-08T14:31:00Z`, else with nine digits."""
    seconds, rest = divmod(int(ns), 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:09d}Z" if rest else f"{text}Z"


def certificate(checks: Sequence[Check], components: Sequence[Instance], symbols: Sequence[str]) -> dict[str, Any]:
    """The certificate of a build; its verdict is the worst of its checks."""
    found = {check.verdict for check in checks}
    verdict = "failed" if "failed" in found else "warned" if "warned" in found else "passed"
    return {
        "schema": SCHEMA,
        "verdict": verdict,
        "checks": [check.to_json() for check in sorted(checks, key=lambda check: check.number)],
        "components": sorted({f"{each.component.id}/{each.component.version}" for each in components}),
        "symbols": sorted(symbols),
        "not_run": [{"check": number, "name": name} for number, name in NOT_RUN.items()],
    }


def message_of(failure: Mapping[str, Any]) -> str:
    """The sentence for a failed check."""
    return str(failure["message"])


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
    """One symbol under examination, with the times of all its samples before any was dropped."""

    market: Market
    times: NDArray[np.int64]
    session: NDArray[np.int64]
    _known: dict[int, dict[str, Any]] = field(default_factory=dict)

    def undisturbed(self, low: int, instances: Sequence[Instance]) -> dict[str, Any]:
        """What each instance gives for the window of samples that begins at row `low`; computed once."""
        if low not in self._known:
            self._known.clear()
            view = View(self.market, self.times[low : low + WINDOW])
            self._known[low] = {each.name: each.compute(view) for each in instances}
        return self._known[low]


def causality(
    subjects: Sequence[Subject], features: Sequence[Instance], labels: Sequence[Instance], digest: str, tell: Any
) -> list[Check]:
    """Checks 1, 2 and 4: disturb the future, cut the past away, and look at what changes."""
    per_symbol = max(CUTS_PER_SYMBOL, -(-CUTS // max(len(subjects), 1)))
    ones, twos, fours = _Finding(), _Finding(), _Finding()
    plan = [
        (subject, row)
        for subject in subjects
        for row in cut_points(subject.times, subject.session, digest, subject.market.symbol, per_symbol)
    ]
    for done, (subject, row) in enumerate(plan):
        _examine(subject, row, features, labels, digest, ones, twos, fours)
        tell("check", done + 1, len(plan), "cuts")
    numbers = {"cuts": len(plan), "features": len(features)}
    return [
        ones.check(1, "causality", numbers | {"values": ones.compared}),
        twos.check(2, "truncation", numbers | {"values": twos.compared, "largest_sd": twos.largest}),
        fours.check(4, "label_time", {"cuts": len(plan), "labels": len(labels), "values": fours.compared}),
    ]


@dataclass(slots=True)
class _Finding:
    failure: dict[str, Any] | None = None
    compared: int = 0
    largest: float = 0.0

    def fail(self, failure: dict[str, Any]) -> None:
        if self.failure is None:
            self.failure = failure

    def check(self, number: int, name: str, numbers: dict[str, Any]) -> Check:
        return Check(number, name, "failed" if self.failure else "passed", numbers, self.failure)


def _examine(
    subject: Subject,
    row: int,
    features: Sequence[Instance],
    labels: Sequence[Instance],
    digest: str,
    ones: _Finding,
    twos: _Finding,
    fours: _Finding,
) -> None:
    # Windows begin at multiples, so that neighbouring cuts share what is not disturbed.
    low = max(0, (row - WINDOW // 2) // (WINDOW // 4) * (WINDOW // 4)) if len(subject.times) > WINDOW else 0
    times = subject.times[low : low + WINDOW]
    here = row - low
    cut = int(times[here])
    known = subject.undisturbed(low, [*features, *labels])
    view = View(subject.market, times)
    other = View(disturbed(subject.market, cut, digest), times)
    seen = int(np.searchsorted(times, cut, "right"))
    for feature in features:
        before, after = np.asarray(known[feature.name]), np.asarray(feature.compute(other))
        ones.compared += seen
        found = _first_difference(before[:seen], after[:seen])
        if found is not None:
            ones.fail(_leak(feature, subject, times, found, cut))
        _truncation(feature, subject, times, here, before, twos)
    for label in labels:
        _label_time(label, known[label.name], view, other, cut, fours)


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
        "values": [_number(before), _number(after)],
        "message": f"feature {feature.name!r} column {column} changed at {iso(times[row])} "
        f"when data from {iso(cut)} on was changed",
    }


def _truncation(
    feature: Instance,
    subject: Subject,
    times: NDArray[np.int64],
    here: int,
    whole: NDArray[Any],
    finding: _Finding,
) -> None:
    past = View(subject.market, times[here : here + 1]).past(feature.params.unit, feature.params.size)
    if int(past[0]) < feature.warmup_bars:
        return
    alone = np.asarray(feature.compute(View(subject.market, times[here : here + 1], feature.history)))
    a, b = whole[here].reshape(-1).astype(np.float64), alone[0].reshape(-1).astype(np.float64)
    both = np.isnan(a) & np.isnan(b)
    spread = np.nan_to_num(np.nanstd(_rows(whole), axis=0)) if len(whole) > 1 else np.zeros_like(a)
    difference = np.where(both, 0.0, np.abs(a - b))
    finding.compared += len(a)
    bad = ~(difference <= TOLERANCE * spread + 1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(spread > 0, difference / spread, 0.0)
    finding.largest = max(finding.largest, float(np.nan_to_num(share).max(initial=0.0)))
    if bool(bad.any()):
        column = int(np.flatnonzero(bad)[0])
        finding.fail(
            {
                "feature": feature.name,
                "column": column,
                "row": here,
                "symbol": subject.market.symbol,
                "time": iso(times[here]),
                "values": [_number(float(a[column])), _number(float(b[column]))],
                "message": f"feature {feature.name!r} column {column} at {iso(times[here])} needs more than its "
                f"{feature.warmup_bars} bars of history",
            }
        )


def _rows(values: NDArray[Any]) -> NDArray[np.float64]:
    # The spread needs no more than some hundred rows.
    return values[:: max(1, len(values) // 500)].reshape(-1, int(np.prod(values.shape[1:]))).astype(np.float64)


def _label_time(label: Instance, known: Any, view: View, other: View, cut: int, finding: _Finding) -> None:
    """t1 is the last time read: a label whose t1 lies before the disturbance does not change."""
    before, t1 = known
    after, _ = label.compute(other)
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
                "values": [_number(found[2]), _number(found[3])],
                "message": f"label {label.name!r} at {iso(view.times[row])} says that it read up to {iso(t1[row])}, "
                f"but changed when data from {iso(cut)} on was changed",
            }
        )
    params = label.params
    if isinstance(params, LabelParams):
        grid = view.grid(params.unit, params.size)
        last = np.searchsorted(grid.end, t1, "left")
        early = (t1 >= 0) & (last < view.past(params.unit, params.size) - 1 + params.entry_delay)
        past_end = t1 > (grid.end[-1] if len(grid.end) else -1)
        for rows, what in ((early, "before its entry"), (past_end, "after the end of the data")):
            if bool(rows.any()):
                row = int(np.flatnonzero(rows)[0])
                text = f"label {label.name!r} at {iso(view.times[row])} ends {what}, at {iso(t1[row])}"
                finding.fail({"label": label.name, "row": row, "time": iso(view.times[row]), "message": text})


def split(samples: Samples, parts: Parts, embargo_ns: int) -> Check:
    """Check 5: no row of an earlier part reads into a later one, the embargo is kept, sessions are whole."""
    part, t1 = parts.part, samples.t1.max(axis=1)
    failure: dict[str, Any] | None = None
    numbers: dict[str, Any] = {"purged": parts.purged, "embargoed": parts.embargoed, "embargo_ns": embargo_ns}
    for later, opens in parts.borders:
        inside = samples.t0[part == later]
        first = int(inside.min()) if len(inside) else opens
        touching = np.flatnonzero((part < later) & (t1 >= first))
        near = np.flatnonzero((part == later) & (samples.t0 < opens + embargo_ns))
        for rows, what in ((touching, "reads into the next part"), (near, "lies in the embargo")):
            if len(rows) and failure is None:
                row = int(rows[0])
                time = iso(samples.t0[row])
                failure = {"row": row, "time": time, "message": f"the row at {time} {what}"}
    stored = part != DROPPED
    whole = parts.of_session[samples.session[stored]] == part[stored]
    if not bool(whole.all()) and failure is None:
        row = int(np.flatnonzero(stored)[np.flatnonzero(~whole)[0]])
        failure = {"row": row, "message": f"the session of {iso(samples.t0[row])} is cut in two"}
    return Check(5, "split", "failed" if failure else "passed", numbers, failure)


def fit_range(stats: Mapping[str, Any], features: Mapping[str, NDArray[np.float32]], part: NDArray[np.uint8]) -> Check:
    """Check 7: every stored statistic comes from train rows alone; computed again by plain means."""
    train = np.flatnonzero(part == TRAIN)
    failure: dict[str, Any] | None = None
    if (stats["part"], stats["first_row"], stats["stop_row"]) != ("train", 0, len(train)):
        failure = {
            "message": f"the statistics name rows {stats['first_row']} to {stats['stop_row']} of {stats['part']}"
        }
    for name, values in features.items():
        rows = values[train].reshape(-1, values.shape[-1]).astype(np.float64)
        stored = stats["features"][name]
        mean, variance = rows.mean(axis=0), rows.var(axis=0)
        good = np.allclose(stored["mean"], mean, rtol=1e-6, atol=1e-12) and np.allclose(
            stored["variance"], variance, rtol=1e-6, atol=1e-12
        )
        if not good and failure is None:
            failure = {"feature": name, "message": f"the statistics of {name!r} are not those of the train rows"}
    return Check(7, "fit_range", "failed" if failure else "passed", {"rows": len(train)}, failure)


def soundness(samples: Samples, symbol: NDArray[np.uint16], part: NDArray[np.uint8], stats: Mapping[str, Any]) -> Check:
    """Check 8: times ascend and values are finite; warnings for columns and rows that teach nothing."""
    failure: dict[str, Any] | None = None
    warnings: list[str] = []
    for number in np.unique(symbol):
        steps = np.diff(samples.t0[symbol == number])
        if bool((steps < 0).any()):
            failure = {"message": f"the times of symbol {number} do not ascend"}
        if bool((steps == 0).any()):
            warnings.append(f"symbol {number} has {int((steps == 0).sum())} duplicate times")
    for name, values in {**samples.features, **samples.labels}.items():
        if not bool(np.isfinite(values).all()) and failure is None:
            row = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
            time = iso(samples.t0[row])
            failure = {"feature": name, "row": row, "time": time, "message": f"{name!r} is not finite at {time}"}
    total = len(samples.t0) + sum(samples.dropped.values())
    for name, count in samples.dropped.items():
        if name in samples.features and count > NAN_SHARE * total:
            warnings.append(f"{name!r} left out {count} of {total} rows")
    for name, moments in stats["features"].items():
        warnings += [
            f"{name!r} column {j} is constant in train" for j, value in enumerate(moments["variance"]) if value == 0
        ]
    equal = _equal_rows(samples, part)
    if equal:
        warnings.append(f"{equal} rows of later parts equal a train row in every feature")
    verdict = "failed" if failure else "warned" if warnings else "passed"
    numbers = {"rows": len(samples.t0), "dropped": dict(samples.dropped), "equal_rows": equal}
    return Check(8, "soundness", verdict, numbers, failure, warnings)


def _equal_rows(samples: Samples, part: NDArray[np.uint8]) -> int:
    n = min(len(samples.t0), MAX_HASHED)
    flat = [values[:n].reshape(n, -1) for values in samples.features.values()]
    rows = np.ascontiguousarray(np.concatenate(flat, axis=1))
    hashes = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
    train = {digest for digest, which in zip(hashes, part[:n].tolist(), strict=True) if which == TRAIN}
    return sum(
        digest in train
        for digest, which in zip(hashes, part[:n].tolist(), strict=True)
        if which not in (TRAIN, DROPPED)
    )


def _number(value: float) -> float | str:
    return value if np.isfinite(value) else str(value)
