"""Become a program that dies with the process that started it.

Run as `python -I -S launch.py <pid of the parent> <program> <argument>...`. The kernel sends SIGKILL when
the parent ends, however it ends; the setting survives `exec`, and unlike a hook between fork and exec it is
safe in a parent with threads. Imports nothing of tapeline: it runs before every start of a child.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, program: list[str]) -> None:
    """Replace this process by the program, bound to the life of its parent."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the setting was made.
    if os.getppid() != parent:
        sys.exit(f"the parent {parent} is gone")
    os.execv(program[0], program)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
