"""Requests that go past the client library's queues: the same answers, on a connection that both ways share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport
from nats.errors import MaxPayloadError, NoRespondersError

from tapeline.log import wire
from tapeline.log.asking import asker_of
from tapeline.log.intake import Intake, intake_of, publish
from tapeline.testing.proxy import Proxy
from tapeline.testing.server import NatsServer, connector


async def echoing(server: NatsServer) -> Client:
    """Somebody who answers with subject, headers and body."""
    client = await server.connect()

    async def echo(msg: Msg) -> None:
        await msg.respond(f"{msg.subject} {msg.headers} {msg.data.decode()}".encode())

    await client.subscribe("echo.*", cb=echo)
    await client.flush()
    return client


async def test_each_answer_goes_to_who_asked(server: NatsServer) -> None:
    other, client = await echoing(server), await server.connect()
    asked = [wire.answer(client, f"echo.{k}", b"%d" % k, timeout=5, headers={"A": str(k)}) for k in range(200)]
    library = [client.request(f"echo.x{k}", b"y", timeout=5) for k in range(20)]
    found = await asyncio.gather(*asked)
    assert found == [f"echo.{k} {{'A': '{k}'}} {k}".encode() for k in range(200)]
    assert [msg.data for msg in await asyncio.gather(*library)] == [f"echo.x{k} None y".encode() for k in range(20)]
    assert isinstance(client._ps, Intake), "the library's own traffic is cut by it too"
    for one in (other, client):
        await one.close()


async def test_what_the_library_raises_is_raised(server: NatsServer) -> None:
    client = await server.connect()
    with pytest.raises(NoRespondersError):
        await wire.answer(client, "nobody", b"", timeout=5)
    with pytest.raises(MaxPayloadError):
        await wire.answer(client, "nobody", bytes(2**21), timeout=5)
    with pytest.raises(ValueError, match="more than one line"):
        await wire.answer(client, "nobody", b"", timeout=5, headers={"A": "b\r\nNats-Rollup: all"})
    await client.close()


async def test_an_answer_that_does_not_come_is_given_up(server: NatsServer) -> None:
    silent, client = await server.connect(), await server.connect()

    async def ignore(_msg: Msg) -> None:
        pass

    await silent.subscribe("silent", cb=ignore)
    # The library writes its ping ahead of what still waits in its buffer: only the second tells anything.
    await silent.flush()
    await silent.flush()
    with pytest.raises(TimeoutError):
        await wire.answer(client, "silent", b"", timeout=0.05)
    asker = await asker_of(client)
    assert asker is not None
    assert asker._waiting == {}
    for one in (silent, client):
        await one.close()


async def test_an_answer_that_was_lost_with_the_connection_is_given_up_at_once(server: NatsServer) -> None:
    other = await echoing(server)
    async with Proxy(server.port) as proxy:
        client = await connector(proxy.url, allow_reconnect=True)(Client())
        assert await wire.answer(client, "echo.1", b"", timeout=5) == b"echo.1 None "
        proxy.are_answers_held = True
        asking = asyncio.create_task(wire.answer(client, "echo.2", b"", timeout=30))
        await asyncio.sleep(0.05)
        proxy.cut()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asking, 10)
        assert await wire.answer(client, "echo.3", b"", timeout=5) == b"echo.3 None ", "and then goes on"
        await client.close()
    await other.close()


async def test_a_connection_within_a_message_is_not_taken_over(server: NatsServer) -> None:
    client = await server.connect()
    client._ps.buf.extend(b"MSG hal")
    assert intake_of(client) is None
    client._ps.buf.clear()
    taken = intake_of(client)
    assert taken is not None
    assert taken is intake_of(client)
    await client.close()


async def test_the_names_that_asking_leans_on_are_there(server: NatsServer) -> None:
    """nats-py keeps them private: a version that lacks one is to be noticed here."""
    client = await server.connect()
    assert type(client._transport) is TcpTransport
    assert client._pending == []
    assert client._pending_data_size == 0
    assert client._max_payload == 2**20
    await client.close()


async def test_what_is_sent_in_one_turn_is_one_write_in_order(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, client = await echoing(server), await server.connect()
    heard: list[bytes] = []
    done = asyncio.Event()

    async def hear(msg: Msg) -> None:
        heard.append(msg.data)
        if len(heard) == 3:
            done.set()

    await other.subscribe("told", cb=hear)
    # The library writes its ping ahead of what still waits in its buffer: only the second tells anything.
    await other.flush()
    await other.flush()
    assert await wire.answer(client, "echo.0", b"", timeout=5) == b"echo.0 None "
    written: list[bytes] = []
    transport: Any = client._transport
    write = transport.write

    def note(text: bytes) -> None:
        written.append(text)
        write(text)

    monkeypatch.setattr(transport, "write", note)
    asked = [asyncio.ensure_future(wire.answer(client, f"echo.{k}", b"", timeout=5)) for k in range(9)]
    await publish(client, "told", b"1")
    await client.publish("told", b"2")
    await publish(client, "told", b"3")
    assert await asyncio.gather(*asked) == [f"echo.{k} None ".encode() for k in range(9)]
    await asyncio.wait_for(done.wait(), 10)
    assert heard == [b"1", b"2", b"3"]
    assert len(written) <= 3, "one for what was said at once, one for the requests that began a turn later"
    for one in (other, client):
        await one.close()


async def test_what_is_sent_while_there_is_no_connection_waits_for_one(server: NatsServer) -> None:
    other = await server.connect()
    heard = await other.subscribe("told")
    await other.flush()
    await other.flush()
    async with Proxy(server.port) as proxy:
        client = await connector(proxy.url, allow_reconnect=True)(Client())
        assert intake_of(client) is not None
        proxy.cut()
        for _ in range(500):
            if not client.is_connected:
                break
            await asyncio.sleep(0.01)
        await publish(client, "told", b"late")
        assert (await heard.next_msg(timeout=20)).data == b"late"
        await client.close()
    await other.close()
