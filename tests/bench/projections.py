"""Figures of the projections: the run projection rebuilt into SQLite and into PostgreSQL, in one run.

    python tests/bench/projections.py [--runs 5000]

Prints one JSON object. Every figure is events per second, from the stored commits to committed rows; what
decoding and folding alone cost is measured beside, so that one sees where the time goes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.runs import (
    CheckpointBegun,
    CheckpointCompleted,
    JobCompleted,
    JobCreated,
    JobStarted,
    JobSubmitted,
    LeaseGranted,
    RunCreated,
)
from tapeline.database import make_engine, sqlite_url
from tapeline.ids import new_id
from tapeline.log import GENESIS, NewCommit
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.projections import LogSource, Projector, Rows, statements
from tapeline.projections.building import Builder
from tapeline.runs import projection
from tapeline.subjects import Ref
from tapeline.testing.commits import AT
from tapeline.testing.postgres import PostgresServer

CODEC = Codec(EVENTS, UPCASTERS)
FILE = Artifact(name="model.keras", size_bytes=3, sha256="0" * 64)


def life(number: int) -> list[tuple[Any, ...]]:
    """The commits of one run that trains for three epochs."""
    born = RunCreated(
        number=number, name=f"run {number}", version="1", project_id="default", blueprint_id="b", task_type="training",
        resources={"cpu": "1", "memory": "1Gi"}, config={"steps": 10, "optimizer": "adam"}, user="ann",
    )  # fmt: skip
    spec = {"blueprint": {"name": "selftest", "version": "1.0.0"}}
    created = JobCreated(attempt=1, session_name=f"run-{number}", seed=0, spec=spec)
    commits: list[tuple[Any, ...]] = [
        (born,),
        (created, JobSubmitted(attempt=1)),
        (LeaseGranted(attempt=1, agent="a1", device="cpu0", epoch=1, ttl_s=30),),
        (JobStarted(epoch=1, pid=7, resume="none"),),
    ]
    for epoch in range(3):
        named = f"r{number}-c{epoch}"
        commits.append((CheckpointBegun(checkpoint_id=named, epoch=1, attempt=1, global_step=epoch),))
        completed = CheckpointCompleted(
            checkpoint_id=named, epoch=1, attempt=1, global_step=epoch, training_epoch=epoch, files=[FILE],
            monitored={"val/loss": 0.5},
        )  # fmt: skip
        commits.append((completed,))
    commits.append((JobCompleted(global_step=10, training_epochs=3),))
    return commits


async def history(runs: int) -> tuple[InMemoryLog, int]:
    """A log on which so many runs live at the same time, a thousand together, and its number of events."""
    log, events = InMemoryLog(CODEC), 0
    for start in range(0, runs, 1000):
        lives = [(Ref("main", "run", new_id()), life(i)) for i in range(start, min(start + 1000, runs))]
        tails: dict[Ref, Any] = {}
        for turn in range(len(lives[0][1])):
            many = []
            for ref, commits in lives:
                last = tails.get(ref)
                made = NewCommit(
                    ref=ref, events=commits[turn], sequence=last.sequence + 1 if last else 1,
                    prev=last.digest if last else GENESIS, created_at=AT, actor="user:ann", command="Bench",
                    command_id=new_id(),
                )  # fmt: skip
                many.append((made, last.position if last else 0))
                events += len(commits[turn])
            for (ref, _), place in zip(lives, await log.append_all(many), strict=True):
                tails[ref] = place
    return log, events


class Ending(LogSource):
    """The log up to its end."""

    async def read(self, after: int, upto: int | None = None) -> AsyncGenerator[tuple[int, list[Any]], None]:
        async for commits in self._log.read(after=after):
            yield commits[-1].position, [event for commit in commits for event in self._codec.decode(commit)]


async def decoding_s(log: InMemoryLog) -> float:
    started = time.perf_counter()
    async for _ in Ending(log, CODEC, projection.kinds).read(0):
        pass
    return time.perf_counter() - started


async def folding_s(log: InMemoryLog) -> float:
    """Decoding and folding, with all rows kept in memory."""
    started, rows = time.perf_counter(), Rows(is_whole=True)
    async for _, events in Ending(log, CODEC, projection.kinds).read(0):
        for event in events:
            projection.apply(rows, event)
    return time.perf_counter() - started


async def rebuild_s(log: InMemoryLog, url: str) -> float:
    engine = make_engine(url)
    builder = Builder(Projector(LogSource(log, CODEC, projection.kinds), projection, engine))
    gc.collect()
    started = time.perf_counter()
    await builder.build()
    await builder.switch()
    took = time.perf_counter() - started
    await engine.dispose()
    return took


async def measured(runs: int, urls: dict[str, str]) -> dict[str, Any]:
    log, events = await history(runs)
    times = {"decode": await decoding_s(log), "decode_and_fold": await folding_s(log)}
    for name, url in urls.items():
        if name.endswith("_single_statements"):
            statements.COPY_ROWS, usual = 2**31, statements.COPY_ROWS
            times[name] = await rebuild_s(log, url)
            statements.COPY_ROWS = usual
        else:
            times[name] = await rebuild_s(log, url)
    return {"events": events} | {f"{name}_per_s": round(events / took) for name, took in times.items()}


def main(runs: int) -> None:
    with PostgresServer(durable=True) as server, tempfile.TemporaryDirectory() as folder:
        urls = {
            "sqlite": sqlite_url(Path(folder) / "runs.db"),
            "postgresql": server.make_database(),
            "postgresql_single_statements": server.make_database(),
        }
        found = asyncio.run(measured(runs, urls))
    machine = f"{platform.machine()} {platform.python_version()}"
    aims = {"sqlite_per_s": 100_000, "postgresql_to_single_statements": 1.6}
    found["postgresql_to_single_statements"] = found["postgresql_per_s"] / found["postgresql_single_statements_per_s"]
    goals = {what: {"aim": aim, "found": found[what], "reached": found[what] >= aim} for what, aim in aims.items()}
    print(json.dumps({"machine": machine, "runs": runs} | found | {"goals": goals}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5_000)
    main(parser.parse_args().runs)
