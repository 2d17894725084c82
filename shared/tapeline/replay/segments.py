"""The log as files: compressed segments, and a manifest that says what they hold.

A segment has up to 100,000 commits or 64 MiB, one JSON object a line, `{"p", "t", "s", "h", "b"}`: position,
broker time, subject, header and body as text, so that digests hold. The manifest is written last, after each
segment: an export that was cut off goes on from there. Full segments never change; the last one, while it is
not full, is replaced by a longer one.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from tapeline.errors import TapelineError
from tapeline.log import EventLog, Head, StoredCommit, wire
from tapeline.log.codec import digest
from tapeline.replay.chain import NO_ROOT, extended

FORMAT = 1
MANIFEST = "manifest.json"
SEGMENT_COMMITS = 100_000
SEGMENT_BYTES = 64 * 1024 * 1024
LEVEL = 3
_NAME = re.compile(r"[0-9]{20}-[0-9]{20}\.jsonl\.zst")


class Line(msgspec.Struct, frozen=True, gc=False):
    """One commit in a segment."""

    p: int
    t: str
    s: str
    h: str
    b: str


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of an export: what it holds, and the digest and root of its last commit."""

    name: str
    first: int
    last: int
    size_bytes: int
    sha256: str
    digest: str
    root: str
    full: bool


class Manifest(msgspec.Struct, frozen=True):
    """What an export holds. `digest` is over all of it but itself."""

    format: int
    log_id: str
    position: int
    root: str
    segments: tuple[Segment, ...]
    seal: dict[str, Any] | None = None
    app: str = ""
    digest: str = ""


_encoder = msgspec.json.Encoder()


async def export(
    log: EventLog,
    folder: Path,
    *,
    upto: int | None = None,
    seal: dict[str, Any] | None = None,
    on_segment: Callable[[Segment], None] = lambda _segment: None,
) -> Manifest:
    """Write the log into a folder, or add what is new to an export that is there.

    Parameters
    ----------
    upto : int, optional
        Last position; the end of the log when not given.
    seal : dict, optional
        The newest seal of the log that reaches no further.

    Raises
    ------
    TapelineError
        `log_mismatch` when the folder holds an export of another log, `log_damaged` when the log does not
        contain what was exported before or cannot be read, `invalid` for a position past the end.
    """
    head = await log.head()
    end = head.position if upto is None else upto
    if not 0 <= end <= head.position:
        raise TapelineError(
            f"position {end} is past the end of the log ({head.position})", code="invalid", hint="leave --upto out"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = read_manifest(folder) if (folder / MANIFEST).exists() else None
    kept: list[Segment] = []
    if before is not None:
        if before.log_id != head.log_id:
            raise TapelineError(
                f"{folder} holds an export of log {before.log_id}, this is log {head.log_id}",
                code="log_mismatch",
                hint="export into another folder",
            )
        await _check_contained(log, before, head.position)
        if end <= before.position:
            return before
        kept = [segment for segment in before.segments if segment.full]
    for left in folder.glob(".*.partial"):
        left.unlink()
    root = bytes.fromhex(kept[-1].root) if kept else NO_ROOT
    writer: _Writer | None = None
    made = before
    try:
        async for commits in log.read(after=kept[-1].last if kept else 0, upto=end):
            for commit in commits:
                writer = writer or _Writer(folder, commit.position, root)
                writer.add(commit)
                if writer.is_full:
                    segment = writer.close(full=True)
                    writer, root = None, bytes.fromhex(segment.root)
                    kept.append(segment)
                    made = _write_manifest(folder, head.log_id, kept, _fitting(seal, segment.last))
                    on_segment(segment)
        if writer is not None:
            kept.append(writer.close(full=False))
            writer = None
            on_segment(kept[-1])
    finally:
        if writer is not None:
            writer.abandon()
    made = _write_manifest(folder, head.log_id, kept, _fitting(seal, end))
    named = {segment.name for segment in kept}
    for left in folder.glob("*.jsonl.zst"):
        # What the manifest no longer names was the shorter form of the last segment.
        if left.name not in named and before is not None and left.name in {each.name for each in before.segments}:
            left.unlink()
    return made


async def _check_contained(log: EventLog, before: Manifest, position: int) -> None:
    if not before.segments:
        return
    last = before.segments[-1]
    if position < last.last:
        raise TapelineError(
            f"the log ends at {position}, the export reaches {last.last}",
            code="log_damaged",
            hint="the log has lost its tail: restore it from this export (tapeline log import)",
        )
    found = [one async for many in log.read(after=last.last - 1, upto=last.last) for one in many]
    if [digest(one.subject, one.header, one.body) for one in found] != [last.digest]:
        raise TapelineError(
            f"the commit at position {last.last} is not the one that was exported",
            code="log_damaged",
            hint="tapeline log verify; export into another folder to compare (tapeline log diff)",
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export.

    Raises
    ------
    TapelineError
        `not_found` when there is none, `corrupt` when it is not what was written, `schema_unknown` for one of
        a newer format.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TapelineError(
            f"{folder} holds no export: {MANIFEST} is missing", code="not_found", hint="tapeline log export DIR"
        ) from error
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _corrupt(f"{path} is torn or no JSON: {error}") from error
    if isinstance(number := found.get("format"), int) and number > FORMAT:
        raise TapelineError(
            f"{path} has format {number}; this code knows up to {FORMAT}",
            code="schema_unknown",
            hint="use a version of tapeline that is at least as new as the one that wrote it",
        )
    try:
        manifest = msgspec.convert(found, Manifest)
    except msgspec.MsgspecError as error:
        raise _corrupt(f"{path} is no manifest: {error}") from error
    if found.keys() - set(Manifest.__struct_fields__) or manifest.digest != _digest_of(manifest):
        raise _corrupt(f"{path} was changed: its digest does not fit")
    next_position = 1
    for segment in manifest.segments:
        if not _NAME.fullmatch(segment.name) or segment.name != _name(segment.first, segment.last):
            raise _corrupt(f"{path} names the segment {segment.name!r}")
        if segment.first != next_position or segment.last < segment.first:
            raise _corrupt(f"{path}: segment {segment.name} begins at {segment.first}, expected {next_position}")
        next_position = segment.last + 1
    if manifest.position != next_position - 1:
        raise _corrupt(f"{path} says that it ends at {manifest.position}; its segments end at {next_position - 1}")
    return manifest


def _corrupt(message: str) -> TapelineError:
    return TapelineError(message, code="corrupt", hint="use another backup; nothing was written")


def _digest_of(manifest: Manifest) -> str:
    return hashlib.sha256(_encoder.encode(msgspec.structs.replace(manifest, digest=""))).hexdigest()


def _write_manifest(folder: Path, log_id: str, segments: list[Segment], seal: dict[str, Any] | None) -> Manifest:
    made = Manifest(
        format=FORMAT,
        log_id=log_id,
        position=segments[-1].last if segments else 0,
        root=segments[-1].root if segments else NO_ROOT.hex(),
        segments=tuple(segments),
        seal=seal,
        app=version("tapeline"),
    )
    made = msgspec.structs.replace(made, digest=_digest_of(made))
    temporary = folder / f".{MANIFEST}.partial"
    with temporary.open("wb") as file:
        file.write(msgspec.json.format(_encoder.encode(made), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / MANIFEST)
    _sync(folder)
    return made


def _fitting(seal: dict[str, Any] | None, position: int) -> dict[str, Any] | None:
    return seal if seal is not None and seal["position"] <= position else None


def _name(first: int, last: int) -> str:
    return f"{first:020d}-{last:020d}.jsonl.zst"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)


class _Writer:
    """One segment being written under a temporary name."""

    def __init__(self, folder: Path, first: int, root: bytes) -> None:
        self._folder = folder
        self._path = folder / f".{first:020d}.partial"
        self._out = _Hashing(self._path)
        self._zstd = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()
        self._lines: list[Line] = []
        self._first = first
        self._last = first - 1
        self._size = 0
        self._root = root
        self._digest = ""

    @property
    def is_full(self) -> bool:
        return self._last - self._first + 1 >= SEGMENT_COMMITS or self._size >= SEGMENT_BYTES

    def add(self, commit: StoredCommit) -> None:
        try:
            line = Line(
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
        self._digest = digest(commit.subject, commit.header, commit.body)
        self._root = extended(self._root, self._digest)
        self._last = commit.position
        self._size += len(commit.body) + len(commit.header)
        self._lines.append(line)
        if len(self._lines) >= 1000:
            self._drain()

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
        name = _name(self._first, self._last)
        self._path.replace(self._folder / name)
        _sync(self._folder)
        return Segment(
            name, self._first, self._last, size, self._out.sha256.hexdigest(), self._digest, self._root.hex(), full
        )

    def abandon(self) -> None:
        self._out.file.close()
        with suppress(FileNotFoundError):
            self._path.unlink()


class ExportedLog:
    """An export, read as the log that it was made of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manifest = read_manifest(folder)

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
        raise _corrupt(f"segment {segment.name} {fault}")
    return [commits[i : i + 1000] for i in range(0, len(commits), 1000)]


_lines = msgspec.json.Decoder(Line)
_MOST_BYTES = 2 * SEGMENT_BYTES
"""Of a segment's text: a compressed file must not fill the memory."""


def salvage(folder: Path, segment: Segment) -> tuple[list[StoredCommit], str]:
    """What can be read of a segment, and what is wrong with its file, or nothing."""
    try:
        data = (folder / segment.name).read_bytes()
    except FileNotFoundError:
        return [], "is missing"
    fault = ""
    if len(data) != segment.size_bytes:
        fault = f"has {len(data)} bytes, the manifest says {segment.size_bytes}"
    elif (found := hashlib.sha256(data).hexdigest()) != segment.sha256:
        fault = f"has the SHA-256 {found[:12]}, the manifest says {segment.sha256[:12]}"
    text = bytearray()
    try:
        inflate = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
        for start in range(0, len(data), 1 << 16):
            text += inflate.decompress(data[start : start + (1 << 16)])
            if len(text) > _MOST_BYTES:
                return [], fault or f"holds more than {_MOST_BYTES >> 20} MiB"
        if not inflate.eof:
            fault = fault or "is cut off"
    except zstandard.ZstdError as error:
        fault = fault or f"cannot be decompressed: {error}"
    commits: list[StoredCommit] = []
    for number, raw in enumerate(bytes(text).split(b"\n"), 1):
        if not raw:
            continue
        try:
            line = _lines.decode(raw)
            at = wire.time_of(line.t)
        except (msgspec.MsgspecError, ValueError) as error:
            last = commits[-1].position if commits else segment.first - 1
            return commits, f"{fault or 'is damaged'}: line {number}, after position {last}: {error}"
        commits.append(
            StoredCommit(position=line.p, subject=line.s, header=line.h.encode(), body=line.b.encode(), stored_at=at)
        )
    if fault and commits and commits[-1].position != segment.last:
        fault += f"; it can be read up to position {commits[-1].position}"
    return commits, fault
