"""Figures of the broker under the log: its restart, cold loads, and the lag of an idle system.

    python tests/bench/broker.py [--commits 1000000] [--restarts 3] [--settle 0]

Prints one JSON object; filling a log of a million commits takes half a minute. With
`--settle 125` it lets the server forget which message ids came in the last two minutes, as in a log that has grown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from contextlib import aclosing

from tapeline import topology
from tapeline.ids import new_id
from tapeline.log import Appended, NewCommit
from tapeline.log.bulk import BulkAppender, BulkClient
from tapeline.log.codec import digest
from tapeline.log.jetstream import JetStreamLog
from tapeline.testing.commits import codec, commit, till
from tapeline.testing.log import appended
from tapeline.testing.server import NatsServer, connect, connector
from tapeline.testing.stored import stored_commits

CODEC = codec()
PAGE = 10_000


async def filled(server: NatsServer, n: int) -> None:
    """A log of n commits over n/10 aggregates; made in parts, for the sake of memory."""
    client = BulkClient()
    await connect(server.url, client)
    await topology.apply(client, topology.topology())
    bulk, made = BulkAppender(client, position=0), stored_commits(min(n, 100_000), aggregates=10_000)
    for start in range(0, n, len(made)):
        # What is repeated does not chain on; the broker does not mind, and the restart is all that is measured.
        moved = [type(one)(start + one.position, one.subject, one.header, one.body, one.stored_at) for one in made]
        for k in range(0, min(len(moved), n - start), PAGE):
            await bulk.add(moved[k : min(k + PAGE, n - start)])
    await bulk.finish()
    await client.close()


async def answers(server: NatsServer, n: int) -> None:
    """Until the log says that it has all of its commits."""
    client = await server.connect()
    log = JetStreamLog(client, CODEC, connect=connector(server.url), role="bench")
    assert (await log.head()).position == n
    await client.close()


async def appended_to(server: NatsServer, n: int) -> None:
    """A few more commits, which the server has not written down the state of."""
    client = await server.connect()
    await appended(JetStreamLog(client, CODEC, connect=connector(server.url), role="bench"), n, till(new_id()))
    await client.close()


def restart_s(server: NatsServer, n: int) -> float:
    """From the start of a killed server to its answer about the whole log."""
    server.kill()
    began = time.perf_counter()
    server.start()
    asyncio.run(answers(server, n))
    return time.perf_counter() - began


def chain(id: str) -> list[tuple[NewCommit, int]]:
    """A hundred commits of one event on one aggregate."""
    made: list[tuple[NewCommit, int]] = []
    last: Appended | None = None
    for i in range(100):
        new = commit(f"c{i}", ref=till(id), after=last)
        made.append((new, i))
        last = Appended(position=i + 1, sequence=i + 1, digest=digest(new.ref.subject, *CODEC.encode(new)))
    return made


async def cold_load_ms(server: NatsServer, rounds: int = 50) -> float:
    """The load of an aggregate of a hundred events over a fresh connection, decoded."""
    writer = await server.connect()
    log = JetStreamLog(writer, CODEC, connect=connector(server.url), role="bench")
    for k in range(rounds):
        await log.append_all(chain(f"cold{k}"))
    took = []
    for k in range(rounds):
        client = await server.connect()
        cold = JetStreamLog(client, CODEC, connect=connector(server.url), role="bench")
        began = time.perf_counter()
        events = [event for one in await cold.load(till(f"cold{k}")) for event in CODEC.decode(one)]
        took.append(time.perf_counter() - began)
        assert len(events) == 100
        await client.close()
    await writer.close()
    return statistics.median(took) * 1e3


async def idle_lag_ms(server: NatsServer, n: int = 300) -> list[float]:
    """From an append to its commit in the hands of a follower, one at a time on an idle system."""
    client = await server.connect()
    log = JetStreamLog(client, CODEC, connect=connector(server.url), role="bench")
    after = (await log.head()).position
    heard: asyncio.Queue[float] = asyncio.Queue()

    async def follow() -> None:
        async with aclosing(log.read(after=after, follow=True)) as lists:
            async for many in lists:
                for _ in many:
                    heard.put_nowait(time.perf_counter())

    follower = asyncio.create_task(follow())
    [last] = await appended(log, 1, till("idle"))
    await heard.get()
    took = []
    for i in range(n):
        await asyncio.sleep(0.005)
        began = time.perf_counter()
        last = await log.append(commit(f"i{i}", ref=till("idle"), after=last), expected=last.position)
        took.append(await heard.get() - began)
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    await client.close()
    return [one * 1e3 for one in took]


def main(commits: int, restarts: int, settle: float) -> None:
    with NatsServer() as server:
        asyncio.run(filled(server, commits))
        fresh = [restart_s(server, commits) for _ in range(restarts)]
        # A start looks for repeated message ids in what came in the last two minutes: a log that has just been filled
        # is read once more for that, one that has grown for longer is not.
        time.sleep(settle)
        took, more = [], 0
        for _ in range(restarts):
            more += 100
            asyncio.run(appended_to(server, 100))
            took.append(restart_s(server, commits + more))
        server.stop()
        began = time.perf_counter()
        server.start()
        orderly = time.perf_counter() - began
        load = asyncio.run(cold_load_ms(server))
        lag = asyncio.run(idle_lag_ms(server))
    print(
        json.dumps(
            {
                "machine": f"{platform.machine()} {os.cpu_count()} cores, Python {platform.python_version()}",
                "load": round(os.getloadavg()[0], 1),
                "commits": commits,
                "restart_after_kill_s": [round(one, 2) for one in took],
                "goal": {
                    "aim": 2.0,
                    "found": round(statistics.median(took), 2),
                    "reached": statistics.median(took) < 2.0,
                },
                "restart_after_kill_just_filled_s": [round(one, 2) for one in fresh],
                "restart_after_stop_s": round(orderly, 3),
                "cold_load_of_100_events_p50_ms": round(load, 2),
                "append_to_reader_p50_ms": round(statistics.median(lag), 2),
                "append_to_reader_p99_ms": round(statistics.quantiles(lag, n=100)[98], 2),
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=1_000_000)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--settle", type=float, default=0.0, help="seconds")
    given = parser.parse_args()
    main(given.commits, given.restarts, given.settle)
