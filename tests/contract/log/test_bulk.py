"""Commits stored again at their own positions, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tapeline import topology
from tapeline.errors import TapelineError
from tapeline.log import StoredCommit, wire
from tapeline.log.bulk import BulkAppender, BulkClient
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.memory import InMemoryLog
from tapeline.testing.commits import Opened, codec, commit, till
from tapeline.testing.log import appended, everything
from tapeline.testing.server import NatsServer, connect, connector


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[BulkClient]:
    made = BulkClient()
    await connect(server.url, made)
    await topology.apply(made, topology.topology())
    yield made
    await made.close()


@pytest.fixture
async def source() -> list[StoredCommit]:
    log = InMemoryLog(codec())
    await appended(log, 700)
    await log.append(commit("u", Opened(name="Käse ☃" * 50), ref=till("t2")), expected=0)
    await appended(log, 700, till("t3"))
    return await everything(log)


ways = pytest.mark.parametrize("atomic", [True, False], ids=["batches", "plain"])


@ways
async def test_what_is_stored_is_what_was_read_position_by_position(
    server: NatsServer, client: BulkClient, source: list[StoredCommit], atomic: bool
) -> None:
    bulk = BulkAppender(client, position=0, atomic=atomic)
    for start in range(0, len(source), 1000):
        await bulk.add(source[start : start + 1000])
    assert await bulk.finish() == 1401
    log = JetStreamLog(client, codec(), connect=connector(server.url))
    assert await everything(log) == source, "Tl-Stored-At stands for the time of the broker"


async def test_a_log_that_somebody_else_writes_to_is_left_alone(
    server: NatsServer, client: BulkClient, source: list[StoredCommit]
) -> None:
    log = JetStreamLog(client, codec(), connect=connector(server.url))
    await log.append(commit("other", ref=till("t9")), expected=0)
    bulk = BulkAppender(client, position=0)
    await bulk.add(source[:500])
    with pytest.raises(TapelineError) as refused:
        await bulk.finish()
    assert refused.value.code == "not_empty"
    assert (await log.head()).position == 1


@ways
async def test_a_full_log_says_so_and_up_to_where_it_goes(
    server: NatsServer, client: BulkClient, source: list[StoredCommit], atomic: bool
) -> None:
    state = await wire.stream_state(client, "EVENTS")
    await wire.request(client, "STREAM.UPDATE.EVENTS", {**state.config, "max_bytes": 200_000})
    bulk = BulkAppender(client, position=0, atomic=atomic)
    await bulk.add(source[:1000])
    with pytest.raises(TapelineError, match="stores nothing beyond position") as refused:
        await bulk.finish()
    assert refused.value.code == "insufficient_storage"
    held = (await wire.stream_state(client, "EVENTS")).last
    assert f"beyond position {held}:" in refused.value.message
    assert (held > 100) is not atomic, "an atomic batch is stored whole or not at all"


@ways
async def test_commits_go_on_after_what_is_stored(
    server: NatsServer, client: BulkClient, source: list[StoredCommit], atomic: bool
) -> None:
    first = BulkAppender(client, position=0, atomic=atomic)
    await first.add(source[:600])
    await first.finish()
    second = BulkAppender(client, position=600, atomic=atomic)
    await second.add(source[600:])
    assert await second.finish() == 1401


async def test_a_log_that_is_being_imported_is_refused_by_services(server: NatsServer, client: BulkClient) -> None:
    await topology.begin_import(client, log_id="0193-other", upto=5)
    with pytest.raises(TapelineError, match="being imported: 0 of 5"):
        await topology.check(client)
    await topology.end_import(client)
    assert await topology.check(client) == "0193-other"


async def test_a_log_with_commits_takes_over_no_other_id(server: NatsServer, client: BulkClient) -> None:
    log = JetStreamLog(client, codec(), connect=connector(server.url))
    await log.append(commit("other"), expected=0)
    with pytest.raises(TapelineError, match="EVENTS holds 1 other commits") as refused:
        await topology.begin_import(client, log_id="0193-other", upto=5)
    assert refused.value.code == "not_empty"
