"""How a child process of `tapeline up` says that it serves: one line on a pipe that it was given."""

from __future__ import annotations

import os

VARIABLE = "TAPELINE_READY_FD"
LINE = b"ready\n"


def is_awaited() -> bool:
    """Whether a supervisor started this process and waits for its line."""
    return os.environ.get(VARIABLE, "").isdigit()


def tell_ready() -> None:
    """Tell the supervisor that this process serves; nothing happens when none asked, or on a second call."""
    number = os.environ.pop(VARIABLE, "")
    if not number.isdigit():
        return
    descriptor = int(number)
    try:
        os.write(descriptor, LINE)
    finally:
        os.close(descriptor)
