"""Figures of the SDK and of the lists behind it.

    python tests/bench/sdk.py [--runs 50000] [--created 2000] [--tags 10000] [--many 100000]

Runs are created on an embedded instance, by one caller with a rest between two and by 16 at once, for a blueprint
that no agent has, so that nothing trains meanwhile; a durable publish on the same server is interleaved, so that the
ratio means something on a noisy machine. Lists are read from tables that hold `--runs` runs with ten metrics each,
through the verb, its JSON and the objects of the SDK. With `--tags` metrics in one run, 20 points each, logged by
`tl.start`, and lists again with `--many` runs, it is seen that both stay usable; 0 leaves one of them out. Prints
one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import MetaData, Table, insert, text

from tapeline import sdk as tl
from tapeline.bus import answer
from tapeline.clock import SystemClock
from tapeline.connection import connect
from tapeline.embedded import start_detached, stop
from tapeline.home import Home
from tapeline.ids import new_id
from tapeline.runs.app import build
from tapeline.runs.blueprint.builtin import SELFTEST
from tapeline.runs.metrics.tables import latest_metrics
from tapeline.runs.run.tables import runs
from tapeline.sdk.runs import run_of
from tapeline.testing.hosted import Hosted, hosted
from tapeline.testing.server import NatsServer

CALLERS = 16
IMPORTS = 5
ROUNDS = 60
STEPS = 20
STATUSES = ("job_completed", "job_failed", "job_terminated", "job_pending")
TARGETS = {
    "import_s": 0.25, "create_p50_ms": 3.0, "created_per_s": 1_000, "page_p50_ms": 20.0,
}  # fmt: skip


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def import_s() -> float:
    """Seconds of `import tapeline.sdk` in a fresh interpreter, the median of several."""
    probe = "import time; t = time.perf_counter(); import tapeline.sdk; print(time.perf_counter() - t)"
    return statistics.median(
        float(subprocess.check_output([sys.executable, "-c", probe], text=True)) for _ in range(IMPORTS)
    )


async def created(home: Home, url: str, many: int) -> dict[str, float]:
    """Milliseconds of one creation and of a bare durable publish, interleaved; creations a second of 16 callers."""
    blueprint = tl.register_blueprint(name="bench", version="1.0.0", schema={"type": "object"}, entrypoint="b:t")
    fields = {
        "name": "bench", "version": "1", "resources": {"cpu": "1", "memory": "64Mi"}, "config": {"steps": 3},
        "task_type": "training", "blueprint_id": blueprint, "project_id": "bench",
    }  # fmt: skip
    user = await connect(home.credential("me"), url, name="bench")
    admin = await connect(home.credential("admin"), url, name="bench-admin")

    async def create() -> None:
        body = json.dumps(fields | {"command_id": new_id()}).encode()
        reply = json.loads((await user.request("tl.me.runs.create", body, timeout=30)).data)
        assert "view" in reply, reply

    async def publish() -> None:
        await admin.request("$KV.LEASES.bench", b"x" * 600, timeout=30)

    async def timed(work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        await work()
        return (time.perf_counter() - start) * 1e3

    # Another connection than the one that has registered it: the tables need not have it yet.
    await asyncio.sleep(1.0)
    await create()
    ones, publishes = [], []
    for _ in range(ROUNDS):
        ones.append(await timed(create))
        publishes.append(await timed(publish))
        # What follows from a creation is over before the next one is timed.
        await asyncio.sleep(0.05)
    left = many

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await create()

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    elapsed = time.perf_counter() - start
    await user.close()
    await admin.close()
    return {
        "create_p50_ms": statistics.median(ones),
        "create_p99_ms": percentile(ones, 0.99),
        "publish_p50_ms": statistics.median(publishes),
        "create_to_publish": statistics.median(ones) / statistics.median(publishes),
        "created_per_s": many / elapsed,
    }


def rows_of(count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of runs, one a second, and of their ten last metrics."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    made, measured = [], []
    for i in range(count):
        run_id = f"0{i:07x}-0000-7000-8000-{i:012x}"
        at = int((begin + timedelta(seconds=i)).timestamp() * 1e6)
        made.append(
            {
                "team": "contoso", "id": run_id, "number": i + 1, "name": f"run {i % 977} of spy",
                "name_lower": f"run {i % 977} of spy", "version": f"1.{i % 9}", "project_id": f"p{i % 20}",
                "blueprint_id": SELFTEST.id, "task_type": "training", "user_id": f"u{i % 7}",
                "resources": {"cpu": "1", "memory": "1Gi"}, "config": {"epochs": 3, "seed": i}, "created_us": at,
                "status": STATUSES[i % 3] if i % 500 else STATUSES[3], "status_updated_us": at, "status_event": "e",
                "priority": 0, "wanted_device": "any", "attempt": 1, "epoch": 1, "is_deleted": False,
            }
        )  # fmt: skip
        measured += [
            {
                "team": "contoso", "run_id": run_id, "tag": f"val/m{tag}", "attempt": 1, "batch": 1, "place": 0,
                "global_step": 100, "time_us": at, "whole": None, "real": i / (tag + 1), "special": None,
            }
            for tag in range(10)
        ]  # fmt: skip
    return made, measured


PAGES: dict[str, dict[str, Any]] = {
    "newest": {},
    "filtered": {"project_ids": ["p3", "p7"], "statuses": ["job_completed"], "sort": ["created_at:desc"]},
    "rare status": {"statuses": ["job_pending"], "sort": ["created_at:asc"]},
    "pattern": {"name_ilikes": ["%run 97_ of%"], "sort": ["id:desc"]},
    "names": {"name_ilikes": ["run 5 of spy"], "project_ids": ["p5"]},
    "keyset": {"created_before": "2026-01-01T06:00:00Z"},
    "deep offset": {"offset": 40_000},
    "selected": {"select": ["id", "name", "status"], "user_ids": ["u3"]},
}


def _stored(connection: Any, table: Table) -> Table:
    """The table that a name stands for: what is read is a view of the tables of one generation."""
    told = connection.scalar(text("SELECT sql FROM sqlite_master WHERE name = :name"), {"name": table.name})
    name = str(told).split()[-1].strip('"') if str(told).upper().startswith("CREATE VIEW") else table.name
    return table.to_metadata(MetaData(), name=name)


async def listed(host: Hosted, count: int) -> dict[str, Any]:
    """Milliseconds of pages of 100 through the verb, its JSON and the objects of the SDK, and their plans."""
    engine = host.platform.engine
    made, measured = rows_of(count)

    def fill(connection: Any) -> None:
        for start in range(0, len(made), 2_000):
            connection.execute(insert(_stored(connection, runs)), made[start : start + 2_000])
        columns = {column.name for column in latest_metrics.columns}
        rows = [{name: value for name, value in row.items() if name in columns} for row in measured]
        for start in range(0, len(rows), 10_000):
            connection.execute(insert(_stored(connection, latest_metrics)), rows[start : start + 10_000])
        connection.execute(text("ANALYZE"))

    await engine.write(fill)
    verb = next(verb for verb in host.service.verbs if verb.name == "list")
    subject = verb.subject.replace("*", "contoso", 1).replace("*", "ann", 1)
    found: dict[str, Any] = {}
    for name, fields in PAGES.items():
        body = json.dumps({"limit": 100} | fields).encode()
        times, items = [], 0
        for _ in range(ROUNDS):
            start = time.perf_counter()
            reply = json.loads(await answer(verb, subject, body, {}, SystemClock(), noted=False))
            items = len([run_of(view) for view in reply["view"]["items"]])
            times.append((time.perf_counter() - start) * 1e3)
        found[name] = {"p50_ms": statistics.median(times), "p99_ms": percentile(times, 0.99), "runs": items}
    return found


def wide(tags: int) -> dict[str, float]:
    """Seconds and milliseconds of a run with very many metrics: logged, listed, read by one tag and by all."""
    names = [f"group{i % 100}/metric{i}" for i in range(tags)]
    found: dict[str, float] = {"tags": tags, "points": tags * STEPS}
    with tl.start("wide", project="bench") as run:
        start = time.perf_counter()
        for step in range(STEPS):
            run.log({name: step / (i + 1) for i, name in enumerate(names)}, step)
        found["log_us_a_point"] = (time.perf_counter() - start) * 1e6 / (tags * STEPS)
        start = time.perf_counter()
        assert run.flush(600)
        found["flush_s"] = time.perf_counter() - start
        assert (run.dropped, run.rejected) == (0, {})

    def timed(work: Callable[[], Any]) -> tuple[float, Any]:
        times, given = [], None
        for _ in range(5):
            began = time.perf_counter()
            given = work()
            times.append((time.perf_counter() - began) * 1e3)
        return statistics.median(times), given

    run.latest()
    found["latest_ms"], latest = timed(run.latest)
    found["series_ms"], curve = timed(lambda: run.get_series(names[tags // 2]))
    found["columns_of_one_tag_ms"], columns = timed(lambda: run.get_columns(names[tags // 2]))
    found["newest_1000_points_ms"], newest = timed(run.get_metrics)
    start = time.perf_counter()
    everything = run.get_all_metrics()
    found["all_points_s"] = time.perf_counter() - start
    assert (len(latest), len(curve), len(columns), len(newest)) == (tags, STEPS, STEPS, min(1000, tags * STEPS))
    assert len(everything) == tags * STEPS
    return found


async def tables(count: int) -> dict[str, Any]:
    """The figures of lists, on a service of this process."""
    with NatsServer() as server, tempfile.TemporaryDirectory() as folder:
        async with hosted(server, build, Path(folder), "runs") as host:
            return await listed(host, count)


def main() -> None:
    """Take the figures and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50_000)
    parser.add_argument("--created", type=int, default=2_000)
    parser.add_argument("--tags", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=100_000)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    figures: dict[str, Any] = {"import_s": import_s()}
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        os.environ["TAPELINE_HOME"] = str(home.root)
        start_detached(home, 60)
        try:
            client = tl.connect()
            figures |= asyncio.run(created(home, client.url, given.created))
            if given.tags:
                figures["wide"] = wide(given.tags)
            client.close()
        finally:
            stop(home)
    figures["pages"] = asyncio.run(tables(given.runs))
    if given.many:
        figures[f"pages_of_{given.many}"] = asyncio.run(tables(given.many))
    figures["page_p50_ms"] = figures["pages"]["filtered"]["p50_ms"]
    figures["reached"] = {
        name: figures[name] >= target if name.endswith("per_s") else figures[name] <= target
        for name, target in TARGETS.items()
    }
    print(json.dumps({"runs": given.runs, **figures}, indent=1))


if __name__ == "__main__":
    main()
