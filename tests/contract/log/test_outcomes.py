"""Every outcome of an append, with a real server made to give it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from tapeline import hosting, topology
from tapeline.clock import SystemClock
from tapeline.embedded import server as embedded
from tapeline.errors import TapelineError
from tapeline.home import Home, read_json, write_json
from tapeline.log import Appended, Conflict, NewCommit
from tapeline.log.codec import read_brief
from tapeline.log.jetstream import JetStreamLog
from tapeline.testing.commits import AT, Opened, codec, commit, till
from tapeline.testing.log import everything, tail
from tapeline.testing.proxy import Proxy
from tapeline.testing.server import NatsServer, connector

SMALL = topology.Sizes(events=10**6, metrics=10**6, builds=10**6, leases=10**6)


class ShiftedClock(SystemClock):
    """The machine's clock, set forward."""

    shift_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.shift_s


@dataclass
class Bench:
    """A log behind a proxy, and the same log without one."""

    proxy: Proxy
    log: JetStreamLog
    direct: JetStreamLog
    clock: ShiftedClock


@pytest.fixture
async def bench(server: NatsServer) -> AsyncIterator[Bench]:
    clock = ShiftedClock()
    async with Proxy(server.port) as proxy:
        plain = await server.connect()
        await topology.apply(plain, topology.topology())
        through = await connector(proxy.url, allow_reconnect=True)(type(plain)())
        yield Bench(
            proxy,
            JetStreamLog(through, codec(), connect=connector(proxy.url), clock=clock, timeout_s=0.3, deadline_s=3.0),
            JetStreamLog(plain, codec(), connect=connector(server.url)),
            clock,
        )
        await through.close()
        await plain.close()


async def positions(log: JetStreamLog) -> list[int]:
    return [one.position for one in await everything(log)]


async def until_stored(log: JetStreamLog) -> None:
    while (await log.head()).position == 0:  # noqa: ASYNC110 - the log tells nobody but its appender
        await asyncio.sleep(0.01)


async def test_an_append_whose_ack_is_lost_is_found_by_reading(bench: Bench) -> None:
    bench.proxy.are_answers_held = True
    appending = asyncio.create_task(bench.log.append(commit("a"), expected=0))
    await until_stored(bench.direct)
    bench.proxy.cut()
    appended = await appending
    assert (appended.position, appended.sequence, appended.replayed) == (1, 1, False)
    assert await positions(bench.direct) == [1]


async def test_a_lost_request_is_sent_again_and_stored_once_though_it_comes_late(bench: Bench) -> None:
    bench.proxy.are_requests_held = True
    appending = asyncio.create_task(bench.log.append(commit("a"), expected=0))
    await asyncio.sleep(0.1)
    bench.proxy.cut()
    appended = await appending
    assert (appended.position, appended.replayed) == (1, False)
    await bench.proxy.deliver_late()
    await asyncio.sleep(0.2)
    assert await positions(bench.direct) == [1]


async def test_a_batch_whose_ack_is_lost_is_found_whole(bench: Bench) -> None:
    bench.proxy.are_answers_held = True
    batch: list[tuple[NewCommit, int]] = [(commit("x", ref=till(f"t{i}")), 0) for i in range(5)]
    appending = asyncio.create_task(bench.log.append_all(batch))
    await until_stored(bench.direct)
    bench.proxy.cut()
    assert [one.position for one in await appending] == [1, 2, 3, 4, 5]


async def test_a_half_sent_batch_stores_nothing_and_is_sent_again(bench: Bench) -> None:
    bench.proxy.are_requests_held = True
    batch: list[tuple[NewCommit, int]] = [(commit("x", ref=till(f"t{i}")), 0) for i in range(5)]
    appending = asyncio.create_task(bench.log.append_all(batch))
    await asyncio.sleep(0.1)
    bench.proxy.cut()
    assert [one.position for one in await appending] == [1, 2, 3, 4, 5]
    await bench.proxy.deliver_late()
    await asyncio.sleep(0.2)
    assert await positions(bench.direct) == [1, 2, 3, 4, 5]


async def test_a_log_that_stays_silent_is_an_unknown_outcome(bench: Bench) -> None:
    bench.proxy.are_answers_held = True
    with pytest.raises(TapelineError, match="did not answer") as unknown:
        await bench.log.append(commit("a"), expected=0)
    assert unknown.value.code == "unknown_outcome"
    bench.proxy.cut()
    later = commit("a", created_at=AT + timedelta(seconds=9))
    appended = await bench.log.append(later, expected=0)
    assert (appended.position, appended.replayed) == (1, True)
    assert await positions(bench.direct) == [1]


async def test_somebody_else_s_commit_after_a_lost_request_is_a_conflict(bench: Bench) -> None:
    bench.proxy.are_requests_held = True
    appending = asyncio.create_task(bench.log.append(commit("a"), expected=0))
    await asyncio.sleep(0.05)
    await bench.direct.append(commit("b"), expected=0)
    bench.proxy.cut()
    with pytest.raises(Conflict):
        await appending


async def test_three_silent_appends_over_a_living_connection_mean_that_the_log_is_stuck(
    server: NatsServer, bench: Bench
) -> None:
    bench.log._deadline_s = 1.0
    last = await bench.log.append(commit("a"), expected=0)
    server.pause()
    try:
        for i in range(3):
            assert not bench.log.is_stuck
            with pytest.raises(TapelineError) as unknown:
                await bench.log.append(commit(f"b{i}", after=last), expected=last.position)
            assert unknown.value.code == "unknown_outcome"
        assert bench.log.is_stuck
        with pytest.raises(TapelineError, match="does not accept writes") as refused:
            await bench.log.append(commit("c", after=last), expected=last.position)
        assert refused.value.code == "unavailable"
    finally:
        server.go_on()
    end = await tail(bench.direct, till())
    assert end is not None
    bench.clock.shift_s = 10.0
    await bench.log.append(commit("d", after=end), expected=end.position)
    assert not bench.log.is_stuck


async def test_a_missing_stream_is_unavailable_at_once(server: NatsServer) -> None:
    client = await server.connect()
    log = JetStreamLog(client, codec(), connect=connector(server.url))
    with pytest.raises(TapelineError, match="not reachable") as refused:
        await log.append(commit("a"), expected=0)
    assert refused.value.code == "unavailable"
    for call in (log.head(), log.load(till(), leader=True), log.read().__anext__()):
        with pytest.raises(TapelineError, match="EVENTS does not exist") as refused:
            await call
        assert refused.value.code == "topology_mismatch"
    await client.close()


async def test_a_full_log_refuses_and_keeps_what_it_has(server: NatsServer) -> None:
    client = await server.connect()
    sizes = topology.Sizes(events=256 * 1024, metrics=10**6, builds=10**6, leases=10**6)
    await topology.apply(client, topology.topology(sizes))
    log = JetStreamLog(client, codec(), connect=connector(server.url))
    last: Appended | None = None

    async def fill() -> None:
        nonlocal last
        for i in range(100):
            new = commit(f"c{i}", Opened(name="x" * 10_000), after=last)
            last = await log.append(new, expected=last.position if last else 0)

    with pytest.raises(TapelineError, match="stores nothing more") as refused:
        await fill()
    assert refused.value.code == "insufficient_storage"
    assert last is not None
    assert await positions(log) == list(range(1, last.position + 1))
    batch: list[tuple[NewCommit, int]] = [
        (commit("x", Opened(name="x" * 10_000), ref=till(f"t{i}")), 0) for i in range(5)
    ]
    with pytest.raises(TapelineError) as refused:
        await log.append_all(batch)
    assert refused.value.code == "insufficient_storage"
    raised = topology.Sizes(events=10**6, metrics=10**6, builds=10**6, leases=10**6)
    await topology.apply(client, topology.topology(raised))
    await log.append(commit("more", after=last), expected=last.position)
    await client.close()


async def test_a_log_that_is_nearly_full_makes_nothing_new_and_lets_what_is_there_end(server: NatsServer) -> None:
    client = await server.connect()
    await topology.apply(client, topology.topology(replace(SMALL, events=1024 * 1024)))
    log = JetStreamLog(client, codec(), connect=connector(server.url))
    last = await log.append(commit("c0"), expected=0)
    for i in range(1, 20):
        big = commit(f"c{i}", Opened(name="x" * 50_000), after=last)
        last = await log.append(big, expected=last.position)
    assert (await log.head()).size_bytes > 0.9 * 1024 * 1024
    log = JetStreamLog(client, codec(), connect=connector(server.url))
    new: tuple[NewCommit, int] = (commit("new", ref=till("t2")), 0)
    with pytest.raises(TapelineError, match=r"9\d% full and takes nothing new: run/t2 was not made") as refused:
        await log.append(new[0], expected=0)
    assert refused.value.code == "insufficient_storage"
    with pytest.raises(TapelineError, match="takes nothing new"):
        await log.append_all([(commit("both", after=last), last.position), new])
    last = await log.append(commit("end", after=last), expected=last.position)
    await topology.apply(client, topology.topology(replace(SMALL, events=2 * 1024 * 1024)))
    made = await log.append(new[0], expected=0)
    assert made.position == last.position + 1, "more room is used at once"
    await client.close()


async def test_a_log_that_stores_nothing_more_is_told_to_who_can_start_it_again(
    server: NatsServer, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosting, "STUCK_ASKED_EVERY_S", 0.01)
    home = Home(tmp_path)
    home.run.mkdir(parents=True)
    write_json(home.server_file, {"pid": 4711})
    bench.log._deadline_s = 1.0
    telling = asyncio.create_task(hosting.tell_stuck(home, bench.log, bench.log._client))
    bench.proxy.are_requests_held = True
    for i in range(3):
        await asyncio.sleep(0.03)
        assert not home.stuck_file.exists()
        with pytest.raises(TapelineError):
            await bench.log.append(commit(f"a{i}"), expected=0)
    async with asyncio.timeout(10):
        while not home.stuck_file.exists():  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.01)
    assert read_json(home.stuck_file) == {"pid": 4711}
    telling.cancel()
    bench.proxy.cut()
    bench.clock.shift_s = 10.0
    await bench.log.append(commit("later"), expected=0)
    assert not bench.log.is_stuck


async def test_a_server_that_stores_nothing_more_is_ended_and_starts_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_ASKED_EVERY_S", 0.01)
    home = Home(tmp_path)
    home.run.mkdir(parents=True)
    supervised = embedded.EmbeddedServer(home, port=-1)
    supervised._ports = (1, 1)
    write_json(home.stuck_file, {"pid": 4711})
    assert "stores nothing more" in await asyncio.wait_for(supervised._until_unwell(4711), 5)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(supervised._until_unwell(4712), 0.1)


async def test_a_message_that_the_server_finds_too_large_is_too_large(server: NatsServer) -> None:
    client = await server.connect()
    await client.jetstream().add_stream(name="EVENTS", subjects=["evt.*.*.*"], max_msg_size=1000)
    log = JetStreamLog(client, codec(), connect=connector(server.url))
    with pytest.raises(TapelineError) as refused:
        await log.append(commit("a", Opened(name="x" * 2000)), expected=0)
    assert refused.value.code == "too_large"
    await client.close()


async def test_a_message_id_that_belongs_to_another_commit_is_a_fault_of_ours(bench: Bench) -> None:
    client = await connector(bench.proxy.url)(type(bench.log._client)())
    await client.jetstream().publish(
        till("t2").subject, b"[]", headers={"Nats-Msg-Id": "contoso.run.t1:a", "Tl-Commit": "{}"}
    )
    with pytest.raises(TapelineError, match="another commit") as refused:
        await bench.log.append(commit("a"), expected=0)
    assert refused.value.code == "internal"
    await client.close()


async def test_no_command_is_lost_or_doubled_while_the_server_is_killed(server: NatsServer) -> None:
    client = await server.connect()
    await topology.apply(client, topology.topology())
    log = JetStreamLog(client, codec(), connect=connector(server.url), timeout_s=0.5, deadline_s=3.0)
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
        for i in range(40):
            await command(f"w{w}-{i}", f"t{w % 2}")

    async def killer() -> None:
        for _ in range(3):
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

    await asyncio.gather(killer(), *(writer(w) for w in range(4)))
    found = await everything(log)
    assert [one.position for one in found] == list(range(1, len(found) + 1))
    briefs = {
        subject: [read_brief(one.header, 0) for one in found if one.subject == subject]
        for subject in {one.subject for one in found}
    }
    for many in briefs.values():
        assert [one.seq for one in many] == list(range(1, len(many) + 1))
    at = {read_brief(one.header, 0).cmd: one.position for one in found}
    assert len(found) == len(at) == 160
    assert at == acknowledged
    await client.close()
