"""The causality certificate `tapeline.certificate/1`: proofs by experiment that no feature saw the future.

Each check is a function that gives its verdict with numbers. F fails the build, W is a warning. What is not
exercised is not proved: the certificate lists what was.

| check | where |
|---|---|
| 1 causality, 2 truncation, 3 adapter flags, 4 label time | `causality` |
| 5 split, 7 fit range | here |
| 6 overlap | `uniqueness` |
| 8 soundness, 10 universe | `soundness` |
| 9 too good | `edges` |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.asset_files import TRAIN
from tapeline.assets.component import Instance
from tapeline.assets.samples import Samples, together
from tapeline.assets.split import DROPPED, Parts
from tapeline.assets.view import Market, iso, number
from tapeline.measures import deviations

SCHEMA = "tapeline.certificate/1"
LOOKAHEAD = frozenset({1, 2, 3, 7})
"""Checks whose failure `allow_lookahead` turns into a flag."""


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


def allowed(checks: Sequence[Check]) -> list[Check]:
    """The checks of a build that may look ahead: what they would have failed for is a flag instead."""
    return [
        replace(check, verdict="flagged") if check.number in LOOKAHEAD and check.verdict == "failed" else check
        for check in checks
    ]


def certificate(
    checks: Sequence[Check], components: Sequence[Instance], symbols: Sequence[str], *, lookahead: bool = False
) -> dict[str, Any]:
    """The certificate of a build; its verdict is the worst of its checks, a flag being a warning."""
    found = {check.verdict for check in checks}
    verdict = "failed" if "failed" in found else "warned" if found & {"warned", "flagged"} else "passed"
    made = {
        "schema": SCHEMA,
        "verdict": verdict,
        "checks": [check.to_json() for check in sorted(checks, key=lambda check: check.number)],
        "components": sorted({f"{each.component.id}/{each.component.version}" for each in components}),
        "symbols": sorted(symbols),
    }
    return made | {"lookahead": True} if lookahead else made


def message_of(failure: Mapping[str, Any]) -> str:
    """The sentence for a failed check."""
    return str(failure["message"])


def split(samples: Samples, parts: Parts, embargo_ns: int, features: Sequence[Instance] = ()) -> Check:
    """Check 5: no row of an earlier part reads into a later one, the embargo is kept, sessions are whole.

    Windows of `features` that reach back over a cut see past data: that is no failure, but it is told.
    """
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
    return Check(5, "split", "failed" if failure else "passed", numbers, failure, _reaching(samples, parts, features))


def _reaching(samples: Samples, parts: Parts, features: Sequence[Instance]) -> list[str]:
    """Of each cut the features whose history, for the first sample after it, begins before it.

    Bars of ticks have no length in time: windows of them are not looked at.
    """
    warnings = []
    for later, opens in parts.borders:
        inside = samples.t0[parts.part == later]
        since = int(inside.min()) - opens if len(inside) else 0
        names = [
            repr(each.name)
            for each in features
            if len(inside) and (each.history.sessions or (each.params.unit != "tick" and _length(each) > since))
        ]
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            warnings.append(f"windows of {shown} reach back over the cut at {iso(opens)}: they see past data there")
    return warnings


def _length(feature: Instance) -> int:
    return feature.history.bars * feature.params.width_ns


def _plainly(
    values: NDArray[np.float32], rows: NDArray[np.int64], about: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Mean and variance of some rows, by sums over them, counted from `about`: another way than they were fitted by."""
    chosen = values[together(rows)]
    total, squares = deviations(chosen, about)
    count = max(chosen.size // max(chosen.shape[-1], 1), 1)
    return {"mean": about + total / count, "variance": squares / count - np.square(total / count)}


def fit_range(
    stats: Mapping[str, Any],
    features: Mapping[str, NDArray[np.float32]],
    part: NDArray[np.uint8],
    fitted: Sequence[Instance] = (),
    train: Mapping[str, Market] | None = None,
) -> Check:
    """Check 7: every stored statistic comes from train rows alone; computed again by plain means.

    Parameters
    ----------
    fitted : features with numbers fitted on the train sessions
    train : markets by symbol that hold the train sessions and nothing else
    """
    rows_of_train = np.flatnonzero(part == TRAIN)
    failure: dict[str, Any] | None = None
    if (stats["part"], stats["first_row"], stats["stop_row"]) != ("train", 0, len(rows_of_train)):
        failure = {
            "message": f"the statistics name rows {stats['first_row']} to {stats['stop_row']} of {stats['part']}, "
            f"where train has {len(rows_of_train)} rows"
        }
    for name, values in features.items():
        stored = stats["features"][name]
        again = _plainly(values, rows_of_train, np.asarray(stored["mean"], np.float64))
        for what, expected in again.items():
            far = ~np.isclose(stored[what], expected, rtol=1e-6, atol=1e-12)
            if bool(far.any()) and failure is None:
                column = int(np.flatnonzero(far)[0])
                failure = {
                    "feature": name,
                    "column": column,
                    "row": len(rows_of_train),
                    "values": [number(float(stored[what][column])), number(float(expected[column]))],
                    "message": f"the {what} of {name!r} column {column} is not that of the train rows",
                }
    for feature in fitted:
        for symbol, values in feature.fitted.items():
            again_fitted = feature.fit({symbol: (train or {})[symbol]}).fitted[symbol]
            if not np.array_equal(values, again_fitted, equal_nan=True) and failure is None:
                column = int(np.flatnonzero(values != again_fitted)[0])
                failure = {
                    "feature": feature.name,
                    "column": column,
                    "symbol": symbol,
                    "values": [number(float(values[column])), number(float(again_fitted[column]))],
                    "message": f"feature {feature.name!r} was fitted on more than the train sessions of {symbol!r}",
                }
    numbers = {"rows": len(rows_of_train), "fitted": [feature.name for feature in fitted]}
    return Check(7, "fit_range", "failed" if failure else "passed", numbers, failure)
