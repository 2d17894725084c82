"""Checks 1 to 4, by experiment: disturb the future, take it away, cut the past off, and look at what changes.

The experiments are made shard by shard, where the data is at hand (`examine`); what they found is judged over
the whole asset (`verdicts`), because how far apart two values may be depends on how much the column varies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.certificate import Check
from tapeline.assets.component import Instance, LabelParams
from tapeline.assets.stack import Stack, in_stretches
from tapeline.assets.view import Market, View, iso, number
from tapeline.errors import TapelineError
from tapeline.measures import disturb

CUTS = 32
CUTS_PER_SYMBOL = 8
TOLERANCE = 1e-9
FEW_BYTES = 1 << 15
NAMES = ("causality", "truncation", "adapter_flags", "label_time")


def _draws(*parts: object) -> np.random.Generator:
    text = "|".join(map(str, parts)).encode()
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text).digest()[:8], "big")))


def cut_places(sessions: int, symbols: int, digest: str, symbol: str) -> list[tuple[int, float]]:
    """Where the tape of a symbol is cut: sessions, and shares of the samples in them.

    At least 8 a symbol and 32 in all, fixed by the digest; one in the first and one in the last session.
    """
    draw = _draws(digest, symbol)
    n = max(CUTS_PER_SYMBOL, -(-CUTS // max(symbols, 1)))
    chosen = [0, sessions - 1, *draw.integers(0, sessions, size=n - 2).tolist()]
    return sorted(zip(chosen, draw.random(n).tolist(), strict=True))


def cut_rows(n: int, shares: Sequence[float]) -> list[int]:
    """The rows of n samples at which to cut, each once."""
    return sorted({min(int(share * n), n - 1) for share in shares}) if n else []


def disturbance(market: Market, digest: str) -> Market:
    """The market with every price and volume of its own trades changed by 5 % noise.

    What one cut after another is followed by: the noise of a trade does not depend on where the cut is.
    """
    trades = market.trades
    first = int(trades.ts[0]) if len(trades.ts) else 0
    seed = int(_draws(digest, market.symbol, first).integers(0, 2**63))
    return market.changed(*disturb(trades.price, trades.volume, seed))


def disturbed(market: Market, cut: int, digest: str) -> Market:
    """The market with every price and volume from a time on changed by 5 % noise."""
    return market.followed_by(cut, disturbance(market, digest))


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """One market under examination, with the times of its samples before any was dropped.

    Attributes
    ----------
    rows : samples at whose times it is cut
    known : what `samples.computed` gives for all sample times
    sampled : gives the sample times of a market: they too must not know the future
    ahead : whether features may ask for the future (`allow_lookahead`)
    """

    market: Market
    times: NDArray[np.int64]
    rows: Sequence[int]
    known: Mapping[str, Any]
    sampled: Callable[[Market], NDArray[np.int64]] | None = None
    ahead: bool = False

    def history(self, feature: Instance) -> Any:
        """What of the past the build shows to a feature."""
        return None if self.ahead else feature.history


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One cut of a market.

    Attributes
    ----------
    changed : all samples, on a market whose data from the cut on is disturbed
    ended : the samples up to the cut, on a market without data from the cut on
    at_cut : the sample at the cut, on the market as it is
    """

    subject: Subject
    found: Found
    row: int
    changed: View
    ended: View
    at_cut: View

    @property
    def cut(self) -> int:
        """The time of the cut."""
        return int(self.subject.times[self.row])


@dataclass(slots=True)
class Found:
    """What the experiments on one market found, as JSON holds it.

    Attributes
    ----------
    cuts : how many experiments there were
    compared : by check, how many values were compared
    failures : by check, the first failure
    apart : by check and feature, for each column that differs at all the largest difference
    """

    symbol: str
    cuts: int = 0
    compared: dict[str, int] = field(default_factory=dict)
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    apart: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def count(self, check: str, values: int) -> None:
        """Say that so many values were compared for a check."""
        self.compared[check] = self.compared.get(check, 0) + values

    def fail(self, check: str, failure: dict[str, Any]) -> None:
        """Keep the first failure of a check."""
        self.failures.setdefault(check, failure)

    def differ(self, check: str, feature: str, difference: dict[str, Any]) -> None:
        """Keep the largest difference of each column."""
        known = self.apart.setdefault(check, {}).setdefault(feature, [])
        for i, each in enumerate(known):
            if each["column"] == difference["column"]:
                if float(difference["apart"]) > float(each["apart"]):
                    known[i] = difference
                return
        known.append(difference)

    def to_json(self) -> dict[str, Any]:
        """As a shard keeps it."""
        return {
            "symbol": self.symbol,
            "cuts": self.cuts,
            "compared": self.compared,
            "failures": self.failures,
            "apart": self.apart,
        }


def examine(
    subjects: Sequence[Subject], features: Sequence[Instance], labels: Sequence[Instance], digest: str
) -> list[Found]:
    """Cut markets of one symbol at some of their samples and look at what changes.

    Notes
    -----
    1: with all data from the cut on disturbed, features and sample times up to the cut are equal to the byte.
    2: with the warm-up alone, features at the cut are equal within 1e-9 standard deviations. 3: with no data from
    the cut on, and the future refused, features up to the cut are equal as closely. 4: see `_label_time`.
    """
    found = [Found(subject.market.symbol, len(subject.rows)) for subject in subjects]
    trials = [trial for subject, own in zip(subjects, found, strict=True) for trial in _trials(subject, own, digest)]
    width = sum(int(np.prod(each.columns.shape)) for each in (*features, *labels))
    for together in in_stretches(range(len(trials)), lambda i, j: True, lambda i: len(trials[i].changed.times) * width):
        _examine([trials[i] for i in together], features, labels)
    for subject, own in zip(subjects, found, strict=True):
        for label in labels if subject.rows else ():
            _label_ends(label, subject.known[label.name], View(subject.market, subject.times), own)
    return found


def _trials(subject: Subject, found: Found, digest: str) -> list[Trial]:
    """The experiments on one market."""
    if not subject.rows:
        return []
    market, times, made = subject.market, subject.times, list[Trial]()
    later = disturbance(market, digest)
    for row in subject.rows:
        cut = int(times[row])
        changed, ended = market.followed_by(cut, later), market.followed_by(cut, None)
        views = (View(changed, times), View(ended, times[: row + 1]), View(market, times[row : row + 1]))
        made.append(Trial(subject, found, row, *views))
    return made


def _examine(trials: Sequence[Trial], features: Sequence[Instance], labels: Sequence[Instance]) -> None:
    """Make some experiments together, and keep what they find; each value is that of its own market alone."""
    ahead = trials[0].subject.ahead
    changed = Stack.of([trial.changed for trial in trials])
    ended = Stack.of([trial.ended for trial in trials])
    at_cut = Stack.of([trial.at_cut for trial in trials])
    after: dict[str, list[Any]] = {}
    alone: dict[str, dict[int, Any]] = {}
    without: dict[str, list[NDArray[Any] | TapelineError]] = {}
    for feature in features:
        history = trials[0].subject.history(feature)
        after[feature.name] = changed.apart(np.asarray(feature.compute(changed.seen(history, ahead=ahead))))
        enough = at_cut.depth(feature.params.unit, feature.params.size) >= feature.warmup_bars
        there = np.flatnonzero(enough).tolist()
        if there:
            own = at_cut if len(there) == len(trials) else Stack.of([at_cut.views[i] for i in there])
            values = np.asarray(feature.compute(own.seen(feature.history, ahead=ahead)))
            alone[feature.name] = dict(zip(there, own.apart(values), strict=True))
        without[feature.name] = _without_future(feature, ended, history)
    for label in labels:
        after[label.name] = changed.apart(label.compute(changed.seen(ahead=True)))
    for i, trial in enumerate(trials):
        for feature in features:
            _judge_feature(trial, feature, after[feature.name][i], alone.get(feature.name, {}).get(i))
            _judge_refusal(trial, feature, without[feature.name][i])
        _judge_sampling(trial)
        for label in labels:
            _label_time(trial, label, after[label.name][i][0])


def _without_future(feature: Instance, ended: Stack, history: Any) -> list[NDArray[Any] | TapelineError]:
    """What a feature gives of each market that has no future, or its refusal where it asks for one."""
    try:
        return ended.apart(np.asarray(feature.compute(ended.seen(history))))
    except TapelineError as error:
        if error.code != "lookahead_refused":
            raise
        if len(ended.views) == 1:
            return [error]
    return [found for view in ended.views for found in _without_future(feature, Stack.of([view]), history)]


def _judge_feature(trial: Trial, feature: Instance, after: NDArray[Any], alone: NDArray[Any] | None) -> None:
    """Checks 1 and 2."""
    subject, found, cut, times = trial.subject, trial.found, trial.cut, trial.subject.times
    before = np.asarray(subject.known[feature.name])
    seen = int(np.searchsorted(times, cut, "right"))
    found.count("causality", seen)
    leak = _first_difference(before[:seen], after[:seen])
    if leak is not None:
        found.fail("causality", _leak(feature, found.symbol, times, leak, cut))
    if alone is not None:
        row = trial.row
        _compare("truncation", feature, found.symbol, times, row, before[row : row + 1], alone, cut, found)


def _judge_refusal(trial: Trial, feature: Instance, alone: NDArray[Any] | TapelineError) -> None:
    """Check 3."""
    found, cut, times = trial.found, trial.cut, trial.subject.times
    if isinstance(alone, TapelineError):
        time = iso(times[0])
        message = f"feature {feature.name!r} asked for the future at {time}: {alone.message}"
        where = {"feature": feature.name, "symbol": found.symbol, "cut": iso(cut), "row": 0, "time": time}
        found.fail("adapter_flags", where | {"message": message})
        return
    before = np.asarray(trial.subject.known[feature.name])[: trial.row + 1]
    _compare("adapter_flags", feature, found.symbol, times, 0, before, alone, cut, found)


def _judge_sampling(trial: Trial) -> None:
    """Check 1 for the times of samples."""
    subject, cut, times = trial.subject, trial.cut, trial.subject.times
    if subject.sampled is None:
        return
    again = subject.sampled(trial.changed.market)
    if not np.array_equal(again[again <= cut], times[times <= cut]):
        message = f"samples up to {iso(cut)} were taken at other times when data from then on was changed"
        trial.found.fail("causality", {"symbol": trial.found.symbol, "cut": iso(cut), "message": message})


def _first_difference(a: NDArray[Any], b: NDArray[Any]) -> tuple[int, int, float, float] | None:
    """Row, column, and both values of the first difference in bytes; NaN equals NaN."""
    if _same(a, b):
        return None
    flat_a, flat_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    differs = (flat_a != flat_b) & ~(np.isnan(flat_a) & np.isnan(flat_b))
    if not bool(differs.any()):
        return None
    row = int(np.flatnonzero(differs.any(axis=1))[0])
    column = int(np.flatnonzero(differs[row])[0])
    return row, column, float(flat_a[row, column]), float(flat_b[row, column])


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays are equal to the byte."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.nbytes <= FEW_BYTES:
        return a.tobytes() == b.tobytes()
    words = np.uint8 if a.itemsize < 4 else np.uint32
    return bool((np.ascontiguousarray(a).view(words) == np.ascontiguousarray(b).view(words)).all())


def _leak(
    feature: Instance, symbol: str, times: NDArray[np.int64], leak: tuple[int, int, float, float], cut: int
) -> dict[str, Any]:
    row, column, before, after = leak
    return {
        "feature": feature.name,
        "column": column,
        "row": row,
        "symbol": symbol,
        "time": iso(times[row]),
        "cut": iso(cut),
        "values": [number(before), number(after)],
        "message": f"feature {feature.name!r} column {column} changed at {iso(times[row])} "
        f"when data from {iso(cut)} on was changed",
    }


def _compare(
    check: str,
    feature: Instance,
    symbol: str,
    times: NDArray[np.int64],
    low: int,
    a: NDArray[Any],
    b: NDArray[Any],
    cut: int,
    found: Found,
) -> None:
    """Keep where two computations of rows from `low` on are apart; whether that is too far is judged later."""
    found.count(check, a.size)
    if _same(a, b):
        return
    a, b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    apart = np.abs(a - b)
    apart[np.isnan(a) & np.isnan(b)] = 0.0
    apart[np.isnan(apart)] = np.inf
    for column in np.flatnonzero(apart.max(axis=0)).tolist():
        row = int(apart[:, column].argmax())
        time = iso(times[low + row])
        what = (
            f"at {time} needs more than its {feature.warmup_bars} bars of history"
            if check == "truncation"
            else f"changed at {time} when the data from {iso(cut)} on was taken away"
        )
        found.differ(
            check,
            feature.name,
            {
                "feature": feature.name,
                "column": column,
                "row": low + row,
                "symbol": symbol,
                "time": time,
                "cut": iso(cut),
                "apart": number(float(apart[row, column])),
                "values": [number(float(a[row, column])), number(float(b[row, column]))],
                "message": f"feature {feature.name!r} column {column} {what}",
            },
        )


def _label_time(trial: Trial, label: Instance, after: NDArray[Any]) -> None:
    """Check 4. t1 is the last time read: a label whose t1 lies before the disturbance does not change."""
    found, cut, times = trial.found, trial.cut, trial.subject.times
    before, t1 = trial.subject.known[label.name][:2]
    settled = (t1 >= 0) & (t1 <= cut)
    found.count("label_time", int(settled.sum()))
    leak = _first_difference(before[settled], after[settled])
    if leak is not None:
        row = int(np.flatnonzero(settled)[leak[0]])
        found.fail(
            "label_time",
            {
                "label": label.name,
                "column": leak[1],
                "row": row,
                "time": iso(times[row]),
                "cut": iso(cut),
                "values": [number(leak[2]), number(leak[3])],
                "message": f"label {label.name!r} at {iso(times[row])} says that it read up to {iso(t1[row])}, "
                f"but changed when data from {iso(cut)} on was changed",
            },
        )


def _label_ends(label: Instance, known: Any, view: View, found: Found) -> None:
    """A label ends after its entry, and before the data does."""
    t1 = known[1]
    params = label.params
    if isinstance(params, LabelParams):
        grid = view.market.grid(params.unit, params.size)
        last = np.searchsorted(grid.end, t1, "left")
        past = view.past(params.unit, params.size)
        early = (t1 >= 0) & (last < past - 1 + params.entry_delay)
        past_end = t1 > (grid.end[-1] if len(grid.end) else -1)
        for rows, what in ((early, "before its entry"), (past_end, "after the end of the data")):
            if bool(rows.any()):
                row = int(np.flatnonzero(rows)[0])
                text = f"label {label.name!r} at {iso(view.times[row])} ends {what}, at {iso(t1[row])}"
                failure = {"label": label.name, "row": row, "time": iso(view.times[row]), "message": text}
                found.fail("label_time", failure)


def spread(values: NDArray[Any]) -> NDArray[np.float64]:
    """The standard deviation of each value of a sample; some hundred rows tell it."""
    width = int(np.prod(values.shape[1:]))
    if len(values) < 2:
        return np.zeros(width)
    rows = values[:: max(1, len(values) // 500)].reshape(-1, width).astype(np.float64)
    known = np.isfinite(rows)
    count = np.maximum(known.sum(axis=0), 1)
    about = np.where(known, rows - np.where(known, rows, 0.0).sum(axis=0) / count, 0.0)
    return np.asarray(np.sqrt(np.square(about).sum(axis=0) / count), dtype=np.float64)


def verdicts(
    found: Sequence[Found],
    features: Mapping[str, NDArray[Any]],
    n_labels: int,
    offsets: Sequence[int] | None = None,
) -> list[Check]:
    """Checks 1 to 4 over what the experiments found, in order.

    Parameters
    ----------
    features : the values of each feature, by whose deviation differences are measured
    offsets : for each of `found` the row of its first sample among those of its symbol
    """
    compared = {name: sum(each.compared.get(name, 0) for each in found) for name in NAMES}
    failures: dict[str, dict[str, Any]] = {}
    largest = dict.fromkeys(("truncation", "adapter_flags"), 0.0)
    spreads = {name: spread(values) for name, values in features.items()}
    for each, offset in zip(found, offsets or [0] * len(found), strict=True):
        for name, failure in each.failures.items():
            failures.setdefault(name, _moved(failure, offset))
        for check in largest:
            for feature, columns in each.apart.get(check, {}).items():
                for difference in sorted(columns, key=lambda column: int(column["column"])):
                    apart, most = float(difference["apart"]), float(spreads[feature][difference["column"]])
                    if most > 0 and np.isfinite(apart):
                        largest[check] = max(largest[check], apart / most)
                    if not apart <= TOLERANCE * most + 1e-300:
                        shown = {key: value for key, value in difference.items() if key != "apart"}
                        failures.setdefault(check, _moved(shown, offset))
    numbers = {"cuts": sum(each.cuts for each in found), "features": len(features)}
    of_labels = {"cuts": numbers["cuts"], "labels": n_labels}
    more: dict[str, dict[str, Any]] = {
        name: (of_labels if name == "label_time" else numbers)
        | ({"largest_sd": largest[name]} if name in largest else {})
        | {"values": compared[name]}
        for name in NAMES
    }
    return [
        Check(i, name, "failed" if name in failures else "passed", more[name], failures.get(name))
        for i, name in enumerate(NAMES, 1)
    ]


def _moved(failure: dict[str, Any], offset: int) -> dict[str, Any]:
    return failure | {"row": failure["row"] + offset} if "row" in failure else failure
