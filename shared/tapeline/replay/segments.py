"""The log as files: compressed segments of up to 100,000 commits or 64 MiB.

One JSON object a line, `{"p", "t", "s", "h", "b"}`: position, broker time, subject, header and body as text, so
that digests hold.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec

from tapeline.bulk import digests, lines, roots
from tapeline.errors import TapelineError
from tapeline.log import Head, StoredCommit, wire
from tapeline.replay.manifest import Segment, corrupt, name_of, sync, whole_manifest

SEGMENT_COMMITS = 100_000
SEGMENT_BYTES = 64 * 1024 * 1024
LEVEL = 3


class Line(msgspec.Struct, frozen=True, gc=False):
    """One commit in a segment."""

    p: int
    t: str
    s: str
    h: str
    b: str


_encoder = msgspec.json.Encoder()


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)


class SegmentWriter:
    """One segment being written under a temporary name."""

    def __init__(self, folder: Path, first: int, root: bytes) -> None:
        self._folder = folder
        self._path = folder / f".{first:020d}.partial"
        self._out = _Hashing(self._path)
        import zstandard

        self._zstd = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()
        self._lines: list[Line] = []
        self._first = first
        self._last = first - 1
        self._commits = 0
        self._size = 0
        self._root = root
        self._digest = ""

    @property
    def is_full(self) -> bool:
        return self._commits >= SEGMENT_COMMITS or self._size >= SEGMENT_BYTES

    def take(self, commits: Sequence[StoredCommit]) -> int:
        """Write commits until the segment is full; how many were taken."""
        taken: list[StoredCommit] = []
        for commit in commits:
            if self.is_full:
                break
            taken.append(commit)
            self._commits += 1
            self._size += len(commit.body) + len(commit.header)
        if not taken:
            return 0
        raws = digests(taken)
        self._digest, self._root = raws[-1].hex(), roots(self._root, raws)[-1]
        self._last = taken[-1].position
        self._lines += [_line_of(commit) for commit in taken]
        if len(self._lines) >= 1000:
            self._drain()
        return len(taken)

    def _drain(self) -> None:
        self._out.write(self._zstd.compress(_encoder.encode_lines(self._lines)))
        self._lines.clear()

    def close(self, *, full: bool) -> Segment:
        self._drain()
        self._out.write(self._zstd.flush())
        self._out.file.flush()
        os.fsync(self._out.file.fileno())
        size = self._out.file.tell()
        self._out.file.close()
        name = name_of(self._first, self._last)
        self._path.replace(self._folder / name)
        sync(self._folder)
        return Segment(
            name, self._first, self._last, size, self._out.sha256.hexdigest(), self._digest, self._root.hex(), full
        )

    def abandon(self) -> None:
        self._out.file.close()
        with suppress(FileNotFoundError):
            self._path.unlink()


def _line_of(commit: StoredCommit) -> Line:
    try:
        return Line(
            commit.position,
            wire.time_text(commit.stored_at),
            commit.subject,
            commit.header.decode("ascii"),
            commit.body.decode(),
        )
    except UnicodeDecodeError as error:
        raise TapelineError(
            f"the commit at position {commit.position} is no text: {error}",
            code="log_damaged",
            hint="tapeline log verify",
        ) from error


class ExportedLog:
    """An export, read as the log that it was made of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manifest = whole_manifest(folder)

    async def head(self) -> Head:
        """The end of the export."""
        size = sum(segment.size_bytes for segment in self._manifest.segments)
        return Head(log_id=self._manifest.log_id, position=self._manifest.position, size_bytes=size, max_bytes=size)

    async def read(self, *, after: int = 0, upto: int | None = None) -> AsyncGenerator[list[StoredCommit], None]:
        """Its commits in lists; `corrupt` when a segment is not what the manifest says."""
        for segment in self._manifest.segments:
            if segment.last <= after or (upto is not None and segment.first > upto):
                continue
            for commits in read_segment(self._folder, segment):
                within = [one for one in commits if after < one.position and (upto is None or one.position <= upto)]
                if within:
                    yield within


def read_segment(folder: Path, segment: Segment) -> list[list[StoredCommit]]:
    """The commits of one segment, a thousand in a list.

    Raises
    ------
    TapelineError
        `corrupt`, with the segment and the last position that can be read in it.
    """
    commits, fault = salvage(folder, segment)
    if fault:
        raise corrupt(f"segment {segment.name} {fault}")
    return [commits[i : i + LIST] for i in range(0, len(commits), LIST)]


LIST = 1000
MISSING = "is missing"
_lines = msgspec.json.Decoder(Line)
_MOST_BYTES = 2 * SEGMENT_BYTES
"""Of a segment's text: a compressed file must not fill the memory."""


class Damaged(Exception):
    """A line of a segment that is none."""


def texts(folder: Path, segments: Iterable[Segment]) -> Iterator[tuple[Segment, bytes, str]]:
    """Each segment with its text and what is wrong with its file; the next one is read while one is worked at."""
    with ThreadPoolExecutor(1, thread_name_prefix="segments") as helper:
        waiting: deque[tuple[Segment, Future[tuple[bytes, str]]]] = deque()
        for segment in segments:
            waiting.append((segment, helper.submit(text_of, folder, segment)))
            if len(waiting) > 1:
                before, read = waiting.popleft()
                yield before, *read.result()
        for before, read in waiting:
            yield before, *read.result()


def text_of(folder: Path, segment: Segment) -> tuple[bytes, str]:
    """The text of a segment as far as it can be inflated, and what is wrong with its file, or nothing."""
    import zstandard

    try:
        data = (folder / segment.name).read_bytes()
    except FileNotFoundError:
        return b"", MISSING
    fault = ""
    if len(data) != segment.size_bytes:
        fault = f"has {len(data)} bytes, the manifest says {segment.size_bytes}"
    elif (found := hashlib.sha256(data).hexdigest()) != segment.sha256:
        fault = f"has the SHA-256 {found[:12]}, the manifest says {segment.sha256[:12]}"
    parts: list[bytes] = []
    size = 0
    try:
        inflate = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
        for start in range(0, len(data), 1 << 16):
            parts.append(inflate.decompress(data[start : start + (1 << 16)]))
            size += len(parts[-1])
            if size > _MOST_BYTES:
                return b"", fault or f"holds more than {_MOST_BYTES >> 20} MiB"
        if not inflate.eof:
            fault = fault or "is cut off"
    except zstandard.ZstdError as error:
        fault = fault or f"cannot be decompressed: {error}"
    return b"".join(parts), fault


def commits_in(text: bytes) -> Iterator[list[StoredCommit]]:
    """The commits of a segment's text, at most a thousand in a list; raises `Damaged` at a line that is none."""
    start = 0
    while start < len(text):
        # The compiled reader takes every line that is written as ours are; what it leaves is read, or named, here.
        commits, start = lines(text, StoredCommit, start, LIST)
        if commits:
            yield commits
            if len(commits) == LIST:
                continue
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        if raw := text[start:end]:
            try:
                line = _lines.decode(raw)
                at = wire.time_of(line.t)
            except (msgspec.MsgspecError, ValueError) as error:
                raise Damaged(text.count(b"\n", 0, start) + 1, str(error)) from error
            yield [StoredCommit(line.p, line.s, line.h.encode(), line.b.encode(), at)]
        start = end + 1


def salvage(folder: Path, segment: Segment) -> tuple[list[StoredCommit], str]:
    """What can be read of a segment, and what is wrong with its file, or nothing."""
    return salvaged(segment, *text_of(folder, segment))


def salvaged(segment: Segment, text: bytes, fault: str) -> tuple[list[StoredCommit], str]:
    """What can be read of a segment's text, and what is wrong with it besides the fault that is known."""
    commits: list[StoredCommit] = []
    try:
        for many in commits_in(text):
            commits += many
    except Damaged as error:
        number, why = error.args
        last = commits[-1].position if commits else segment.first - 1
        return commits, f"{fault or 'is damaged'}: line {number}, after position {last}: {why}"
    if fault and commits and commits[-1].position != segment.last:
        fault += f"; it can be read up to position {commits[-1].position}"
    elif fault and fault != MISSING and not commits:
        fault += "; nothing in it can be read"
    return commits, fault
