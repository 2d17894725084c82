"""An event loop on a thread of its own, for callers that have none, or that must not wait on theirs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

T = TypeVar("T")
END_S = 5.0


class LoopThread:
    """An event loop that runs on a daemon thread until `end`.

    Attributes
    ----------
    loop : what coroutines run on
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """The result of a coroutine on the loop, waited for on the caller's thread; a Ctrl-C there cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(timeout_s)
        except (KeyboardInterrupt, CancelledError):
            future.cancel()
            raise

    def end(self, last: Coroutine[Any, Any, Any] | None = None) -> None:
        """Run `last`, cancel what is still under way, and end the thread.

        A task that outlived its loop would complain when it is collected, long after and in somebody else's code.
        """

        async def finish() -> None:
            try:
                if last is not None:
                    async with asyncio.timeout(END_S):
                        await last
            finally:
                left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
                for task in left:
                    task.cancel()
                async with asyncio.timeout(END_S):
                    await asyncio.gather(*left, return_exceptions=True)
                    await self.loop.shutdown_asyncgens()

        try:
            self.run(finish())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(END_S)
            if not self._thread.is_alive():
                self.loop.close()
