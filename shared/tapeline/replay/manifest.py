"""What an export holds: its segments, and what they are of, under one digest."""

from __future__ import annotations

import hashlib
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from tapeline.errors import TapelineError
from tapeline.replay.chain import NO_ROOT

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"[0-9]{20}-[0-9]{20}\.jsonl\.zst")


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


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What of a log a bundle holds: aggregates as `<team>/<kind>/<id>`, or a team, within positions."""

    after: int
    upto: int
    aggregates: tuple[str, ...] = ()
    team: str | None = None


class Erasure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the law had removed of an aggregate: one field of its data or all of it, why, and in how many commits."""

    aggregate: str
    reason: str
    field: str | None = None
    commits: int = 0

    def __str__(self) -> str:
        what = f"{self.aggregate}:{self.field}" if self.field else self.aggregate
        return f"erased {what} in {self.commits} commits: {self.reason}"


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an export holds. `digest` is over all of it but itself.

    `part` is there in a bundle only; `source` is the id of the log that an erasure was made of; `artifacts` are
    the SHA-256 of the files that lie beside.
    """

    format: int
    log_id: str
    position: int
    root: str
    segments: tuple[Segment, ...]
    seal: dict[str, Any] | None = None
    app: str = ""
    part: Part | None = None
    source: str | None = None
    erasures: tuple[Erasure, ...] = ()
    artifacts: tuple[str, ...] = ()
    digest: str = ""


_encoder = msgspec.json.Encoder()


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
        raise corrupt(f"{path} is torn or no JSON: {error}") from error
    if isinstance(number := found.get("format"), int) and number > FORMAT:
        raise TapelineError(
            f"{path} has format {number}; this code knows up to {FORMAT}",
            code="schema_unknown",
            hint="use a version of tapeline that is at least as new as the one that wrote it",
        )
    try:
        manifest = msgspec.convert(found, Manifest)
    except msgspec.MsgspecError as error:
        raise corrupt(f"{path} is no manifest: {error}") from error
    if found.keys() - set(Manifest.__struct_fields__) or manifest.digest != _digest_of(found):
        raise corrupt(f"{path} was changed: its digest does not fit")
    before = manifest.part.after if manifest.part is not None else 0
    for segment in manifest.segments:
        if not _NAME.fullmatch(segment.name) or segment.name != name_of(segment.first, segment.last):
            raise corrupt(f"{path} names the segment {segment.name!r}")
        follows = segment.first == before + 1 if manifest.part is None else segment.first > before
        if not follows or segment.last < segment.first:
            raise corrupt(f"{path}: segment {segment.name} begins at {segment.first}, expected {before + 1}")
        before = segment.last
    ends = manifest.part.upto if manifest.part is not None else before
    if manifest.position != ends:
        raise corrupt(f"{path} says that it ends at {manifest.position}; its segments end at {before}")
    return manifest


def whole_manifest(folder: Path) -> Manifest:
    """The manifest of the export of a whole log.

    Raises
    ------
    TapelineError
        As `read_manifest`; `invalid` for a bundle, which holds only a part.
    """
    manifest = read_manifest(folder)
    if manifest.part is not None:
        raise TapelineError(
            f"{folder} is a bundle, a part of log {manifest.log_id}",
            code="invalid",
            hint=f"tapeline bundle import {folder}",
        )
    return manifest


def write_manifest(
    folder: Path,
    log_id: str,
    segments: list[Segment],
    *,
    seal: dict[str, Any] | None = None,
    part: Part | None = None,
    source: str | None = None,
    erasures: tuple[Erasure, ...] = (),
    artifacts: tuple[str, ...] = (),
) -> Manifest:
    """Replace the manifest of a folder; on disk before this returns."""
    ends = segments[-1].last if segments else 0
    made = Manifest(
        format=FORMAT,
        log_id=log_id,
        position=part.upto if part is not None else ends,
        root=segments[-1].root if segments else NO_ROOT.hex(),
        segments=tuple(segments),
        seal=seal if seal is not None and seal["position"] <= ends else None,
        app=version("tapeline"),
        part=part,
        source=source,
        erasures=erasures,
        artifacts=artifacts,
    )
    # A digest must be there to have its place among the others; its value does not count.
    made = msgspec.structs.replace(made, digest="0")
    made = msgspec.structs.replace(made, digest=_digest_of(msgspec.to_builtins(made)))
    temporary = folder / f".{MANIFEST}.partial"
    with temporary.open("wb") as file:
        file.write(msgspec.json.format(_encoder.encode(made), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / MANIFEST)
    sync(folder)
    return made


def name_of(first: int, last: int) -> str:
    """The file of a segment."""
    return f"{first:020d}-{last:020d}.jsonl.zst"


def corrupt(message: str) -> TapelineError:
    """The refusal of an export that is not what was written."""
    return TapelineError(message, code="corrupt", hint="use another backup; nothing was written")


def sync(folder: Path) -> None:
    """Have the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest_of(found: dict[str, Any]) -> str:
    return hashlib.sha256(_encoder.encode(found | {"digest": ""})).hexdigest()
