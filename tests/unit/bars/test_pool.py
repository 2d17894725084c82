"""Threads that are kept: what they share, what fails, and what a fork has of them."""

from __future__ import annotations

import os
import threading

import pytest

from tapeline import bars
from tapeline.bars import pool


def test_every_piece_is_done_once() -> None:
    done: list[int] = []
    pool.share(done.append, 100, 3)
    assert sorted(done) == list(range(100))


def test_the_first_piece_that_fails_is_told() -> None:
    def work(piece: int) -> None:
        if piece >= 2:
            raise ValueError(f"piece {piece}")

    for _ in range(20):
        with pytest.raises(ValueError, match="piece 2"):
            pool.share(work, 50, 1)
        with pytest.raises(ValueError, match="piece"):
            pool.share(work, 50, 3)


def test_threads_are_kept() -> None:
    met = threading.Barrier(2, timeout=20)
    seen: set[int] = set()

    def work(_: int) -> None:
        met.wait()
        seen.add(threading.get_ident())

    for _ in range(3 * pool.MOST_THREADS):
        pool.share(work, 2, 2)
    assert threading.get_ident() in seen
    assert len(seen) <= 1 + pool.MOST_THREADS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_starts_its_own_threads() -> None:
    done: list[int] = []
    pool.share(done.append, 4, 2)
    child = os.fork()
    if child == 0:
        mine: list[int] = []
        pool.share(mine.append, 40, 2)
        os._exit(0 if sorted(mine) == list(range(40)) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_number_of_threads_is_asked_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPELINE_BARS_THREADS", "3")
    assert pool.threads() == 3
    monkeypatch.setenv("TAPELINE_BARS_THREADS", "no")
    with pytest.raises(bars.BarsError, match="TAPELINE_BARS_THREADS is 'no'"):
        pool.threads()
