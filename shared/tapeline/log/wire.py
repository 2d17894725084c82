"""Raw requests to JetStream: the verbs of its JSON interface that the client library does not have.

The only module that knows the broker's error numbers and the shape of its replies.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import (
    ConnectionClosedError,
    ConnectionDrainingError,
    MaxPayloadError,
    NoRespondersError,
    OutboundBufferLimitError,
)

from tapeline.clock import time_text as time_text
from tapeline.errors import TapelineError
from tapeline.log.asking import asker_of, published
from tapeline.log.intake import Message as Taken
from tapeline.log.intake import intake_of

API = "$JS.API."
TIMEOUT_S = 5.0
WATCH_S = 0.1
WRITE_BYTES = 256 * 1024

STREAM_NOT_FOUND = 10059
NO_MESSAGE_FOUND = 10037
CONSUMER_NOT_FOUND = 10014
CONFLICTS = frozenset({10071, 10164, 10201})
"""Wrong last sequence, the same within a batch, and a batch with a known message id."""
FULL = frozenset({10077, 10023, 10047})
"""Store failed, insufficient resources, storage resources exceeded."""
TOO_LARGE = frozenset({10054, 10199})
"""Message size exceeds the maximum, atomic batch too large."""

NOT_SENT = (ConnectionClosedError, ConnectionDrainingError, OutboundBufferLimitError)
"""What the client raises instead of sending."""


class Refused(Exception):
    """The broker answered with an error."""

    def __init__(self, verb: str, code: int, description: str) -> None:
        super().__init__(f"{verb}: {description} ({code})")
        self.code = code
        self.description = description


class Fault(msgspec.Struct, frozen=True):
    """An error within a reply of the broker."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Ack(msgspec.Struct, frozen=True):
    """The broker's answer to a publish into a stream."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    count: int = 0
    error: Fault | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream as the leader or a replica has it."""

    position: int
    subject: str
    headers: dict[str, str]
    body: bytes
    stored_at: datetime


class StreamState(NamedTuple):
    """What a stream says about itself."""

    config: dict[str, Any]
    first: int
    last: int
    size_bytes: int
    messages: int


_acks = msgspec.json.Decoder(Ack)


def ack_of(answer: bytes) -> Ack:
    """The answer to a publish."""
    return _acks.decode(answer)


def unreachable(error: BaseException | None = None) -> TapelineError:
    """The error of a log that nobody answers for."""
    return TapelineError(
        "the log is not reachable",
        code="unavailable",
        hint="start nats-server (tapeline up), or check the broker's address; then repeat the call",
    )


async def answer(
    client: Client,
    subject: str,
    body: bytes,
    *,
    timeout: float,
    headers: dict[str, str] | None = None,
    sent: Callable[[], None] | None = None,
) -> bytes:
    """The body of the answer to a request; `TimeoutError` when none comes in time, or the connection is lost.

    The client library would wait out the whole time for an answer that was lost with its connection.
    """
    if (asker := await asker_of(client)) is not None:
        return await asker.ask(subject, body, timeout, headers, sent)
    loop = asyncio.get_running_loop()
    reconnects = client.stats["reconnects"]
    was_connected = client.is_connected  # else the request waits in the client until there is a connection
    until = loop.time() + timeout
    timer: asyncio.TimerHandle
    async with asyncio.timeout(timeout) as limit:

        def watch() -> None:
            nonlocal timer
            if was_connected and client.stats["reconnects"] != reconnects:
                limit.reschedule(loop.time())
            elif loop.time() < until:
                timer = loop.call_later(WATCH_S, watch)

        timer = loop.call_later(WATCH_S, watch)
        try:
            msg = await client.request(subject, body, timeout=timeout + 1, headers=headers)
            return msg.data
        finally:
            timer.cancel()


async def publish_all(client: Client, messages: Iterable[tuple[str, bytes, dict[str, str]]]) -> None:
    """Publish subjects with bodies and headers, in order, in as few writes as may be.

    The client library has a write, and a turn of its flusher, for each.
    """
    parts: list[bytes] = []
    size = 0
    for subject, body, headers in messages:
        if not client.is_connected:
            await client.publish(subject, body, headers=headers)  # which waits in the client, or says what is wrong
            continue
        parts.append(published(subject, b"", body, headers))
        if len(body) > client._max_payload:
            raise MaxPayloadError
        size += len(parts[-1])
        if size >= WRITE_BYTES:
            await client._send_command(b"".join(parts))
            parts, size = [], 0
    if parts:
        await client._send_command(b"".join(parts))


async def request(client: Client, verb: str, body: dict[str, Any] | None = None, *, timeout: float = TIMEOUT_S) -> Any:
    """The reply of a verb of the JSON interface.

    Raises
    ------
    Refused
        The broker answered with an error.
    TapelineError
        `unavailable` when nobody answered.
    """
    payload = b"" if body is None else msgspec.json.encode(body)
    try:
        reply_text = await answer(client, API + verb, payload, timeout=timeout)
    except (NoRespondersError, *NOT_SENT) as error:
        raise unreachable() from error
    except TimeoutError as error:
        raise TapelineError(
            f"the log did not answer {verb} within {timeout:g} s",
            code="unavailable",
            hint="repeat the call; if it stays so, the broker hangs or this identity may not ask that",
        ) from error
    reply = msgspec.json.decode(reply_text)
    if fault := reply.get("error"):
        raise Refused(verb, int(fault.get("err_code", 0)), str(fault.get("description", "")))
    return reply


async def stream_state(client: Client, stream: str, *, timeout: float = TIMEOUT_S) -> StreamState:
    """The settings and the end of a stream."""
    try:
        reply = await request(client, f"STREAM.INFO.{stream}", timeout=timeout)
    except Refused as error:
        if error.code == STREAM_NOT_FOUND:
            raise missing_stream(stream) from error
        raise refused(error) from error
    state = reply["state"]
    return StreamState(reply["config"], state["first_seq"], state["last_seq"], state["bytes"], state["messages"])


async def subjects_held(client: Client, stream: str, filter: str) -> list[str]:
    """The subjects of a stream that match a filter and have messages, in order; few of them."""
    try:
        reply = await request(client, f"STREAM.INFO.{stream}", {"subjects_filter": filter})
    except Refused as error:
        raise refused(error) from error
    return sorted(reply["state"].get("subjects") or {})


def missing_stream(stream: str) -> TapelineError:
    """The error of a stream that was never made."""
    return TapelineError(
        f"stream {stream} does not exist", code="topology_mismatch", hint="run tapeline topology apply"
    )


def refused(error: Refused) -> TapelineError:
    """An answer of the broker that nothing here expects."""
    return TapelineError(
        f"the broker refused {error}", code="unavailable", hint="repeat the call; see the broker's log"
    )


async def message(client: Client, stream: str, query: dict[str, Any], *, timeout: float = TIMEOUT_S) -> Message | None:
    """One message from the leader of a stream, or None; `query` as in `STREAM.MSG.GET`."""
    try:
        reply = await request(client, f"STREAM.MSG.GET.{stream}", query, timeout=timeout)
    except Refused as error:
        if error.code == NO_MESSAGE_FOUND:
            return None
        if error.code == STREAM_NOT_FOUND:
            raise missing_stream(stream) from error
        raise refused(error) from error
    found = reply["message"]
    return Message(
        position=found["seq"],
        subject=found["subject"],
        headers=header_lines(base64.b64decode(found.get("hdrs", ""))),
        body=base64.b64decode(found.get("data", "")),
        stored_at=time_of(found["time"]),
    )


def header_lines(raw: bytes) -> dict[str, str]:
    """The headers of a message from their bytes; `Status` and `Description` are what its first line says."""
    first, *lines = raw.decode().split("\r\n")
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    _, _, status = first.partition(" ")
    if status:
        found["Status"], _, found["Description"] = status.partition(" ")
    return found


def time_of(text: str) -> datetime:
    """A time of the broker (nanoseconds, `Z`), cut to microseconds."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is UTC else at.replace(tzinfo=UTC)


def time_of_ns(ns: int) -> datetime:
    """A time in nanoseconds since 1970, cut to microseconds."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


class DirectGet:
    """Batches of messages of one subject from any replica, over one inbox of the connection."""

    def __init__(self, client: Client, stream: str) -> None:
        self._client = client
        self._stream = stream
        self._inbox = ""
        self._opening = asyncio.Lock()
        self._waiting: dict[str, asyncio.Queue[tuple[dict[str, str], bytes]]] = {}
        self._n = 0

    async def messages(self, subject: str, *, after: int, batch: int) -> tuple[list[Message], bool]:
        """Up to `batch` messages of a subject after a position, and whether there may be more."""
        async with self._opening:
            if not self._inbox:
                inbox = self._client.new_inbox()
                heard = await self._client.subscribe(
                    f"{inbox}.*", cb=self._hear, pending_msgs_limit=-1, pending_bytes_limit=-1
                )
                if (intake := intake_of(self._client)) is not None:
                    intake.hear(heard._id, self._take)
                self._inbox = inbox
        self._n += 1
        token = str(self._n)
        replies: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()
        self._waiting[token] = replies
        query = {"seq": after + 1, "batch": batch, "next_by_subj": subject}
        try:
            await self._client.publish(
                f"{API}DIRECT.GET.{self._stream}", msgspec.json.encode(query), reply=f"{self._inbox}.{token}"
            )
            return await self._collect(replies, batch)
        except NOT_SENT as error:
            raise unreachable() from error
        except TimeoutError as error:
            raise TapelineError(
                f"the log did not answer a read of {subject} within {TIMEOUT_S:g} s",
                code="unavailable",
                hint="repeat the call",
            ) from error
        finally:
            del self._waiting[token]

    async def _hear(self, msg: Msg) -> None:
        """A message as the library has parsed it."""
        self._put(msg.subject, msg.headers or {}, msg.data)

    def _take(self, message: Taken) -> None:
        """A message as it was read."""
        _, subject, _, body, headers = message
        self._put(subject.decode(), header_lines(headers or b""), body)

    def _put(self, subject: str, headers: dict[str, str], body: bytes) -> None:
        replies = self._waiting.get(subject.rpartition(".")[2])
        if replies is not None:
            replies.put_nowait((headers, body))

    async def _collect(
        self, replies: asyncio.Queue[tuple[dict[str, str], bytes]], batch: int
    ) -> tuple[list[Message], bool]:
        found: list[Message] = []
        while True:
            if replies.empty():
                async with asyncio.timeout(TIMEOUT_S):
                    headers, body = await replies.get()
            else:
                headers, body = replies.get_nowait()
            match headers.get("Status"):
                case None:
                    found.append(
                        Message(
                            position=int(headers["Nats-Sequence"]),
                            subject=headers["Nats-Subject"],
                            headers=headers,
                            body=body,
                            stored_at=time_of(headers["Nats-Time-Stamp"]),
                        )
                    )
                case "204":
                    return found, int(headers.get("Nats-Num-Pending", "0")) > 0 or len(found) >= batch
                case "404":
                    return found, False
                case "503":
                    raise unreachable()
                case status:
                    raise TapelineError(
                        f"the log refused a read: {status} {headers.get('Description', '')}", code="unavailable"
                    )
