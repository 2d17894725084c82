"""Figures of export, verify and import, durable on a real server.

    python tests/bench/backup.py [--commits 100000] [--events 2]

Prints one JSON object. `publish` are atomic batches to a running server, `import_whole` all of `tapeline log import`
into a new home.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from tapeline import replay, topology
from tapeline.home import Home
from tapeline.log.bulk import BulkAppender, BulkClient
from tapeline.log.jetstream import JetStreamLog
from tapeline.testing.server import NatsServer, connect, connector
from tapeline.testing.stored import CODEC, stored_commits


async def main(commits: int, events: int) -> None:
    stored = stored_commits(commits, events=events)
    with tempfile.TemporaryDirectory() as root, NatsServer() as source:
        folder = Path(root) / "export"
        first = BulkClient()
        await connect(source.url, first)
        await topology.apply(first, topology.topology())
        began = time.perf_counter()
        bulk = BulkAppender(first, position=0)
        for start in range(0, commits, 1000):
            await bulk.add(stored[start : start + 1000])
        await bulk.finish()
        published = time.perf_counter() - began
        log = JetStreamLog(first, CODEC, connect=connector(source.url), role="bench")
        took: dict[str, float] = {"publish": published}
        began = time.perf_counter()
        await replay.export(log, folder)
        took["export"] = time.perf_counter() - began
        began = time.perf_counter()
        report = await replay.verify(log)
        took["verify_log"] = time.perf_counter() - began
        assert report.ok
        began = time.perf_counter()
        replay.verify_only(folder)
        took["verify_export"] = time.perf_counter() - began
        began = time.perf_counter()
        done = await replay.restore(Home(Path(root) / "home"), folder)
        took["import_whole"] = time.perf_counter() - began
        assert done.written == commits
        await first.close()
    rates = {f"{name}_events_per_s": round(commits * events / seconds) for name, seconds in took.items()}
    size = sum(len(one.header) + len(one.body) for one in stored) / commits
    print(json.dumps({"commits": commits, "events": commits * events, "bytes_per_commit": round(size), **rates}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=2)
    given = parser.parse_args()
    asyncio.run(main(given.commits, given.events))
