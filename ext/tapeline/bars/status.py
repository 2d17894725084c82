"""What a kernel answers, and the numbers that it and its naive twin share."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Status(IntEnum):
    """How a kernel ended."""

    OK = 0
    UNSORTED = 1
    OVERFLOW = 2
    NEGATIVE = 3
    OUTSIDE = 4
    NO_ROW = 5


class Flag(IntFlag):
    """What a trade counts for; 0 is a void trade, kept for audit and counted nowhere."""

    HILO = 1
    LAST = 2
    VOLUME = 4


class Norm(IntEnum):
    """How `gather` normalises a window."""

    NONE = 0
    LAST_PRICE_PCT = 1
    ZSCORE_WINDOW = 2
    MAX_VALUES = 3


ALL = Flag.HILO | Flag.LAST | Flag.VOLUME
COLUMNS = (
    "price_open",
    "price_high",
    "price_low",
    "price_close",
    "trade_count",
    "vol_sum",
    "vol_mean",
    "vol_max",
)
EXACT = 2**53


class BarsError(ValueError):
    """What a kernel or its front refused; `code` is one of the codes of the whole project."""

    def __init__(self, message: str, code: str = "invalid_argument", index: int = -1, row: int = -1) -> None:
        super().__init__(message)
        self.code = code
        self.index = index
        self.row = row
