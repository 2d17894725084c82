"""What every artifact store can do; `LocalStore` and the S3 store pass one contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol


def key_of(sha256: str) -> str:
    """Where promoted bytes lie: `sha256/ab/cdef...`."""
    return f"sha256/{sha256[:2]}/{sha256[2:]}"


class ArtifactStore(Protocol):
    """Content-addressed bytes. Staging keys are made by services; nothing here takes a user's path."""

    async def stage_file(self, key: str, source: Path) -> None:
        """Copy a local file to `staging/<key>`, whole or not at all."""
        ...

    async def stage_bytes(self, key: str, data: bytes) -> None:
        """Write bytes to `staging/<key>`, whole or not at all."""
        ...

    async def promote(self, key: str, *, sha256: str, size_bytes: int) -> None:
        """Move `staging/<key>` to its content address after checking size and digest.

        A digest that is there already is kept as it is. Raises `TapelineError` with code `not_found`
        when nothing is staged, `corrupt` when size or digest differ; staging is then removed.
        """
        ...

    async def put(self, source: Path) -> tuple[str, int]:
        """Hash, stage and promote a local file; gives its SHA-256 and size in bytes."""
        ...

    async def discard(self, prefix: str) -> None:
        """Remove everything staged under a prefix."""
        ...

    async def staged(self, key: str) -> bytes | None:
        """What is staged under a key; None when nothing is."""
        ...

    async def has_staged(self, key: str) -> bool:
        """Whether something is staged under a key, whole."""
        ...

    async def staged_names(self, prefix: str) -> set[str]:
        """The names directly under a prefix of staged bytes."""
        ...

    async def sweep(self, prefix: str, older_than_s: float) -> int:
        """Remove what was staged under a prefix longer ago than so many seconds; gives how many that were."""
        ...

    async def create(self, key: str, data: bytes) -> None:
        """Write a named document (`seals/...`) once; the same bytes again are fine.

        Raises `already_exists` when there are other bytes under that name: nothing is overwritten.
        """
        ...

    async def has(self, sha256: str) -> bool:
        """Whether the bytes are there, whole."""
        ...

    async def size(self, sha256: str) -> int:
        """Size in bytes; `not_found` when the bytes are not there."""
        ...

    async def read(self, sha256: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """A part of the bytes; shorter at the end. `not_found` when the bytes are not there."""
        ...

    async def local_path(self, sha256: str, cache: Path) -> Path:
        """A local, read-only file with exactly these bytes, fetched into `cache` if need be.

        The digest is checked when bytes are fetched; raises `corrupt` when they differ.
        """
        ...

    def digests(self) -> AsyncIterator[str]:
        """Every promoted digest."""
        ...
