"""Giving events to a file or a program, and keeping how far that came, so that a kill does no harm.

Into a regular file nothing is missing and nothing comes twice: the mark says how long the file was when it was
written, and what lies behind that belongs to a commit whose mark was not written any more. It is cut off and
given again. A pipe or a program cannot be cut: there the events of the commit in hand come again, with the
same ids.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapeline.errors import TapelineError
from tapeline.home import write_json
from tapeline.replay.watching import Watched

Give = Callable[[Watched], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a watch has come; with the file that it wrote to, and how long that was then."""

    position: int
    device: int | None = None
    inode: int | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A file that keeps how far a watch has come, and in which log."""

    path: Path

    def read(self, log_id: str) -> Mark | None:
        """The mark; none without a file.

        Raises
        ------
        TapelineError
            `log_mismatch` when it belongs to another log, `invalid` when it holds no position.
        """
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            of = str(found["log_id"])
            mark = Mark(int(found["position"]), found.get("device"), found.get("inode"), int(found.get("size", 0)))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TapelineError(
                f"{self.path} holds no position: {error}", code="invalid", hint="remove it, and give --since"
            ) from error
        if of != log_id:
            raise TapelineError(
                f"{self.path} is a position of log {of}, this is log {log_id}",
                code="log_mismatch",
                hint="use another file for this log",
            )
        return mark

    def write(self, log_id: str, mark: Mark) -> None:
        """Keep a mark, on disk before this returns."""
        file = {} if mark.inode is None else {"device": mark.device, "inode": mark.inode, "size": mark.size_bytes}
        write_json(self.path, {"log_id": log_id, "position": mark.position} | file)


class Sheet:
    """An open file that takes a JSON object a line; `descriptor` is that of standard output, as a rule."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)

    async def give(self, event: Watched) -> None:
        """Write one event, seen at once by whoever reads."""
        data = json.dumps(event.to_json(), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]

    def mark(self, position: int) -> Mark:
        """The mark of a position whose events are written; they are on disk before this returns."""
        if not self._is_file:
            return Mark(position)
        os.fsync(self._descriptor)
        found = os.fstat(self._descriptor)
        return Mark(position, found.st_dev, found.st_ino, found.st_size)

    def rewind(self, mark: Mark) -> None:
        """Cut off what was written after a mark of this very file.

        Raises
        ------
        TapelineError
            `conflict` when what lies there was not written by the watch.
        """
        found = os.fstat(self._descriptor)
        same = (found.st_dev, found.st_ino) == (mark.device, mark.inode)
        if not (self._is_file and same and found.st_size > mark.size_bytes):
            return
        reader = os.open(f"/dev/fd/{self._descriptor}", os.O_RDONLY)
        try:
            *lines, _torn = os.pread(reader, found.st_size - mark.size_bytes, mark.size_bytes).split(b"\n")
        finally:
            os.close(reader)
        if not all(_is_later(line, mark.position) for line in lines):
            raise TapelineError(
                f"the output holds other lines after byte {mark.size_bytes}, where the watch ended",
                code="conflict",
                hint="give the watch a file of its own, or remove its --state",
            )
        os.ftruncate(self._descriptor, mark.size_bytes)
        os.lseek(self._descriptor, mark.size_bytes, os.SEEK_SET)


def _is_later(line: bytes, position: int) -> bool:
    try:
        found: Any = json.loads(line)
        return bool(found["position"] > position)
    except (ValueError, KeyError, TypeError):
        return False


async def begun(
    bookmark: Bookmark | None, sheet: Sheet | None, *, log_id: str, start: Callable[[], Awaitable[int]]
) -> int:
    """The position to go on after: that of the mark, with the sheet cut there, or else `start`.

    The beginning is marked too: a kill before the first event must neither repeat it nor move to a later end.
    """
    mark = bookmark.read(log_id) if bookmark is not None else None
    if mark is not None:
        if sheet is not None:
            sheet.rewind(mark)
        return mark.position
    position = await start()
    if bookmark is not None:
        bookmark.write(log_id, sheet.mark(position) if sheet is not None else Mark(position))
    return position


async def deliver(
    events: AsyncIterator[Watched], give: Give, *, log_id: str, bookmark: Bookmark | None, sheet: Sheet | None
) -> None:
    """Give each event, and keep the position of each commit once all of its events are given."""
    async for event in events:
        await give(event)
        if bookmark is not None and event.last_of_commit:
            mark = sheet.mark(event.position) if sheet is not None else Mark(event.position)
            bookmark.write(log_id, mark)
