"""The topology on a real server: made once, checked always, never changed by accident."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.client import Client, ServerVersion

from tapeline import topology
from tapeline.errors import TapelineError
from tapeline.server_config import max_file_bytes
from tapeline.testing.server import NatsServer, connect, server_binary
from tapeline.topology import GIB, MIB, Sizes

SMALL = Sizes(events=MIB, metrics=MIB, builds=MIB, leases=MIB)


@pytest.fixture
async def admin(server: NatsServer) -> AsyncIterator[Client]:
    client = await server.connect()
    yield client
    await client.close()


async def info(client: Client, verb: str) -> Any:
    return json.loads((await client.request(f"$JS.API.{verb}", b"", timeout=5)).data)


async def test_applying_makes_everything_and_applying_twice_changes_nothing(admin: Client) -> None:
    made = await topology.apply(admin, topology.topology())
    assert [str(step) for step in made] == [
        "create EVENTS", "create METRICS", "create BUILDS", "create KV_LEASES", "create BUILDS/assets",
    ]  # fmt: skip
    before = [await info(admin, f"STREAM.INFO.{name}") for name in ("EVENTS", "METRICS", "BUILDS", "KV_LEASES")]
    again = await topology.apply(admin, topology.topology())
    assert {step.action for step in again} == {"keep"}
    after = [await info(admin, f"STREAM.INFO.{name}") for name in ("EVENTS", "METRICS", "BUILDS", "KV_LEASES")]
    assert [one["config"] for one in before] == [one["config"] for one in after]


async def test_the_settings_are_those_that_the_log_rests_on(admin: Client) -> None:
    await topology.apply(admin, topology.topology())
    events = (await info(admin, "STREAM.INFO.EVENTS"))["config"]
    assert (events["deny_delete"], events["deny_purge"], events["allow_atomic"]) == (True, True, True)
    assert (events["discard"], events["storage"], events["compression"]) == ("new", "file", "s2")
    assert (events["max_age"], events["max_msgs"], events["max_bytes"]) == (0, -1, 2 * GIB)
    assert len(events["metadata"]["tapeline.log_id"]) == 36
    assert events["metadata"]["tapeline.format"] == "1"
    for verb, body in (("STREAM.PURGE.EVENTS", b""), ("STREAM.MSG.DELETE.EVENTS", b'{"seq":1}')):
        reply = json.loads((await admin.request(f"$JS.API.{verb}", body, timeout=5)).data)
        assert "error" in reply
    consumer = (await info(admin, "CONSUMER.INFO.BUILDS.assets"))["config"]
    assert (consumer["ack_wait"], consumer["max_deliver"]) == (60 * topology.S, 5)


async def test_the_lease_bucket_is_one_that_the_client_library_takes(admin: Client) -> None:
    await topology.apply(admin, topology.topology())
    bucket = await admin.jetstream().key_value("LEASES")
    revision = await bucket.create("projection.runs", b"a")
    await bucket.update("projection.runs", b"b", last=revision)
    assert (await bucket.get("projection.runs")).value == b"b"


async def test_planning_changes_nothing(admin: Client) -> None:
    steps = await topology.plan(admin, topology.topology())
    assert {step.action for step in steps} == {"create"}
    with pytest.raises(TapelineError, match="EVENTS, METRICS, BUILDS, KV_LEASES, BUILDS/assets does not exist"):
        await topology.check(admin)


async def test_a_raised_size_is_applied_and_a_smaller_one_is_not(admin: Client) -> None:
    await topology.apply(admin, topology.topology(SMALL))
    log_id = await topology.check(admin)
    larger = topology.topology(Sizes(events=2 * MIB, metrics=MIB, builds=MIB, leases=MIB))
    [step, *rest] = await topology.apply(admin, larger)
    assert str(step) == "update EVENTS: max_bytes 1048576 -> 2097152"
    assert {one.action for one in rest} == {"keep"}
    assert (await info(admin, "STREAM.INFO.EVENTS"))["config"]["max_bytes"] == 2 * MIB
    assert {one.action for one in await topology.apply(admin, topology.topology(SMALL))} == {"keep"}
    assert await topology.check(admin) == log_id


async def test_another_difference_is_refused_and_nothing_is_changed(admin: Client) -> None:
    await topology.apply(admin, topology.topology(SMALL))
    metrics = (await info(admin, "STREAM.INFO.METRICS"))["config"] | {"discard": "old", "compression": "none"}
    await admin.request("$JS.API.STREAM.UPDATE.METRICS", json.dumps(metrics).encode(), timeout=5)
    for refuse in (topology.check(admin), topology.apply(admin, topology.topology())):
        with pytest.raises(TapelineError) as refused:
            await refuse
        assert refused.value.code == "topology_mismatch"
        assert refused.value.message == (
            'METRICS.discard is "old", must be "new"; METRICS.compression is "none", must be "s2"'
        )
    assert (await info(admin, "STREAM.INFO.EVENTS"))["config"]["max_bytes"] == MIB


async def test_a_log_without_its_locks_is_refused(admin: Client) -> None:
    await admin.jetstream().add_stream(name="EVENTS", subjects=["evt.*.*.*"])
    with pytest.raises(TapelineError, match="deny_purge is false, must be true") as refused:
        await topology.apply(admin, topology.topology())
    assert "EVENTS.metadata.tapeline.log_id is missing" in refused.value.message


async def test_more_than_the_server_may_store_is_insufficient_storage() -> None:
    async with NatsServer(jetstream="max_file: 1GiB") as server:
        client = await server.connect()
        with pytest.raises(TapelineError) as refused:
            await topology.apply(client, topology.topology())
        assert refused.value.code == "insufficient_storage"
        await topology.apply(client, topology.topology(topology.embedded_sizes(GIB)))
        await client.close()


async def test_a_server_that_does_not_sync_always_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = "accounts { $SYS { users: [ { user: sys, password: sys } ] } }"
    async with NatsServer(config=accounts) as server:
        system = await server.connect(user="sys", password="sys")
        await topology.check_sync(system)
        await system.close()
    lax = NatsServer(config=accounts)
    text = lax._text().replace("sync_interval: always", 'sync_interval: "2m"')
    monkeypatch.setattr(lax, "_text", lambda: text)
    async with lax as server:
        system = await server.connect(user="sys", password="sys")
        with pytest.raises(TapelineError, match="syncs every 120 s: acknowledged events can be lost"):
            await topology.check_sync(system)
        await topology.check_sync(system, is_unsafe_allowed=True)
        await system.close()


async def test_an_old_server_is_refused(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    topology.check_server(admin)
    monkeypatch.setattr(Client, "connected_server_version", ServerVersion("2.14.0"))
    with pytest.raises(TapelineError, match=r"nats-server 2\.14\.0 is older than 2\.15\.1") as refused:
        topology.check_server(admin)
    assert refused.value.code == "unavailable"


def test_sizes_shrink_in_proportion_to_free_disk() -> None:
    assert max_file_bytes(100 * GIB) == 8 * GIB
    assert max_file_bytes(5 * GIB) == 4 * GIB
    assert topology.embedded_sizes(8 * GIB) == topology.EMBEDDED
    assert topology.embedded_sizes(4 * GIB) == Sizes(GIB, 2 * GIB, 32 * MIB, 8 * MIB)
    with pytest.raises(TapelineError, match=r"0\.6 GiB free, at least 1 GiB needed") as refused:
        max_file_bytes(int(0.6 * GIB))
    assert refused.value.code == "insufficient_storage"


async def test_a_server_keeps_its_port_and_its_files_over_a_restart(server: NatsServer, admin: Client) -> None:
    await topology.apply(admin, topology.topology())
    log_id = await topology.check(admin)
    url = server.url
    server.kill()
    server.start()
    assert server.url == url
    client = await connect(url)
    assert await topology.check(client) == log_id
    assert server_binary().endswith("nats-server")
    await client.close()
