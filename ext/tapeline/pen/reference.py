"""What the pen writes, in plain Python: one lock, one record after the other."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

_FLOAT, _INT, _CRC = struct.Struct("<IHBxqdq"), struct.Struct("<IHBxqqq"), struct.Struct("<I")
SIZE, MAX_STEP = 36, 2**53


class Pen:
    """Writes the records of one spool, file after file.

    Parameters
    ----------
    tags : the number of each tag that is known; filled by whoever keeps the tag file
    slow : called as `slow(values, step, phase)` with what is not a plain number of a known tag
    """

    def __init__(self, tags: dict[str, int], slow: Callable[[Any, Any, Any], None]) -> None:
        self._tags = tags
        self._slow = slow
        self._lock = threading.RLock()
        self._memory: memoryview | None = None
        self._first = 1
        self._taken = self._records = 0
        self._step = 0

    @property
    def end(self) -> int:
        """The number that the next record will have."""
        return self._first + self._taken

    @property
    def last_step(self) -> int:
        """The step of the last log of which something was taken."""
        return self._step

    def told(self, step: int) -> None:
        """Something was measured at a step, wherever it was written."""
        self._step = step

    @property
    def is_full(self) -> bool:
        """Whether there is no place for a record."""
        return self._memory is None or self._taken >= self._records

    def turn(self, memory: Any, records: int) -> None:
        """Go on in the memory of another file with so many places, or in none; numbers go on."""
        with self._lock:
            view = None if memory is None else memoryview(memory)
            if view is not None and view.nbytes < records * SIZE:
                raise ValueError("the memory is shorter than its records")
            self._first, self._taken = self.end, 0
            self._memory, self._records = view, 0 if view is None else records

    def now(self) -> int:
        """The time in whole microseconds."""
        return time.time_ns() // 1000

    def put(self, tag: int, step: int, value: float, time_us: int) -> bool:
        """Write one record; False when there is no place for it. An int beyond 2**53 becomes a float."""
        with self._lock:
            if self._memory is None or self._taken >= self._records:
                return False
            if type(value) is int and -MAX_STEP <= value <= MAX_STEP:
                body = _INT.pack(self.end, tag, 2, step, value, time_us)
            else:
                body = _FLOAT.pack(self.end, tag, 1, step, _real(value), time_us)
            at = self._taken * SIZE
            self._taken += 1
            self._memory[at : at + SIZE] = body + _CRC.pack(crc32(body))
            return True

    def log(self, values: Mapping[str, Any], step: int, phase: str | None = None) -> None:
        """Write a record for each plain number of a known tag; the rest is left to `slow`."""
        is_plain = phase is None and type(values) is dict and type(step) is int and 0 <= step <= MAX_STEP
        if not is_plain or self._memory is None:
            self._slow(values, step, phase)
            return
        now = self.now()
        left: dict[Any, Any] = {}
        is_taken = False
        for tag, value in values.items():
            number = self._tags.get(tag) if type(tag) is str else None
            is_known = number is not None and type(value) in (float, int)
            # An int that no record holds is left too: it becomes a float.
            is_plain = is_known and (type(value) is float or -MAX_STEP <= value <= MAX_STEP)
            if is_plain and self.put(number or 0, step, value, now):
                is_taken = True
            else:
                left[tag] = value
        # What is left may be refused as a whole: whoever takes some of it says so.
        if is_taken or not left:
            self._step = step
        if left:
            self._slow(left, step, None)


def _real(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
