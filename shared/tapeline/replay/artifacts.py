"""The files that events name, beside an export: copied into it, checked, and put into a store again.

They lie under `artifacts/` of the export as in a store, `sha256/ab/cdef...`, and the manifest lists them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tapeline.contracts.artifacts import Artifact
from tapeline.errors import TapelineError
from tapeline.log import StoredCommit
from tapeline.log.codec import Codec
from tapeline.replay.manifest import Manifest, corrupt, sync, write_manifest
from tapeline.replay.reading import codec
from tapeline.replay.segments import read_segment
from tapeline.store import ArtifactStore, key_of
from tapeline.store.local import hash_file

FOLDER = "artifacts"


def artifacts_in(commits: list[StoredCommit], decoder: Codec) -> Iterator[Artifact]:
    """Each artifact that the events of these commits name."""
    for commit in commits:
        # Few commits name any, and this says so without decoding the others.
        if b'"sha256":"' in commit.body:
            for event in decoder.decode(commit):
                yield from _within(event.data)


def _within(value: Any) -> Iterator[Artifact]:
    if isinstance(value, Artifact):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _within(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _within(each)


async def add_artifacts(folder: Path, manifest: Manifest, store: ArtifactStore) -> tuple[Manifest, int]:
    """Copy what an export's events name into it; its manifest then, and how many the store does not have."""
    named = _named(folder, manifest)
    copied, missing = [], 0
    for sha256 in named:
        if not await store.has(sha256):
            missing += 1
            continue
        target = folder / FOLDER / key_of(sha256)
        if not target.exists():
            _copy(await store.local_path(sha256, folder / FOLDER), target, sha256)
        copied.append(sha256)
    made = write_manifest(
        folder, manifest.log_id, list(manifest.segments), seal=manifest.seal, part=manifest.part,
        source=manifest.source, erasures=manifest.erasures, artifacts=tuple(copied),
    )  # fmt: skip
    return made, missing


def check_artifacts(folder: Path, manifest: Manifest) -> None:
    """Hash every file that an export says lies beside it.

    Raises
    ------
    TapelineError
        `corrupt`, naming the first that is missing or changed.
    """
    for sha256 in manifest.artifacts:
        path = _path(folder, sha256)
        if not path.is_file():
            raise corrupt(f"{path} is missing")
        found, _ = hash_file(path)
        if found != sha256:
            raise corrupt(f"{path} has the SHA-256 {found[:12]}")


async def put_artifacts(folder: Path, manifest: Manifest, store: ArtifactStore) -> int:
    """Put what lies beside an export into a store; how many the store did not have."""
    added = 0
    for sha256 in manifest.artifacts:
        if not await store.has(sha256):
            await store.put(_path(folder, sha256))
            added += 1
    return added


async def missing_artifacts(folder: Path, manifest: Manifest, store: ArtifactStore) -> list[str]:
    """The SHA-256 of what events of an export name and a store does not have, in order."""
    return [sha256 for sha256 in _named(folder, manifest) if not await store.has(sha256)]


def _named(folder: Path, manifest: Manifest) -> list[str]:
    decoder, found = codec(), set()
    for segment in manifest.segments:
        for commits in read_segment(folder, segment):
            found |= {one.sha256 for one in artifacts_in(commits, decoder)}
    return sorted(found)


def _path(folder: Path, sha256: str) -> Path:
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise corrupt(f"{folder} lists the artifact {sha256[:80]!r}")
    return folder / FOLDER / key_of(sha256)


def _copy(source: Path, target: Path, sha256: str) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        shutil.copyfile(source, temporary)
        found, _ = hash_file(temporary)
        if found != sha256:
            raise TapelineError(
                f"artifact {sha256[:12]} has the SHA-256 {found[:12]}", code="corrupt", hint="tapeline doctor"
            )
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync(target.parent)
