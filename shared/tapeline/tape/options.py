"""What a user may say about an import, and what an import found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tapeline.errors import TapelineError
from tapeline.tape.times import PLACES, zone_of

FORMATS = (
    "auto", "lean", "binance-trades", "binance-aggtrades", "databento-dbn", "kraken-csv", "tardis-csv", "csv",
    "parquet", "arrow",
)  # fmt: skip
FIRST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """The options of an import; each default keeps what the file holds and counts what is odd.

    Attributes
    ----------
    map : column of the file for each of `ts, price, volume, seq, cond, symbol` (formats csv, parquet, arrow);
        numbers count columns from 0 in a file without header
    ts : which time of a databento-dbn file is the trade's: of the event, or of its receipt
    conditions : pairs (mask, flags); the flags of all matching masks of a trade's condition are ANDed
    max_void : the share of void trades above which the import is refused
    """

    calendar: str | None = None
    close_grace_s: int = 0
    extended: str | None = None
    map: Mapping[str, str] = field(default_factory=dict)
    ts_unit: str | None = None
    ts: Literal["event", "recv"] = "event"
    tz: str | None = None
    delimiter: str = ","
    decimal: str = "."
    strict: bool = False
    allow_nonpositive: bool = False
    void_outliers: bool = False
    drop_duplicates: Literal["exact", "seq"] | None = None
    keep_final_duplicate: bool = False
    skip_bad: int = 0
    require_complete: bool = False
    max_void: float = 0.01
    conditions: tuple[tuple[int, int], ...] = ()
    currency: str = ""
    tick_size: float | None = None
    codec: str = "none"

    def __post_init__(self) -> None:
        if self.ts_unit is not None and self.ts_unit not in PLACES:
            raise _refused(f"--ts-unit is {self.ts_unit!r}", f"take {', '.join(PLACES)}")
        if self.ts not in ("event", "recv"):
            raise _refused(f"--ts is {self.ts!r}", "take event or recv")
        if self.tz is not None:
            zone_of(self.tz)
        for name, text in (("--delimiter", self.delimiter), ("--decimal", self.decimal)):
            if len(text) != 1 or not text.isascii() or text.isalnum() or text in '"\n\r':
                raise _refused(f"{name} is {text!r}", "take one character such as , ; or a tab")
        if self.delimiter == self.decimal:
            raise _refused("--delimiter and --decimal are the same", "give one of them another character")
        known = ("ts", "price", "volume", "seq", "cond", "symbol")
        for name in self.map:
            if name not in known:
                raise _refused(f"--map names {name!r}", f"take {', '.join(known)}")
        if not 0 <= self.max_void <= 1 or self.skip_bad < 0:
            raise _refused("--max-void or --skip-bad is out of range", "take a share from 0 to 1, and a count")
        if self.drop_duplicates not in (None, "exact", "seq"):
            raise _refused(f"--drop-duplicates is {self.drop_duplicates!r}", "take exact or seq")


def conditions_of(path: Path) -> tuple[tuple[int, int], ...]:
    """The condition table of a CSV file with the columns `mask,flags`: pairs of numbers, header optional.

    Masks may be written as 0x1f. The flags of all masks that a trade's condition meets are ANDed.

    Raises
    ------
    TapelineError
        `not_found`, `invalid_row` with the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TapelineError(
            f"the condition table {path.name} cannot be read", code="not_found", hint="name a CSV file of mask,flags"
        ) from error
    pairs: list[tuple[int, int]] = []
    for number, line in enumerate(lines, 1):
        fields = [field.strip() for field in line.split(",")]
        if not line.strip() or (number == 1 and fields == ["mask", "flags"]):
            continue
        try:
            mask, flags = (int(field, 0) for field in fields)
        except ValueError:
            mask, flags = -1, -1
        if not 0 < mask < 2**32 or not 0 <= flags <= 7:
            raise TapelineError(
                f"{path.name}: line {number}: {line[:80]!r} is no pair of a mask and flags",
                code="invalid_row",
                hint="write a mask from 1 to 0xffffffff and flags from 0 to 7, such as 0x20,4",
            )
        pairs.append((mask, flags))
    return tuple(pairs)


def _refused(message: str, hint: str) -> TapelineError:
    return TapelineError(message, code="invalid_argument", hint=hint)


@dataclass(slots=True)
class ImportReport:
    """What an import found: counts and first examples. Every count that is not 0 is worth a look."""

    format: str = ""
    files: int = 0
    rows_read: int = 0
    rows: int = 0
    void: int = 0
    bad_price: int = 0
    suspicious: int = 0
    unsorted: int = 0
    equal_rows: int = 0
    dropped_duplicates: int = 0
    final_duplicates: int = 0
    zero_volume: int = 0
    outliers: int = 0
    seq_gaps: int = 0
    largest_seq_gap: int = 0
    outside_sessions: int = 0
    bad_rows: int = 0
    ts_unit: str = ""
    eligibility: str = "none"
    first_ts: int = 0
    last_ts: int = 0
    examples: list[str] = field(default_factory=list)
    missing_days: list[str] = field(default_factory=list)
    rows_per_day: dict[str, int] = field(default_factory=dict)
    price_range: dict[str, list[float]] = field(default_factory=dict)

    def example(self, text: str) -> None:
        """Keep a sentence, as long as there are few."""
        if len(self.examples) < FIRST:
            self.examples.append(text)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}
