"""The wire under a client: one signed-in connection to the bus, asked from the client's own event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio

    from tapeline.connection import BusClient
    from tapeline.sdk.settings import Settings


class NoAnswer(Exception):
    """A try ended without a reply; `sent` tells whether a service may have seen the request."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class Transport(Protocol):
    """What a client needs of the bus."""

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        """The reply to a request; `NoAnswer` when there is none."""
        ...

    async def subscribe(self, subject: str, heard: Callable[[bytes], None]) -> Callable[[], Any]:
        """Call `heard` with the body of each message on a subject; gives the coroutine function that ends it."""
        ...

    async def close(self) -> None:
        """End the connection."""
        ...


class BusTransport:
    """The bus over nats-py, connected on first use."""

    def __init__(self, settings: Settings, timeout_s: float) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._client: BusClient | None = None
        self._connecting: asyncio.Lock | None = None

    async def _connected(self) -> BusClient:
        import asyncio

        from tapeline.connection import connect

        if self._connecting is None:
            self._connecting = asyncio.Lock()
        # Of the first requests of several threads one connects.
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                self._client = await connect(
                    self._settings.credentials, self._settings.url, name="sdk", timeout_s=self._timeout_s
                )
            return self._client

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        import nats.errors

        client = await self._connected()
        try:
            reply = await client.request(subject, body, timeout=timeout_s)
        except nats.errors.NoRespondersError as error:
            raise NoAnswer("no service is there", sent=False) from error
        except (nats.errors.TimeoutError, TimeoutError) as error:
            raise NoAnswer(f"no reply in {timeout_s:g} s", sent=True) from error
        except (nats.errors.Error, OSError) as error:
            raise NoAnswer(f"the connection failed ({error})", sent=True) from error
        return bytes(reply.data)

    async def subscribe(self, subject: str, heard: Callable[[bytes], None]) -> Callable[[], Any]:
        async def hear(message: Any) -> None:
            heard(message.data)

        subscription = await (await self._connected()).subscribe(subject, cb=hear)
        return subscription.unsubscribe

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None
