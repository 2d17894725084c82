"""Leases on a real server: one holder, renewed, handed over, and run out; and projectors that stand by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from sqlalchemy import select

from tapeline import names, replay, topology
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.database import make_engine
from tapeline.decider import Deciders, origin_of
from tapeline.log.codec import Codec
from tapeline.log.lease import KvLease
from tapeline.log.memory import InMemoryLog
from tapeline.names import ClaimName, name_ref
from tapeline.projections import LogSource, Projector, positions
from tapeline.runs import projection
from tapeline.testing.server import NatsServer

CODEC = Codec(EVENTS, UPCASTERS)


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[Client]:
    client = await server.connect()
    await topology.apply(client, topology.topology())
    yield client
    await client.close()


def lease(client: Client, holder: str, **more: float) -> KvLease:
    return KvLease(client, "projection.runs", holder, **more)


async def test_one_of_many_takes_a_lease(client: Client) -> None:
    many = [lease(client, f"h{i}") for i in range(8)]
    assert sum(await asyncio.gather(*(one.take() for one in many))) == 1


async def test_a_lease_that_is_given_back_is_free_at_once(client: Client) -> None:
    first, second = lease(client, "a"), lease(client, "b")
    assert await first.take()
    assert not await second.take()
    await first.give_back()
    assert await second.take()
    await first.give_back()
    assert not await first.take()


async def test_a_lease_is_kept_until_somebody_else_has_it(client: Client) -> None:
    first, second = lease(client, "a", renew_s=0.05), lease(client, "b")
    assert await first.take()
    task = asyncio.create_task(first.keep())
    await asyncio.sleep(0.3)
    assert not task.done()
    # What an operator would do to a holder that hangs.
    await client.request("$KV.LEASES.projection.runs", b"", timeout=30)
    assert await second.take()
    await asyncio.wait_for(task, 30)


async def test_a_renewal_whose_answer_was_lost_is_found(client: Client) -> None:
    first = lease(client, "a", renew_s=0.05)
    assert await first.take()
    await client.request("$KV.LEASES.projection.runs", b"a", timeout=30)
    task = asyncio.create_task(first.keep())
    await asyncio.sleep(0.3)
    assert not task.done()
    task.cancel()


async def test_a_lease_runs_out_when_the_broker_is_gone(client: Client, server: NatsServer) -> None:
    first = lease(client, "a", ttl_s=1.0, renew_s=0.2)
    assert await first.take()
    server.pause()
    try:
        await asyncio.wait_for(first.keep(), 30)
    finally:
        server.go_on()


async def test_a_standby_reads_and_takes_over(client: Client, database_url: str) -> None:
    log = InMemoryLog(CODEC)
    deciders = Deciders(log, CODEC, FakeClock())
    engine = make_engine(database_url)
    projectors, tasks = [], []
    for holder in ("a", "b"):
        projector = Projector(LogSource(log, CODEC, projection.kinds), projection, engine)
        projector.stand_by(lease(client, holder))
        await projector.open()
        projectors.append(projector)
        tasks.append(asyncio.create_task(projector.run()))
        while holder == "a" and not projector.is_writer:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def said(name: str) -> int:
        command = ClaimName(name=name, holder="x", what="run")
        return (
            await deciders.handle(names, name_ref("main", "run", name), command, origin_of("user:ann", None))
        ).position

    async def writer() -> str:
        return str(await engine.read(lambda connection: connection.scalar(select(positions.c.writer))))

    first, second = projectors
    position = await said("one")
    await asyncio.gather(first.wait_for(position, 30), second.wait_for(position, 30))
    assert (first.is_writer, second.is_writer, await writer()) == (True, False, "a")
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    position = await said("two")
    # A lease that could not be given back in time ends by itself after 15 s.
    await second.wait_for(position, 40)
    assert await writer() == "b"
    assert second.is_writer
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    await engine.dispose()


async def test_lag_says_how_far_each_projection_is_behind_and_who_writes_it(database_url: str) -> None:
    log = InMemoryLog(CODEC)
    deciders = Deciders(log, CODEC, FakeClock())
    engine = make_engine(database_url)
    projector = Projector(LogSource(log, CODEC, projection.kinds), projection, engine)
    await projector.open()
    command = ClaimName(name="n", holder="x", what="run")
    await deciders.handle(names, name_ref("main", "run", "n"), command, origin_of("user:ann", None))
    (found,) = await replay.lag(log, {"runs": engine})
    assert (found.name, found.position, found.lag, found.writer) == ("runs", 0, 1, None)
    assert found.age_s is not None
    assert found.is_over(0, None)
    assert not found.is_over(1, None)
    task = asyncio.create_task(projector.run())
    await projector.wait_for(1, 30)
    (found,) = await replay.lag(log, {"runs": engine})
    assert (found.position, found.lag, found.age_s) == (1, 0, 0.0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await engine.dispose()
