"""Threads for the kernels: they are started once, kept, and take pieces of work in turn."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from tapeline.bars.status import BarsError

MOST_THREADS = 16
# Pieces for each thread: one that the machine holds up leaves its share to the others.
PIECES = 4

_lock = Lock()
_pool: ThreadPoolExecutor | None = None


def threads() -> int:
    """How many threads cut bars: `TAPELINE_BARS_THREADS`, else the processors, at most 8."""
    wish = os.environ.get("TAPELINE_BARS_THREADS", "")
    if wish and not (wish.isascii() and wish.isdigit() and int(wish) >= 1):
        raise BarsError(f"TAPELINE_BARS_THREADS is {wish!r}; it must be a whole number from 1")
    return int(wish) if wish else min(os.cpu_count() or 1, 8)


def _helpers() -> ThreadPoolExecutor:
    """The threads of this process beside those that call; a fork has none of its parent's."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(MOST_THREADS, "tapeline-bars")
        return _pool


def _forget() -> None:
    global _pool, _lock
    _pool, _lock = None, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def share(work: Callable[[int], None], pieces: int, n_threads: int) -> None:
    """Run `work(0)` to `work(pieces - 1)` on some threads, of which the caller is one.

    The error of the first piece that fails is raised when all threads have stopped; pieces not begun are left.
    """
    turn = deque(range(pieces))
    failed: dict[int, BaseException] = {}

    def take() -> None:
        while not failed:
            try:
                piece = turn.popleft()
            except IndexError:
                return
            try:
                work(piece)
            except BaseException as error:
                failed[piece] = error

    helpers = min(n_threads, pieces, MOST_THREADS + 1) - 1
    started = [_helpers().submit(take) for _ in range(helpers)] if helpers > 0 else []
    take()
    for one in started:
        if not one.cancel():
            one.result()
    if failed:
        raise failed[min(failed)]


def split(n: int, pieces: int) -> list[int]:
    """The borders of `pieces` about equal parts of `[0, n)`: one number more than parts."""
    return [n * k // pieces for k in range(pieces + 1)]
