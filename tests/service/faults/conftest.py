"""Logs of real events on a real server, written by deciders, for tests that take something away from them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tapeline import names, topology
from tapeline.clock import SystemClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.decider import Deciders, origin_of
from tapeline.log import EventLog
from tapeline.log.codec import Codec
from tapeline.log.jetstream import JetStreamLog
from tapeline.names import ClaimName, ReleaseName, name_ref
from tapeline.testing.disks import NotPermitted
from tapeline.testing.server import NatsServer, connector

CODEC = Codec(EVENTS, UPCASTERS)
MIB = 1024 * 1024


class Till:
    """A log on a server, and deciders that write to it: names that are claimed and released in turn."""

    def __init__(self, log: EventLog, close: Callable[[], Awaitable[Any]]) -> None:
        self.log = log
        self.close = close
        self._deciders = Deciders(log, CODEC, SystemClock())

    async def turn(self, id: str, name: str, filler: str = "") -> tuple[int, int]:
        """Claim or release a name under a command id; the position and sequence of the answer."""
        ref = name_ref("main", "run", name)
        held = await self._deciders.state(names, ref)
        holder = held.holder or f"h{id}{filler}"
        command = (
            ReleaseName(name=name, holder=holder) if held.holder else ClaimName(name=name, holder=holder, what="run")
        )
        done = await self._deciders.handle(names, ref, command, origin_of("user:ann", id))
        return done.position, done.sequence


async def open_till(server: NatsServer, *, events_bytes: int = 8 * MIB, timeout_s: float = 5.0) -> Till:
    """The log of a server, made when it is not there yet."""
    client = await server.connect()
    sizes = topology.Sizes(events=events_bytes, metrics=MIB, builds=MIB, leases=MIB)
    await topology.apply(client, topology.topology(sizes))
    log = JetStreamLog(
        client, CODEC, connect=connector(server.url), role="test", timeout_s=timeout_s, deadline_s=3 * timeout_s
    )
    return Till(log, client.close)


@contextmanager
def or_skip() -> Iterator[None]:
    """Skip the test where nothing can be mounted, with the sentence that says why."""
    try:
        yield
    except NotPermitted as refused:
        pytest.skip(str(refused))
