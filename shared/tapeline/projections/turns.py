"""Work that ends together, and work that nothing may cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
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
    stretches: AsyncGenerator[tuple[int, list[Any]], None],
    most: int,
    pause: Callable[[int], Awaitable[None]] | None = None,
) -> AsyncGenerator[tuple[int, list[Any]], None]:
    """Stretches of events, those put together that come while one is being worked on, up to `most` events.

    `pause` is awaited with the number of events that are there, before they are given: more may come meanwhile.
    """
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
                if pause is not None:
                    await pause(sum(len(events) for _, events in waiting))
                taken, waiting[:] = list(waiting), []
                gone.set()
                yield _joined(taken)
        filling.result()
    finally:
        # What is read from can be closed only once nothing reads it any more.
        await to_its_end(_ended(filling))


async def _ended(task: asyncio.Task[None]) -> None:
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)
    await asyncio.gather(task, return_exceptions=True)


def _joined(stretches: list[tuple[int, list[Any]]]) -> tuple[int, list[Any]]:
    """Stretches as one; what a later one says again is left out."""
    position, events = stretches[0]
    if len(stretches) == 1:
        return position, events
    events = list(events)
    for upto, more in stretches[1:]:
        if more and more[0].position <= position:
            more = [event for event in more if event.position > position]
        events += more
        position = max(position, upto)
    return position, events


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
