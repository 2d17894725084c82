"""A TCP connection that can be made to fail: held, cut, delivered late."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Self


class _Link:
    """One client's connection through the proxy."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        self.late = bytearray()
        self.tasks: list[asyncio.Task[None]] = []

    async def requests(self, source: asyncio.StreamReader) -> None:
        while data := await source.read(65536):
            if self.proxy.are_requests_held:
                self.late += data
            else:
                self.server.write(data)
        if not self.late:
            self.server.close()

    async def answers(self, source: asyncio.StreamReader) -> None:
        while data := await source.read(65536):
            if not self.proxy.are_answers_held:
                self.client.write(data)
        self.client.close()


class Proxy:
    """Stands between clients and one server.

    While `are_answers_held`, what the server says is lost; while `are_requests_held`, what clients say is
    kept, to be delivered late or never. Both leave connections open.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._links: list[_Link] = []
        self._abandoned: list[_Link] = []
        self.are_requests_held = False
        self.are_answers_held = False
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Close every connection to a client and let new ones through unhindered; held requests are kept."""
        self.are_requests_held = self.are_answers_held = False
        for link in self._links:
            link.client.close()
            self._abandoned.append(link)
        self._links = []

    async def deliver_late(self) -> None:
        """Send the server what abandoned connections had said."""
        for link in self._abandoned:
            link.server.write(bytes(link.late))
            await link.server.drain()
            link.late.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.close()
            return
        link = _Link(self, writer, to_server)
        self._links.append(link)
        link.tasks = [
            asyncio.create_task(self._quietly(link.requests(reader))),
            asyncio.create_task(self._quietly(link.answers(from_server))),
        ]

    async def _quietly(self, pump: Coroutine[None, None, None]) -> None:
        try:
            await pump
        except OSError:
            return  # a reset connection ends as one that was closed

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for link in self._links + self._abandoned:
            for task in link.tasks:
                task.cancel()
            await asyncio.gather(*link.tasks, return_exceptions=True)
            link.client.close()
            link.server.close()
