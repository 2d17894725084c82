"""The log on a real JetStream shows the behaviours of a log."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tapeline import topology
from tapeline.log.jetstream import JetStreamLog
from tapeline.testing.commits import codec
from tapeline.testing.log import EventLogContract
from tapeline.testing.server import NatsServer, connector


@pytest.fixture
async def log(server: NatsServer) -> AsyncIterator[JetStreamLog]:
    client = await server.connect()
    await topology.apply(client, topology.topology())
    yield JetStreamLog(client, codec(), connect=connector(server.url), role="test")
    await client.close()


class TestJetStreamLog(EventLogContract):
    """One server, one replica."""
