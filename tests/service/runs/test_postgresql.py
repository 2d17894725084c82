"""The runs service with its tables on PostgreSQL: lists, patterns, measurements and a whole life."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapeline import replay
from tapeline.ids import new_id
from tapeline.runs import projection
from tapeline.runs.app import build
from tapeline.testing.hosted import hosted
from tapeline.testing.postgres import PostgresServer
from tapeline.testing.server import NatsServer

NAMES = ["test-run", "FOOtest-runBAR", "%test_run", "%test9run", "ÄRGER", "back\\slash", "a-b", "aB"]


@pytest.fixture
def open_service(server: NatsServer, tmp_path: Path, postgres: PostgresServer) -> Iterator[Any]:
    url = postgres.make_database()
    yield lambda: hosted(server, build, tmp_path, "runs", database_url=url)
    postgres.drop_database(url)


async def listed(runs: Any, **fields: Any) -> list[str]:
    return [run["name"] for run in (await runs.view("list", limit=100, **fields))["items"]]


async def test_runs_are_listed_by_pattern_filter_and_page(runs: Any) -> None:
    made = [await runs.create(name=name, project_id=f"p{i % 2}") for i, name in enumerate(NAMES)]
    await runs.ask("stop", run="2")
    assert await listed(runs) == NAMES[::-1]
    for pattern, matching in {
        "%test-run%": ["test-run", "FOOtest-runBAR"],
        "\\%test_run": ["%test_run", "%test9run"],
        "TEST\\_RUN": [],
        "ä%": ["ÄRGER"],
        "back\\slash": ["back\\slash"],
        "back\\\\slash": ["back\\slash"],
        "A_B": ["a-b"],
        "%": NAMES,
    }.items():
        assert await listed(runs, name_ilikes=[pattern], sort=["id:asc"]) == matching, pattern
    assert await listed(runs, statuses=["job_terminated"]) == [NAMES[1]]
    assert await listed(runs, ids=[made[2]["id"], new_id(), "no uuid"]) == [NAMES[2]]
    assert await listed(runs, numbers=[1, 99, 2**40]) == [NAMES[0]]
    assert await listed(runs, id_after=made[5]["id"], sort=["id:asc"]) == NAMES[6:]
    sixth = (await runs.view("get", run=made[5]["id"]))["created_at"]
    assert await listed(runs, created_after=sixth, sort=["created_at:asc"]) == NAMES[6:]
    assert await listed(runs, sort=["id:asc"], offset=6) == NAMES[6:]
    (run,) = (await runs.view("list", limit=1, select=["config"]))["items"]
    assert run["config"] == {"steps": 10}


async def test_a_run_lives_measures_and_ends(runs: Any, agent: Any) -> None:
    run = await runs.create()
    lease = await agent.take()
    await agent.started(lease)
    now = time.time_ns()
    points = [(1, 0.5, now), (2, float("nan"), now + 1000), (3, 1e300, now + 2000)]
    await agent.measure(lease, 1, {"loss": points})
    await agent.measure(lease, 1, {"loss": points})
    await agent.checkpoint(lease, 5)
    await agent.completed(lease)
    view = await runs.until(run["id"], "job_completed")
    assert view["agent"] == "a1"
    measured = (await runs.view("metrics", run=run["id"]))["items"]
    assert [point["value"] for point in measured] == [1e300, "NaN", 0.5]
    (checkpoint,) = (await runs.view("checkpoints", run_ids=[run["id"]]))["items"]
    assert checkpoint["monitored"] == {"val/loss": 0.5}
    events = (await runs.view("events", run=run["id"], sort="sequence:asc", limit=100))["items"]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))


async def test_a_run_that_cannot_be_folded_is_shown_as_stale(
    runs: Any, host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = await runs.create(), await runs.create()
    fold = projection.apply

    def apply(rows: Any, event: Any) -> None:
        fold(rows, event)
        if event.type == "NotesChanged" and event.data.notes == "poison":
            raise ValueError("poison")

    monkeypatch.setattr(projection, "apply", apply)
    await runs.ask("set_notes", run=run["id"], notes="poison")
    await runs.ask("set_notes", run=other["id"], notes="fine")
    view = await runs.view("get", run=run["id"])
    assert (view["notes"], view["stale"]) == (None, True)
    view = await runs.view("get", run=other["id"])
    assert (view["notes"], view["stale"]) == ("fine", None)
    listed = (await runs.view("list"))["items"]
    assert {view["id"]: view["stale"] for view in listed} == {run["id"]: True, other["id"]: None}
    monkeypatch.setattr(projection, "apply", fold)
    assert await replay.retry({"runs": host.platform.engine}, "runs") == []
    view = await runs.view("get", run=run["id"])
    assert (view["notes"], view["stale"]) == ("poison", None)
