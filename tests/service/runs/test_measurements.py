"""Metrics, progress, checkpoints and artifacts through the verbs, on a real server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from tapeline import replay
from tapeline.errors import TapelineError
from tapeline.testing.server import NatsServer

NS = 1_700_000_000_000_000_000


async def running(runs: Any, agent: Any, **changes: Any) -> dict[str, Any]:
    await runs.create(**changes)
    lease = await agent.take()
    await agent.started(lease)
    return lease


async def points(runs: Any, count: int, **fields: Any) -> list[dict[str, Any]]:
    """The points of run 1 once there are so many; measurements are no part of the log's positions."""
    for _ in range(200):
        items = (await runs.view("metrics", run="1", **fields))["items"]
        if len(items) >= count:
            return items
        await asyncio.sleep(0.02)
    raise AssertionError(f"{len(items)} points, not {count}")


async def test_points_come_back_exact_and_newest_first(runs: Any, agent: Any) -> None:
    lease = await running(runs, agent)
    many = [(step, step / 7, NS + step) for step in range(50)]
    assert await agent.measure(lease, 1, {"loss": many, "odd": [(1, "NaN", NS), (2, "-Infinity", NS + 1)]}) == 1
    found = await points(runs, 52)
    times = [datetime.fromisoformat(each["created_at"]) for each in found]
    assert all(newer > older for newer, older in pairwise(times))
    loss = {each["global_step"]: each["value"] for each in found if each["tag"] == "loss"}
    assert loss == {step: step / 7 for step in range(50)}
    assert {each["value"] for each in found if each["tag"] == "odd"} == {"NaN", "-Infinity"}
    assert len({each["id"] for each in found}) == 52


async def test_a_batch_that_cannot_be_read_sets_its_run_aside_and_no_other(runs: Any, host: Any, agent: Any) -> None:
    lease = await running(runs, agent)
    await host.platform.metrics.append("main", "broken", 1, 1, b"no batch")
    await agent.measure(lease, 1, {"loss": [(1, 0.5, NS)]})
    assert [each["value"] for each in await points(runs, 1)] == [0.5]
    (measured,) = [one for one in host.service.projectors if one.name == "run_metrics"]
    assert set(measured.parked) == {"main/run/broken"}


async def test_a_message_that_is_no_batch_is_set_aside_and_its_run_goes_on(
    runs: Any, host: Any, agent: Any, server: NatsServer
) -> None:
    lease = await running(runs, agent)
    admin = await server.connect()
    for batch in (1, 2):
        await admin.request(f"met.main.{lease['run']}", b"?")
        await agent.measure(lease, batch, {"loss": [(batch, 0.5, NS + batch)]})
    await admin.request("met.main.nobody", b"?")
    assert [each["global_step"] for each in await points(runs, 2)] == [2, 1]
    (measured,) = [one for one in host.service.projectors if one.name == "run_metrics"]
    assert measured.parked == {}
    report = await replay.verify_metrics(host.platform.metrics)
    assert [(fault.kind, fault.position) for fault in report.faults] == [("decode", at) for at in (1, 3, 5)]
    assert report.batches == 2
    await admin.close()


async def test_pages_by_time_neither_skip_nor_repeat(runs: Any, agent: Any) -> None:
    lease = await running(runs, agent)
    for batch in range(1, 6):
        # Every point claims the same moment.
        await agent.measure(lease, batch, {"loss": [(batch * 100 + i, i, NS) for i in range(20)]})
    await points(runs, 100)
    steps: list[int] = []
    before = None
    while True:
        page = (await runs.view("metrics", run="1", limit=7, **({"created_before": before} if before else {})))["items"]
        if not page:
            break
        steps += [each["global_step"] for each in page]
        before = page[-1]["created_at"]
    assert steps == [batch * 100 + i for batch in range(5, 0, -1) for i in range(19, -1, -1)]


async def test_the_latest_of_very_many_tags_come_in_several_pages(runs: Any, agent: Any) -> None:
    lease = await running(runs, agent)
    for batch in range(1, 4):
        many = {f"tag{batch}{i:03}" + "x" * 180: [(1, float(i), NS + i)] for i in range(500)}
        await agent.measure(lease, batch, many)
    await points(runs, 1000)
    found: list[str] = []
    after: dict[str, str] = {}
    pages = 0
    for _ in range(1000):
        page = await runs.view("latest", run="1", **after)
        found += [each["tag"] for each in page["items"]]
        pages += 1
        if page.get("next") is None:
            break
        after = {"after": found[-1]}
    assert pages > 1
    assert found == sorted(set(found))
    assert len(found) == 1500


async def test_filters_of_points(runs: Any, agent: Any) -> None:
    lease = await running(runs, agent)
    await agent.measure(lease, 1, {"a": [(i, i, NS + i) for i in range(10)], "b": [(i, -i, NS + i) for i in range(10)]})
    await points(runs, 20)
    found = await points(runs, 2, tags=["a"], global_steps=[3, 4])
    assert [(each["tag"], each["global_step"]) for each in found] == [("a", 4), ("a", 3)]
    assert (await runs.view("metrics", run="1", limit=0))["items"] == []
    assert (await runs.view("metrics", run="1", tags=[]))["items"] == []


async def test_batches_are_gapless_and_stored_once(runs: Any, agent: Any) -> None:
    lease = await running(runs, agent)
    await agent.measure(lease, 1, {"loss": [(1, 1.0, NS)]})
    with pytest.raises(TapelineError) as caught:
        await agent.measure(lease, 3, {"loss": [(3, 1.0, NS)]})
    assert (caught.value.code, caught.value.data["error"]["data"]) == ("gap", {"expected": 2})
    assert await agent.measure(lease, 1, {"loss": [(1, 9.0, NS)]}) == 1
    assert await agent.measure(lease, 2, {"loss": [(2, 2.0, NS)]}) == 2
    assert [each["value"] for each in await points(runs, 2)] == [2.0, 1.0]


async def test_batches_go_on_gapless_in_another_process(runs: Any, agent: Any, open_service: Any) -> None:
    lease = await running(runs, agent)
    await agent.measure(lease, 1, {"loss": [(1, 1.0, NS)]})
    async with open_service() as again:
        agent.rebind(again)
        assert await agent.measure(lease, 1, {"loss": [(1, 1.0, NS)]}) == 1
        assert await agent.measure(lease, 2, {"loss": [(2, 2.0, NS)]}) == 2
    assert len(await points(runs, 2)) == 2


async def test_a_batch_that_cannot_be_right_is_kept_empty(runs: Any, agent: Any) -> None:
    lease = await running(runs, agent)
    assert await agent.measure(lease, 1, {"loss": [(-1, 1.0, NS)]}) == 1
    assert await agent.measure(lease, 2, {"loss": [(2, 2.0, NS)]}) == 2
    assert [each["global_step"] for each in await points(runs, 1)] == [2]


async def test_an_older_epoch_measures_nothing(runs: Any, agent: Any) -> None:
    lease = await running(runs, agent)
    with pytest.raises(TapelineError) as caught:
        await agent.measure(lease | {"epoch": 0}, 1, {"loss": [(1, 1.0, NS)]})
    assert caught.value.code == "fenced"


async def test_a_resumed_attempt_supersedes_what_lies_beyond_its_start(runs: Any, agent: Any) -> None:
    lease = await running(runs, agent)
    await agent.measure(lease, 1, {"loss": [(step, 1.0, NS + step) for step in range(1, 9)], "old": [(8, 1.0, NS)]})
    await agent.checkpoint(lease, 5)
    await agent.report(lease, "failed", reason="signal", message="killed")
    second = await agent.take()
    await agent.started(second, resume="exact", global_step=5)
    # A clock that is an hour behind.
    await agent.measure(second, 1, {"loss": [(step, 2.0, NS - 3_600 * 10**9) for step in range(6, 9)]})
    await points(runs, 12, attempt="all")
    found = await points(runs, 8)
    assert [(each["global_step"], each["value"]) for each in found] == [
        (8, 2.0), (7, 2.0), (6, 2.0), (5, 1.0), (4, 1.0), (3, 1.0), (2, 1.0), (1, 1.0),
    ]  # fmt: skip
    assert len(await points(runs, 9, attempt=1)) == 9
    latest = {each["tag"]: each for each in (await runs.view("latest", run="1"))["items"]}
    assert (latest["loss"]["global_step"], latest["loss"]["value"]) == (8, 2.0)
    assert "old" not in latest


async def test_progress_is_the_latest_of_each_operation(runs: Any, agent: Any) -> None:
    lease = await running(runs, agent)
    for batch, value in ((1, 1), (2, 3)):
        said = [{"operation": "train", "value": value, "final_value": 10, "units": "steps"}]
        await agent.measure(lease, batch, {}, progress=said)
    for _ in range(100):
        view = await runs.view("get", run="1")
        if view["progress"] and view["progress"][0]["value"] == 3:
            break
        await asyncio.sleep(0.02)
    assert view["progress"] == [{"operation": "train", "value": 3.0, "final_value": 10.0, "units": "steps"}]
    assert view["progress_updated_at"] is not None
    listed = (await runs.view("list", select=["progress"]))["items"][0]
    assert (listed["progress"], listed["id"]) == (view["progress"], None)


async def test_a_checkpoint_is_complete_once_its_bytes_are_in_the_store(runs: Any, agent: Any, host: Any) -> None:
    lease = await running(runs, agent)
    await agent.report(lease, "checkpoint_begun", checkpoint_id="c-early", global_step=3)
    (begun,) = (await runs.view("checkpoints"))["items"]
    assert (begun["status"], begun["files"]) == ("incomplete", [])
    await agent.checkpoint(lease, 5, b"the weights")
    (done,) = (await runs.view("checkpoints", statuses=["complete"]))["items"]
    assert (done["global_step"], done["monitored"], done["run_id"]) == (5, {"val/loss": 0.5}, lease["run"])
    sha256 = hashlib.sha256(b"the weights").hexdigest()
    assert done["key_prefix"] == f"sha256/{sha256[:2]}/{sha256[2:]}"
    part = await runs.view("read_artifact", sha256=sha256, offset=4)
    assert (base64.b64decode(part["data"]), part["size_bytes"]) == (b"weights", 11)
    assert (await runs.refused("read_artifact", sha256=sha256, team="other")).code == "not_found"


async def test_a_checkpoint_with_other_bytes_is_refused(runs: Any, agent: Any, host: Any) -> None:
    lease = await running(runs, agent)
    file = {"name": "state.npz", "size_bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    named = {key: lease[key] for key in ("team", "run", "epoch")}
    place = await agent.ask("stage", **named, checkpoint_id="c1", files=[file])
    data = {"checkpoint_id": "c1", "global_step": 5, "training_epoch": 0, "files": [file]}
    with pytest.raises(TapelineError) as caught:
        await agent.report(lease, "checkpoint", **data)
    assert (caught.value.code, caught.value.hint) == ("corrupt", "upload it again")
    await host.platform.store.stage_bytes(f"{place['prefix']}/state.npz", b"xyz")
    with pytest.raises(TapelineError) as caught:
        await agent.report(lease, "checkpoint", **data)
    assert caught.value.code == "corrupt"
    data["files"] = [file | {"name": "../../etc/passwd"}]
    with pytest.raises(TapelineError) as caught:
        await agent.report(lease, "checkpoint", **data)
    assert caught.value.code == "invalid"
    assert (await runs.view("checkpoints"))["items"] == []


async def test_checkpoints_are_deleted_all_or_none(runs: Any, agent: Any) -> None:
    lease = await running(runs, agent)
    await agent.checkpoint(lease, 5, b"1")
    await agent.checkpoint(lease, 9, b"2")
    found = (await runs.view("checkpoints", sort=["created_at:asc"]))["items"]
    first, second = (each["id"] for each in found)
    error = await runs.refused("delete_checkpoints", ids=[first, second])
    assert (error.code, error.data["error"]["data"]) == ("conflict", {"checkpoints": [second]})
    await runs.ask("pin", checkpoint=first)
    assert (await runs.refused("delete_checkpoints", ids=[first])).code == "conflict"
    await runs.ask("pin", checkpoint=first, pinned=False)
    assert (await runs.view("delete_checkpoints", ids=[first, "unknown"]))["ids"] == [first]
    assert [each["id"] for each in (await runs.view("checkpoints"))["items"]] == [second]
    assert (await runs.view("delete_checkpoints", ids=["unknown"]))["ids"] == []
    assert (await runs.refused("delete_checkpoints")).code == "invalid"
