"""What a connection sends past the client library's flusher: at once, and in one write a turn of the loop.

Each write wakes the broker, and costs as much as the work that led to it. What several requests have to say in the
same turn goes together, in order with what the client itself has not yet written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.transport import TcpTransport


class Outlet:
    """The writing side of one connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._parts: list[bytes] = []
        self._after: list[Callable[[], None]] = []

    @property
    def is_ready(self) -> bool:
        """Whether something can be sent this way just now; else the library's way is there."""
        client = self._client
        return client.is_connected and not client.is_draining and type(client._transport) is TcpTransport

    def write(self, text: bytes, sent: Callable[[], None] | None = None) -> None:
        """Have text written at the end of this turn; `sent` is called then, and must not raise."""
        client = self._client
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
        if client._pending_data_size > 0:
            self._parts += client._pending
            client._pending = []
            client._pending_data_size = 0
        self._parts.append(text)
        if sent is not None:
            self._after.append(sent)

    async def publish(self, subject: str, body: bytes) -> None:
        """Publish a message, in order with what was written before."""
        if self.is_ready:
            self.write(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(body), body))
        else:
            await self._client.publish(subject, body)

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        after, self._after = self._after, []
        # A connection that was lost within this turn takes nothing any more: who waits for an answer is told of that.
        client = self._client
        if client.is_connected and type(client._transport) is TcpTransport:
            client._transport.write(b"".join(parts))  # type: ignore[no-untyped-call]
        for sent in after:
            sent()
