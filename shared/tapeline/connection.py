"""Opening a connection to the bus as an identity."""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import urlsplit

from nats.aio.client import Client, Server
from nats.aio.msg import Msg

from tapeline.errors import TapelineError
from tapeline.security.keys import Credentials, read_credentials
from tapeline.server_config import check_version, is_loopback

_SCHEMES = {"nats", "tls", "ws", "wss"}
_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 1.0
_KEPT_REFUSALS = 100
_REFUSED = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]*)\"")
_NEW_KEY = "ask your operator for a new file: the key was revoked, or belongs to another server"

Callback = Callable[[], Awaitable[None]]


class ConnectOptions(TypedDict):
    """What every client of the bus passes to `Client.connect`, and a FastStream `NatsBroker` to its own."""

    name: str
    nkeys_seed_str: str
    inbox_prefix: str
    allow_reconnect: bool
    max_reconnect_attempts: int
    reconnect_time_wait: float
    connect_timeout: int
    ping_interval: int
    max_outstanding_pings: int
    reconnect_to_server_handler: Callable[[list[Server], dict[str, Any]], tuple[Server | None, float]]


class BusClient(Client):
    """A NATS client that tells a refused subject at once.

    A permission violation reaches a client only as an error beside the stream of messages, while the
    request that caused it waits for its whole time-out. Here the request raises `forbidden` instead, and
    violations of plain publishes and subscriptions are kept in `refusals` and raised by `settle`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[TapelineError] = []
        self._asking: defaultdict[str, set[asyncio.Future[TapelineError]]] = defaultdict(set)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """The reply to a message.

        Raises
        ------
        TapelineError
            `forbidden` when this identity may not publish to the subject.
        """
        # The broker's text has the subject in lower case.
        key = subject.lower()
        refused: asyncio.Future[TapelineError] = asyncio.get_running_loop().create_future()
        answer = asyncio.ensure_future(super().request(subject, payload, timeout, old_style, headers))
        self._asking[key].add(refused)
        try:
            either: set[asyncio.Future[Any]] = {answer, refused}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if refused.done():
                raise refused.result()
            return answer.result()
        finally:
            answer.cancel()
            self._asking[key].discard(refused)
            if not self._asking[key]:
                del self._asking[key]

    async def flush(self, timeout: int = 10) -> None:
        """Wait until the server has taken everything that was published before.

        The library writes its ping ahead of what still waits in its buffer, so one round proves nothing
        about the messages published just before; a second one does.
        """
        await super().flush(timeout)
        await super().flush(timeout)

    async def settle(self, timeout_s: int = 5) -> None:
        """Wait until the server has seen all that was sent, and raise the first refusal of it."""
        await self.flush(timeout=timeout_s)
        if self.refusals:
            first = self.refusals[0]
            self.refusals.clear()
            raise first

    def refuse(self, verb: str, subject: str) -> TapelineError:
        """Let those who wait for an answer on a refused subject know; keep the refusal for `settle` otherwise."""
        error = TapelineError(
            f"this identity may not {verb} {subject}",
            code="forbidden",
            hint="check which credential file is used: TAPELINE_CREDS, or creds/ in TAPELINE_HOME",
            data={"verb": verb, "subject": subject},
        )
        asking = self._asking.get(subject, set()) if verb == "publish to" else set()
        for waiting in asking:
            if not waiting.done():
                waiting.set_result(error)
        if not asking and len(self.refusals) < _KEPT_REFUSALS:
            self.refusals.append(error)
        return error


async def connect(
    credentials: Credentials | Path,
    url: str,
    *,
    name: str,
    timeout_s: float = 10.0,
    on_error: Callable[[TapelineError], None] | None = None,
    on_disconnect: Callback | None = None,
    on_reconnect: Callback | None = None,
    on_close: Callback | None = None,
) -> BusClient:
    """A connection to the bus, signed in, that comes back for ever after the server went away.

    Parameters
    ----------
    credentials : Credentials or Path
        Who signs in; a path is read with `read_credentials`.
    url : str
        One address, or several with commas: `nats://127.0.0.1:4222`.
    name : str
        What the server shows for this connection: `runs`, `agent-local`, `sdk`.
    timeout_s : float
        How long to try for the first connection.
    on_error : callable, optional
        Told of each refused subject (`forbidden`), refused sign-in (`unauthenticated`) and broken
        connection (`unavailable`), beside what `BusClient` does with it. A service logs them.
    on_disconnect, on_reconnect, on_close : coroutine functions, optional
        As in nats-py. `on_close` is called when the server ended the connection for good (a revoked key).

    Raises
    ------
    TapelineError
        `unauthenticated` when the server does not know the key, `forbidden` for a plain connection beyond
        this machine, `unavailable` when nobody answers in time or the server is older than 2.15.1.
    """
    if isinstance(credentials, Path):
        credentials = read_credentials(credentials)
    servers = check_url(url)
    client = BusClient()
    denied: asyncio.Future[TapelineError] = asyncio.get_running_loop().create_future()
    last: list[Exception] = []

    async def hear(error: Exception) -> None:
        text = str(error).lower()
        if (found := _REFUSED.search(text)) is not None:
            told = client.refuse("publish to" if found[1] == "publish" else "subscribe to", found[2])
        elif "authorization violation" in text or "authentication" in text:
            told = TapelineError(f"the server at {url} does not know this key", code="unauthenticated", hint=_NEW_KEY)
            if not denied.done():
                denied.set_result(told)
        else:
            last[:] = [error]
            told = TapelineError(f"the connection to {url} is broken: {error!r}", code="unavailable", hint=None)
        if on_error is not None:
            on_error(told)

    opening = asyncio.ensure_future(
        client.connect(
            servers,
            error_cb=hear,
            disconnected_cb=on_disconnect,
            reconnected_cb=on_reconnect,
            closed_cb=on_close,
            tls=_tls(servers, credentials.ca),
            **connect_options(credentials, name=name),  # type: ignore[arg-type]  # whole seconds are too slow
        )
    )
    try:
        either: set[asyncio.Future[Any]] = {opening, denied}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if denied.done():
            raise denied.result()
        if not opening.done():
            why = f" ({last[0]})" if last and str(last[0]) else ""
            raise TapelineError(f"no server answers at {url}{why}", code="unavailable", hint="tapeline up")
        opening.result()
        found = client.connected_server_version
        check_version(f"{found.major}.{found.minor}.{found.patch}")
    except BaseException:
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await client.close()
        raise
    return client


async def connect_as(client: Client, credentials: Credentials, url: str, *, name: str, **options: Any) -> None:
    """Connect a client of the caller's own class as an identity; options beyond ours go to `Client.connect`."""
    servers = check_url(url)
    ours: dict[str, Any] = {**connect_options(credentials, name=name), "tls": _tls(servers, credentials.ca)}
    await client.connect(servers, **(ours | options))


def connect_options(credentials: Credentials, *, name: str) -> ConnectOptions:
    """The options of a connection for an identity, the same for nats-py and for a FastStream broker."""
    return ConnectOptions(
        name=name,
        nkeys_seed_str=credentials.key.seed.reveal(),
        inbox_prefix=credentials.inbox,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=_FIRST_WAIT_S,
        connect_timeout=2,
        ping_interval=10,
        max_outstanding_pings=2,
        reconnect_to_server_handler=_next_server,
    )


def check_url(url: str) -> list[str]:
    """The servers that a URL names.

    Raises
    ------
    TapelineError
        `invalid` for a scheme that is none of ours, `forbidden` for a plain one beyond this machine unless
        `TAPELINE_ALLOW_PLAINTEXT=1`.
    """
    servers = [part.strip() for part in url.split(",") if part.strip()]
    if not servers:
        raise TapelineError("the URL of the server is empty", code="invalid", hint="nats://127.0.0.1:4222")
    for server in servers:
        parts = urlsplit(server)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise TapelineError(
                f"{server!r} is not the URL of a server",
                code="invalid",
                hint=f"use one of {', '.join(sorted(_SCHEMES))}: nats://127.0.0.1:4222",
            )
        if parts.username or parts.password:
            raise TapelineError(
                "the URL of the server holds a user or a password",
                code="invalid",
                hint="identities are credential files; leave it out",
            )
        plain = parts.scheme in ("nats", "ws")
        if plain and not is_loopback(parts.hostname) and os.environ.get("TAPELINE_ALLOW_PLAINTEXT") != "1":
            raise TapelineError(
                f"refusing a plain connection to {parts.hostname}, which is not this machine",
                code="forbidden",
                hint="use tls://, or set TAPELINE_ALLOW_PLAINTEXT=1 when a tunnel protects it",
            )
    return servers


def _next_server(servers: list[Server], _info: dict[str, Any]) -> tuple[Server | None, float]:
    """Where to reconnect, and after which wait: short at first, with jitter, never more than a second."""
    chosen = min(servers, key=lambda server: server.reconnects)
    longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(chosen.reconnects, 10))
    return chosen, random.uniform(longest / 2, longest)


def _tls(servers: list[str], ca: str | None) -> ssl.SSLContext | None:
    if not any(urlsplit(server).scheme in ("tls", "wss") for server in servers):
        return None
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
