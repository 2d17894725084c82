"""Reading a spool while it is written, or after its process has died: whole records, in order, by columns."""

from __future__ import annotations

import json
import os
import time
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.columns import Points, pack, pack_one
from tapeline.spool.record import BODY, FLOATS, INTS, SIZE, TAGS, files_of, tags_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tapeline.spool.writer import Spool

MOST_TAG_BYTES = 16 * 1024 * 1024
PATIENCE_S = 2.0
"""A place that is still empty after so long, with records after it, is that of a record that was torn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Some records of a spool.

    Attributes
    ----------
    first, last : the records that it covers, torn ones too; none for `last` below `first`
    columns : the packed points of each tag
    points, torn : how many points it holds, and how many places hold none
    """

    first: int
    last: int
    columns: list[tuple[str, bytes]]
    points: int = 0
    torn: int = 0


class SpoolReader:
    """Reads one spool.

    Parameters
    ----------
    spool : Spool, optional
        The spool itself, where it is written to in this process: what the disk had no room for is there only.
    """

    def __init__(self, folder: Path, spool: Spool | None = None) -> None:
        self.folder = folder
        self._spool = spool
        self._tags: list[str] = []
        self._stuck: tuple[int, float] = (0, 0.0)
        self.last_us = 0
        self.nameless = 0

    def _places(self) -> list[tuple[int, Path | None]]:
        """Where records lie, by the first of each file; None for one in memory."""
        leaves = dict(self._spool.leaves) if self._spool is not None else {}
        return sorted([*files_of(self.folder), *((first, None) for first in leaves)], key=lambda place: place[0])

    @property
    def first(self) -> int:
        """The first record that is still there; 1 for an empty spool."""
        places = self._places()
        return places[0][0] if places else 1

    def read(self, first: int, most: int, *, end: int | None = None, is_final: bool = False) -> Read:
        """Up to `most` records from `first` on; what is gone is passed over.

        Parameters
        ----------
        end : int, optional
            The record after the last one that was written.
        is_final : bool
            Nobody writes any more: a place that holds no record never will.
        """
        for at, path, following in self._from(first):
            start = max(first - at, 0)
            room = self._room(at, path)
            if following is not None:
                room = min(room, following - at)
            if end is not None:
                room = min(room, end - at)
            if start >= room:
                continue
            begin = at + start
            found = self._records(at, path, start, min(most, room - start))
            good = _whole(found, begin)
            if not good.all():
                is_taken = end is not None or following is not None
                good = self._settled(good, begin, is_taken=is_taken, is_over=is_final)
            if not len(good):
                break
            kept = found[: len(good)][good]
            return Read(
                first=first, last=begin + len(good) - 1, columns=self._columns(kept), points=len(kept),
                torn=begin + len(good) - first - len(kept),
            )  # fmt: skip
        return Read(first=first, last=first - 1, columns=[])

    def _from(self, first: int) -> list[tuple[int, Path | None, int | None]]:
        """The places from that of a record on, each with the first record of the next."""
        # A file that was made in advance says nothing of the one before it.
        places = self._written() if self._spool is None else self._places()
        ends: list[int | None] = [*(at for at, _ in places[1:]), *([None] if places else [])]
        return [(at, path, end) for (at, path), end in zip(places, ends, strict=True) if end is None or end > first]

    def _written(self) -> list[tuple[int, Path | None]]:
        """The places up to the last one that holds a record; the first in any case."""
        places = self._places()
        while len(places) > 1 and not self._records(*places[-1], 0, 1)["number"].any():
            places.pop()
        return places

    def _room(self, at: int, path: Path | None) -> int:
        """How many places there are in a file, or in memory."""
        if path is not None:
            return path.stat().st_size // SIZE
        memory = self._spool.leaves.get(at) if self._spool is not None else None
        return 0 if memory is None else len(memory) // SIZE

    def _records(self, at: int, path: Path | None, start: int, count: int) -> NDArray[Any]:
        import numpy as np

        if path is not None:
            data = _bytes_of(path, start * SIZE, count * SIZE)
        else:
            memory = self._spool.leaves.get(at) if self._spool is not None else None
            data = b"" if memory is None else memory[start * SIZE : (start + count) * SIZE]
        return np.frombuffer(data, _RECORD, len(data) // SIZE)

    def _settled(self, good: NDArray[np.bool_], first: int, *, is_taken: bool, is_over: bool) -> NDArray[np.bool_]:
        """Which of the places are decided: up to the first empty one, and beyond it once that is known to be torn.

        `is_taken` when every place was handed out, `is_over` when nobody fills one any more.
        """
        import numpy as np

        empty = int(np.flatnonzero(~good)[0])
        written = np.flatnonzero(good)
        decided = good if is_taken else good[: int(written[-1]) + 1] if len(written) else good[:0]
        if is_over:
            return decided
        if len(decided) > empty:
            # It was taken by a thread that has not filled it yet.
            now = time.monotonic()
            if self._stuck[0] != first + empty:
                self._stuck = (first + empty, now)
            elif now - self._stuck[1] >= PATIENCE_S:
                return decided
        return good[:empty]

    def _columns(self, records: NDArray[Any]) -> list[tuple[str, bytes]]:
        import numpy as np

        if not len(records):
            return []
        numbers = records["tag"].astype(np.int64)
        if int(numbers.max()) >= len(self._tags):
            self._read_tags()
        times = self._times(records["time"].astype("<i8"))
        order = np.argsort(numbers, kind="stable")
        starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        found = []
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
            chosen = order[start:stop]
            number = int(numbers[chosen[0]])
            if number >= len(self._tags):
                # A machine that lost its power may have kept the record and not its tag.
                self.nameless += len(chosen)
                continue
            if len(chosen) == 1:
                one = records[chosen[0]]
                body = pack_one(int(one["step"]), int(times[chosen[0]]), int(one["value"]), int(one["kind"]) == INTS)
                found.append((self._tags[number], body))
                continue
            lot = records[chosen]
            points = Points(
                np.ascontiguousarray(lot["step"]), times[chosen], np.ascontiguousarray(lot["value"]),
                lot["kind"] == INTS,
            )  # fmt: skip
            found.append((self._tags[number], pack(points)))
        return found

    def _times(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Times that increase by at least one microsecond from record to record, whatever the clock did."""
        import numpy as np

        ranks = np.arange(len(times))
        raised = np.maximum.accumulate(np.maximum(times, self.last_us + 1) - ranks) + ranks
        self.last_us = int(raised[-1])
        return raised

    def _read_tags(self) -> None:
        if self._spool is not None:
            self._tags = list(self._spool.tags)
        else:
            self._tags = tags_of(_bytes_of(self.folder / TAGS, 0, MOST_TAG_BYTES))

    def forget(self, upto: int) -> None:
        """Remove the files all of whose records are acknowledged, but for the last that holds any.

        That one tells the next writer how the records are numbered; a file that was made in advance goes with its
        writer.
        """
        if self._spool is not None:
            self._spool.forget(upto)
        for (_, path), (following, _) in pairwise(self._written()):
            if path is not None and following <= upto + 1:
                path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes that the spool has on disk."""
        return sum(path.stat().st_blocks * 512 for _, path in files_of(self.folder))


def _bytes_of(path: Path, start: int, count: int) -> bytes:
    """Some bytes of a file. Whoever owns it may cut it or put something else in its place: no mapping, no link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, count, start)
    finally:
        os.close(descriptor)


def _whole(records: NDArray[Any], first: int) -> NDArray[np.bool_]:
    """Which places hold a record, by their numbers and checksums."""
    import numpy as np

    data = np.ascontiguousarray(records).tobytes()
    view = memoryview(data)
    crc = zlib.crc32
    sums = np.fromiter((crc(view[at : at + BODY]) for at in range(0, len(data), SIZE)), np.uint32, len(records))
    numbers = np.arange(first, first + len(records), dtype=np.int64)
    kinds = records["kind"]
    good: NDArray[np.bool_] = (sums == records["crc"]) & (records["number"] == numbers)
    good &= (kinds == FLOATS) | (kinds == INTS)
    return good


_RECORD = [
    ("number", "<u4"), ("tag", "<u2"), ("kind", "u1"), ("zero", "u1"), ("step", "<i8"), ("value", "<i8"),
    ("time", "<i8"), ("crc", "<u4"),
]  # fmt: skip


def told(path: Path) -> dict[str, Any] | None:
    """What a small file of a spool says; None when it is not there or not whole."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
