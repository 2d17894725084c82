"""Trades as columns, and the checks that a stored day of them must pass."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.bars import ALL, Flag
from tapeline.errors import TapelineError

Volume = NDArray[np.int64] | NDArray[np.float64]

# Above this a float64, and with it a bar, could no longer hold every whole volume.
MOST_VOLUME = 2**53
LAST_NS = 7_258_118_400_000_000_000  # 2200-01-01

DTYPES: dict[str, tuple[type[np.generic], ...]] = {
    "ts": (np.int64,),
    "price": (np.float64,),
    "volume": (np.int64, np.float64),
    "flags": (np.uint8,),
    "seq": (np.int64,),
    "cond": (np.uint32,),
}


@dataclass(frozen=True, slots=True, eq=False)
class Trades:
    """Trades of one symbol in tape order.

    Attributes
    ----------
    ts : int64 ns since 1970 UTC, shape (n,), non-decreasing
    price : float64, shape (n,), as traded; NaN only where flags are 0
    volume : int64 or float64, shape (n,), >= 0
    flags : uint8, shape (n,): 1 high and low, 2 open and close, 4 volume; 0 is a void trade
    seq : int64 or None, the vendor's sequence
    cond : uint32 or None, the vendor's condition mask
    """

    ts: NDArray[np.int64]
    price: NDArray[np.float64]
    volume: Volume
    flags: NDArray[np.uint8]
    seq: NDArray[np.int64] | None = None
    cond: NDArray[np.uint32] | None = None

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that are there, by name, in the order of a day file."""
        named = {name: getattr(self, name) for name in DTYPES}
        return {name: column for name, column in named.items() if column is not None}

    @property
    def volume_kind(self) -> str:
        """`int64` or `float64`."""
        return self.volume.dtype.name

    def take(self, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Trades:
        """The trades of a slice, a mask or indices."""
        return Trades(**{name: np.ascontiguousarray(column[rows]) for name, column in self.columns.items()})

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each column's little-endian bytes."""
        return {
            name: hashlib.sha256(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).data).hexdigest()
            for name, column in self.columns.items()
        }


def join(parts: list[Trades]) -> Trades:
    """The trades of all parts, one after another; optional columns stay if every part has them."""
    names = [name for name in DTYPES if all(name in part.columns for part in parts)]
    return Trades(**{name: np.concatenate([part.columns[name] for part in parts]) for name in names})


def none() -> Trades:
    """No trades."""
    return Trades(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), np.empty(0, np.uint8))


def check(trades: Trades, *, where: str, allow_nonpositive: bool = False) -> None:
    """Refuse a day that could not have come out of an import.

    Raises
    ------
    TapelineError
        `tape_corrupt` for wrong types, lengths, times or prices, `tape_unsorted`, `invalid_volume`.
    """
    for name, column in trades.columns.items():
        if column.dtype not in [np.dtype(kind) for kind in DTYPES[name]] or column.shape != (len(trades),):
            raise TapelineError(
                f"column {name} of {where} is {column.dtype} {column.shape}",
                code="tape_corrupt",
                hint="import the tape again",
            )
    if len(trades) == 0:
        raise TapelineError(f"{where} holds no trades", code="empty_input", hint="leave the day out")
    ts, price, volume, flags = trades.ts, trades.price, trades.volume, trades.flags
    if int(ts.min()) < 0 or int(ts.max()) >= LAST_NS:
        raise TapelineError(
            f"{where} has a time before 1970 or after 2199", code="invalid_timestamp", hint="import the tape again"
        )
    steps = np.flatnonzero(np.diff(ts) < 0)
    if len(steps):
        raise TapelineError(
            f"row {int(steps[0]) + 1} of {where} is earlier than the one before it",
            code="tape_unsorted",
            hint="import the tape again",
        )
    if bool((flags > int(ALL)).any()):
        raise TapelineError(f"{where} has unknown flags", code="tape_corrupt", hint="import the tape again")
    real = price[flags != 0]
    if not bool(np.isfinite(real).all()) or (not allow_nonpositive and bool((real <= 0).any())):
        raise TapelineError(
            f"{where} counts a trade with an impossible price", code="tape_corrupt", hint="import the tape again"
        )
    bad = np.flatnonzero(~((volume >= 0) & (volume <= MOST_VOLUME)))
    if len(bad):
        raise TapelineError(
            f"row {int(bad[0])} of {where} has volume {volume[bad[0]]}",
            code="invalid_volume",
            hint="import the tape again",
        )


__all__ = ["ALL", "DTYPES", "LAST_NS", "MOST_VOLUME", "Flag", "Trades", "Volume", "check", "join", "none"]
