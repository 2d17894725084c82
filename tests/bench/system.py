"""Figures of the whole embedded system: time to ready, memory when idle, import of the SDK, round trips.

    python tests/bench/system.py

Round trips are taken in alternation with a durable publish of the same server by the same client library,
starts with a fresh interpreter that imports nothing but FastStream and SQLAlchemy, and imports of the SDK with
those of pydantic, so that their ratios mean something on a noisy machine. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tapeline.connection import connect
from tapeline.embedded import start_detached, status, stop
from tapeline.home import Home
from tapeline.ids import new_id

STARTS = 5
ROUNDS = 1000


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def import_s(timed: str) -> float:
    """Seconds that some lines take in a fresh interpreter."""
    probe = f"import time; t = time.perf_counter(); {timed}; print(time.perf_counter() - t)"
    return float(subprocess.check_output([sys.executable, "-c", probe], text=True))


async def round_trips(home: Home, url: str) -> dict[str, float]:
    """Milliseconds of a query, of a durable command, and of a bare durable publish, interleaved."""
    user = await connect(home.credential("me"), url, name="bench")
    admin = await connect(home.credential("admin"), url, name="bench-admin")

    async def ask(verb: str, **fields: Any) -> Any:
        reply = json.loads((await user.request(f"tl.me.runs.{verb}", json.dumps(fields).encode(), timeout=10)).data)
        if "view" not in reply:
            raise SystemExit(f"runs.{verb}: {reply}")
        return reply["view"]

    stream = admin.jetstream()
    await stream.add_stream(name="BENCH", subjects=["bench"])
    run = (await ask("create", **_run((await ask("blueprints", name="selftest"))["items"][0]["id"])))["id"]
    await asyncio.sleep(1)  # a query without a position may come before the tables
    taken: dict[str, list[float]] = {"query": [], "command": [], "publish": []}
    for turn in range(ROUNDS):
        started = time.perf_counter()
        await ask("get", run=run)
        taken["query"].append(time.perf_counter() - started)
        started = time.perf_counter()
        await ask("set_notes", run=run, notes=f"turn {turn}", command_id=new_id())
        taken["command"].append(time.perf_counter() - started)
        started = time.perf_counter()
        await stream.publish("bench", b"x" * 300)
        taken["publish"].append(time.perf_counter() - started)
    await stream.delete_stream("BENCH")
    await user.close()
    await admin.close()
    figures = {}
    for name, values in taken.items():
        figures[f"{name}_p50_ms"] = round(percentile(values, 0.5) * 1000, 3)
        figures[f"{name}_p99_ms"] = round(percentile(values, 0.99) * 1000, 3)
    figures["command_p50_to_publish_p50"] = round(figures["command_p50_ms"] / figures["publish_p50_ms"], 2)
    return figures


def _run(blueprint: str) -> dict[str, Any]:
    # A device that no agent has: the run stays where it is and costs nothing while we measure.
    return {
        "name": "bench", "version": "1", "task_type": "bench", "project_id": "default", "device": "gpu",
        "blueprint_id": blueprint, "resources": {"cpu": "1", "memory": "1Gi"}, "config": {"steps": 1},
        "command_id": new_id(),
    }  # fmt: skip


def main() -> None:
    figures: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "python": platform.python_version(),
    }
    ready: list[float] = []
    libraries: list[float] = []
    with tempfile.TemporaryDirectory(prefix="tl-bench-") as folder:
        home = Home(Path(folder))
        for turn in range(STARTS):
            started = time.perf_counter()
            instance = start_detached(home, 60)
            ready.append(time.perf_counter() - started)
            if turn < STARTS - 1:
                stop(home)
                libraries.append(import_s("import faststream.nats, sqlalchemy"))
        try:
            time.sleep(5)
            figures["ready_s_first"] = round(ready[0], 2)
            figures["ready_s"] = round(statistics.median(ready[1:]), 2)
            figures["ready_least_s"] = round(min(ready), 2)
            figures["import_libraries_s"] = round(statistics.median(libraries), 3)
            figures["ready_to_libraries"] = round(statistics.median(ready[1:]) / statistics.median(libraries), 2)
            figures["idle_rss_mib"] = {
                process.name: round(process.rss_bytes / 2**20) for process in status(home, positions=False).processes
            }
            figures["idle_rss_mib_total"] = sum(figures["idle_rss_mib"].values())
            figures |= asyncio.run(round_trips(home, instance.url))
        finally:
            stop(home)
    imports = [
        (import_s("from tapeline import sdk as tl; tl.get_runs"), import_s("import pydantic; pydantic.BaseModel"))
        for _ in range(9)
    ][2:]
    figures["import_sdk_s"] = round(statistics.median(sdk for sdk, _ in imports), 3)
    figures["import_sdk_to_pydantic"] = round(statistics.median(sdk / library for sdk, library in imports), 2)
    figures["load"] = [round(value, 2) for value in os.getloadavg()]
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
