"""Points of runs that ended: archived, purged, built again; read equal after each, whatever was killed on the way."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection

from tapeline import replay
from tapeline.columns import joined, unpack
from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.decider import Deciders
from tapeline.errors import TapelineError
from tapeline.failpoints import armed
from tapeline.hosting import HostSettings
from tapeline.log.codec import Codec
from tapeline.projections import reset
from tapeline.projections.state import active
from tapeline.replay.purging import Purged, purge_metrics
from tapeline.replay.rebuild import dump
from tapeline.replay.worlds import Worlds
from tapeline.runs.metrics.archives import unmarked
from tapeline.runs.metrics.archiving import Archiving
from tapeline.runs.metrics.intake import Incoming, Intake
from tapeline.runs.metrics.tables import TABLES
from tapeline.subjects import Ref
from tapeline.testing.history import Entry, check_metrics

NAN = "NaN"


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


sqlite_only = pytest.mark.parametrize("open_service", ["sqlite"], indirect=True)


class Life:
    """A run of two attempts, the second from step 2500 of the first, with a tail that no segment holds."""

    def __init__(self, host: Any, runs: Any, agent: Any, lease: dict[str, Any], run: str) -> None:
        self.host, self.runs, self.agent, self.lease, self.run = host, runs, agent, lease, run
        self.ref = Ref("main", "run", run)
        self.batches = 2

    async def all_that_is_read(self) -> dict[str, Any]:
        """Every answer about the run's points: how many there are, and what they are."""
        found: dict[str, Any] = {}
        pages: list[Any] = []
        before: dict[str, Any] = {}
        while items := (await self.runs.view("metrics", run=self.run, limit=1000, **before))["items"]:
            pages += items
            before = {"created_before": items[-1]["created_at"]}
        found["points"] = (len(pages), _digest(pages))
        for attempt in (None, 1, "all"):
            found[f"columns {attempt}"] = await self._columns(attempt)
        for query in ({"points": 2000}, {"points": 4}, {"x": "time"}, {"start": 3, "stop": 2900}, {"attempt": 1}):
            found[f"series {query}"] = await self.runs.view("series", run=self.run, tag="loss", **query)
        found["latest"] = (await self.runs.view("latest", run=self.run))["items"]
        kept = (await self.runs.view("measured", run=self.run))["items"]
        found["measured"] = [{name: value for name, value in one.items() if name != "is_sealed"} for one in kept]
        found["progress"] = (await self.runs.view("get", run=self.run))["progress"]
        return found

    async def glance(self) -> list[Any]:
        """The points that count, a page of them, and the latest: enough to see that all is there."""
        page = (await self.runs.view("metrics", run=self.run, limit=100))["items"]
        return [await self._columns(None), page, await self.runs.view("latest", run=self.run)]

    async def _columns(self, attempt: Any) -> Any:
        lots: dict[str, list[Any]] = {}
        more: dict[str, Any] = {} if attempt is None else {"attempt": attempt}
        while True:
            page = await self.runs.view("columns", run=self.run, **more)
            for chunk in page["chunks"]:
                lots.setdefault(chunk["tag"], []).append(unpack(base64.b64decode(chunk["body"])))
            if page["next"] is None:
                break
            more["reach"] = page["next"]
        sums = {}
        for tag, many in sorted(lots.items()):
            points = joined(many)
            points = points.take(np.argsort(points.times, kind="stable"))
            sums[tag] = (len(points), _digest([points.steps.tolist(), points.times.tolist(), points.bits.tolist()]))
        return sums

    async def archive(self) -> dict[str, Any]:
        view: dict[str, Any] = await self.runs.view("archive_metrics", run=self.run)
        return view

    async def purge(self, *, dry_run: bool = False) -> Purged:
        platform = self.host.platform
        deciders = Deciders(platform.log, Codec(EVENTS, UPCASTERS, TOMBSTONES), platform.clock)
        return await purge_metrics(
            platform.log, platform.metrics, deciders, platform.store, self.ref, dry_run=dry_run
        )  # fmt: skip

    async def folded(self) -> None:
        measured = self.host.service.projectors[1]
        await measured.wait_for(await measured.head(), timeout_s=20)

    async def rows(self) -> dict[str, list[str]]:
        await self.folded()

        def dumped(connection: Connection) -> dict[str, list[str]]:
            return dump(connection, TABLES, served(connection))

        found: dict[str, list[str]] = await self.host.platform.engine.read(dumped)
        return found

    async def messages(self) -> list[Any]:
        return [one async for one in self.host.platform.metrics.messages_of("main", self.run)]

    async def late(self, count: int = 3) -> None:
        """A batch that comes after all, as that of a script that was away would."""
        times = [{"tag": "loss", "kind": "f8", "step": list(range(9000, 9000 + count)), "value": [0.25] * count,
                  "time": [0] * count}]  # fmt: skip
        given = Incoming(
            team="main", run=self.run, attempt=2, epoch=2, batch=self.batches + 1, columns=times, progress=[],
            may_be_late=True,
        )  # fmt: skip
        await Intake(self.host.platform.metrics, self.host.platform.clock).take(given)
        self.batches += 1
        await self.folded()


def served(connection: Connection) -> int:
    """The generation of the tables that is shown."""
    found = active(connection, "run_metrics")
    assert found is not None
    return found.generation


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


async def live(host: Any, runs: Any, agent: Any) -> Life:
    made = await runs.create()
    lease = await agent.take()
    await agent.started(lease)
    values = np.random.default_rng(5).normal(size=3000).tolist()
    for batch in range(3):
        steps = range(1000 * batch, 1000 * batch + 1000)
        points = {"loss": [(s, values[s], s) for s in steps], "lr": [(s, s / 7, s) for s in steps]}
        await agent.measure(lease, batch + 1, points)
    await agent.checkpoint(lease, 2500)
    await agent.report(lease, "failed", reason="signal", message="killed", signal=9)
    lease = await agent.take()
    await agent.started(lease, resume="exact", global_step=2500)
    progress = [{"operation": "fit", "value": 3.0, "final_value": 4.0, "units": "epochs"}]
    await agent.measure(lease, 1, {"loss": [(s, NAN if s % 5 == 0 else -s, s) for s in range(2501, 2895)]})
    await agent.measure(lease, 2, {"val": [(s, "Infinity", s) for s in range(3)]}, progress=progress)
    await agent.completed(lease)
    await runs.until(made["id"], "job_completed")
    return Life(host, runs, agent, lease, made["id"])


@pytest.fixture
async def life(host: Any, runs: Any, agent: Any) -> Life:
    return await live(host, runs, agent)


async def test_points_are_equal_before_and_after_archive_purge_and_rebuild(life: Life, host: Any) -> None:
    before = await life.all_that_is_read()
    assert before["points"][0] == 2501 + 2501 + 394 + 3
    view = await life.archive()
    assert (view["points"], view["batches"], view["later_points"], view["purged"]) == (6397, 5, 0, False)
    assert await life.all_that_is_read() == before
    archived = await life.rows()
    assert not any('"body":"' in row for row in archived["metric_segments"])
    assert archived["metric_batches"] == []
    # Rebuilt while the batches are still there: they are folded, and the marker puts them away again.
    await replay.rebuild_projectors({"runs": [host.service.projectors[1]]})
    assert await life.rows() == archived

    tried = await life.purge(dry_run=True)
    assert (tried.messages, tried.points, tried.is_done, len(await life.messages())) == (5, 6397, False, 6)
    assert (await life.purge()).is_done
    assert [one.is_archive for one in await life.messages()] == [True]
    assert await life.all_that_is_read() == before
    await replay.rebuild_projectors({"runs": [host.service.projectors[1]]})
    assert await life.rows() == archived
    assert await life.all_that_is_read() == before
    assert (await life.runs.view("metrics_archive", run=life.run))["purged"]
    types = await life.runs.types(life.run)
    assert types[-2:] == ["MetricsArchived", "MetricsPurged"]
    # All of it again changes nothing.
    assert (await life.archive())["manifest"] == view["manifest"]
    assert str(await life.purge()).split(": ")[1].startswith("nothing is left to purge")
    assert await life.runs.types(life.run) == types


@sqlite_only
async def test_batches_that_come_after_the_archive_lie_beside_it_until_the_next(life: Life, host: Any) -> None:
    await life.archive()
    await life.purge()
    await life.late()
    before = await life.all_that_is_read()
    assert before["points"][0] > 0
    view = await life.runs.view("metrics_archive", run=life.run)
    assert (view["points"], view["later_points"]) == (6397, 3)
    again = await life.archive()
    assert (again["points"], again["later_points"], again["batches"]) == (6400, 0, 6)
    assert again["objects"] == view["objects"] + 1
    assert await life.all_that_is_read() == before
    assert (await life.purge()).messages == 2
    await replay.rebuild_projectors({"runs": [host.service.projectors[1]]})
    assert await life.all_that_is_read() == before
    # The run goes on: what its third attempt measures supersedes archived points.
    await life.runs.ask("resume", run=life.run)
    lease = await life.agent.take()
    await life.agent.started(lease, resume="exact", global_step=2500)
    await life.agent.measure(lease, 1, {"loss": [(s, s / 9, s) for s in range(2501, 2601)]})
    living = await life.runs.refused("archive_metrics", run=life.run)
    assert (living.code, "is job_running" in living.message) == ("conflict", True)
    await life.agent.completed(lease)
    await life.runs.until(life.run, "job_completed")
    seen = await life.glance()
    assert sum(count for count, _ in seen[0].values()) == 2501 + 2501 + 3 + 100
    assert (await life.archive())["points"] == 6500
    assert await life.glance() == seen
    # Of a deleted run nobody reads, and the admin purges all the same.
    await life.runs.ask("delete", run=life.run)
    assert (await life.purge()).messages == 2
    for verb in ("metrics", "archive_metrics", "metrics_archive"):
        assert (await life.runs.refused(verb, run=life.run)).code == "not_found"


@sqlite_only
async def test_a_run_whose_manifest_is_gone_is_set_aside_and_comes_back_with_it(
    life: Life, host: Any, tmp_path: Path
) -> None:
    before = await life.glance()
    manifest = (await life.archive())["manifest"]
    await life.purge()
    path = tmp_path / "store" / "sha256" / manifest[:2] / manifest[2:]
    kept = path.rename(tmp_path / "kept")
    measured, engine = host.service.projectors[1], host.platform.engine
    await engine.write(lambda connection: reset(connection, measured.name))
    for _ in range(1000):
        if await replay.parked({"runs": engine}, measured.name):
            break
        await asyncio.sleep(0.02)
    (parked,) = await replay.parked({"runs": engine}, measured.name)
    assert (parked.aggregate, "is missing from the artifact store" in parked.error) == (f"main/run/{life.run}", True)
    kept.rename(path)
    assert await replay.retry({"runs": engine}, measured.name) == []
    assert await life.glance() == before


@sqlite_only
async def test_an_archive_and_a_purge_that_are_cut_short_anywhere_are_finished_by_the_next(
    life: Life, open_service: Any, make_runs: Any
) -> None:
    before = await life.glance()
    for point in ("archive.packed", "archive.stored", "archive.noted", "archive.marked"):
        with armed(f"{point}:1:raise") as left:
            assert await life.host.code(life.archive()) == "internal"
            assert not left
        assert await life.glance() == before, point
    # Another process finds what is there, and goes on.
    async with open_service() as other:
        life.host, life.runs = other, make_runs(other)
        view = await life.archive()
        assert (view["points"], view["later_points"]) == (6397, 0)
        assert await life.glance() == before
        assert [one.is_archive for one in await life.messages()] == [False] * 5 + [True]
        for point in ("purge.compared", "purge.noted", "purge.done"):
            with armed(f"{point}:1:raise"), pytest.raises(OSError, match=point):
                await life.purge()
            assert await life.glance() == before, point
        await life.purge()
        assert len(await life.messages()) == 1
        types = await life.runs.types(life.run)
        assert (types.count("MetricsArchived"), types.count("MetricsPurged")) == (1, 1)
        assert await life.glance() == before


def _harmed(data: bytes) -> bytes:
    harmed = bytearray(data)
    harmed[len(data) // 2] ^= 1
    return bytes(harmed)


@sqlite_only
async def test_an_object_that_is_missing_or_damaged_gives_no_number_and_keeps_batches_from_being_purged(
    life: Life, tmp_path: Path
) -> None:
    before = await life.glance()
    await life.archive()
    await life.folded()
    files = [one for one in (tmp_path / "store" / "sha256").rglob("*") if one.is_file()]
    points = max(files, key=lambda one: one.stat().st_size)
    data = points.read_bytes()
    for harm, why in ((None, "is missing"), (_harmed(data), "is damaged")):
        points.unlink(missing_ok=True)
        if harm is not None:
            points.write_bytes(harm)
        with pytest.raises(TapelineError, match=f"archived metrics, [0-9a-f]{{12}}, {why}") as refused:
            await life.glance()
        assert (refused.value.code, "tapeline log verify --metrics" in (refused.value.hint or "")) == ("corrupt", True)
        with pytest.raises(TapelineError, match=why):
            await life.purge()
        assert len(await life.messages()) == 6
        # What the tables hold themselves is still told.
        assert (await life.runs.view("metrics_archive", run=life.run))["points"] == 6397
        assert (await life.runs.view("measured", run=life.run))["items"]
    points.write_bytes(data)
    assert await life.glance() == before
    assert (await life.purge()).is_done


@sqlite_only
async def test_batches_go_only_when_their_points_are_archived(life: Life, runs: Any, agent: Any) -> None:
    with pytest.raises(TapelineError, match="are not archived") as bare:
        await life.purge()
    assert (bare.value.code, bare.value.hint) == ("conflict", "tapeline metrics archive 1")
    assert (await runs.refused("archive_metrics", run="77")).code == "not_found"
    assert (await runs.refused("archive_metrics", run=life.run, team="other")).code == "not_found"
    made = await runs.create()
    other = Life(life.host, runs, agent, {}, made["id"])
    nothing = await runs.refused("archive_metrics", run=made["id"])
    assert (nothing.code, "needs a run that has ended" in nothing.message) == ("conflict", True)
    with pytest.raises(TapelineError, match="purging its batches needs a run that has ended"):
        await other.purge()
    await runs.ask("stop", run=made["id"])
    bare_run = await runs.refused("archive_metrics", run=made["id"])
    assert (bare_run.code, bare_run.message) == ("conflict", f"run {made['id']} has measured nothing")
    other.ref = Ref("main", "run", "nobody")
    with pytest.raises(TapelineError) as unknown:
        await other.purge()
    assert unknown.value.code == "not_found"


@sqlite_only
async def test_the_past_a_copy_and_a_check_see_what_was_purged(life: Life, host: Any, tmp_path: Path) -> None:
    now = await life.all_that_is_read()
    platform = host.platform
    events = (await life.runs.view("events", run=life.run, sort="sequence:asc", limit=1000))["items"]
    failed = next(one["position"] for one in events if one["details"]["type"] == "JobFailed")

    async def past(name: str) -> list[Any]:
        async with Worlds(tmp_path / name, platform.store).at(platform.log, platform.metrics, failed) as place:
            world = replay.World(place, "main")
            return await asyncio.to_thread(lambda: _told_of_the_past(world, life.run))

    before = await past("before")
    await life.archive()
    await life.purge()
    assert await past("after") == before
    assert before[0] == (3000, 3000)
    report = await replay.verify_metrics(platform.metrics, platform.store)
    assert (report.ok, str(report)) == (True, "complete: 0 batches of 1 runs, 1 archives")
    told = Entry(t=0, proc="p", id="c", op="append_metrics", phase="ok", key=f"{life.run}/1", value={"batch": 3})
    lost = Entry(t=1, proc="p", id="d", op="append_metrics", phase="ok", key=f"{life.run}/2", value={"batch": 3})
    assert [one.kind for one in check_metrics([told, lost], await life.messages())] == ["lost"]
    # A copy has batches of its own, made from the archive, and goes on where its source was.
    copy = await life.runs.view("copy", run=life.run)
    made = Life(host, life.runs, life.agent, life.lease, copy["id"])
    assert [(one.attempt, one.batch) for one in await made.messages()] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
    theirs = await made.all_that_is_read()
    for what in now:
        if what.startswith(("columns", "series", "measured")):
            assert theirs[what] == now[what], what
    await made.late()
    assert (await life.runs.view("measured", run=copy["id"]))["items"][1]["batches"] == 3
    # A whole archive is one whose every object is there.
    points = max((tmp_path / "store" / "sha256").rglob("*"), key=lambda one: one.stat().st_size)
    points.unlink()
    report = await replay.verify_metrics(platform.metrics, platform.store)
    assert [fault.kind for fault in report.faults] == ["archive"]


def _told_of_the_past(world: replay.World, run: str) -> list[Any]:
    ask = world.sdk.query
    page = ask("runs", "columns", run=run)
    found = [[len(unpack(base64.b64decode(chunk["body"]))) for chunk in page["chunks"]]]
    found += [ask("runs", verb, run=run) for verb in ("metrics", "latest", "measured")]
    found += [ask("runs", "series", run=run, tag=tag, points=5000) for tag in ("loss", "lr")]
    world.close()
    return [(sum(found[0]) // 2, sum(found[0]) // 2), *found[1:]]


@sqlite_only
async def test_points_are_archived_when_due_and_come_back_from_the_log_when_metrics_is_lost(
    life: Life, host: Any, runs: Any, server: Any
) -> None:
    before = await life.glance()
    platform, engine = host.platform, host.platform.engine
    parts = {name: getattr(platform, name) for name in ("metrics", "store", "deciders", "engine", "clock")}
    parts["intake"] = Intake(platform.metrics, platform.clock)
    await runs.create()
    await life.folded()
    assert await Archiving(**parts, after_s=None).look() == []
    assert await Archiving(**parts, after_s=3600).look() == []
    archiving = Archiving(**parts, after_s=0)
    with armed("archive.stored:1:raise"):
        # What fails once is done the next time, and ends no service.
        assert await archiving.look() == []
    assert await archiving.look() == [life.ref]
    await life.folded()
    assert await archiving.look() == []
    (one,) = (await runs.view("metrics_archives"))["items"]
    assert (one["run_id"], one["points"], one["purged"]) == (life.run, 6397, False)
    assert one == await runs.view("metrics_archive", run=life.run)
    assert (await runs.view("metrics_archives", team="other"))["items"] == []
    # As after an import of the log: neither a message nor a row of a measurement is there.
    client = await server.connect()
    await client.request("$JS.API.STREAM.PURGE.METRICS", b"{}")
    await client.close()
    await engine.write(lambda connection: reset(connection, host.service.projectors[1].name))
    assert (await runs.view("metrics", run=life.run))["items"] == []
    assert await engine.read(unmarked) == [life.ref]
    await archiving.restore()
    await life.folded()
    assert await life.glance() == before
    assert await engine.read(unmarked) == []
    await life.late()
    assert (await runs.view("metrics_archive", run=life.run))["later_points"] == 3


@pytest.mark.parametrize("given", ["-1", "nan", "inf", "1e9", "soon"])
def test_days_until_an_archive_that_cannot_be_right_are_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("TAPELINE_METRICS_ARCHIVE_DAYS", given)
    with pytest.raises(TapelineError, match="TAPELINE_METRICS_ARCHIVE_DAYS") as refused:
        HostSettings.from_environment()
    assert refused.value.code == "invalid"
