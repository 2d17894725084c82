"""Figures of export, verify and import, durable on a real server.

    python tests/bench/backup.py [--commits 100000] [--events 2]

Prints one JSON object; import is given with and without the verification that goes before it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tapeline import replay, topology
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.names import NumberTaken
from tapeline.log import GENESIS, NewCommit, StoredCommit
from tapeline.log.bulk import BulkAppender, BulkClient
from tapeline.log.codec import Codec, digest
from tapeline.log.jetstream import JetStreamLog
from tapeline.subjects import Ref
from tapeline.testing.server import NatsServer, connect, connector

AGGREGATES = 1000


def made(n: int, events: int) -> list[StoredCommit]:
    """Commits of `events` events each, over a thousand aggregates."""
    codec, at = Codec(EVENTS, UPCASTERS), datetime(2026, 3, 2, tzinfo=UTC)
    tails: dict[int, tuple[int, str]] = {}
    found = []
    for i in range(n):
        sequence, prev = tails.get(i % AGGREGATES, (0, GENESIS))
        ref = Ref("contoso", "run", f"counter{i % AGGREGATES}")
        encoded = codec.encode(
            NewCommit(
                ref=ref, events=tuple(NumberTaken(number=i, holder="h" * 40) for _ in range(events)),
                sequence=sequence + 1, prev=prev, created_at=at, actor="user:ann", command="Take", command_id=f"c{i}",
            )
        )  # fmt: skip
        tails[i % AGGREGATES] = (sequence + events, digest(ref.subject, *encoded))
        found.append(
            StoredCommit(position=i + 1, subject=ref.subject, header=encoded.header, body=encoded.body, stored_at=at)
        )
    return found


async def main(commits: int, events: int) -> None:
    stored = made(commits, events)
    with tempfile.TemporaryDirectory() as folder, NatsServer() as source, NatsServer() as target:
        first, second = BulkClient(), BulkClient()
        for client, server in ((first, source), (second, target)):
            await connect(server.url, client)
            await topology.apply(client, topology.topology())
        began = time.perf_counter()
        bulk = BulkAppender(first, position=0)
        for start in range(0, commits, 1000):
            await bulk.add(stored[start : start + 1000])
        await bulk.finish()
        published = time.perf_counter() - began
        log = JetStreamLog(first, Codec(EVENTS, UPCASTERS), connect=connector(source.url), role="bench")
        took: dict[str, float] = {"publish": published}
        began = time.perf_counter()
        await replay.export(log, Path(folder))
        took["export"] = time.perf_counter() - began
        began = time.perf_counter()
        report = await replay.verify(log)
        took["verify_log"] = time.perf_counter() - began
        assert report.ok
        began = time.perf_counter()
        replay.verify_only(Path(folder))
        took["verify_export"] = time.perf_counter() - began
        began = time.perf_counter()
        done = await replay.import_log(second, Path(folder))
        took["import_whole"] = time.perf_counter() - began
        assert done.written == commits
        for client in (first, second):
            await client.close()
    rates = {f"{name}_events_per_s": round(commits * events / seconds) for name, seconds in took.items()}
    size = sum(len(one.header) + len(one.body) for one in stored) / commits
    print(json.dumps({"commits": commits, "events": commits * events, "bytes_per_commit": round(size), **rates}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=2)
    given = parser.parse_args()
    asyncio.run(main(given.commits, given.events))
