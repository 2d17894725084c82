"""Requests from the connection straight to their handlers, and replies straight back.

The framework subscribes, and what it is asked passes through the library's queue, a stream of the framework's, a task
for each step and the library's flusher: on a quiet machine that is most of what a query takes. Here the messages of
its subscriptions go to the handler's task at once, by the `Intake` that reads the connection, and the reply is
written at once. Without an intake everything takes the framework's way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any

from tapeline.bus import MAX_WORKERS, Served
from tapeline.clock import Clock
from tapeline.log.intake import Message, intake_of, publish
from tapeline.log.wire import header_lines
from tapeline.logs import get_logger

log = get_logger()

END_S = 5.0
WAITING = 10_000
"""So many requests may wait for one of the workers; who sends more is not answered, and asks again."""


class Lane:
    """The requests of one connection, of which at most `MAX_WORKERS` a subscription are being handled."""

    def __init__(self, client: Any, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()
        self._busy: dict[str, int] = {}
        self._waiting: dict[str, deque[Message]] = {}
        self._is_closing = False

    def open(self, served: Iterable[Served], subscriptions: dict[str, Any]) -> bool:
        """Take over the subscriptions, which are given by subject; False when that cannot be done for all."""
        intake = intake_of(self._client)
        if intake is None:
            return False
        for each in served:
            subscription = subscriptions.get(each.subject)
            if subscription is None:
                return False
            self._busy[each.subject], self._waiting[each.subject] = 0, deque(maxlen=WAITING)
            intake.hear(subscription._id, partial(self._hear, each))
        return True

    async def close(self) -> None:
        """Let what is being handled be answered; what comes now is another copy's."""
        self._is_closing = True
        if self._running:
            await asyncio.wait(self._running, timeout=END_S)

    def _hear(self, each: Served, message: Message) -> None:
        if self._busy[each.subject] < MAX_WORKERS:
            self._begin(each, message)
        else:
            self._waiting[each.subject].append(message)

    def _begin(self, each: Served, message: Message) -> None:
        self._busy[each.subject] += 1
        task = asyncio.get_running_loop().create_task(self._handle(each, message))
        self._running.add(task)
        task.add_done_callback(partial(self._end, each))

    def _end(self, each: Served, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._busy[each.subject] -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            # A reply raises nothing: it is the connection, and who asks will ask again.
            log.warning("reply_not_sent", service=each.service, why=str(error)[:200])
        if (waiting := self._waiting[each.subject]) and not self._is_closing:
            self._begin(each, waiting.popleft())

    async def _handle(self, each: Served, message: Message) -> None:
        _, subject, reply, body, headers = message
        found = await each.reply(subject.decode(), body, header_lines(headers) if headers else {}, self._clock)
        if reply:
            await publish(self._client, reply.decode(), found)
