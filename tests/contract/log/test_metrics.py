"""Batches of measurements on a real JetStream."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from tapeline import topology
from tapeline.errors import TapelineError
from tapeline.log import Conflict
from tapeline.log.metrics import MetricsMessage, MetricsStream
from tapeline.testing.server import NatsServer, connector


@pytest.fixture
async def metrics(server: NatsServer) -> AsyncIterator[MetricsStream]:
    client = await server.connect()
    await topology.apply(client, topology.topology())
    yield MetricsStream(client, connect=connector(server.url), role="test")
    await client.close()


async def everything(metrics: MetricsStream, after: int = 0) -> list[MetricsMessage]:
    return [one async for many in metrics.read(after=after) for one in many]


async def test_a_batch_comes_back_as_it_was_appended(metrics: MetricsStream) -> None:
    body = os.urandom(1000)
    assert await metrics.append("contoso", "r1", 1, 1, body) == 1
    assert await metrics.append("contoso", "r1", 1, 2, b"") == 2
    [first, second] = await everything(metrics)
    assert (first.team, first.run, first.attempt, first.batch, first.body) == ("contoso", "r1", 1, 1, body)
    assert (second.position, second.batch, second.body) == (2, 2, b"")
    assert await metrics.tail("contoso", "r1") == second
    assert await metrics.tail("contoso", "r2") is None


async def test_a_repeated_batch_keeps_its_position(metrics: MetricsStream) -> None:
    for _ in range(2):
        assert await metrics.append("contoso", "r1", 1, 1, b"a") == 1
    assert await metrics.append("contoso", "r1", 2, 1, b"a") == 2
    assert len(await everything(metrics)) == 2


async def test_an_expectation_fences_another_copy_of_the_service(metrics: MetricsStream) -> None:
    first = await metrics.append("contoso", "r1", 1, 1, b"a", expected=0)
    with pytest.raises(Conflict):
        await metrics.append("contoso", "r1", 1, 2, b"b", expected=0)
    assert await metrics.append("contoso", "r1", 1, 1, b"a", expected=0) == first


async def test_a_message_that_is_no_batch_is_told_apart_and_hides_no_batch(
    server: NatsServer, metrics: MetricsStream
) -> None:
    admin = await server.connect()
    for id in ("", "else", "contoso.r1.1", "contoso.r1.1.x", "contoso.r2.1.1", "contoso.r1.\u0661.1"):
        await admin.request("met.contoso.r1", b"?", headers={"Nats-Msg-Id": id} if id else None)
    strange = await metrics.tail("contoso", "r1")
    assert strange is not None
    assert (strange.position, strange.attempt, strange.batch, strange.is_batch) == (6, 0, 0, False)
    assert await metrics.append("contoso", "r1", 1, 1, b"a", expected=strange.position) == 7
    await admin.request("met.contoso.r1", b"?")
    last = await metrics.tail("contoso", "r1")
    assert last is not None
    assert (last.position, last.batch, last.body, last.is_batch) == (8, 1, b"a", True)
    assert await metrics.append("contoso", "r1", 1, 2, b"b", expected=8) == 9
    assert [one.batch for one in await everything(metrics)] == [0] * 6 + [1, 0, 2]
    assert [one.batch async for one in metrics.of_run("contoso", "r1")] == [1, 2]
    await admin.close()


async def test_a_large_batch_is_refused(metrics: MetricsStream) -> None:
    with pytest.raises(TapelineError) as refused:
        await metrics.append("contoso", "r1", 1, 1, bytes(2 * 1024 * 1024))
    assert refused.value.code == "too_large"


async def test_holes_are_read_over(metrics: MetricsStream, server: NatsServer) -> None:
    for i in range(1, 7):
        await metrics.append("contoso", f"r{i % 2}", 1, i, b"x")
    admin = await server.connect()
    await admin.request("$JS.API.STREAM.PURGE.METRICS", b'{"filter":"met.contoso.r0"}')
    assert [one.position for one in await everything(metrics)] == [1, 3, 5]
    assert [one.position for one in await everything(metrics, after=1)] == [3, 5]
    assert await everything(metrics, after=5) == []
    await admin.request("$JS.API.STREAM.PURGE.METRICS", b"{}")
    assert await everything(metrics) == []
    await admin.close()


async def test_following_hears_batches_of_every_run(metrics: MetricsStream) -> None:
    heard: list[tuple[str, int]] = []

    async def follow() -> None:
        async with aclosing(metrics.read(follow=True)) as lists:
            async for many in lists:
                heard.extend((one.run, one.batch) for one in many)
                if len(heard) == 20:
                    return

    follower = asyncio.create_task(follow())
    for i in range(20):
        await metrics.append("contoso", f"r{i % 3}", 1, i, b"x")
    await asyncio.wait_for(follower, 10)
    assert heard == [(f"r{i % 3}", i) for i in range(20)]
