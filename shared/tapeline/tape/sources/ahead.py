"""One piece is read while the one before it is worked on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


class _End:
    """What ended the reading: an error, or None at its end."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items in the same order, the next one made in a thread meanwhile.

    At most three items exist at a time. An error is raised where its item would have come. When the caller
    stops early, the thread ends before the generator is closed.
    """
    waiting: Queue[T | _End] = Queue(1)
    stopped = Event()

    def put(item: T | _End) -> bool:
        while not stopped.is_set():
            with suppress(Full):
                waiting.put(item, timeout=0.1)
                return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:  # raised again in the caller's thread
            put(_End(error))
        else:
            put(_End(None))

    thread = Thread(target=work, name="tapeline-read", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = waiting.get(timeout=1)
            except Empty:
                continue  # so that an interrupt is seen between two waits
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()
        thread.join()
