"""The fast reader on a real server: each position once, whatever happens to the consumer."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import nats.aio.client
import nats.aio.msg
import nats.protocol.parser
import pytest

from tapeline import topology
from tapeline.errors import TapelineError
from tapeline.log import NewCommit, reader
from tapeline.log.bulk import BulkAppender, BulkClient
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.reader import ReadClient, commit_of, header_of
from tapeline.testing.commits import Opened, codec, commit, till
from tapeline.testing.log import appended, everything
from tapeline.testing.proxy import Proxy
from tapeline.testing.server import NatsServer, connect, connector
from tapeline.testing.stored import stored_commits


@pytest.fixture
async def log(server: NatsServer) -> AsyncIterator[JetStreamLog]:
    client = await server.connect()
    await topology.apply(client, topology.topology())
    yield JetStreamLog(client, codec(), connect=connector(server.url), role="test")
    await client.close()


async def filled(log: JetStreamLog, n: int, start: int = 0, name: str = "x") -> None:
    for at in range(start, start + n, 1000):
        batch: list[tuple[NewCommit, int]] = [
            (commit("c", Opened(name=name), ref=till(f"t{i}")), 0) for i in range(at, min(at + 1000, start + n))
        ]
        await log.append_all(batch)


class Follower:
    """Follows a log in a task of its own and keeps the positions."""

    def __init__(self, log: JetStreamLog, upto: int, pause_s: float = 0.0) -> None:
        self.heard: list[int] = []
        self._upto = upto
        self.task = asyncio.create_task(self._follow(log, pause_s))

    async def _follow(self, log: JetStreamLog, pause_s: float) -> None:
        async with aclosing(log.read(upto=self._upto, follow=True)) as lists:
            async for many in lists:
                self.heard.extend(one.position for one in many)
                await asyncio.sleep(pause_s)

    async def until(self, position: int) -> None:
        async with asyncio.timeout(20):
            while not self.heard or self.heard[-1] < position:  # noqa: ASYNC110 - polled on purpose
                await asyncio.sleep(0.01)


async def consumers(log: JetStreamLog) -> list[str]:
    msg = await log._client.request("$JS.API.CONSUMER.NAMES.EVENTS", b"{}", timeout=5)
    return list(json.loads(msg.data)["consumers"] or [])


async def test_every_position_is_read_once_in_order(log: JetStreamLog) -> None:
    await filled(log, 5500)
    assert [one.position for one in await everything(log)] == list(range(1, 5501))
    assert [one.position for one in await everything(log, after=990, upto=3010)] == list(range(991, 3011))


async def test_large_commits_end_pulls_early_and_none_is_lost(log: JetStreamLog) -> None:
    for start in range(0, 240, 40):
        await filled(log, 40, start, name="x" * 300_000)
    found = await everything(log)
    assert [one.position for one in found] == list(range(1, 241))
    assert min(len(one.body) for one in found) > 300_000


async def test_a_reader_goes_on_after_its_consumer_is_deleted(log: JetStreamLog) -> None:
    await filled(log, 1500)
    follower = Follower(log, upto=3000)
    await follower.until(1500)
    for start in (1500, 2000, 2500):
        for name in await consumers(log):
            await log._client.request(f"$JS.API.CONSUMER.DELETE.EVENTS.{name}", b"", timeout=5)
        await filled(log, 500, start)
        await follower.until(start + 500)
    await asyncio.wait_for(follower.task, 10)
    assert follower.heard == list(range(1, 3001))


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_reader_goes_on_after_the_server_was_away(server: NatsServer, log: JetStreamLog, how: str) -> None:
    await filled(log, 1200)
    follower = Follower(log, upto=1500)
    await follower.until(1200)
    for i in range(3):
        await asyncio.to_thread(server.stop if how == "restart" else server.kill)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(10):
            while True:
                try:
                    await filled(log, 100, 1200 + 100 * i)
                    break
                except TapelineError:
                    await asyncio.sleep(0.05)
        await follower.until(1300 + 100 * i)
    await asyncio.wait_for(follower.task, 10)
    assert follower.heard == list(range(1, 1501))


async def test_a_reader_goes_on_after_its_connection_was_cut(server: NatsServer, log: JetStreamLog) -> None:
    async with Proxy(server.port) as proxy:
        shaky = JetStreamLog(log._client, codec(), connect=connector(proxy.url))
        await filled(log, 20_000)
        follower = Follower(shaky, upto=20_000, pause_s=0.002)
        for position in (2000, 7000, 12_000, 17_000):
            await follower.until(position)
            proxy.cut()
        await asyncio.wait_for(follower.task, 30)
    assert follower.heard == list(range(1, 20_001))


async def test_a_reader_whose_server_falls_silent_makes_a_new_consumer(
    server: NatsServer, log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SILENCE_S", 0.4)
    monkeypatch.setattr(reader, "HEARTBEAT_S", 0.1)
    await filled(log, 10)
    follower = Follower(log, upto=20)
    await follower.until(10)
    [before] = await consumers(log)
    server.pause()
    await asyncio.sleep(1.0)
    server.go_on()
    async with asyncio.timeout(10):
        while set(await consumers(log)) <= {before}:  # noqa: ASYNC110 - polled on purpose
            await asyncio.sleep(0.02)
    await filled(log, 10, 10)
    await asyncio.wait_for(follower.task, 10)
    assert follower.heard == list(range(1, 21))


class Shaken:
    """Frames of a reader of which one delivery is lost, or comes twice, or after the next one."""

    def __init__(self, frames: Any, place: int, how: str) -> None:
        self._frames = frames
        self._place = place
        self._how = how
        self._seen = 0
        self._late: list[Any] = []

    def divert(self, sid: int, make: Any) -> None:
        self._frames.divert(sid, make)

    def reset(self) -> None:
        self._frames.reset()

    def feed(self, data: bytes) -> list[Any]:
        found: list[Any] = []
        for frame in self._frames.feed(data):
            if isinstance(frame, bytes) or len(frame) != 4:
                found.append(frame)
                continue
            for k, value in enumerate(frame[3]):
                self._seen += 1
                one = (frame[0] + k, frame[0] + k, frame[2], [value])
                late, self._late = self._late, []
                if self._seen != self._place:
                    found += [one, *late]
                elif self._how == "double":
                    found += [one, one]
                elif self._how == "late":
                    self._late = [one]
        return found


@pytest.mark.parametrize("how", ["drop", "double", "late"])
@pytest.mark.parametrize(
    "place", [place if place in (1, 3, 9) else pytest.param(place, marks=pytest.mark.long) for place in range(1, 10)]
)
async def test_a_delivery_that_is_lost_doubled_or_late_changes_nothing(
    server: NatsServer, log: JetStreamLog, monkeypatch: pytest.MonkeyPatch, how: str, place: int
) -> None:
    monkeypatch.setattr(reader, "SILENCE_S", 0.6)
    monkeypatch.setattr(reader, "HEARTBEAT_S", 0.2)
    shaken: list[Shaken] = []

    async def connect(client: nats.aio.client.Client, /, **options: Any) -> None:
        assert isinstance(client, ReadClient)
        client.intake._frames = Shaken(client.intake._frames, place, how)  # type: ignore[assignment]
        shaken.append(client.intake._frames)  # type: ignore[arg-type]
        await connector(server.url)(client, **options)

    await filled(log, 8)
    shaky = JetStreamLog(log._client, codec(), connect=connect)
    follower = Follower(shaky, upto=9)
    await asyncio.sleep(0.1)
    await filled(log, 1, 8)
    await asyncio.wait_for(follower.task, 10)
    assert follower.heard == list(range(1, 10))
    assert shaken[0]._seen >= place, "the delivery that was meant to be lost was one"


@pytest.mark.parametrize("what", ["request", "heartbeat"])
@pytest.mark.parametrize("place", [1, 2, 3])
async def test_a_request_or_a_heartbeat_that_is_lost_changes_nothing(
    server: NatsServer, log: JetStreamLog, monkeypatch: pytest.MonkeyPatch, what: str, place: int
) -> None:
    monkeypatch.setattr(reader, "SILENCE_S", 0.8)
    monkeypatch.setattr(reader, "HEARTBEAT_S", 0.2)
    seen = 0

    def is_lost(it_is_one: bool) -> bool:
        nonlocal seen
        seen += it_is_one
        return it_is_one and seen == place

    async def connect(client: nats.aio.client.Client, /, **options: Any) -> None:
        publish, process = client.publish, client._process_msg

        async def published(subject: str, *rest: Any, **more: Any) -> None:
            if not is_lost(what == "request" and ".CONSUMER.MSG.NEXT." in subject):
                await publish(subject, *rest, **more)

        async def processed(sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
            if not is_lost(what == "heartbeat" and (headers or b"").startswith(b"NATS/1.0 100")):
                await process(sid, subject, reply, data, headers)

        client.publish = published  # type: ignore[method-assign]
        client._process_msg = processed  # type: ignore[method-assign]
        await connector(server.url)(client, **options)

    await filled(log, 3500)
    follower = Follower(JetStreamLog(log._client, codec(), connect=connect), upto=3510)
    await follower.until(3500)
    async with asyncio.timeout(20):
        while seen < place:  # noqa: ASYNC110 - the loss is what is waited for
            await asyncio.sleep(0.01)
    await filled(log, 10, 3500)
    await asyncio.wait_for(follower.task, 20)
    assert follower.heard == list(range(1, 3511))


async def test_a_slow_caller_holds_at_most_two_thousand_messages(log: JetStreamLog) -> None:
    await filled(log, 8000)
    async with aclosing(log.read()) as lists:
        first = await anext(lists)
        await asyncio.sleep(0.3)
        [name] = await consumers(log)
        msg = await log._client.request(f"$JS.API.CONSUMER.INFO.EVENTS.{name}", b"", timeout=5)
        assert json.loads(msg.data)["delivered"]["stream_seq"] <= 2000
        taken = len(first)
        second = await anext(lists)
        await asyncio.sleep(0.3)
        msg = await log._client.request(f"$JS.API.CONSUMER.INFO.EVENTS.{name}", b"", timeout=5)
        assert json.loads(msg.data)["delivered"]["stream_seq"] <= 2000 + taken
        rest = [one async for many in lists for one in many]
    assert len(first) + len(second) + len(rest) == 8000


def resident_bytes() -> int:
    """What this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("commits", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)])
async def test_memory_stays_flat_however_long_the_log_is(server: NatsServer, log: JetStreamLog, commits: int) -> None:
    part = stored_commits(10_000)
    client = BulkClient()
    await connect(server.url, client)
    bulk = BulkAppender(client, position=0)
    for start in range(0, commits, len(part)):
        # What is repeated does not chain on: it is read, and not looked at.
        await bulk.add([msgspec.structs.replace(one, position=start + one.position) for one in part])
    await bulk.finish()
    await client.close()
    seen, first, most = 0, 0, 0
    async for many in log.read():
        seen += len(many)
        if seen >= commits // 10:
            most = max(most, resident_bytes())
            first = first or most
    assert seen == commits
    assert most - first < 48 * 1024 * 1024


async def test_a_reader_leaves_no_consumer_behind(log: JetStreamLog) -> None:
    await filled(log, 10)
    await everything(log)
    lists = log.read(follow=True)
    await anext(lists)
    assert len(await consumers(log)) == 1
    await lists.aclose()
    assert await consumers(log) == []


async def test_a_cancelled_follower_leaves_no_consumer_behind(log: JetStreamLog) -> None:
    follower = Follower(log, upto=99)
    await filled(log, 1)
    await follower.until(1)
    follower.task.cancel()
    await asyncio.gather(follower.task, return_exceptions=True)
    assert await consumers(log) == []


async def test_missing_positions_are_damage_and_are_named(server: NatsServer) -> None:
    client = await server.connect()
    await client.jetstream().add_stream(name="EVENTS", subjects=["evt.*.*.*"], allow_direct=True)
    log = JetStreamLog(client, codec(), connect=connector(server.url))
    await appended(log, 9)
    for position in (4, 5, 6):
        await client.jetstream().delete_msg("EVENTS", position)
    read: list[int] = []

    async def read_all() -> None:
        async for many in log.read():
            read.extend(one.position for one in many)

    with pytest.raises(TapelineError, match="positions 4-6 of EVENTS are missing") as damaged:
        await read_all()
    assert damaged.value.code == "log_damaged"
    assert read == [1, 2, 3]
    await client.close()


async def test_a_message_that_is_no_commit_is_damage(server: NatsServer, log: JetStreamLog) -> None:
    await log._client.jetstream().publish("evt.contoso.run.t1", b"hello")
    with pytest.raises(TapelineError, match="position 1 is no commit") as damaged:
        await everything(log)
    assert damaged.value.code == "log_damaged"


async def test_a_forbidden_read_is_denied_and_says_so(server: NatsServer, log: JetStreamLog) -> None:
    rule = 'permissions { publish { deny: "$JS.API.CONSUMER.>" } }'
    guarded = f"accounts {{ APP {{ jetstream: enabled, users: [ {{ user: u, password: p, {rule} }} ] }} }}"
    async with NatsServer(config=guarded) as other:
        client = await other.connect(user="u", password="p")
        await client.jetstream().add_stream(name="EVENTS", subjects=["evt.*.*.*"], allow_direct=True)
        denied = JetStreamLog(client, codec(), connect=connector(other.url, user="u", password="p"))
        await appended(denied, 1)
        with pytest.raises(TapelineError, match="may not read EVENTS") as refused:
            await everything(denied)
        assert refused.value.code == "denied"
        await client.close()


async def test_a_broker_that_is_not_there_is_unavailable(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CONNECT_S", 0.3)
    server.stop()
    # A client that was connected would try to come back, and now and then not hear that the test is over.
    away = JetStreamLog(nats.aio.client.Client(), codec(), connect=connector(server.url))
    with pytest.raises(TapelineError) as refused:
        await everything(away)
    assert refused.value.code == "unavailable"


async def test_the_client_library_still_parses_headers_where_we_override_it(server: NatsServer) -> None:
    """`ReadClient` leans on three private names: where headers are parsed, the parser, and what it calls."""
    assert "_process_headers" in vars(nats.aio.client.Client)
    assert isinstance(nats.aio.client.Client()._ps, nats.protocol.parser.Parser)
    given = inspect.signature(nats.aio.client.Client._process_msg).parameters
    assert list(given) == ["self", "sid", "subject", "reply", "data", "headers"]
    heard: list[object] = []
    client = ReadClient()
    await connector(server.url)(client)
    done = asyncio.Event()

    async def hear(msg: nats.aio.msg.Msg) -> None:
        heard.append(msg.headers)
        done.set()

    await client.subscribe("x", cb=hear)
    await client.publish("x", b"", headers={"Tl-Commit": "{}"})
    await asyncio.wait_for(done.wait(), 5)
    assert heard == [b"NATS/1.0\r\nTl-Commit: {}\r\n\r\n"]
    with pytest.raises(nats.errors.NoRespondersError):
        await client.request("nobody", b"", timeout=5)
    await client.close()


def test_headers_that_the_library_parsed_give_the_same_commit() -> None:
    raw = b"NATS/1.0\r\nNats-Msg-Id: m\r\nTl-Commit: {}\r\nTl-Stored-At: 2026-01-01T00:00:00.5Z\r\n\r\n"
    parsed = {"Nats-Msg-Id": "m", "Tl-Commit": "{}", "Tl-Stored-At": "2026-01-01T00:00:00.5Z"}
    assert commit_of(3, "s", raw, b"b", 7) == commit_of(3, "s", parsed, b"b", 7)
    assert header_of(raw, b"\r\nTl-Other: ") is header_of(parsed, b"\r\nTl-Other: ") is None
    assert commit_of(3, "s", raw, b"b", 7).stored_at.isoformat() == "2026-01-01T00:00:00.500000+00:00"
