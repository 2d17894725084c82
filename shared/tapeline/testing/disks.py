"""File systems of a test's own, small enough to be full soon and easy to take the power from.

They need the right to mount, which root has outside of most containers; `NotPermitted` says so, and a test is
then skipped with that sentence.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1024 * 1024


class NotPermitted(Exception):
    """This machine lets us mount nothing."""


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        raise NotPermitted(f"a file system of its own needs {command[0]}, which is not here") from error
    except subprocess.CalledProcessError as error:
        raise NotPermitted(f"a file system of its own cannot be had here: {error.stderr.strip()}") from error


@contextmanager
def _mounted(at: Path, *options: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        raise NotPermitted("a file system of its own needs root")
    at.mkdir(mode=0o700, parents=True, exist_ok=True)
    _run("mount", *options, str(at))
    try:
        yield at
    finally:
        # A process that was killed a moment ago may hold it still: it goes when that does.
        subprocess.run(["umount", "-l", str(at)], check=False, capture_output=True, timeout=60)


class SmallDisk:
    """A disk in memory that can be filled and freed."""

    def __init__(self, at: Path) -> None:
        self.path = at
        self._ballast = at / "ballast"

    def fill(self, leave_bytes: int) -> None:
        """Take all room but so much."""
        found = os.statvfs(self.path)
        with self._ballast.open("ab") as file:
            file.write(bytes(max(0, found.f_bavail * found.f_bsize - leave_bytes)))

    def free(self) -> None:
        """Give back the room that `fill` took."""
        self._ballast.unlink()


@contextmanager
def small_disk(at: Path, size_bytes: int = 16 * MIB) -> Iterator[SmallDisk]:
    """A disk of this size, mounted at a folder.

    Raises
    ------
    NotPermitted
        Nothing can be mounted here.
    """
    with _mounted(at, "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs"):
        yield SmallDisk(at)


@contextmanager
def image_disk(image: Path, at: Path, size_bytes: int = 64 * MIB) -> Iterator[Path]:
    """An ext4 file system in a file, mounted at a folder; the file is made when it is not there.

    What the kernel has not written yet is not in the file: a copy of it, made without syncing, is the disk as
    a power cut would leave it. `cut_power` makes one.

    Raises
    ------
    NotPermitted
        Nothing can be mounted here.
    """
    if not image.exists():
        if os.geteuid() != 0:
            raise NotPermitted("a file system of its own needs root")
        with image.open("wb") as file:
            file.truncate(size_bytes)
        _run("mkfs.ext4", "-q", "-F", "-O", "^has_journal" if size_bytes < 8 * MIB else "has_journal", str(image))
    with _mounted(at, "-o", "loop", str(image)):
        yield at


def cut_power(image: Path, copy: Path) -> None:
    """Copy the file of a mounted disk as it stands, without what the kernel still holds back."""
    _run("cp", "--sparse=always", str(image), str(copy))
