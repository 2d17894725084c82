"""Reading ahead: the same items in the same order, errors in their place, and a thread that ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tapeline.tape.sources.ahead import ahead


def reading() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "tapeline-read"]


def test_items_come_in_order_and_the_thread_ends() -> None:
    assert list(ahead(iter(range(500)))) == list(range(500))
    assert reading() == []


def test_at_most_three_items_exist_at_a_time() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for k in range(50):
            made.append(k)
            yield k

    for k in ahead(items()):
        assert len(made) <= k + 3


def test_an_error_is_raised_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)
    assert reading() == []


def test_a_caller_that_stops_early_ends_the_thread() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 0

    found = ahead(endless())
    next(found)
    assert reading() == ["tapeline-read"]
    found.close()  # type: ignore[attr-defined]
    assert reading() == []
