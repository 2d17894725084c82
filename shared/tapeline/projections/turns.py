"""Work that ends together, and work that nothing may cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
CANCEL_AGAIN_S = 0.2
END_S = 5.0


async def first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run works until one ends, then end the others; raises what the first one raised."""
    tasks = {asyncio.create_task(work) for work in works}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left = set(tasks)
        while left:
            for task in left:
                task.cancel()
            # The client library may swallow a cancellation that meets it while it connects: say it again.
            _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def gathered(
    stretches: AsyncGenerator[tuple[int, list[Any]], None], most: int
) -> AsyncGenerator[tuple[int, list[Any]], None]:
    """Stretches of events, those put together that come while one is being worked on, up to `most` events."""
    waiting: list[tuple[int, list[Any]]] = []
    come, gone = asyncio.Event(), asyncio.Event()

    async def fill() -> None:
        try:
            async for stretch in stretches:
                waiting.append(stretch)
                come.set()
                while sum(len(events) for _, events in waiting) >= most:
                    gone.clear()
                    await gone.wait()
        finally:
            come.set()

    filling = asyncio.create_task(fill())
    try:
        while waiting or not filling.done():
            await come.wait()
            come.clear()
            if waiting:
                taken, waiting[:] = list(waiting), []
                gone.set()
                yield taken[-1][0], [event for _, events in taken for event in events]
        filling.result()
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Run work that a cancellation may not cut: a transaction that is left half-way keeps its locks."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + END_S
        while not task.done() and loop.time() < deadline:
            # Whoever cancels says it again; the first time is remembered by the raise below.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task], timeout=deadline - loop.time())
        task.cancel()
        raise
