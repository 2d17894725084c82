"""Requests that are written at once and whose answers come straight from what is read.

A request of the client library passes through its flusher and a task for the answer: four turns of the loop
more than it takes, which is half of what a durable append costs this side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from nats.aio.client import Client
from nats.errors import MaxPayloadError, NoRespondersError

from tapeline.log.intake import Intake, Message, intake_of

_STATUS = len(b"NATS/1.0")


class Asker:
    """The requests of one connection; they share one inbox."""

    def __init__(self, client: Client, intake: Intake) -> None:
        self._client = client
        self._intake = intake
        self._inbox = ""
        self._opening = asyncio.Lock()
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._n = 0

    async def is_ready(self) -> bool:
        """Whether a request can be sent this way just now; else the library's way is there."""
        client = self._client
        if not self._intake.outlet.is_ready:
            return False
        if not self._inbox:
            async with self._opening:
                if not self._inbox:
                    inbox = client.new_inbox()
                    subscription = await client.subscribe(f"{inbox}.*", cb=_unheard)
                    self._intake.hear(subscription._id, self._hear)
                    self._intake.on_lost(self._lose)
                    self._inbox = inbox
        return True

    async def ask(
        self,
        subject: str,
        body: bytes,
        timeout: float,
        headers: Mapping[str, str] | None,
        sent: Callable[[], None] | None = None,
    ) -> bytes:
        """The body of the answer; `sent` is called once the request was written.

        Raises
        ------
        TimeoutError
            None came in time, or the connection was lost meanwhile.
        NoRespondersError, MaxPayloadError
            As in the client library; nothing was stored.
        """
        client = self._client
        if len(body) > client._max_payload:
            raise MaxPayloadError
        self._n += 1
        token = b"%d" % self._n
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        self._waiting[token] = answer
        late = loop.call_later(timeout, _give_up, answer)
        try:
            text = published(subject, b" %b.%b" % (self._inbox.encode(), token), body, headers)
            self._intake.outlet.write(text, None if sent is None else partial(_tell, sent, answer))
            return await answer
        finally:
            late.cancel()
            self._waiting.pop(token, None)

    def _hear(self, message: Message) -> None:
        _, subject, _, body, headers = message
        answer = self._waiting.get(subject.rpartition(b".")[2])
        if answer is None or answer.done():
            return
        if headers is not None and headers[_STATUS : _STATUS + 4] == b" 503":
            answer.set_exception(NoRespondersError())
        else:
            answer.set_result(body)

    def _lose(self) -> None:
        for answer in self._waiting.values():
            _give_up(answer)


async def asker_of(client: Client) -> Asker | None:
    """The one asker of a connection, ready to ask; None when the library's own way is to be taken."""
    intake = intake_of(client)
    if intake is None:
        return None
    if intake.asker is None:
        intake.asker = Asker(client, intake)
    return intake.asker if await intake.asker.is_ready() else None


def _tell(sent: Callable[[], None], answer: asyncio.Future[bytes]) -> None:
    try:
        sent()
    except Exception as error:
        if not answer.done():
            answer.set_exception(error)


def _give_up(answer: asyncio.Future[bytes]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def published(subject: str, reply: bytes, body: bytes, headers: Mapping[str, str] | None) -> bytes:
    """A publish as it is written; `reply` begins with a space, or is empty."""
    if not headers:
        return b"PUB %b%b %d\r\n%b\r\n" % (subject.encode(), reply, len(body), body)
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode()
    if lines.count(b"\n") != len(headers):
        raise ValueError(f"a header of a message to {subject} has more than one line")
    size = len(lines) + 12  # the first line and the empty one
    return b"HPUB %b%b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (
        subject.encode(), reply, size, size + len(body), lines, body,
    )  # fmt: skip


async def _unheard(_message: object) -> None:
    """Messages of this inbox are heard before they reach the library's queue."""
