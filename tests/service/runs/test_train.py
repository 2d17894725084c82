"""`runs.train`: a canvas on an asset, looked up, checked, pinned, and specified to the last field."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tapeline import canvas as canvases
from tapeline.canvas import example
from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.assets import AssetBuildRequested, AssetBuilt, AssetChecked, AssetMarkedStale, AssetRemoved
from tapeline.contracts.canvases import CanvasCreated, CanvasRemoved, CanvasSaved
from tapeline.ids import new_id
from tapeline.log import GENESIS, Appended, NewCommit
from tapeline.runs.blueprint.builtin import CANVAS
from tapeline.subjects import Kind, Ref

FILES = [
    Artifact(name="spy_test.h5", size_bytes=5, sha256="a" * 64),
    Artifact(name="spy_train_0.h5", size_bytes=6, sha256="b" * 64),
]


def demo_document() -> dict[str, Any]:
    """The demo canvas as a fresh object."""
    return json.loads(example("demo"))


async def told(host: Any, kind: Kind, id: str, *events: Any, after: Appended | None = None) -> Appended:
    """Put events of another service on the log."""
    commit = NewCommit(
        ref=Ref("main", kind, id), events=events, sequence=after.sequence + 1 if after else 1,
        prev=after.digest if after else GENESIS, created_at=datetime.now(UTC), actor="service:assets",
        command="Test", command_id=new_id(),
    )  # fmt: skip
    made = await host.platform.log.append(commit, expected=after.position if after else 0)
    host.position = max(host.position, made.position)
    return made


@pytest.fixture
async def asset(host: Any) -> Appended:
    """A built asset `spy` that fits the demo canvas."""
    await told(host, "asset", "as-2", AssetBuildRequested(name="half", spec={}, spec_digest="d", tapes=[]))
    return await told(
        host, "asset", "as-1",
        AssetBuildRequested(name="spy", spec={}, spec_digest="d", tapes=[]),
        AssetBuilt(
            files=FILES, rows={"train_0": 100, "test": 20}, data_digest="c" * 64, stats={"now": [1.0]},
            datasets=["bars_20_1min", "log_return_1min", "trade_size_1min", "volume_ratio_1min", "updown_5min"],
            features={
                "bars_20_1min": [20, 8], "log_return_1min": [1], "trade_size_1min": [1], "volume_ratio_1min": [1],
            },
            labels={"updown_5min": ["regression", "binary", "binary", "binary", "binary"]},
        ),
    )  # fmt: skip


@pytest.fixture
async def demo(host: Any) -> Appended:
    """The demo canvas, stored under its name."""
    return await told(host, "canvas", "ca-1", CanvasCreated(name="demo", content=demo_document(), digest="x"))


async def test_a_stored_canvas_is_trained_on_an_asset(runs: Any, agent: Any, asset: Any, demo: Any) -> None:
    view = await runs.view("train", canvas="demo", asset="spy", config={"seed": 7})
    assert (view["number"], view["session_name"]) == (1, "demo-1")
    lease = await agent.take()
    spec = lease["spec"]
    assert set(spec) == {
        "blueprint", "run", "team", "attempt", "number", "session_name", "seed", "config", "canvas", "asset",
        "from_checkpoint",
    }  # fmt: skip
    assert (spec["run"], spec["team"], spec["attempt"], spec["seed"]) == (view["run_id"], "main", 1, 7)
    assert spec["blueprint"] == {"name": "canvas", "version": "1.0.0"}
    assert spec["canvas"] == canvases.rendered(canvases.validate(demo_document()).require())
    config = spec["config"]
    # From the canvas, from the request, and from the schema's defaults.
    assert (config["epochs"], config["batch_size"], config["seed"], config["asset"]) == (8, 512, 7, "spy")
    assert config["optimizer"] == {"name": "adam", "learning_rate": 0.003, "clipnorm": None, "weight_decay": None}
    assert config["checkpoint"] == {"every_seconds": 60, "every_steps": None, "every_epochs": 1}
    assert (config["deterministic"], config["stop_on_nan"], config["max_restarts"]) == (True, True, 2)
    assert "canvas" not in config
    assert (spec["asset"]["id"], spec["asset"]["name"], spec["asset"]["rows"]) == (
        "as-1",
        "spy",
        {"train_0": 100, "test": 20},
    )
    assert [(file["role"], file["name"], file["size_bytes"]) for file in lease["files"]] == [
        ("asset", "spy_test.h5", 5), ("asset", "spy_train_0.h5", 6),
    ]  # fmt: skip
    created = (await runs.view("events", run="1", sort="sequence:asc"))["items"][1]["details"]
    assert (created["asset_id"], created["asset_digest"]) == ("as-1", "c" * 64)
    assert created["canvas_digest"] == canvases.validate(demo_document()).digest


async def test_a_run_keeps_the_revision_that_it_was_made_of(
    runs: Any, host: Any, make_agent: Any, asset: Any, demo: Any
) -> None:
    await runs.view("train", canvas="demo", asset="spy")
    changed = demo_document() | {"training": {"epochs": 3}}
    await told(host, "canvas", "ca-1", CanvasSaved(revision=2, content=changed, digest="y"), after=demo)
    agent = await make_agent()
    await agent.announce()
    assert (await agent.take())["spec"]["config"]["epochs"] == 8


async def test_a_document_lives_in_the_run_only(runs: Any, agent: Any, asset: Any) -> None:
    document = demo_document() | {"name": "mine", "training": {"asset": "spy", "epochs": 2}}
    view = await runs.view("train", document=document, session_name="first-try")
    assert view["session_name"] == "first-try"
    spec = (await agent.take())["spec"]
    assert (spec["config"]["epochs"], spec["asset"]["name"]) == (2, "spy")
    assert (await runs.view("get", run="1"))["name"] == "mine"


async def test_a_stored_canvas_may_be_named_in_a_config(runs: Any, agent: Any, asset: Any, demo: Any) -> None:
    await runs.create(blueprint_id=CANVAS.id, config={"canvas": "demo", "asset": "spy", "epochs": 1})
    spec = (await agent.take())["spec"]
    assert (spec["config"]["epochs"], spec["canvas"]["name"]) == (1, "demo")


async def test_a_job_whose_canvas_is_missing_fails_with_the_reason(runs: Any, asset: Any, demo: Any) -> None:
    await runs.create(blueprint_id=CANVAS.id, config={"canvas": "dem", "asset": "spy"})
    view = await runs.until("1", "job_create_failed")
    assert (view["reason"], view["message"], view["hint"]) == (
        "not_found",
        "no canvas is named 'dem'",
        "did you mean 'demo'?",
    )


@pytest.mark.parametrize(
    ("fields", "code", "hint"),
    [
        ({"canvas": "dmo", "asset": "spy"}, "not_found", "did you mean 'demo'?"),
        ({"canvas": "demo", "asset": "spx"}, "not_found", "did you mean 'spy'?"),
        ({"canvas": "demo", "asset": "half"}, "asset_refused", "tapeline asset show half"),
        ({"canvas": "demo"}, "no_asset", "set training.asset of the canvas"),
        ({}, "invalid", "give one of the two"),
        (
            {"canvas": "demo", "asset": "spy", "device": "gpu0"}, "unknown_device",
            "did you mean 'cpu0'? live devices are: a1/cpu0",
        ),
        ({"canvas": "demo", "asset": "spy", "config": {"epoch": 1}}, "invalid", "did you mean 'epochs'?"),
        ({"document": {"schema": "tapeline.canvas/1", "nodes": []}, "asset": "spy"}, "canvas_invalid", None),
    ],
)  # fmt: skip
async def test_what_cannot_be_trained_is_refused_and_stores_nothing(
    runs: Any, agent: Any, asset: Any, demo: Any, fields: dict[str, Any], code: str, hint: str | None
) -> None:
    error = await runs.refused("train", **fields)
    assert error.code == code
    assert error.hint
    if hint:
        assert error.hint == hint
    assert (await runs.view("list"))["items"] == []


async def test_a_canvas_that_does_not_fit_the_asset_is_refused_with_every_fault(runs: Any, asset: Any) -> None:
    document = demo_document()
    document["nodes"][0]["features"] = ["bars_20_min"]
    document["nodes"][-1]["label_index"] = 9
    error = await runs.refused("train", document=document, asset="spy")
    found = error.data["error"]["data"]["errors"]
    assert [fault["code"] for fault in found] == ["unknown_feature", "label_index_out_of_range"]
    assert found[0]["hint"] == "did you mean 'bars_20_1min'?"


async def test_removed_things_are_gone_and_stale_ones_may_be_refused(
    runs: Any, host: Any, agent: Any, asset: Any, demo: Any
) -> None:
    stale = await told(host, "asset", "as-1", AssetMarkedStale(tape="t"), after=asset)
    await runs.view("train", canvas="demo", asset="spy")
    assert (await agent.take())["spec"]["asset"]["stale"] is True
    error = await runs.refused("train", canvas="demo", asset="spy", config={"allow_stale": False})
    assert error.code == "asset_refused"
    await told(host, "asset", "as-1", AssetRemoved(), after=stale)
    assert (await runs.refused("train", canvas="demo", asset="spy")).code == "not_found"
    await told(host, "canvas", "ca-1", CanvasRemoved(), after=demo)
    assert (await runs.refused("train", canvas="demo", asset="spy")).code == "not_found"


async def test_another_team_has_other_canvases_and_assets(runs: Any, asset: Any, demo: Any) -> None:
    error = await runs.refused("train", canvas="demo", asset="spy", team="other")
    assert (error.code, error.hint) == ("not_found", "canvases are: none")


async def test_a_repeated_command_trains_once(runs: Any, asset: Any, demo: Any) -> None:
    command_id = new_id()
    first = await runs.view("train", canvas="demo", asset="spy", command_id=command_id)
    assert await runs.view("train", canvas="demo", asset="spy", command_id=command_id) == first
    assert len((await runs.view("list"))["items"]) == 1


async def test_an_asset_that_may_know_the_future_is_trained_on_knowingly(runs: Any, host: Any, demo: Any) -> None:
    await told(
        host, "asset", "as-3",
        AssetBuildRequested(name="ahead", spec={}, spec_digest="d", tapes=[]),
        AssetChecked(certificate={"lookahead": True}, verdict="warned"),
        AssetBuilt(
            files=FILES, rows={"train_0": 100, "test": 20}, data_digest="c" * 64,
            datasets=["bars_20_1min", "log_return_1min", "trade_size_1min", "volume_ratio_1min", "updown_5min"],
            features={
                "bars_20_1min": [20, 8], "log_return_1min": [1], "trade_size_1min": [1], "volume_ratio_1min": [1],
            },
            labels={"updown_5min": ["regression", "binary", "binary", "binary", "binary"]},
        ),
    )  # fmt: skip
    error = await runs.refused("train", canvas="demo", asset="ahead")
    assert (error.code, "acknowledge_lookahead: true" in str(error.hint)) == ("lookahead_refused", True)
    view = await runs.view("train", canvas="demo", asset="ahead", config={"acknowledge_lookahead": True})
    assert view["number"] == 1
