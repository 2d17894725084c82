"""Times of trades as int64 ns since 1970 UTC, never through a float."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from tapeline.errors import TapelineError
from tapeline.tape.trades import LAST_NS

# Digits after the point that make a number of this unit whole nanoseconds.
PLACES = {"s": 9, "ms": 6, "us": 3, "ns": 0}
DIGITS = {10: "s", 13: "ms", 16: "us", 19: "ns"}
QUARTER_NS = 900_000_000_000


def unit_of(text: str, where: str) -> str:
    """The unit of a time written as a number, by its digits before the point."""
    whole = text.split(".")[0]
    if len(whole) in DIGITS:
        return DIGITS[len(whole)]
    raise TapelineError(
        f"{where}: {text[:80]!r} has {len(whole)} digits, so its unit is in doubt",
        code="timestamp_unit_ambiguous",
        hint=f"give the unit: --ts-unit {'|'.join(PLACES)}",
    )


def same_unit(ns: NDArray[np.int64], unit: str, where: str, first_row: int) -> None:
    """Refuse a file whose later times have another unit than its first."""
    low, high = 10**18, 10**19 - 1  # ten digits of seconds, in ns
    odd = np.flatnonzero((ns < low) | (ns.astype(np.uint64) > high))
    if len(odd):
        row = first_row + int(odd[0])
        raise TapelineError(
            f"{where}, row {row}: the time is not in {unit} as the first one is",
            code="timestamp_unit_ambiguous",
            hint="give the unit with --ts-unit, or split the file",
        )


def zone_of(name: str) -> ZoneInfo:
    """A time zone by name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise TapelineError(
            f"there is no time zone {name!r}", code="timezone_required", hint="write it as America/New_York"
        ) from None


def from_local(ns: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.int64]:
    """Local wall-clock times as UTC; an hour that comes twice is taken as its first."""
    quarter, place = np.unique(ns // QUARTER_NS, return_inverse=True)
    offsets = []
    for value in quarter.tolist():
        wall = datetime.fromtimestamp(value * 900, UTC).replace(tzinfo=zone)
        offset = wall.utcoffset()
        offsets.append(0 if offset is None else offset.days * 86_400 + offset.seconds)
    return ns - np.array(offsets, np.int64)[place] * 1_000_000_000


def midnight_ns(day: date, zone: ZoneInfo) -> int:
    """The time from which wall-clock milliseconds of a day are counted, by the offset at its noon."""
    noon = int(datetime(day.year, day.month, day.day, 12, tzinfo=zone).timestamp())
    return (noon - 43_200) * 1_000_000_000


ISO = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?) ?(Z|UTC|[+-]\d\d:?\d\d)?")


def from_text(texts: list[str], zone: ZoneInfo | None, where: str, first_row: int) -> NDArray[np.int64]:
    """Times written as `2024-01-02 09:30:00.123`, with `Z` or an offset, or local ones with a zone given."""
    bare: list[str] = []
    offsets = np.zeros(len(texts), np.int64)
    local = False
    for row, text in enumerate(texts):
        found = ISO.fullmatch(text.strip())
        if found is None:
            raise TapelineError(
                f"{where}, row {first_row + row}: {text[:80]!r} is no time",
                code="invalid_row",
                hint="write times as 2024-01-02 09:30:00.123 or as numbers",
            )
        bare.append(found[1])
        suffix = found[2]
        if suffix is None:
            local = True
        elif suffix not in ("Z", "UTC"):
            hours, minutes = int(suffix[1:3]), int(suffix[-2:])
            offsets[row] = (-1 if suffix[0] == "-" else 1) * (hours * 60 + minutes) * 60_000_000_000
    if local and zone is None:
        raise TapelineError(
            f"{where}: the times name no zone", code="timezone_required", hint="give it: --tz America/New_York"
        )
    try:
        years = np.array(bare, "datetime64[D]").astype(np.int64)
        if len(years) and (int(years.min()) < 0 or int(years.max()) >= LAST_NS // 86_400_000_000_000):
            raise TapelineError(
                f"{where} has a time before 1970 or after 2199",
                code="invalid_timestamp",
                hint="check the column of times",
            )
        ns = np.array(bare, "datetime64[ns]").astype(np.int64)
    except ValueError as error:
        raise TapelineError(f"{where}: {error}", code="invalid_row", hint="check the column of times") from error
    return from_local(ns, zone) if local and zone is not None else ns - offsets
