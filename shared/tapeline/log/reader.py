"""The fast reader: overlapped pulls, delivered by callback, with credit and a check for holes.

The client library's own ways are four times slower or have no back-pressure. Here the broker always has a
pull request in hand while the caller works, and never sends more than the caller has room for: messages
asked for and not yet taken are at most 2000.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import socket
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from tapeline.errors import TapelineError
from tapeline.log import StoredCommit, wire
from tapeline.log.intake import Intake, Quick, Run
from tapeline.logs import get_logger

T = TypeVar("T")
R = TypeVar("R")
RawHeaders = bytes | dict[str, str] | None
Make = Callable[[int, str, RawHeaders, bytes, int], T]
"""Makes a value of position, subject, headers, body and broker time in ns."""

BATCH = 1000
CREDIT = 2000
MAX_BYTES = 16 * 1024 * 1024
EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
SILENCE_S = 10.0
INACTIVE_S = 30.0
STALL_S = 60.0
LOOK_S = 0.5
"""After so much silence of a read that has an end, the broker is asked whether it has what comes next."""
LOOK_FOLLOWING_S = 30.0
CONNECT_S = 10.0

_STATUS_LINE = len(b"NATS/1.0")
_SPACE = ord(" ")
_numbers = itertools.count(1)
_log = get_logger()


class Connect(Protocol):
    """Connects the given client with the address and identity of this process, and passes options on."""

    def __call__(self, client: Client, /, **options: Any) -> Awaitable[Any]: ...


class ReadClient(Client):
    """A client with an `Intake`; for readers only.

    Ordinary messages keep their header bytes unparsed: `Msg.headers` is then `bytes`. Lines of status still
    arrive parsed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.intake = Intake(self)
        self._ps = self.intake  # type: ignore[assignment]

    async def _process_headers(self, headers: Any) -> Any:
        if headers and headers[_STATUS_LINE] != _SPACE:
            return headers
        return await super()._process_headers(headers)


def commit_of(position: int, subject: str, headers: RawHeaders, body: bytes, ns: int) -> StoredCommit:
    """The commit that a delivered message is."""
    header = header_of(headers, b"\r\nTl-Commit: ")
    if header is None:
        raise TapelineError(f"the message at position {position} is no commit", code="log_damaged")
    original = header_of(headers, b"\r\nTl-Stored-At: ")
    return StoredCommit(
        position=position,
        subject=subject,
        header=header,
        body=body,
        stored_at=wire.time_of_ns(ns) if original is None else wire.time_of(original.decode()),
    )


def header_of(headers: RawHeaders, mark: bytes) -> bytes | None:
    """The value of one header, cut out of the bytes; `mark` is `\\r\\n<name>: `."""
    if isinstance(headers, bytes):
        start = headers.find(mark)
        if start < 0:
            return None
        start += len(mark)
        return headers[start : headers.index(b"\r\n", start)]
    value = (headers or {}).get(mark[2:-2].decode())
    return None if value is None else value.encode()


class Reader(Generic[T]):
    """Reads a stream from a position, each call of `read` over a connection of its own.

    Parameters
    ----------
    connect
        Connects a fresh client.
    stream
        Name of the JetStream stream.
    role
        First part of the consumer's name.
    make
        Makes a value of each message; it runs for every message, so it does little.
    dense
        Whether positions have no holes, so that a hole is damage.
    quick
        Makes a value of an ordinary commit, whose headers and time were read for it; of a dense stream only.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        stream: str,
        role: str,
        make: Make[T],
        dense: bool = True,
        quick: Quick[T] | None = None,
    ) -> None:
        self._connect = connect
        self._quick = quick
        self._stream = stream
        self._role = role
        self._make = make
        self._dense = dense

    async def read(self, *, after: int, upto: int | None, follow: bool) -> AsyncGenerator[list[T], None]:
        """Values of all messages with `after < position <= upto`, in order, each once, in lists.

        Ends at the position that was last at the start, or never when `follow`.

        Raises
        ------
        TapelineError
            `log_damaged` when positions are missing; `unavailable` when the broker stays away: at the start,
            or for a minute of a read that does not follow.
        """
        pulls: _Pulls[T] | None = None
        client = ReadClient()
        rights = _Rights(self._stream)

        async def reconnected() -> None:
            if pulls is not None:
                pulls.lose()

        async def failed(error: Exception) -> None:
            if "permissions violation" in str(error).lower():
                rights.refuse(str(error))
                if pulls is not None:
                    pulls.lose()

        try:
            async with asyncio.timeout(CONNECT_S):
                await self._connect(client, reconnected_cb=reconnected, error_cb=failed)
        except (NatsError, OSError, TimeoutError) as error:
            await client.close()
            raise wire.unreachable() from error
        try:
            if not follow:
                last = (await rights.held(wire.stream_state(client, self._stream))).last
                upto = last if upto is None else min(upto, last)
            if upto is not None and after >= upto:
                return
            pulls = _Pulls(
                client, self._stream, self._role, self._make, self._quick, self._dense, after, upto, follow, rights
            )
            async for many in pulls.lists():
                yield many
        finally:
            if pulls is not None:
                await pulls.delete()
            await client.close()


class _Rights:
    """Whether the broker has refused something: it says so apart from any request, which then times out."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def refuse(self, text: str) -> None:
        if not self._refused.done():
            self._refused.set_result(text)

    async def held(self, asking: Coroutine[Any, Any, R]) -> R:
        """The answer to a request; `denied` as soon as the broker has refused one."""
        task = asyncio.ensure_future(asking)
        try:
            waiting: set[asyncio.Future[Any]] = {task, self._refused}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._refused.done():
                raise TapelineError(
                    f"this identity may not read {self._stream}: {self._refused.result()}",
                    code="denied",
                    hint="read with an identity that has the right, such as replay",
                )
            return task.result()
        finally:
            task.cancel()


class _Pulls(Generic[T]):
    """One consumer after another on one stream, each going on where the last one ended.

    Notes
    -----
    `asked` counts messages that the broker may send, `taken` those that the caller is done with;
    `asked - taken` never exceeds `CREDIT`, so what is held is bounded by it.
    """

    def __init__(
        self,
        client: ReadClient,
        stream: str,
        role: str,
        make: Make[T],
        quick: Quick[T] | None,
        dense: bool,
        after: int,
        upto: int | None,
        follow: bool,
        rights: _Rights,
    ) -> None:
        self._client = client
        self._stream = stream
        self._prefix = f"{_token(role)}-{_token(socket.gethostname())}-{os.getpid()}"
        self._make = make
        self._quick = quick if dense else None
        self._dense = dense
        self._upto = upto
        self._follow = follow
        self._rights = rights
        self._loop = asyncio.get_running_loop()
        self._last = after
        self._values: list[T] = []
        self._ready: deque[list[T]] = deque()
        self._wake = asyncio.Event()
        self._is_finished = False
        self._fault: Exception | None = None
        self._hole_after: int | None = None
        self._lost = True
        self._consumer = ""
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._asked = self._taken = self._received = 0
        self._heard_at = self._loop.time()
        self._progress_at = self._loop.time()
        self._looked_at = self._loop.time()

    def lose(self) -> None:
        """The consumer is gone: the next turn makes another."""
        self._lost = True
        self._wake.set()

    async def lists(self) -> AsyncGenerator[list[T], None]:
        """What arrives, in lists of at most a thousand."""
        while True:
            while self._ready:
                values = self._ready.popleft()
                yield values
                self._taken += len(values)
                self._progress_at = self._loop.time()
                if not (self._lost or self._is_finished):
                    await self._ask()
            if self._fault:
                raise self._fault
            if self._is_finished:
                return
            self._wake.clear()
            if self._lost:
                await self._reopen()
                continue
            try:
                async with asyncio.timeout(SILENCE_S / 2 if self._follow else LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                self._check_silence()
                await self._look_for_damage()

    def _check_silence(self) -> None:
        now = self._loop.time()
        if not self._follow and now - self._progress_at > STALL_S:
            raise TapelineError(
                f"{self._stream} has sent nothing for {STALL_S:g} s, after position {self._last}",
                code="unavailable",
                hint="check the broker; then read on from there",
            )
        if self._asked > self._received and now - self._heard_at > SILENCE_S:
            self._lost = True

    async def _look_for_damage(self) -> None:
        """Ask for the next message by itself: a consumer stops without a word at what the broker cannot read."""
        now = self._loop.time()
        if not self._dense or now - self._looked_at < (LOOK_FOLLOWING_S if self._follow else LOOK_S):
            return
        self._looked_at = now
        missing = self._last + 1
        try:
            end = (await self._rights.held(wire.stream_state(self._client, self._stream))).last
            if end < missing:
                return
            found = await self._rights.held(wire.message(self._client, self._stream, {"seq": missing}))
        except TapelineError as error:
            if error.code != "unavailable":
                raise
            return  # a broker that is away tells of no damage
        if found is None and missing == self._last + 1 and not self._fault:
            self._stop(
                TapelineError(
                    f"position {missing} of {self._stream} cannot be read, and the log ends at {end}",
                    code="log_damaged",
                    hint="run tapeline log verify; restore from a backup with tapeline log import",
                )
            )

    async def _reopen(self) -> None:
        pause_s = 0.05
        while True:
            try:
                await self._open()
                return
            except (TapelineError, NatsError) as error:
                if isinstance(error, TapelineError) and error.code != "unavailable":
                    raise
                if self._client.is_closed:
                    raise wire.unreachable() from error
            self._check_silence()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)

    async def _open(self) -> None:
        """A new consumer from the position after the last received, with a new inbox.

        The inbox is new so that late messages of the old consumer are told apart by their subscription.
        """
        self._lost = False
        if self._subscription is not None:
            old, self._subscription = self._subscription, None
            if self._quick is not None:
                # Before anything is awaited: what the old consumer still sends has a hole where the connection was
                # cut, and must neither be taken for damage nor be counted for the new one.
                self._client.intake.drop()
            await old.unsubscribe()
        name = f"{self._prefix}-{next(_numbers)}"
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._last + 1,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _ns(INACTIVE_S),
            "max_waiting": 8,
        }
        try:
            made = await self._rights.held(
                wire.request(
                    self._client,
                    f"CONSUMER.CREATE.{self._stream}.{name}",
                    {"stream_name": self._stream, "config": config, "action": "create"},
                    timeout=2.0,
                )
            )
        except wire.Refused as error:
            if error.code == wire.STREAM_NOT_FOUND:
                raise wire.missing_stream(self._stream) from error
            raise wire.refused(error) from error
        self._consumer = name
        if made.get("num_pending") == 0 and not (self._follow or self._dense):
            self._finish()
            return
        self._inbox = self._client.new_inbox()
        # What was handed over and not taken yet still counts against the credit.
        self._taken = 0
        self._asked = self._received = sum(map(len, self._ready)) + len(self._values)
        self._heard_at = self._loop.time()
        self._subscription = await self._client.subscribe(
            self._inbox, cb=self._hear, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        if self._quick is not None:
            self._client.intake.divert(self._subscription._id, self._quick, self._take)
        await self._ask()

    async def _ask(self) -> None:
        while not self._lost and self._asked - self._taken <= CREDIT - BATCH:
            self._asked += BATCH
            pull = {
                "batch": BATCH,
                "max_bytes": MAX_BYTES,
                "expires": _ns(EXPIRES_S),
                "idle_heartbeat": _ns(HEARTBEAT_S),
            }
            subject = f"{wire.API}CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
            try:
                await self._client.publish(subject, msgspec.json.encode(pull), reply=self._inbox)
            except wire.NOT_SENT:
                self.lose()

    def _take(self, run: Run[T]) -> None:
        """Many deliveries at once; what is strange about them is left to the rules of one."""
        first, last, _, values = run
        self._received += len(values)
        known = min(max(self._last + 1 - first, 0), len(values))
        if known:
            first, values = first + known, values[known:]
            self._taken += known
        if not values:
            return
        if (first != self._last + 1 or self._is_finished or self._lost or self._fault) and not self._is_next(first):
            return
        if self._upto is not None and last >= self._upto:
            self._is_finished = True
            last = self._upto
            values = values[: last - first + 1]
        self._last = last
        if not self._values and not self._is_finished:
            self._loop.call_soon(self._hand_over)
        self._values += values
        if len(self._values) >= BATCH or self._is_finished:
            self._hand_over()

    async def _hear(self, msg: Msg) -> None:
        tokens = msg.reply.split(".")
        if len(tokens) < 9:
            await self._status(msg)
            return
        at = 5 if len(tokens) == 9 else 7
        position = int(tokens[at])
        self._received += 1
        if (position != self._last + 1 or self._is_finished) and not self._is_next(position):
            return
        if self._upto is not None and position >= self._upto:
            if position > self._upto:
                self._finish()
                return
            self._is_finished = True
        self._last = position
        try:
            value = self._make(position, msg.subject, msg.headers, msg.data, int(tokens[at + 2]))
        except Exception as error:  # raised in `lists`, where the caller sees it
            self._stop(error)
            return
        self._values.append(value)
        if not (self._dense or self._follow) and tokens[at + 3] == "0":
            self._is_finished = True
        if len(self._values) >= BATCH or self._is_finished:
            self._hand_over()
        elif len(self._values) == 1:
            self._loop.call_soon(self._hand_over)  # runs once the messages at hand are through

    def _is_next(self, position: int) -> bool:
        """Whether a position that does not follow the last one is to be taken all the same."""
        if position <= self._last or self._is_finished or self._fault or self._lost:
            self._taken += 1
            return False
        if not self._dense:
            return True
        if self._hole_after == self._last:
            self._stop(
                TapelineError(
                    f"positions {self._last + 1}-{position - 1} of {self._stream} are missing",
                    code="log_damaged",
                    hint="run tapeline log verify; restore from a backup with tapeline log import",
                )
            )
        self._hole_after = self._last
        self.lose()
        return False

    async def _status(self, msg: Msg) -> None:
        headers: dict[str, str] = msg.headers or {}
        self._heard_at = self._loop.time()
        match headers.get("Status"):
            case "100":
                # It comes after all that was sent before it: what it counts and we have not is lost.
                if int(headers.get("Nats-Last-Stream", "0")) > self._last and not self._is_finished:
                    self.lose()
                return
            case "404" | "408":
                pass
            case "409" if "MaxBytes" in headers.get("Description", "") or "Batch Completed" in headers.get(
                "Description", ""
            ):
                pass
            case _:  # consumer deleted, leadership change, shutdown, no responders
                self.lose()
                return
        pending = int(headers.get("Nats-Pending-Messages", "0"))
        self._asked -= pending
        await self._ask()

    def _hand_over(self) -> None:
        if self._values:
            self._heard_at = self._loop.time()
            for start in range(0, len(self._values), BATCH):
                self._ready.append(self._values[start : start + BATCH])
            self._values = []
            self._wake.set()

    def _finish(self) -> None:
        self._hand_over()
        self._is_finished = True
        self._wake.set()

    def _stop(self, fault: Exception) -> None:
        self._hand_over()
        self._fault = fault
        self._wake.set()

    async def delete(self) -> None:
        """Remove the consumer; when that fails, the broker does it after its time of inactivity."""
        if self._consumer and self._client.is_connected:
            try:
                await wire.request(self._client, f"CONSUMER.DELETE.{self._stream}.{self._consumer}", timeout=1.0)
            except (TapelineError, wire.Refused, NatsError) as error:
                _log.debug("consumer_left", consumer=self._consumer, why=str(error))


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)


def _token(text: str) -> str:
    """A text as part of a consumer's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)[:40] or "-"
