"""Taking points down: a record into mapped memory, and nothing else, while a program waits."""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import numbers
import operator
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tapeline.errors import TapelineError
from tapeline.pen import Pen
from tapeline.spool.record import (
    FILE_BYTES,
    MAX_STEP,
    MAX_TAGS,
    MOST_BYTES,
    MOST_RECORDS,
    SIZE,
    TAGS,
    files_of,
    is_tag,
    name_of,
    tag_line,
)

logger = logging.getLogger("tapeline")

LEAVES = 9
"""Files that are kept in memory instead while the disk takes none: room for a million points."""
WAITING = 100_000
"""Values at most that wait for their device."""
RETRY_S = 1.0


class Spool:
    """The spool of one attempt, open for writing. Safe in threads; a process that is forked off has none.

    `log` raises nothing once the spool is open, waits for nothing, and makes no system call but for a new tag and
    for one point in 116,508, whose file somebody else has usually made in advance (`tend`).

    Attributes
    ----------
    log : takes down a value of each tag at a step: `log(values, step, phase=None)`
    rejected : what was refused, by why
    dropped : points that found no room and are lost
    leaves : by their first record, the files that the disk had no room for
    tags : the number of each tag
    acknowledged : the last record that the service has
    """

    def __init__(
        self,
        folder: Path,
        *,
        strict: bool = False,
        most_bytes: int = MOST_BYTES,
        most_leaves: int = LEAVES,
        file_bytes: int = FILE_BYTES,
        open_file: Callable[[Path, int], Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if files_of(folder) or (folder / TAGS).exists():
            raise TapelineError(
                f"{folder} holds the points of another process", code="already_exists", hint="tapeline spool sync"
            )
        self.folder = folder
        self.rejected: Counter[str] = Counter()
        self.dropped = 0
        self._strict = strict
        self._most = most_bytes
        self._file_bytes = file_bytes
        self._open_file = open_file or mapped
        self._lock = threading.RLock()
        self.tags: dict[str, int] = {}
        self.leaves: dict[int, Any] = {}
        self.acknowledged = 0
        self._tag_file = -1
        self._untold: list[str] = []
        self._most_leaves = most_leaves
        self._waiting: deque[tuple[str, int, Any, int]] = deque()
        self._spare: tuple[int, Any] | None = None
        self._retry_at = 0.0
        self._warned: set[str] = set()
        self._is_closed = False
        self._pen = Pen(self.tags, self._slow)
        self.log: Callable[..., None] = self._pen.log
        with self._lock:
            self._turn()
        _open.add(self)

    @property
    def held(self) -> int:
        """Values that were not read yet: they wait for their device."""
        return len(self._waiting)

    @property
    def end(self) -> int:
        """The number that the next record will have; those before it are written."""
        return self._pen.end

    @property
    def last_step(self) -> int:
        """The step of the last log of which something was taken."""
        return self._pen.last_step

    # --- what is not a plain number of a known tag ---------------------------------------------------

    def _slow(self, values: Any, step: Any, phase: Any) -> None:
        try:
            self._take(values, step, phase)
        except Exception as error:
            if self._strict and isinstance(error, TapelineError):
                raise
            self._refuse(type(error).__name__, _quoted(values, step, error))

    def _take(self, values: Any, step: Any, phase: Any) -> None:
        if self._is_closed:
            raise ValueError("nothing is measured any more: this run has ended here")
        if not isinstance(values, Mapping) and not hasattr(values, "items"):
            return self._refuse("values", f"a {type(values).__name__} is no dict of tags and values")
        if isinstance(step, bool) or not hasattr(step, "__index__"):
            return self._refuse("step", f"step {str(step)[:80]!r} is a {type(step).__name__}, no whole number")
        at = operator.index(step)
        if not 0 <= at <= MAX_STEP:
            return self._refuse("step", f"step {at} is not from 0 to 2**53")
        if phase is not None and not isinstance(phase, str):
            return self._refuse("phase", f"phase must be a text, not a {type(phase).__name__}")
        now = self._pen.now()
        is_empty = True
        for tag, value in values.items():
            is_empty = False
            try:
                number = _number(value)
            except Exception as error:
                self._refuse("value", f"{str(tag)[:80]!r} at step {at}: {error}")
                continue
            named = f"{phase}/{tag}" if phase is not None and isinstance(tag, str) else tag
            if number is not None:
                if not self._record(named, at, number, now):
                    continue
            elif len(self._waiting) < WAITING:
                # Reading it would wait for a device: whoever tends the spool does that.
                self._waiting.append((named, at, value, now))
            else:
                self._drop(1)
            self._pen.told(at)
        if is_empty:
            self._pen.told(at)

    def _record(self, tag: Any, step: int, value: float, now: int) -> bool:
        """Write a point down, or count it where there is no room; False for one that was refused."""
        with self._lock:
            known = self.tags.get(tag) if isinstance(tag, str) else None
            if known is None and (known := self._new_tag(tag)) is None:
                return False
            while not self._pen.put(known, step, value, now):
                if not self._turn():
                    self._drop(1)
                    break
            return True

    def _new_tag(self, tag: Any) -> int | None:
        if not is_tag(tag):
            self._refuse("tag", f"tag {str(tag)[:80]!r} is not 1 to 200 visible characters")
            return None
        if len(self.tags) >= MAX_TAGS:
            self._refuse("tags", f"tag {tag[:80]!r} is one more than {MAX_TAGS}")
            return None
        self._untold.append(tag)
        self._tell_tags()
        self.tags[tag] = len(self.tags)
        return self.tags[tag]

    def _tell_tags(self) -> None:
        """Write down the tags that the disk does not know, in their order; while it is full they wait."""
        try:
            if self._untold and self._tag_file < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._tag_file = os.open(self.folder / TAGS, flags, 0o600)
            while self._untold:
                line = tag_line(self._untold[0])
                size = os.fstat(self._tag_file).st_size
                if os.write(self._tag_file, line) != len(line):
                    os.ftruncate(self._tag_file, size)
                    raise OSError("no room for a tag")
                self._untold.pop(0)
        except OSError as error:
            self._full(error)

    # --- refusals ----------------------------------------------------------------------------------

    def _refuse(self, why: str, text: str) -> None:
        self.rejected[why] += 1
        if self._strict:
            raise TapelineError(text, code="invalid", hint="unset TAPELINE_STRICT_METRICS to have it counted only")
        self._warn(why, f"metrics: {text}; further ones of this kind are counted only")

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._warn("dropped", "metrics: there is no room for points; some are dropped and counted")

    def _full(self, error: OSError) -> None:
        self._warn("disk", f"metrics: the disk takes no more ({error}); points are held in memory")

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            # A handler that fails must not stop a training either.
            with contextlib.suppress(Exception):
                logger.warning("%s", text)

    # --- files -------------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """Go on with the next file; False when there is none to be had now."""
        if self._is_closed:
            return False
        first = self._pen.end
        spare, self._spare = self._spare, None
        memory = spare[1] if spare is not None and spare[0] == first else self._made(first)
        if memory is None:
            memory = self._leaf(first)
        if memory is None:
            return False
        self._pen.turn(memory, self._records(first))
        return True

    def _records(self, first: int) -> int:
        return min(self._file_bytes // SIZE, MOST_RECORDS - first)

    @property
    def _is_at_bound(self) -> bool:
        return (len(files_of(self.folder)) + 1) * self._file_bytes > self._most

    def _made(self, first: int) -> Any | None:
        """The memory of a new file; None where there is no room for it."""
        if self._records(first) <= 0 or time.monotonic() < self._retry_at or self._is_at_bound:
            return None
        path = self.folder / name_of(first)
        try:
            return self._open_file(path, self._file_bytes)
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_S
            with contextlib.suppress(OSError):
                path.unlink()
            self._full(error)
            return None

    def _leaf(self, first: int) -> Any | None:
        """Memory for points that the disk has no room for; the oldest of it is given up for it."""
        if self._records(first) <= 0:
            return None
        if self._is_at_bound:
            self._warn("bound", f"metrics: {self._most >> 20} MiB of points wait to be sent; no more are kept")
            return None
        if len(self.leaves) >= self._most_leaves:
            oldest = min(self.leaves)
            del self.leaves[oldest]
            last = oldest + self._records(oldest) - 1
            self._drop(max(0, last - max(self.acknowledged, oldest - 1)))
        memory = self.leaves[first] = mmap.mmap(-1, self._file_bytes)
        return memory

    def tend(self) -> None:
        """What a thread beside the program does every moment: read values that waited, have a file ready."""
        for _ in range(len(self._waiting)):
            tag, step, value, now = self._waiting.popleft()
            with contextlib.suppress(TapelineError):
                try:
                    number = _read(value)
                except Exception as error:
                    self._refuse("value", f"{str(tag)[:80]!r} at step {step}: {error}")
                else:
                    self._record(tag, step, number, now)
        with self._lock:
            if self._is_closed:
                return
            self._tell_tags()
            if self._spare is None and not self._pen.is_full:
                following = self._following()
                memory = self._made(following)
                self._spare = None if memory is None else (following, memory)

    def _following(self) -> int:
        """The first record of the file after the open one."""
        opened = max([first for first, _ in files_of(self.folder) if first <= self._pen.end] + list(self.leaves))
        return opened + self._records(opened)

    def forget(self, upto: int) -> None:
        """The service has every record up to this one: memory that holds them may go, but for what is written to."""
        with self._lock:
            self.acknowledged = max(self.acknowledged, upto)
            for first in [first for first in self.leaves if first + self._records(first) <= upto + 1]:
                del self.leaves[first]

    def close(self) -> None:
        """Let go of the files; what was not sent stays."""
        self.tend()
        with self._lock:
            self._is_closed = True
            self._pen.turn(None, 0)
            if self._spare is not None:
                with contextlib.suppress(OSError):
                    (self.folder / name_of(self._spare[0])).unlink()
                self._spare = None
            if self._tag_file >= 0:
                os.close(self._tag_file)
                self._tag_file = -1


def mapped(path: Path, size: int) -> mmap.mmap:
    """A new file of zeros, all of whose blocks and pages are there: writing to it cannot fail."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        elif os.write(descriptor, bytes(size)) != size:
            raise OSError("no room for a file of points")
        return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
    finally:
        os.close(descriptor)


def _quoted(values: Any, step: Any, error: Exception) -> str:
    try:
        return f"log({values!r:.200}, step={step!r:.60}): {error}"
    except Exception:
        return f"log of a {type(values).__name__}: {type(error).__name__}"


def _number(value: Any) -> float | None:
    """A value as a number; None for one that may have to be fetched from a device."""
    kind = type(value)
    if isinstance(value, bool | int):
        return int(value)
    if kind.__module__ == "numpy":
        return _read(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, str | bytes | complex | list | tuple | dict | set) or value is None:
        raise TypeError(f"a {kind.__name__} is no number")
    if hasattr(kind, "__float__") or hasattr(kind, "item"):
        return None
    raise TypeError(f"a {kind.__name__} is no number")


def _read(value: Any) -> float:
    if hasattr(value, "item"):
        found = value.item()
    else:
        found = value.numpy().item() if hasattr(value, "numpy") else float(value)
    if isinstance(found, bool | int):
        return int(found)
    if isinstance(found, float):
        return found
    raise TypeError(f"a {type(value).__name__} holds no number")


_open: weakref.WeakSet[Spool] = weakref.WeakSet()


def _after_fork() -> None:
    # The pages are shared with the parent; the places in them are the parent's to hand out.
    for spool in list(_open):
        spool._lock = threading.RLock()
        spool._pen.turn(None, 0)
        spool._is_closed, spool._spare, spool._tag_file = True, None, -1
        spool.leaves.clear()
        spool._waiting.clear()


os.register_at_fork(after_in_child=_after_fork)


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small file so that it is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
