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

from tapeline.bus import MAX_WORKERS, Verb, answer
from tapeline.clock import Clock
from tapeline.log.intake import Message, intake_of
from tapeline.log.wire import header_lines
from tapeline.logs import get_logger

log = get_logger()

END_S = 5.0
WAITING = 10_000
"""So many requests may wait for one of the workers; who sends more is not answered, and asks again."""


class Lane:
    """The requests of one connection, of which at most `MAX_WORKERS` a verb are being handled."""

    def __init__(self, client: Any, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()
        self._busy: dict[str, int] = {}
        self._waiting: dict[str, deque[Message]] = {}
        self._is_closing = False

    def open(self, verbs: Iterable[Verb], subscriptions: dict[str, Any]) -> bool:
        """Take over the subscriptions of verbs, which are given by subject; False when that cannot be."""
        intake = intake_of(self._client)
        if intake is None:
            return False
        for verb in verbs:
            subscription = subscriptions.get(verb.subject)
            if subscription is not None:
                self._busy[verb.subject], self._waiting[verb.subject] = 0, deque(maxlen=WAITING)
                intake.hear(subscription._id, partial(self._hear, verb))
        return True

    async def close(self) -> None:
        """Let what is being handled be answered; what comes now is another copy's."""
        self._is_closing = True
        if self._running:
            await asyncio.wait(self._running, timeout=END_S)

    def _hear(self, verb: Verb, message: Message) -> None:
        if self._busy[verb.subject] < MAX_WORKERS:
            self._begin(verb, message)
        else:
            self._waiting[verb.subject].append(message)

    def _begin(self, verb: Verb, message: Message) -> None:
        self._busy[verb.subject] += 1
        task = asyncio.get_running_loop().create_task(self._handle(verb, message))
        self._running.add(task)
        task.add_done_callback(partial(self._end, verb))

    def _end(self, verb: Verb, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._busy[verb.subject] -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            # `answer` raises nothing: it is the connection, and who asks will ask again.
            log.warning("reply_not_sent", verb=f"{verb.service}.{verb.name}", why=str(error)[:200])
        if (waiting := self._waiting[verb.subject]) and not self._is_closing:
            self._begin(verb, waiting.popleft())

    async def _handle(self, verb: Verb, message: Message) -> None:
        _, subject, reply, body, headers = message
        found = await answer(verb, subject.decode(), body, header_lines(headers) if headers else {}, self._clock)
        if reply:
            await self._reply(reply, found)

    async def _reply(self, to: bytes, body: bytes) -> None:
        client = self._client
        transport = client._transport
        if not client.is_connected or client.is_draining or not hasattr(transport, "write"):
            await client.publish(to.decode(), body)
            return
        text = b"PUB %b %d\r\n%b\r\n" % (to, len(body), body)
        if client._pending_data_size > 0:
            # What the client itself has not written yet goes first, and with it: each write wakes the broker.
            text = b"".join([*client._pending, text])
            client._pending = []
            client._pending_data_size = 0
        transport.write(text)
