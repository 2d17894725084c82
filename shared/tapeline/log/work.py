"""The work queue BUILDS: each message is given to one of those who ask, and again when it is not acknowledged."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from tapeline import subjects
from tapeline.errors import TapelineError
from tapeline.log import wire
from tapeline.log.intake import Message as Taken
from tapeline.log.intake import intake_of

STREAM, CONSUMER = "BUILDS", "assets"
ANSWER_S = 5.0
LATE_S = 2.0
"""How much longer than asked an answer may take before the request counts as lost."""


class Work(Protocol):
    """One message of the queue, ours for 60 s at a time."""

    @property
    def body(self) -> bytes:
        """What was put into the queue."""
        ...

    async def done(self) -> None:
        """Say that it need not be given to anybody again."""
        ...

    async def goes_on(self) -> None:
        """Say that it is still being worked at."""
        ...

    async def again(self, delay_s: float) -> None:
        """Give it back, to be given out after a while."""
        ...


class WorkQueue(Protocol):
    """Parts of builds that wait for a worker."""

    async def put(self, team: str, asset_id: str, part: int, body: bytes) -> None:
        """Add a part of a build; `unavailable` or `insufficient_storage` when it is not stored."""
        ...

    async def take(self, wait_s: float) -> Work | None:
        """The next part, or None when none came in that time."""
        ...


@dataclass(frozen=True, slots=True)
class _Given:
    body: bytes
    _client: Client
    _reply: str

    async def done(self) -> None:
        await self._say(b"+ACK")

    async def goes_on(self) -> None:
        await self._say(b"+WPI")

    async def again(self, delay_s: float) -> None:
        await self._say(b"-NAK " + msgspec.json.encode({"delay": int(delay_s * 1e9)}))

    async def _say(self, what: bytes) -> None:
        # A word that is lost does no harm: the part is given out again, and is found to be done.
        await self._client.publish(self._reply, what)


class BuildQueue:
    """The queue on a server, over one connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = ""
        self._opening = asyncio.Lock()
        self._given: asyncio.Queue[_Given | None] = asyncio.Queue()

    async def put(self, team: str, asset_id: str, part: int, body: bytes) -> None:
        try:
            reply = await wire.answer(
                self._client, subjects.build(team, asset_id, part), body, timeout=ANSWER_S, headers=None
            )
        except (NoRespondersError, TimeoutError, *wire.NOT_SENT) as error:
            raise wire.unreachable() from error
        fault = wire.ack_of(reply).error
        if fault is not None:
            code = "insufficient_storage" if fault.err_code in wire.FULL else "unavailable"
            raise TapelineError(f"the broker refused a part of a build: {fault.description}", code=code)

    async def take(self, wait_s: float) -> Work | None:
        async with self._opening:
            if not self._inbox:
                await self._open()
        while not self._given.empty():
            # What came after its time: a status says nothing any more, a part is as good as a new one.
            late = self._given.get_nowait()
            if late is not None:
                return late
        query = {"batch": 1, "expires": int(wait_s * 1e9)}
        try:
            await self._client.publish(
                f"{wire.API}CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}", msgspec.json.encode(query), reply=self._inbox
            )
        except wire.NOT_SENT as error:
            raise wire.unreachable() from error
        try:
            async with asyncio.timeout(wait_s + LATE_S):
                return await self._given.get()
        except TimeoutError:
            return None

    async def _open(self) -> None:
        inbox = self._client.new_inbox()
        heard = await self._client.subscribe(inbox, cb=self._hear)
        if (intake := intake_of(self._client)) is not None:
            intake.hear(heard._id, self._take)
        self._inbox = inbox

    async def _hear(self, msg: Msg) -> None:
        """A message as the library has parsed it."""
        self._put(msg.reply, msg.data, bool(msg.headers and "Status" in msg.headers))

    def _take(self, message: Taken) -> None:
        """A message as it was read."""
        _, _, reply, body, headers = message
        self._put(reply.decode(), body, headers is not None and "Status" in wire.header_lines(headers))

    def _put(self, reply: str, body: bytes, is_status: bool) -> None:
        self._given.put_nowait(None if is_status or not reply else _Given(body, self._client, reply))


def body_of(**fields: Any) -> bytes:
    """A part of a build as its message holds it."""
    return msgspec.json.encode(fields)


def fields_of(body: bytes) -> dict[str, Any]:
    """What a message says."""
    found: dict[str, Any] = msgspec.json.decode(body)
    return found
