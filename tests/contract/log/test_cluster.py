"""The log on three servers with three replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest
from nats.aio.client import Client

from tapeline import topology
from tapeline.errors import TapelineError
from tapeline.log import Conflict, StoredCommit, wire
from tapeline.log.codec import read_brief
from tapeline.log.jetstream import JetStreamLog
from tapeline.testing.commits import codec, commit, till
from tapeline.testing.log import EventLogContract, everything, tail
from tapeline.testing.server import NatsServer, connect, connector, free_port

SIZES = topology.Sizes(events=10**8, metrics=10**6, builds=10**6, leases=10**6)


EVENTS = topology.topology(SIZES, replicas=3).streams[:1]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NatsServer]]:
    """Three servers for all tests here: an election costs seconds."""
    ports = [free_port() for _ in range(3)]
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        yield [
            stack.enter_context(NatsServer(folder / f"n{i}", cluster=(f"n{i}", port, ports)))
            for i, port in enumerate(ports)
        ]


async def until_current(client: Client) -> None:
    """Wait until a leader is there and both others have all that it has."""
    async with asyncio.timeout(120):
        while True:
            try:
                found = await wire.request(client, "STREAM.INFO.EVENTS", timeout=2.0)
                replicas = found.get("cluster", {}).get("replicas", [])
                if len(replicas) == 2 and all(one["current"] and not one.get("offline") for one in replicas):
                    return
            except (TapelineError, wire.Refused):
                pass  # no leader answers yet
            await asyncio.sleep(0.1)


@pytest.fixture
async def log(servers: list[NatsServer]) -> AsyncIterator[JetStreamLog]:
    urls = [one.url for one in servers]
    client = await connect(urls)
    async with asyncio.timeout(120):
        while True:
            try:
                await topology.apply(client, topology.Topology(EVENTS, ()))
                break
            except TapelineError as error:  # the three have not elected a leader yet
                if error.code not in ("unavailable", "topology_mismatch", "insufficient_storage"):
                    raise
                await asyncio.sleep(0.1)
    await until_current(client)
    yield JetStreamLog(client, codec(), connect=connector(urls), role="test")
    await client.jetstream().delete_stream("EVENTS")
    await client.close()


class TestClusteredLog(EventLogContract):
    """Three servers, three replicas."""


async def settled(log: JetStreamLog) -> list[StoredCommit]:
    """Everything, once the three have elected a leader again and answer."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await everything(log)
            except TapelineError as error:
                if error.code != "unavailable":
                    raise
                await asyncio.sleep(0.1)


async def test_nothing_is_lost_or_doubled_while_servers_are_killed_in_turn(
    servers: list[NatsServer], log: JetStreamLog
) -> None:
    acknowledged: dict[str, int] = {}

    async def command(id: str, ref_id: str) -> None:
        ref = till(ref_id)
        while True:
            try:
                last = await tail(log, ref)
                done = await log.append(commit(id, ref=ref, after=last), expected=last.position if last else 0)
            except Conflict:
                continue
            except TapelineError as error:
                if error.code not in ("unavailable", "unknown_outcome"):
                    raise
                await asyncio.sleep(0.05)
                continue
            acknowledged[id] = done.position
            return

    async def writer(w: int) -> None:
        for i in range(30):
            await command(f"w{w}-{i}", f"t{w % 2}")

    async def killer() -> None:
        for one in servers:
            await asyncio.sleep(0.3)
            await asyncio.to_thread(one.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(one.start)
            # Two at a time may not be away: the next is killed once this one has caught up.
            await until_current(log._client)

    await asyncio.gather(killer(), *(writer(w) for w in range(4)))
    found = await settled(log)
    assert [one.position for one in found] == list(range(1, len(found) + 1))
    for subject in {one.subject for one in found}:
        sequences = [read_brief(one.header, 0).seq for one in found if one.subject == subject]
        assert sequences == list(range(1, len(sequences) + 1))
    assert {read_brief(one.header, 0).cmd: one.position for one in found} == acknowledged
    assert len(found) == 120
