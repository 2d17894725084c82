"""A canvas is trained, killed and resumed: the resumed run equals the uninterrupted one to the bit."""

from __future__ import annotations

import json
import math
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tapeline.security import models
from tapeline.store.local import LocalStore
from tapeline.trainer.agent import Agent

from .conftest import FakeRun, FakeRuns, kill, until
from .small_asset import ASSET, CANVAS, write_asset

pytestmark = pytest.mark.timeout(180)

CONFIG: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 32,
    "optimizer": {"name": "adam", "learning_rate": 0.003, "clipnorm": None, "weight_decay": None},
    "schedule": "cosine",
    "smartfit": True,
    "metrics_every": 2,
    "steps_per_execution": 4,  # 18 steps an epoch: the last execution of each is cut short
    "checkpoint": {"every_steps": 6, "every_seconds": None, "every_epochs": 1},
}


async def a_run(store: LocalStore, folder: Path, **config: Any) -> FakeRun:
    path = folder / "small_train_0.h5"
    write_asset(path)
    sha256, size = await store.put(path)
    spec = {
        "blueprint": {"name": "canvas", "version": "1.0.0"},
        "seed": 7,
        "config": CONFIG | config,
        "canvas": CANVAS,
        "asset": ASSET,
    }
    files = [{"role": "asset", "name": path.name, "sha256": sha256, "size_bytes": size}]
    return FakeRun(id=str(uuid.uuid4()), spec=spec, files=files)


def curve(run: FakeRun) -> dict[tuple[str, int], str]:
    """Every measured value to the bit, but for speeds."""
    return {key: float(value).hex() for key, value in run.points.items() if not key[0].startswith("speed/")}


async def test_a_resumed_training_equals_the_uninterrupted_one(
    service: FakeRuns, agent: Agent, store: LocalStore, tmp_path: Path
) -> None:
    # given an uninterrupted run, in a child that has imported the backend in advance
    agent._spare = await agent._launch("cpu0", "tensorflow")
    agent._spare.send("prepare", blueprint="canvas")
    spare = agent._spare.pid
    whole = await a_run(store, tmp_path)
    began = time.monotonic()
    await service.offer(whole)
    await until(lambda: "started" in whole.kinds or whole.has_ended, 60)
    print(f"claim to started: {time.monotonic() - began:.1f} s")
    await until(lambda: whole.has_ended, 60)
    assert whole.kinds[-1] == "completed", whole.data
    assert whole.data["started"]["pid"] == spare
    assert whole.data["completed"]["global_step"] == 4 * 18
    # when another one, in a fresh child, is killed after a checkpoint within an epoch
    killed = await a_run(store, tmp_path, epochs=4)
    await service.offer(killed)
    await until(lambda: any(one["global_step"] % 18 for one in killed.checkpoints) or killed.has_ended, 60)
    kill(killed.data["started"]["pid"])
    await until(lambda: killed.has_ended, 60)
    assert killed.data["failed"]["reason"] == "signal"
    await until(lambda: not agent._holds)
    point = next(one for one in reversed(killed.checkpoints) if one["global_step"] % 18)
    beyond = [key for key in killed.points if key[1] > point["global_step"]]
    for key in beyond:
        del killed.points[key]
    # and resumed from there
    killed.attempt, killed.batch = 2, 0
    killed.files = [
        *(file for file in killed.files if file["role"] == "asset"),
        *({"role": "checkpoint"} | file for file in point["files"]),
    ]
    await service.offer(killed)
    await until(lambda: killed.kinds[-1] == "completed", 60)
    # then nothing tells them apart
    assert killed.data["started"]["resume"] == "exact"
    assert killed.data["started"]["differs"] == []
    assert curve(killed) == curve(whole)
    last, expected = killed.checkpoints[-1], whole.checkpoints[-1]
    assert (last["weights_digest"], last["global_step"]) == (expected["weights_digest"], expected["global_step"])
    # and the model file loads and is the same
    files = {file["name"]: file for file in expected["files"]}
    assert set(files) == {"state.npz", "position.json", "canvas.json", "model.4.keras"}
    same = {file["name"]: file for file in last["files"]}
    assert same["model.4.keras"]["sha256"] == files["model.4.keras"]["sha256"]
    scanned = models.scan(await _copy(store, files["model.4.keras"]["sha256"], tmp_path / "model.keras"))
    assert scanned.parameters > 300


async def _copy(store: LocalStore, sha256: str, path: Path) -> Path:
    path.write_bytes(await store.read(sha256))
    return path


async def test_a_stopped_training_leaves_a_checkpoint_with_a_model_and_learned_something(
    service: FakeRuns, agent: Agent, store: LocalStore, tmp_path: Path
) -> None:
    run = await a_run(
        store,
        tmp_path,
        epochs=100_000,
        smartfit=False,
        schedule="constant",
        checkpoint={"every_seconds": 1, "every_epochs": None},
    )
    await service.offer(run)
    await until(lambda: ("val/loss", 180) in run.points or run.has_ended, 60)
    await service.ask_stop(run, 30)
    began = time.monotonic()
    await until(lambda: run.has_ended)
    print(f"stop to terminated: {time.monotonic() - began:.2f} s")
    assert (run.data["terminated"]["forced"], run.data["terminated"]["exit_code"]) == (False, 0)
    kept = run.checkpoints[-1]
    assert kept["global_step"] == run.data["terminated"]["last_step"]
    position = next(file for file in kept["files"] if file["name"] == "position.json")
    where = json.loads(await store.read(position["sha256"]))
    assert (where["global_step"], where["attempt"]) == (kept["global_step"], 1)
    assert f"model.{where['epoch']}.keras" in {file["name"] for file in kept["files"]}
    assert run.points["val/loss", 180] < run.points["val/loss", 18]
    tags = {tag for tag, _ in run.points}
    assert {"train/loss", "val/loss", "train/up/auc", "val/size/mae", "lr", "speed/samples_per_s"} <= tags


async def test_a_loss_that_is_no_number_ends_the_run_with_its_reason(
    service: FakeRuns, agent: Agent, store: LocalStore, tmp_path: Path
) -> None:
    run = await a_run(
        store, tmp_path, smartfit=False, optimizer={"name": "sgd", "learning_rate": 1e5}, schedule="constant", epochs=50
    )
    await service.offer(run)
    await until(lambda: run.has_ended, 60)
    assert run.data["failed"]["reason"] == "nan_loss"
    assert "use a smaller learning rate" in run.data["failed"]["message"]
    assert any(value == "NaN" or not math.isfinite(float(value)) for value in run.points.values())
