"""Figures of the log: durable append, and replay against the client library's `fetch`, in one run.

    python tests/bench/log.py [--commits 200000] [--appends 2000]

Prints one JSON object. Ratios are what counts: both sides of each are measured in the same process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import time

from nats.js.api import ConsumerConfig, DeliverPolicy

from tapeline import topology
from tapeline.log import Appended
from tapeline.log.jetstream import JetStreamLog
from tapeline.testing.commits import Opened, codec, commit, till
from tapeline.testing.server import NatsServer, connector

TEXT = "x" * 120  # brings the body to about 300 bytes


async def append_s(server: NatsServer, log: JetStreamLog, n: int) -> tuple[list[float], list[float]]:
    """Times of raw publishes and of appends in turn, so that both see the same machine."""
    client = await server.connect()
    await client.jetstream().add_stream(name="RAW", subjects=["raw.*"])
    _, body = codec().encode(commit("c", Opened(name=TEXT)))
    raw: list[float] = []
    took: list[float] = []
    last: Appended | None = None
    for i in range(n):
        started = time.perf_counter()
        await client.request("raw.x", body, timeout=5)
        raw.append(time.perf_counter() - started)
        new = commit(f"c{i}", Opened(name=TEXT), ref=till("bench"), after=last)
        started = time.perf_counter()
        last = await log.append(new, expected=last.position if last else 0)
        took.append(time.perf_counter() - started)
    await client.close()
    return raw, took


async def import_rate(log: JetStreamLog, n: int) -> float:
    started = time.perf_counter()
    for start in range(0, n, 1000):
        await log.append_all(
            [(commit("c", Opened(name=TEXT), ref=till(f"a{i}")), 0) for i in range(start, min(start + 1000, n))]
        )
    return n / (time.perf_counter() - started)


async def replay_rate(log: JetStreamLog) -> float:
    started, n = time.perf_counter(), 0
    async for many in log.read():
        n += len(many)
    return n / (time.perf_counter() - started)


async def decode_rate(log: JetStreamLog) -> float:
    started, n, reader = time.perf_counter(), 0, codec()
    async for many in log.read():
        for one in many:
            n += len(reader.decode(one))
    return n / (time.perf_counter() - started)


async def fetch_rate(server: NatsServer, n: int) -> float:
    client = await server.connect()
    js = client.jetstream()
    config = ConsumerConfig(name="bench", deliver_policy=DeliverPolicy.ALL, mem_storage=True)
    config.ack_policy = "none"  # type: ignore[assignment]
    await js.add_consumer("EVENTS", config)
    pull = await js.pull_subscribe_bind("bench", "EVENTS")
    started, got = time.perf_counter(), 0
    while got < n:
        got += len(await pull.fetch(min(1000, n - got), timeout=5))
    rate = got / (time.perf_counter() - started)
    await client.close()
    return rate


async def main(commits: int, appends: int) -> None:
    async with NatsServer() as server:
        client = await server.connect()
        await topology.apply(client, topology.topology())
        log = JetStreamLog(client, codec(), connect=connector(server.url), role="bench")
        raw, took = await append_s(server, log, appends)
        stored = await import_rate(log, commits)
        fetched = await fetch_rate(server, min(commits, 50_000))
        replayed = await replay_rate(log)
        decoded = await decode_rate(log)
        again = await replay_rate(log)
        await client.close()
    p50 = statistics.median(took) * 1e3
    raw_p50 = statistics.median(raw) * 1e3
    print(
        json.dumps(
            {
                "machine": f"{platform.machine()} {platform.python_version()}",
                "raw_publish_p50_ms": round(raw_p50, 3),
                "append_p50_ms": round(p50, 3),
                "append_p99_ms": round(statistics.quantiles(took, n=100)[98] * 1e3, 3),
                "append_to_raw": round(p50 / raw_p50, 2),
                "import_per_s": round(stored),
                "fetch_per_s": round(fetched),
                "replay_per_s": [round(replayed), round(again)],
                "replay_and_decode_per_s": round(decoded),
                "replay_to_fetch": round(max(replayed, again) / fetched, 2),
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=200_000)
    parser.add_argument("--appends", type=int, default=2_000)
    given = parser.parse_args()
    asyncio.run(main(given.commits, given.appends))
