"""How large an asset would become, known from a resolved spec and the days of its tapes before any work is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tapeline.assets.asset.instances import refusal
from tapeline.assets.component import Instance
from tapeline.assets.view import DAY_NS, UNIT_NS
from tapeline.tape.view import OpenTape

LIMIT_BYTES = 50 * 1024**3
PLACE_BYTES = 8
INDEX_BYTES = 8 + 2 + 4 + 1 + 4
"""Of one row: its time, symbol, session, part and weight."""


def row_bytes(spec: Mapping[str, Any], features: Iterable[Instance], labels: Iterable[Instance]) -> int:
    """What one row of an asset takes: an indexed feature is a place in a grid, all else is float32."""
    total = INDEX_BYTES
    for each in features:
        is_indexed = spec["layout"] == "indexed" and each.component.windows is not None
        total += PLACE_BYTES if is_indexed else 4 * int(np.prod(each.columns.shape))
    return total + sum(4 * int(np.prod(each.columns.shape)) + 8 for each in labels)


def most_rows(spec: Mapping[str, Any], days: int, trades: int) -> int:
    """A bound of the rows of an asset, from how many days of symbols and trades its tapes have."""
    sampling = spec["sampling"]
    if sampling["kind"] == "at_times":
        return days * len(sampling["times"])
    if sampling["unit"] == "tick":
        return trades // int(sampling["size"]) + days
    # A session of several segments begins a bar in each.
    return days * (DAY_NS // min(UNIT_NS[sampling["unit"]] * int(sampling["size"]), DAY_NS) + 8)


def rows(spec: Mapping[str, Any], tapes: Mapping[str, OpenTape]) -> int:
    """The rows of an asset if every bar became a sample; `tapes` by id, of which nothing but manifests is read."""
    sampling, first, last = spec["sampling"], spec["range"]["from"], spec["range"]["to"]
    found = 0
    for item in spec["tapes"]:
        tape = tapes[item["tape"]]
        symbols = set(item["symbols"])
        each: dict[str, int] = {}
        for day in tape.manifest["days"]:
            date = day["trade_date"]
            if day["symbol"] not in symbols or not first <= date <= last:
                continue
            if sampling["kind"] == "at_times":
                found += len(sampling["times"])
            elif sampling["unit"] == "tick":
                found += int(day["rows"]) // int(sampling["size"]) + 1
            else:
                if date not in each:
                    each[date] = _bars(tape, date, UNIT_NS[sampling["unit"]] * int(sampling["size"]))
                found += each[date]
    return found


def _bars(tape: OpenTape, date: str, width_ns: int) -> int:
    if width_ns >= DAY_NS:
        return 1
    segments = tape.segments(date)
    return int((-((segments[:, 0] - segments[:, 1]) // width_ns)).sum())


def must_fit(size: int, limit: int = LIMIT_BYTES) -> None:
    """Refuse an asset that would become larger than its team may have.

    Raises
    ------
    TapelineError
        `too_large`.
    """
    if size > limit:
        raise refusal(
            "too_large",
            "/sampling",
            f"the asset would hold about {size >> 30} GiB, the limit is {limit >> 30}",
            "sample less often, or use shorter windows",
        )


def check(
    spec: Mapping[str, Any], tapes: Mapping[str, OpenTape], features: Sequence[Instance], labels: Sequence[Instance]
) -> None:
    """Refuse what `must_fit` refuses, of a resolved spec on its tapes."""
    must_fit(rows(spec, tapes) * row_bytes(spec, features, labels))
