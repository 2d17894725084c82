"""The manifest of a tape, as canonical JSON, and the digest of its numbers.

`content_sha256` covers the manifest without the artifacts' digests and without the import report: it speaks
of numbers, not of HDF5 bytes, so that two library versions give one digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tapeline.errors import TapelineError
from tapeline.tape.sessions import Segment

SCHEMA = "tapeline.tape/1"
Manifest = dict[str, Any]


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes) -> str:
    """The SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def make(
    *,
    symbols: list[dict[str, Any]],
    days: list[dict[str, Any]],
    sessions: Sequence[Segment],
    report: dict[str, Any],
    eligibility: str | list[Any] = "none",
    aggregated: bool = False,
    synthetic: dict[str, Any] | None = None,
    parent: str | None = None,
) -> Manifest:
    """A manifest; the content digest is part of it."""
    rows = [list(row) for row in sessions]
    manifest: Manifest = {
        "schema": SCHEMA,
        "parent": parent,
        "symbols": sorted(symbols, key=lambda s: str(s["symbol"])),
        "days": sorted(days, key=lambda d: (str(d["symbol"]), str(d["trade_date"]))),
        "sessions": rows,
        "sessions_sha256": digest(canonical(rows)),
        "eligibility": eligibility,
        "aggregated": aggregated,
        "synthetic": synthetic,
        "report": report,
    }
    manifest["content_sha256"] = content_sha256(manifest)
    return manifest


def content_sha256(manifest: Manifest) -> str:
    """The digest of a manifest's numbers, computed anew."""
    kept = {key: value for key, value in manifest.items() if key not in ("report", "content_sha256", "parent")}
    kept["days"] = [{k: v for k, v in day.items() if k != "artifact"} for day in manifest["days"]]
    return digest(canonical(kept))


def parse(data: bytes) -> Manifest:
    """A manifest out of its bytes, its form and its digests checked.

    Raises
    ------
    TapelineError
        `tape_corrupt` when it is no manifest, or a digest in it differs from what it stands for.
    """

    def corrupt(why: str) -> TapelineError:
        return TapelineError(f"the manifest {why}", code="tape_corrupt", hint="import the tape again")

    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        raise corrupt("is not JSON") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise corrupt(f"is not of schema {SCHEMA}")
    try:
        _walk(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise corrupt(f"is malformed: {error}") from error
    if manifest["sessions_sha256"] != digest(canonical(manifest["sessions"])):
        raise corrupt("has a sessions table that does not match its digest")
    if manifest["content_sha256"] != content_sha256(manifest):
        raise corrupt("does not match its content digest")
    return manifest


def _walk(manifest: Manifest) -> None:
    """Touch all that later code relies on; a wrong type or a missing key raises."""
    for symbol in manifest["symbols"]:
        name, kind = symbol["symbol"], symbol["volume_kind"]
        if not isinstance(name, str) or not name or len(name) > 128 or kind not in ("int64", "float64"):
            raise ValueError(f"symbol {name!r}")
    known = {symbol["symbol"] for symbol in manifest["symbols"]}
    seen = set()
    for day in manifest["days"]:
        if day["symbol"] not in known or not isinstance(day["trade_date"], str):
            raise ValueError(f"day {day['trade_date']!r} of {day['symbol']!r}")
        if (day["symbol"], day["trade_date"]) in seen:
            raise ValueError(f"day {day['trade_date']} of {day['symbol']!r} stands twice")
        seen.add((day["symbol"], day["trade_date"]))
        for text in (*day["columns"].values(), day["artifact"]["sha256"]):
            if not isinstance(text, str) or len(text) != 64 or set(text) - set("0123456789abcdef"):
                raise ValueError(f"digest {text!r}")
        if not isinstance(day["rows"], int) or day["rows"] < 1 or not isinstance(day["artifact"]["size"], int):
            raise ValueError(f"day {day['trade_date']} has no rows or no size")
        for name, place in day["artifact"].get("places", {}).items():
            offsets = place["at"]
            if not isinstance(place["dtype"], str) or not all(isinstance(at, int) and at >= 0 for at in offsets):
                raise ValueError(f"column {name!r} of day {day['trade_date']} lies nowhere")
    previous = -1
    for row in manifest["sessions"]:
        day, number, *times = row
        if not isinstance(day, str) or not isinstance(number, int) or len(times) != 4:
            raise ValueError(f"session {row!r}")
        low, high, pre, post = times
        if not all(isinstance(ns, int) for ns in times) or not pre <= low < high <= post or low < previous:
            raise ValueError(f"session {row!r}")
        previous = high
    if not isinstance(manifest["report"], dict):
        raise ValueError("report")


def sessions_of(manifest: Manifest) -> tuple[Segment, ...]:
    """The sessions table of a manifest."""
    return tuple(Segment(*row) for row in manifest["sessions"])


def artifacts(manifest: Manifest) -> dict[str, int]:
    """The digest and size in bytes of every day file, in order, each once."""
    return {day["artifact"]["sha256"]: day["artifact"]["size"] for day in manifest["days"]}


def day_of(manifest: Manifest, symbol: str, trade_date: str) -> dict[str, Any] | None:
    """The entry of one day, or None."""
    found: Iterable[dict[str, Any]] = (
        day for day in manifest["days"] if day["symbol"] == symbol and day["trade_date"] == trade_date
    )
    return next(iter(found), None)
