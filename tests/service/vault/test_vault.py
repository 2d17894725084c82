"""Promoting, importing, renaming and reading models over a real log."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tapeline.contracts.agents import DeviceAnnounced
from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.assets import AssetBuildRequested, AssetBuilt, AssetChecked
from tapeline.contracts.runs import CheckpointCompleted, JobCreated, LeaseGranted, RunCreated
from tapeline.errors import TapelineError
from tapeline.ids import new_id
from tapeline.log import GENESIS, NewCommit
from tapeline.subjects import Ref
from tapeline.testing.hosted import Hosted

CANVAS: dict[str, Any] = {
    "schema": "tapeline.canvas/1",
    "nodes": [
        {"id": "in1", "kind": "input", "features": ["bars", "other"]},
        {"id": "o1", "kind": "output", "inputs": ["in1"], "feature": "updown_5min", "label_index": 4},
    ],
}


async def append(service: Hosted, ref: Ref, *events: Any) -> None:
    """What another service would have put on the log."""
    commit = NewCommit(
        ref=ref,
        events=events,
        sequence=1,
        prev=GENESIS,
        created_at=datetime.now(UTC),
        actor="service:runs",
        command="Test",
        command_id=new_id(),
    )
    service.position = (await service.platform.log.append(commit, expected=0)).position


async def trained(
    service: Hosted, *losses: float | None, number: int = 3, path: Path | None = None, team: str = "contoso"
) -> str:
    """A run with a checkpoint of each validation loss; gives its id. None: a checkpoint without a model."""
    run_id = new_id()
    sha256, size = await service.platform.store.put(path) if path else ("0" * 64, 1)
    await append(
        service,
        Ref("platform", "device", new_id()),
        DeviceAnnounced(agent="a1", boot="b", version="1", host="bogdan", teams=[team], devices=[]),
    )
    asset_id = new_id()
    await append(
        service,
        Ref(team, "asset", asset_id),
        AssetBuildRequested(name="spy", spec={}, spec_digest="d", tapes=[]),
        AssetChecked(certificate={"lookahead": True}, verdict="warned"),
        AssetBuilt(files=[], rows={}, datasets=[], features={"bars": [2], "other": [1]}, labels={}, data_digest="d"),
    )
    events: list[Any] = [
        RunCreated(
            number=number,
            name="r",
            version="1",
            project_id="my-project",
            blueprint_id="canvas",
            task_type="train",
            resources={},
            config={},
            user="ann",
        ),
        JobCreated(attempt=1, session_name="s", seed=1, spec={"canvas": CANVAS}, asset_id=asset_id),
        LeaseGranted(attempt=1, agent="a1", device="cpu0", epoch=1, ttl_s=30.0),
    ]
    for epoch, loss in enumerate(losses, 1):
        files = [Artifact(name="state.npz", size_bytes=1, sha256="1" * 64)]
        if loss is not None:
            files.append(Artifact(name=f"model.{epoch}.keras", size_bytes=size, sha256=sha256))
        events.append(
            CheckpointCompleted(
                checkpoint_id=f"{run_id}-{epoch}",
                epoch=1,
                attempt=1,
                global_step=epoch * 10,
                training_epoch=epoch,
                files=files,
                monitored={} if loss is None else {"val/loss": loss, "train/loss": 9.0},
            )
        )
    await append(service, Ref(team, "run", run_id), *events)
    return run_id


async def test_a_runs_best_checkpoint_gets_a_name(service: Hosted, model_path: Path) -> None:
    run_id = await trained(service, 0.7, 0.5, 0.6, path=model_path)
    view = await service.view("add", name="spy_e1", run="3")
    assert (view["run_id"], view["run_number"], view["training_epoch"], view["value"]) == (run_id, 3, 2, 0.5)
    assert (view["host"], view["project_id"], view["model_file"]) == ("bogdan", "my-project", "model.2.keras")
    assert (view["asset_name"], view["lookahead"], view["canvas"]) == ("spy", True, CANVAS)
    assert (view["features"], view["input_shapes"]) == ([["bars", "other"]], [[3]])
    shown = await service.view("get", name="spy_e1")
    assert {**shown, "created_at": None} == {**view, "created_at": None}
    part = await service.view("read_artifact", sha256=view["model"]["sha256"])
    assert base64.b64decode(part["data"]) == model_path.read_bytes()
    service.set_aside("vault.items", f"contoso/vault/{view['id']}")
    assert (await service.view("get", name="spy_e1"))["stale"] is True


async def test_a_named_checkpoint_is_taken_even_when_another_is_better(service: Hosted, model_path: Path) -> None:
    run_id = await trained(service, 0.7, 0.5, path=model_path)
    view = await service.view("add", name="first", checkpoint_id=f"{run_id}-1")
    assert (view["training_epoch"], view["value"]) == (1, 0.7)


async def test_what_is_missing_is_not_found(service: Hosted, model_path: Path) -> None:
    run_id = await trained(service, 0.7, None, path=model_path)
    assert await service.code(service.ask("add", name="x", run="99")) == "not_found"
    assert await service.code(service.ask("add", name="x", checkpoint_id="nope")) == "not_found"
    assert await service.code(service.ask("add", name="x", checkpoint_id=f"{run_id}-2")) == "conflict"
    assert await service.code(service.ask("add", name="x")) == "invalid"
    assert await service.code(service.ask("add", name="x", run="3", version="one")) == "invalid"
    assert (await service.view("list"))["items"] == []


async def test_the_same_command_twice_adds_once_and_a_taken_name_is_refused(service: Hosted, model_path: Path) -> None:
    await trained(service, 0.7, path=model_path)
    fields = {"name": "spy", "run": "3", "command_id": "019aa000-0000-7000-8000-000000000005"}
    first = await service.ask("add", **fields)
    again = await service.ask("add", **fields)
    assert (again["view"]["id"], again["replayed"]) == (first["view"]["id"], True)
    assert await service.code(service.ask("add", name="spy", run="3")) == "already_exists"


async def test_renaming_as_the_seed_has_it(service: Hosted, model_path: Path) -> None:
    await trained(service, 0.7, path=model_path)
    await service.ask("add", name="A", run="3")
    await service.ask("add", name="C", run="3")
    rename = {"name": "A", "new_name": "B", "command_id": "019aa000-0000-7000-8000-000000000006"}
    assert (await service.view("rename", **rename))["name"] == "B"
    assert (await service.ask("rename", **rename))["replayed"] is True
    assert await service.code(service.ask("rename", name="A", new_name="D")) == "not_found"
    assert await service.code(service.ask("rename", name="B", new_name="C")) == "already_exists"
    assert await service.code(service.ask("rename", name="B", new_name="B")) == "already_exists"
    assert [each["name"] for each in (await service.view("list"))["items"]] == ["B", "C"]
    assert (await service.view("rename", name="C", new_name="A"))["name"] == "A"


async def test_a_removed_item_frees_its_name(service: Hosted, model_path: Path) -> None:
    await trained(service, 0.7, path=model_path)
    view = await service.view("add", name="A", run="3")
    await service.ask("remove", name="A")
    assert await service.code(service.ask("get", name="A")) == "not_found"
    assert await service.code(service.ask("read_artifact", sha256=view["model"]["sha256"])) == "not_found"
    await service.ask("add", name="A", run="3")


@pytest.fixture
def converted_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads are read in this process: that of its own is tried in the tests of its module."""
    from tapeline.security import conversion, models

    def here(source: Path, target: Path, *, name: str) -> Any:
        models.convert_here(source, target)
        return models.scan(target)

    monkeypatch.setattr(conversion, "converted", here)


async def test_a_model_is_imported_under_a_name_that_counts_up(
    service: Hosted, model_path: Path, converted_here: None
) -> None:
    for name in ("new_model", "new_model_2"):
        sha256 = await service.upload(model_path)
        view = await service.view("import_model", sha256=sha256)
        assert (view["name"], view["canvas"], view["run_id"]) == (name, None, None)
        assert (view["input_shapes"], view["features"]) == ([[3]], [["in1"]])
    sha256 = await service.upload(model_path)
    wrong = service.ask("import_model", sha256=sha256, features=[["a"], ["b"]])
    assert await service.code(wrong) == "invalid"


async def test_hostile_models_are_refused_and_not_kept(service: Hosted, lambda_path: Path, tmp_path: Path) -> None:
    sha256 = await service.upload(lambda_path)
    with pytest.raises(TapelineError, match="lambda_1") as refused:
        await service.ask("import_model", sha256=sha256, name="x")
    assert refused.value.code == "model_refused"
    legacy = tmp_path / "model.h5"
    legacy.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    sha256 = await service.upload(legacy)
    assert await service.code(service.ask("import_model", sha256=sha256)) == "model_refused"
    assert await service.code(service.ask("import_model", sha256=sha256)) == "not_found"
    assert (await service.view("list"))["items"] == []


async def test_a_model_in_hdf5_is_converted_before_it_is_kept(service: Hosted, converted_here: None) -> None:
    legacy = Path(__file__).parents[2] / "assets" / "models" / "sequential.keras2.h5"
    view = await service.view("import_model", sha256=await service.upload(legacy), name="old")
    assert (view["input_shapes"], view["model"]["name"]) == ([[5]], "model.keras")
    assert view["model"]["sha256"] != hashlib.sha256(legacy.read_bytes()).hexdigest()


async def test_what_is_kept_of_an_upload_is_our_own_file(service: Hosted, converted_here: None, tmp_path: Path) -> None:
    import keras

    entry = keras.Input((3,), name="in1")
    model = keras.Model(entry, keras.layers.Dense(1, name="end_o1")(entry))
    model.save(tmp_path / "model.keras")
    sent = await service.upload(tmp_path / "model.keras")
    view = await service.view("import_model", sha256=sent, name="mine")
    assert view["model"]["sha256"] != sent
    assert await service.platform.store.has(view["model"]["sha256"])
    assert not await service.platform.store.has(sent)


async def test_a_checkpoint_with_a_hostile_model_gets_no_name(service: Hosted, lambda_path: Path) -> None:
    await trained(service, 0.7, path=lambda_path)
    assert await service.code(service.ask("add", name="x", run="3")) == "model_refused"
    assert (await service.view("list"))["items"] == []


async def test_another_team_sees_nothing(service: Hosted, model_path: Path) -> None:
    run_id = await trained(service, 0.7, path=model_path)
    view = await service.view("add", name="A", run="3")
    foreign = {"team": "rivals", "user": "eve"}
    assert await service.code(service.ask("get", name="A", **foreign)) == "not_found"
    assert await service.code(service.ask("get", name=view["id"], **foreign)) == "not_found"
    assert await service.code(service.ask("add", name="B", run="3", **foreign)) == "not_found"
    assert await service.code(service.ask("add", name="B", checkpoint_id=f"{run_id}-1", **foreign)) == "not_found"
    assert await service.code(service.ask("rename", name="A", new_name="B", **foreign)) == "not_found"
    assert await service.code(service.ask("remove", name="A", **foreign)) == "not_found"
    digest = hashlib.sha256(model_path.read_bytes()).hexdigest()
    assert await service.code(service.ask("read_artifact", sha256=digest, **foreign)) == "not_found"
    assert (await service.view("list", **foreign))["items"] == []
