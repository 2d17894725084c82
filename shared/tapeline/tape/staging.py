"""The private folder in which an import works, and what becomes of it when the disk is full or the import is killed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tapeline.errors import TapelineError

PREFIX = "tapeline-tape-"
STALE_S = 24 * 3600
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def staging() -> Iterator[Path]:
    """A fresh folder for one import, gone at its end; folders that killed imports left a day ago go too.

    Nothing in it is a tape before the assets service has checked and promoted a copy, so a kill leaves no tape.
    """
    sweep()
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def sweep() -> None:
    """Remove the folders of imports that were killed: our own, and not touched for a day."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            if mine and time.time() - _touched(folder, found.st_mtime) > STALE_S:
                shutil.rmtree(folder, ignore_errors=True)


def _touched(folder: Path, at: float) -> float:
    """When a folder or something directly in it was last written."""
    return max([at, *(entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(folder))])


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Turns the failure to write that a full disk causes into a refusal that names the folder.

    Raises
    ------
    TapelineError
        `insufficient_storage`.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not is_full(error):
            raise
        raise TapelineError(
            f"there is no room left on the disk of {folder}",
            code="insufficient_storage",
            hint="make room there, or set TMPDIR to a folder on a larger disk; nothing was imported",
        ) from error


def is_full(error: BaseException) -> bool:
    """Whether writing failed for lack of room; HDF5 tells the number of the error in its text only."""
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"errno = (\d+)", str(error))):
        number = int(found[1])
    return number in FULL
