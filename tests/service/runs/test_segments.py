"""Measurements as they are stored and read: segments, pages of columns, curves, what counts, what is rebuilt."""

from __future__ import annotations

import asyncio
import base64
import random
import zlib
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, text

from tapeline.columns import Points, joined, pack, points_of, unpack
from tapeline.projections import reset
from tapeline.runs.metrics.tables import metric_batches, metric_segments

START_US = 1_750_000_000_000_000


@pytest.fixture(params=["sqlite", "postgresql"])
def open_service(request: pytest.FixtureRequest, server: Any, tmp_path: Any) -> Any:
    """The service on either database."""
    from tapeline.runs.app import build
    from tapeline.testing.hosted import hosted

    if request.param == "sqlite":
        yield lambda: hosted(server, build, tmp_path, "runs")
        return
    postgres = request.getfixturevalue("postgres")
    url = postgres.make_database()
    yield lambda: hosted(server, build, tmp_path, "runs", database_url=url)
    postgres.drop_database(url)


class Script:
    """A script that trains a run, without a spool: what it logs is sent as it says."""

    def __init__(self, host: Any, view: dict[str, Any]) -> None:
        self.host = host
        self.run, self.attempt, self.epoch = view["run_id"], view["attempt"], view["epoch"]
        self.batch = self.upto = 0
        self.clock = START_US

    async def log(self, points: dict[str, list[tuple[int, float]]], *, is_last: bool = False, **changes: Any) -> Any:
        """Send one batch: of each tag its steps and values, a millisecond apart."""
        columns, crc, count = [], 0, 0
        for tag, many in points.items():
            times = [self.clock + 1000 * i for i in range(len(many))]
            self.clock += 1000 * len(many)
            body = pack(points_of([step for step, _ in many], times, [value for _, value in many]))
            crc = zlib.crc32(body, crc)
            columns.append({"tag": tag, "body": base64.b64encode(body).decode()})
            count += len(many)
        fields = {
            "run": self.run, "attempt": self.attempt, "epoch": self.epoch, "batch": self.batch + 1,
            "first": self.upto + 1, "last": self.upto + count, "columns": columns, "crc": crc, "is_last": is_last,
        }  # fmt: skip
        view = await self.host.view("append_metrics", **(fields | changes))
        self.batch, self.upto = view["batch"], view["upto"]
        return view


@pytest.fixture
async def script(host: Any) -> Script:
    return Script(host, await host.view("start", name="by hand", host="h", pid=7))


async def columns(host: Any, run: str, **wanted: Any) -> dict[str, Points]:
    """All points of a run by tag, in the order of their times, page by page."""
    lots: dict[str, list[Points]] = {}
    reach = None
    while True:
        page = await host.view("columns", run=run, **wanted, **({} if reach is None else {"reach": reach}))
        for chunk in page["chunks"]:
            lots.setdefault(chunk["tag"], []).append(unpack(base64.b64decode(chunk["body"])))
        reach = page["next"]
        if reach is None:
            break
    found = {tag: joined(many) for tag, many in lots.items()}
    return {tag: points.take(np.argsort(points.times, kind="stable")) for tag, points in found.items()}


async def rows_of(host: Any, table: Any) -> int:
    return int(await host.platform.engine.read(lambda c: c.scalar(select(func.count()).select_from(table))))


async def folded(host: Any) -> None:
    """Wait until all that was taken in is in the tables."""
    measured = host.service.projectors[1]
    await measured.wait_for(await measured.head(), timeout_s=20)


async def test_points_are_the_same_in_the_tail_and_in_segments(host: Any, script: Script) -> None:
    values = np.random.default_rng(3).normal(size=9000).tolist()
    for start in range(0, 9000, 1000):
        await script.log({"loss": [(i, values[i]) for i in range(start, start + 1000)], "lr": [(start, 0.5)]})
    found = await columns(host, script.run)
    assert found["loss"].values() == values
    assert found["loss"].steps.tolist() == list(range(9000))
    assert len(found["lr"]) == 9
    assert await rows_of(host, metric_segments) > 0
    tail = await rows_of(host, metric_batches)
    assert 0 < tail < 10
    await script.log({}, is_last=True)
    assert (await columns(host, script.run))["loss"].values() == values
    assert await rows_of(host, metric_batches) == 0
    assert await rows_of(host, metric_segments) >= 3


async def test_a_sender_is_told_where_to_go_on(host: Any, script: Script) -> None:
    await script.log({"loss": [(1, 1.0), (2, 2.0)]})
    await script.log({"loss": [(3, 3.0)]})
    # One that remembers nothing begins with its first record.
    script.batch = script.upto = 0
    assert await script.log({"loss": [(1, 1.0), (2, 2.0)]}) == {"batch": 2, "upto": 3}
    assert await host.code(script.log({"loss": [(5, 5.0)]}, batch=3, first=5, last=5)) == "gap"
    assert await host.code(script.log({"loss": [(4, 4.0)]}, crc=1)) == "corrupt"
    await script.log({"loss": [(4, 4.0)]})
    assert (await columns(host, script.run))["loss"].values() == [1.0, 2.0, 3.0, 4.0]


async def test_the_later_of_two_points_at_a_step_counts(host: Any, script: Script) -> None:
    await script.log({"a": [(i, float(i)) for i in range(5000)], "b": [(1, 1.0), (1, 2.0), (2, 3.0)]}, is_last=True)
    await script.log({"a": [(10, -1.0), (20, -2.0), (10, -3.0)]})
    found = await columns(host, script.run)
    by_step = dict(zip(found["a"].steps.tolist(), found["a"].values(), strict=True))
    assert len(found["a"]) == 5000
    assert (by_step[10], by_step[20], by_step[30]) == (-3.0, -2.0, 30.0)
    assert found["b"].values() == [2.0, 3.0]
    raw = await columns(host, script.run, attempt=1)
    assert len(raw["a"]) == 5003
    page = (await host.view("metrics", run=script.run, tags=["a"], global_steps=[10, 20]))["items"]
    assert [(each["global_step"], each["value"]) for each in page] == [(10, -3.0), (20, -2.0)]
    before = page[-1]["created_at"]
    again = await host.view("metrics", run=script.run, tags=["a"], global_steps=[10, 20], created_before=before)
    assert again["items"] == []


async def test_pages_of_any_size_give_each_point_once(host: Any, script: Script) -> None:
    dice = random.Random(5)
    for _ in range(12):
        steps = {tag: [(dice.randrange(10**6), dice.random()) for _ in range(dice.randrange(1, 700))] for tag in "abc"}
        await script.log(steps, is_last=dice.random() < 0.3)
    everything = await columns(host, script.run, attempt="all")
    times = sorted((int(t) for points in everything.values() for t in points.times), reverse=True)
    assert len(set(times)) == len(times)
    seen: list[int] = []
    before: dict[str, Any] = {}
    while True:
        page = (await host.view("metrics", run=script.run, attempt="all", limit=777, **before))["items"]
        if not page:
            break
        seen += [int(each["id"].replace("-", "")[16:], 16) for each in page]
        before = {"created_before": page[-1]["created_at"]}
    assert seen == times


async def test_a_later_attempt_supersedes_and_an_earlier_one_may_come_late(host: Any, script: Script) -> None:
    await script.log({"loss": [(i, 1.0) for i in range(1, 9)], "old": [(8, 1.0)]})
    second = Script(host, await host.view("start", run=script.run, from_step=5, host="h", pid=8))
    assert (second.attempt, second.epoch) == (2, 2)
    second.clock = START_US
    await second.log({"loss": [(i, 2.0) for i in range(6, 9)]})
    # What the first process still had in its spool.
    await script.log({"loss": [(0, 0.5), (9, 1.0)]})
    found = (await columns(host, script.run))["loss"]
    assert dict(zip(found.steps.tolist(), found.values(), strict=True)) == {
        0: 0.5, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0, 6: 2.0, 7: 2.0, 8: 2.0,
    }  # fmt: skip
    latest = {each["tag"]: each for each in (await host.view("latest", run=script.run))["items"]}
    assert (latest["loss"]["global_step"], latest["loss"]["value"]) == (8, 2.0)
    assert "old" not in latest
    kept = (await host.view("measured", run=script.run))["items"]
    assert [(each["attempt"], each["batches"], each["points"]) for each in kept] == [(1, 2, 11), (2, 1, 3)]


@pytest.mark.parametrize("is_sealed", [True, False])
async def test_a_curve_keeps_first_last_and_extremes(host: Any, script: Script, is_sealed: bool) -> None:
    count = 20_000
    values = np.cumsum(np.random.default_rng(1).normal(size=count))
    values[[7000, 7001]] = np.nan, np.inf
    for start in range(0, count, 4000):
        lot = [(step, values[step]) for step in range(start, start + 4000)]
        await script.log({"loss": lot} | ({} if is_sealed else {f"t{i}": [(start, 0.0)] for i in range(20)}))
    asked = {"run": script.run, "tag": "loss", "points": 100}
    view = await host.view("series", **asked)
    found = unpack(base64.b64decode(view["body"]))
    assert (view["exact"], view["count"], view["nonfinite"]) == (False, count, 2)
    assert 50 <= len(found) <= 100
    steps = found.steps.tolist()
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, count - 1)
    assert {int(np.nanargmin(values)), int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))} <= set(steps)
    assert found.values() == values[steps].tolist()
    assert await host.view("series", **asked) == view
    whole = await host.view("series", run=script.run, tag="loss", points=100_000)
    assert (whole["exact"], whole["count"]) == (True, count)
    part = await host.view("series", run=script.run, tag="loss", start=100, stop=150)
    assert unpack(base64.b64decode(part["body"])).steps.tolist() == list(range(100, 150))
    assert part["exact"]
    by_time = await host.view("series", **asked, x="time", start=START_US + 1000 * 50)
    assert len(unpack(base64.b64decode(by_time["body"]))) <= 100
    assert (await host.view("series", run=script.run, tag="none"))["count"] == 0


async def test_rebuilt_tables_of_measurements_equal_the_live_ones(host: Any, script: Script) -> None:
    dice = random.Random(9)
    second: Script | None = None
    for i in range(40):
        if i == 20:
            second = Script(host, await host.view("start", run=script.run, from_step=500, host="h", pid=8))
        who = second if second is not None and dice.random() < 0.6 else script
        many = {f"t{n}": [(dice.randrange(1000), dice.random()) for _ in range(dice.randrange(1, 400))]
                for n in range(dice.randrange(1, 4))}  # fmt: skip
        await who.log(many, is_last=dice.random() < 0.1)
    await folded(host)
    measured = host.service.projectors[1]

    def dump(connection: Any) -> list[list[str]]:
        names = ("metric_attempts", "metric_batches", "metric_segments", "latest_metrics")
        return [sorted(map(repr, connection.execute(text(f"SELECT * FROM {name}")))) for name in names]

    live = await host.platform.engine.read(dump)
    assert all(live)
    await host.platform.engine.write(lambda connection: reset(connection, measured.name))
    for _ in range(1500):
        again = await host.platform.engine.read(dump)
        if again == live:
            return
        await asyncio.sleep(0.02)
    assert again == live


async def test_a_script_holds_its_run_until_it_ends_it(host: Any, script: Script) -> None:
    named = {"run": script.run, "epoch": 1}
    assert (await host.view("renew", **named))["answer"] == "ok"
    await host.ask("stop", run=script.run)
    assert (await host.view("renew", **named))["answer"] == "stop"
    await host.view("finish", **named, kind="completed", global_step=7, points=3, rejected=2, dropped=1)
    run = await host.view("get", run=script.run)
    assert (run["status"], run["device"], run["agent"]) == ("job_terminated", "attached:h", "user:ann")
    assert (await host.view("renew", **named))["answer"] == "fenced"
    assert await host.code(host.view("finish", **named, kind="completed")) == "fenced"
    # What was measured before the end is taken after it too.
    await script.log({"loss": [(1, 0.5)]})
    last = (await host.view("events", run=script.run, limit=1))["items"][0]["details"]
    assert (last["points"], last["metrics_rejected"], last["metrics_dropped"]) == (3, 2, 1)


async def test_nobody_else_measures_or_starts_a_run_of_a_script(host: Any, script: Script) -> None:
    fields = {"attempt": 1, "epoch": 1, "batch": 1, "first": 1, "last": 0}
    assert await host.code(host.view("append_metrics", run=script.run, user="bob", **fields)) == "not_found"
    assert await host.code(host.view("append_metrics", run=script.run, team="other", **fields)) == "not_found"
    assert await host.code(host.view("renew", run=script.run, epoch=1, user="bob")) == "not_found"
    await host.view("finish", run=script.run, epoch=1, kind="failed", message="boom")
    for verb in ("restart", "resume"):
        assert await host.code(host.view(verb, run=script.run)) == "conflict"
    assert await host.code(host.view("start", run=script.run, attempt=1, from_step=-1)) == "conflict"
    fields = {"name": "x", "version": "1", "task_type": "t", "project_id": "p", "config": {}, "resources": {}}
    (blueprint,) = (await host.view("blueprints", name="attached"))["items"]
    resources = {"resources": {"cpu": "1", "memory": "1Gi"}}
    assert await host.code(host.view("create", **(fields | resources), blueprint_id=blueprint["id"])) == "invalid"


async def test_a_script_that_was_not_heard_takes_its_attempt_up_again(host: Any, script: Script) -> None:
    dispatcher = next(
        t.__self__ for t in host.service.tasks if type(getattr(t, "__self__", None)).__name__ == "Dispatcher"
    )
    await dispatcher.expire("contoso", script.run, 1, "not_renewed")
    for _ in range(500):
        if (await host.view("get", run=script.run))["status"] == "job_unknown":
            break
        await asyncio.sleep(0.01)
    assert (await host.view("renew", run=script.run, epoch=1))["answer"] == "fenced"
    view = await host.view("start", run=script.run, attempt=1, from_step=-1, host="h", pid=7)
    assert (view["attempt"], view["epoch"]) == (1, 2)
    assert (await host.view("get", run=script.run))["status"] == "job_running"
    await script.log({"loss": [(1, 0.5)]})
    await host.view("finish", run=script.run, epoch=2, kind="completed", global_step=1)
    assert (await host.view("get", run=script.run))["status"] == "job_completed"
