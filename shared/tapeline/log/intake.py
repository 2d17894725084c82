"""What a connection receives, cut by compiled code: it stands where the client library has its parser.

The library's parser matches expressions against a growing buffer, and hands each message through a queue to a
task. Here deliveries of one subscription come in runs, and answers to requests go straight to who waits.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from tapeline.log.outlet import Outlet
from tapeline.wire import Frames

if TYPE_CHECKING:
    from tapeline.log.asking import Asker

T = TypeVar("T")

Quick = Callable[[int, str, bytes, bytes, datetime], T]
"""Makes a value of position, subject, `Tl-Commit`, body and time."""

Run = tuple[int, int, int, list[T]]
"""First and last position, what is left behind the last, and the values, whose positions have no hole."""

Message = tuple[int, bytes, bytes, bytes, bytes | None]
"""Subscription, subject, reply subject, body and headers."""


class Intake:
    """Takes what a client reads; lines that are no messages are left to the library's parser."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lines = Parser(client)
        self._frames = Frames()
        self._take: Callable[[Run[Any]], None] = lambda _run: None
        self._heard: dict[int, Callable[[Message], None]] = {}
        self._lose: Callable[[], None] = lambda: None
        self.outlet = Outlet(client)
        self.asker: Asker | None = None

    def divert(self, sid: int, quick: Quick[T], take: Callable[[Run[T]], None]) -> None:
        """Have the deliveries of one subscription made by `quick` and given to `take` in runs."""
        self._take = take
        self._frames.divert(sid, quick)

    def drop(self) -> None:
        """Pass over what still comes for the diverted subscription: it is late, and another takes its place."""
        self._take = lambda _run: None

    def hear(self, sid: int, hear: Callable[[Message], None]) -> None:
        """Have the messages of one subscription given to `hear` at once, past the library's queue."""
        self._heard[sid] = hear

    def on_lost(self, lose: Callable[[], None]) -> None:
        """Have `lose` called when the connection is gone."""
        self._lose = lose

    def reset(self) -> None:
        """Forget what has not come whole: the client calls it when its connection is lost."""
        self._lines.reset()
        self._frames.reset()
        self._lose()

    async def parse(self, data: bytes = b"") -> None:
        """Take bytes as they come."""
        try:
            frames = self._frames.feed(data)
        except ValueError as error:
            raise ProtocolError(f"nats: {error}") from error
        for frame in frames:
            if isinstance(frame, bytes):
                await self._lines.parse(frame)
            elif len(frame) == 4:
                self._take(frame)
            elif (hear := self._heard.get(frame[0])) is not None:
                hear(frame)
            else:
                await self._client._process_msg(*frame)  # type: ignore[arg-type]


def intake_of(client: Client) -> Intake | None:
    """The intake of a client, which takes over from its parser between two messages; None when it is within one."""
    parser = client._ps
    if isinstance(parser, Intake):
        return parser
    if type(parser) is not Parser or parser.state != AWAITING_CONTROL_LINE or parser.buf:
        return None
    made = Intake(client)
    client._ps = made  # type: ignore[assignment]
    return made


async def publish(client: Client, subject: str, body: bytes) -> None:
    """Publish a message without headers, with whatever else the connection has to write in this turn of the loop."""
    intake = intake_of(client)
    await (client.publish if intake is None else intake.outlet.publish)(subject, body)
