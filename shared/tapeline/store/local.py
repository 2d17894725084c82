"""The artifact store in a local folder: written whole, fsynced, renamed; readable by its owner only."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

from tapeline.errors import TapelineError
from tapeline.failpoints import passed
from tapeline.store.protocol import key_of

_BLOCK = 1 << 20
_KEY = re.compile(r"[a-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")
_NAMED = re.compile(r"seals(/[A-Za-z0-9][A-Za-z0-9_.-]*)+")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class LocalStore:
    """Artifacts under one folder of mode 0700; the folder is made when it is missing."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for folder in (root, root / "sha256", root / "staging"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def stage_file(self, key: str, source: Path) -> None:
        await asyncio.to_thread(_write_whole, self._staged(key), source)

    async def stage_bytes(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(_write_whole, self._staged(key), data)

    async def promote(self, key: str, *, sha256: str, size_bytes: int) -> None:
        await asyncio.to_thread(self._promote, self._staged(key), sha256, size_bytes)

    def _promote(self, staged: Path, sha256: str, size_bytes: int) -> None:
        target = self._promoted(sha256)
        if not staged.exists():
            if target.exists():
                return
            raise TapelineError(f"nothing is staged for {sha256[:12]}", code="not_found", hint="upload it again")
        passed("store.staged")
        found, size = hash_file(staged)
        if (found, size) != (sha256, size_bytes):
            staged.unlink()
            raise TapelineError(
                f"staged bytes have digest {found[:12]} and size {size}; {sha256[:12]} and {size_bytes} were declared",
                code="corrupt",
                hint="upload them again",
            )
        passed("store.hashed")
        if target.exists():
            staged.unlink()
            return
        target.parent.mkdir(mode=0o700, exist_ok=True)
        os.chmod(staged, 0o400)
        os.replace(staged, target)
        _sync_folder(target.parent)
        passed("store.promoted")

    async def put(self, source: Path) -> tuple[str, int]:
        sha256, size = await asyncio.to_thread(hash_file, source)
        if not self._promoted(sha256).exists():
            key = f"put/{uuid4()}"
            await self.stage_file(key, source)
            await self.promote(key, sha256=sha256, size_bytes=size)
        return sha256, size

    async def discard(self, prefix: str) -> None:
        await asyncio.to_thread(_remove, self._staged(prefix))

    async def staged(self, key: str) -> bytes | None:
        path = self._staged(key)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            return None

    async def has_staged(self, key: str) -> bool:
        return self._staged(key).is_file()

    async def staged_names(self, prefix: str) -> set[str]:
        return await asyncio.to_thread(_names, self._staged(prefix))

    async def sweep(self, prefix: str, older_than_s: float) -> int:
        return await asyncio.to_thread(_swept, self._staged(prefix), time.time() - older_than_s)

    async def create(self, key: str, data: bytes) -> None:
        if not _NAMED.fullmatch(key) or ".." in key:
            raise TapelineError(f"{key!r} is not the name of a document", code="invalid")
        await asyncio.to_thread(_create, self._root / key, data)

    async def has(self, sha256: str) -> bool:
        return self._promoted(sha256).exists()

    async def size(self, sha256: str) -> int:
        return self._existing(sha256).stat().st_size

    async def read(self, sha256: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        return await asyncio.to_thread(_read, self._existing(sha256), offset, size_bytes)

    async def local_path(self, sha256: str, cache: Path) -> Path:
        """The promoted file itself: its digest was checked when it was promoted, and it never changes."""
        return self._existing(sha256)

    async def digests(self) -> AsyncIterator[str]:
        for folder in sorted((self._root / "sha256").iterdir()):
            for file in sorted(folder.iterdir()):
                yield folder.name + file.name

    def _staged(self, key: str) -> Path:
        if not _KEY.fullmatch(key) or ".." in key:
            raise TapelineError(f"{key!r} is not a staging key", code="invalid")
        return self._root / "staging" / key

    def _promoted(self, sha256: str) -> Path:
        if not _DIGEST.fullmatch(sha256):
            raise TapelineError(f"{sha256[:80]!r} is not a SHA-256", code="invalid")
        return self._root / key_of(sha256)

    def _existing(self, sha256: str) -> Path:
        path = self._promoted(sha256)
        if not path.exists():
            raise TapelineError(f"artifact {sha256[:12]} is not in the store", code="not_found")
        return path


def hash_file(path: Path) -> tuple[str, int]:
    """The SHA-256 and the size in bytes of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def _write_whole(target: Path, source: Path | bytes) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            if isinstance(source, bytes):
                out.write(source)
            else:
                with source.open("rb") as file:
                    shutil.copyfileobj(file, out, _BLOCK)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise TapelineError(
            f"the store cannot be written: {error.strerror}", code="insufficient_storage", hint="free some disk space"
        ) from error
    _sync_folder(target.parent)


def _create(target: Path, data: bytes) -> None:
    _write_whole(beside := target.with_name(f".{target.name}.{uuid4().hex[:8]}"), data)
    try:
        os.link(beside, target)
    except FileExistsError as error:
        if target.read_bytes() != data:
            raise TapelineError(
                f"the store has other bytes under {target.name}", code="already_exists", hint="nothing was overwritten"
            ) from error
    finally:
        beside.unlink()
    _sync_folder(target.parent)


def _read(path: Path, offset: int, size_bytes: int | None) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read() if size_bytes is None else file.read(size_bytes)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _names(folder: Path) -> set[str]:
    try:
        # What begins with a dot is being written.
        return {name for name in os.listdir(folder) if not name.startswith(".")}
    except FileNotFoundError:
        return set()


def _swept(folder: Path, before: float) -> int:
    count = 0
    for file in sorted(folder.rglob("*")):
        try:
            if file.is_file() and file.stat().st_mtime < before:
                file.unlink()
                count += 1
        except FileNotFoundError:
            # Another process swept it.
            continue
    return count


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
