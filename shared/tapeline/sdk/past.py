"""Clients of the past: the queries of the SDK, answered as of a position or a time."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Callable
from contextvars import Token
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from tapeline import subjects
from tapeline.errors import ReadOnly
from tapeline.home import find_home
from tapeline.sdk import arguments
from tapeline.sdk.client import Client, MakeTransport, Reply, client_of, standing
from tapeline.sdk.settings import Settings
from tapeline.sdk.transport import BusTransport, Transport

if TYPE_CHECKING:
    from tapeline.replay.world import Hosted, World
    from tapeline.security.keys import Credentials


class PastClient(Client):
    """A read-only client; its queries answer as of one moment, and commands raise `ReadOnly`.

    The functions of the SDK are there as methods (`past.get_runs()`), and within `with past:` every function
    and every object of the SDK asks this client.
    """

    def __init__(self, settings: Settings, moment: str, *, transport: MakeTransport, timeout_s: float = 60.0) -> None:
        super().__init__(settings, timeout_s=timeout_s, transport=transport)
        self._moment = moment
        self._entered: list[Token[Client | None]] = []

    def __repr__(self) -> str:
        return f"PastClient(team={self.team!r}, at={self._moment})"

    def command(self, service: str, verb: str, *, command_id: str | None = None, **fields: Any) -> Reply:
        """Refused."""
        raise ReadOnly.of(
            "conflict", f"{service}.{verb} would change what was at {self._moment}", hint="connect without at"
        )

    def __getattr__(self, name: str) -> Any:
        from tapeline import sdk

        if name.startswith("_") or name not in sdk.__all__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        found = getattr(sdk, name)
        if not inspect.isfunction(found):
            return found

        @functools.wraps(found)
        def asked(*args: Any, **kwargs: Any) -> Any:
            with self._standing():
                return found(*args, **kwargs)

        return asked

    def __enter__(self) -> PastClient:
        self._entered.append(standing.set(self))
        return self

    def __exit__(self, *exit: object) -> None:
        standing.reset(self._entered.pop())
        if not self._entered:
            self.close()

    def _standing(self) -> _Standing:
        return _Standing(self)


class _Standing:
    """Makes a client the one that is asked, without closing it in the end."""

    def __init__(self, client: PastClient) -> None:
        self._client = client

    def __enter__(self) -> None:
        self._token = standing.set(self._client)

    def __exit__(self, *_: object) -> None:
        standing.reset(self._token)


def at(when: int | datetime, team: str | None = None) -> PastClient:
    """A read-only client whose queries answer as of a position or a time.

    Parameters
    ----------
    when : int or datetime
        A position of the log, or a time (a naive one is UTC): the last commit not later counts.

    Examples
    --------
    >>> with at(1040) as past:              # doctest: +SKIP
    ...     [run.status for run in get_runs()]
    """
    now = client_of(team)
    if isinstance(when, datetime):
        aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        moment: int | str = aware.astimezone(UTC).isoformat()
    elif isinstance(when, int) and not isinstance(when, bool) and when >= 0:
        moment = when
    else:
        raise arguments.BadValue(
            f"when is a position from 0 on, or a datetime, not {when!r}", hint="tapeline log tail shows positions"
        )

    def transport(settings: Settings, timeout_s: float) -> Transport:
        return _Asking(BusTransport(settings, timeout_s), moment)

    return PastClient(now.settings, str(moment), transport=transport)


class _Asking:
    """Sends every query to `log.at`, with the moment; the first answer fixes the position."""

    def __init__(self, bus: Transport, moment: int | str) -> None:
        self._bus = bus
        self._moment = moment

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        user, service, verb = subjects.asked(subject)
        asked = {"when": self._moment, "service": service, "verb": verb, "fields": json.loads(body)}
        reply = await self._bus.request(subjects.request(user, "log", "at"), json.dumps(asked).encode(), timeout_s)
        answer = json.loads(reply)
        if "error" not in answer:
            self._moment = answer["position"]
        return reply

    async def subscribe(self, subject: str, heard: Callable[[bytes], None]) -> Callable[[], Any]:
        return _nothing

    async def close(self) -> None:
        await self._bus.close()


def of_world(world: World) -> PastClient:
    """The client of a world that this process has opened itself."""

    def transport(settings: Settings, timeout_s: float) -> Transport:
        return _InProcess(world)

    place = world.place
    settings = Settings(
        f"world:{place.position}", world.team, world.user, cast("Credentials", None), find_home(), {}
    )  # fmt: skip
    return PastClient(settings, f"position {place.position}", transport=transport)


class _InProcess:
    """The services of a world, opened on the loop of the client that asks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hosted: Hosted | None = None
        self._opening = asyncio.Lock()

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        user, service, verb = subjects.asked(subject)
        async with self._opening:
            if self._hosted is None:
                hosted = self._world.hosted()
                await hosted.open()
                self._hosted = hosted
        return await self._hosted.answer(self._world.team, user, f"{service}.{verb}", json.loads(body))

    async def subscribe(self, subject: str, heard: Callable[[bytes], None]) -> Callable[[], Any]:
        return _nothing

    async def close(self) -> None:
        if self._hosted is not None:
            await self._hosted.close()
            self._hosted = None


async def _nothing() -> None:
    """What ends a subscription to a past in which nothing happens any more."""
