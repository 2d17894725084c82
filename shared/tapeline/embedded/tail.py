"""The end of a log file, for messages about a process that ended."""

from __future__ import annotations

from pathlib import Path


def tail(path: Path, lines: int) -> str:
    """The last lines of a file that say something, on one line; empty when there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            found = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    return " | ".join([line.strip() for line in found if line.strip()][-lines:])
