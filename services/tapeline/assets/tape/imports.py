"""Takes over an uploaded tape: reads every byte again, checks it, promotes it. Nothing is believed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapeline.errors import TapelineError
from tapeline.store import ArtifactStore
from tapeline.tape import manifest as manifests
from tapeline.tape.lineage import lacking
from tapeline.uploads import Held

MANIFEST_BYTES = 16 * 1024**2
EVENT_FILES = 5000


@dataclass(frozen=True, slots=True)
class Checked:
    """An uploaded tape that passed: its manifest, and where its files lie."""

    manifest: dict[str, Any]
    manifest_sha256: str
    manifest_path: Path
    files: dict[str, Path]

    @property
    def sizes(self) -> dict[str, int]:
        """The size in bytes of every day file, by digest, in the manifest's order."""
        return manifests.artifacts(self.manifest)


async def read_manifest(held: Held, team: str, sha256: str) -> dict[str, Any]:
    """The uploaded manifest, its form and its digests checked.

    Raises
    ------
    TapelineError
        `not_found` when it was not uploaded, `tape_corrupt` when it is none, `too_large`.
    """
    path = held.path(team, sha256)
    if path.stat().st_size > MANIFEST_BYTES:
        raise TapelineError(
            f"the manifest has {path.stat().st_size} bytes, the limit is {MANIFEST_BYTES}",
            code="too_large",
            hint="import fewer days into one tape",
        )
    manifest = manifests.parse(await asyncio.to_thread(path.read_bytes))
    if len(manifests.artifacts(manifest)) > EVENT_FILES:
        raise TapelineError(
            f"the manifest names {len(manifest['days'])} day files, the limit is {EVENT_FILES}",
            code="too_large",
            hint="import fewer days or symbols into one tape",
        )
    return manifest


async def check(held: Held, store: ArtifactStore, cache: Path, team: str, sha256: str, owned: set[str]) -> Checked:
    """Every day file of an uploaded manifest, read again and found to be what it says.

    A day file that the team has in another tape (`owned`) need not be uploaded again.

    Raises
    ------
    TapelineError
        What `verify_day_file` refuses; `not_found` naming the files that were not uploaded.
    """
    manifest = await read_manifest(held, team, sha256)
    files: dict[str, Path] = {}
    missing: list[str] = []
    for digest in manifests.artifacts(manifest):
        try:
            files[digest] = held.path(team, digest)
        except TapelineError as error:
            if error.code != "not_found":
                raise
            if digest in owned and await store.has(digest):
                files[digest] = await store.local_path(digest, cache)
            else:
                missing.append(digest)
    if missing:
        raise TapelineError(
            f"{len(missing)} of {len(files) + len(missing)} day files were not uploaded, first {missing[0][:12]}",
            code="not_found",
            hint="upload every file that the manifest names, then import again",
            data={"missing": missing[:100]},
        )
    await asyncio.to_thread(_verify, manifest, files)
    return Checked(manifest, sha256, held.path(team, sha256), files)


def _verify(manifest: dict[str, Any], files: dict[str, Path]) -> None:
    from tapeline.security.hdf5 import open_asset
    from tapeline.tape.day_file import verify_day_file

    kinds = {symbol["symbol"]: symbol["volume_kind"] for symbol in manifest["symbols"]}
    lenient = {symbol["symbol"]: bool(symbol.get("allow_nonpositive")) for symbol in manifest["symbols"]}
    known_dates = {row[0] for row in manifest["sessions"]}
    for day in manifest["days"]:
        where = f"{day['symbol']} {day['trade_date']}"
        path = files[day["artifact"]["sha256"]]
        if path.stat().st_size != day["artifact"]["size"]:
            raise TapelineError(
                f"the file of day {where} has {path.stat().st_size} bytes, the manifest says {day['artifact']['size']}",
                code="tape_corrupt",
                hint="upload it again",
            )
        if day["trade_date"] not in known_dates:
            raise TapelineError(
                f"the day {where} is in no session of the tape", code="tape_corrupt", hint="import the tape again"
            )
        name = day["symbol"]
        verify_day_file(path, day, volume_kind=kinds[name], allow_nonpositive=lenient[name], open_file=open_asset)


async def check_parent(manifest: dict[str, Any], parent_sha256: str, store: ArtifactStore, cache: Path) -> None:
    """Refuse a tape that names a parent whose days it does not hold with the same trades.

    Raises
    ------
    TapelineError
        `tape_corrupt`.
    """
    path = await store.local_path(parent_sha256, cache)
    parent = manifests.parse(await asyncio.to_thread(path.read_bytes))
    absent = lacking(manifest, parent)
    if absent:
        raise TapelineError(
            f"the tape names a parent of which {len(absent)} days are not in it, first {absent[0]}",
            code="tape_corrupt",
            hint="extend the tape again: tapeline tape extend",
        )


async def promote(checked: Checked, store: ArtifactStore) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Put manifest and day files into the store; gives them as artifacts.

    The bytes are hashed once more while they are copied, so what was checked is what is kept.
    """
    named = {
        day["artifact"]["sha256"]: f"{day['symbol']}_{day['trade_date']}.h5"
        for day in reversed(checked.manifest["days"])
    }
    files: list[dict[str, Any]] = []
    for digest, size in checked.sizes.items():
        await _put(store, checked.files[digest], digest)
        files.append({"name": named[digest], "size_bytes": size, "sha256": digest})
    await _put(store, checked.manifest_path, checked.manifest_sha256)
    manifest = {
        "name": "manifest.json",
        "size_bytes": checked.manifest_path.stat().st_size,
        "sha256": checked.manifest_sha256,
    }
    return manifest, files


async def _put(store: ArtifactStore, path: Path, sha256: str) -> None:
    if await store.has(sha256):
        return
    found, _ = await store.put(path)
    if found != sha256:
        raise TapelineError(
            f"an uploaded file changed while it was imported: {found[:12]}, not {sha256[:12]}",
            code="corrupt",
            hint="upload it again",
        )
