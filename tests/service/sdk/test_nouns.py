"""What each noun sends and makes of the answers, over a real server."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tapeline import sdk as tl
from tapeline.columns import pack, points_of
from tapeline.errors import TapelineError
from tapeline.sdk.client import Client

NOW = "2026-01-02T03:04:05.678901Z"
TEXT = b"some bytes of a file" * 1000
FILE = {"name": "model.1.keras", "size_bytes": len(TEXT), "sha256": hashlib.sha256(TEXT).hexdigest()}


def _event(sequence: int, status: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"e{sequence}", "sequence": sequence, "run_id": "r1", "created_at": NOW, "status": status,
        "details": {"type": kind},
    }  # fmt: skip


def _part(body: dict[str, Any]) -> dict[str, Any]:
    part = TEXT[body["offset"] : body["offset"] + body["size_bytes"]]
    return {"data": base64.b64encode(part).decode(), "size_bytes": len(TEXT)}


def test_a_run_is_created_with_what_was_given(service: Any, client: Client) -> None:
    service.answers["runs.create"] = lambda body: {"id": "r1"}
    made = tl.create_run(
        name="n", version="v", resources=tl.Resources(cpu="1", memory="1Gi"), config={"a": 1}, task_type="t",
        blueprint_id="b", project_id="p", notes="x",
    )  # fmt: skip
    assert made == "r1"
    (body,) = service.sent("runs.create")
    assert body["resources"] == {"cpu": "1", "memory": "1Gi"}
    assert body["notes"] == "x"


def test_long_lists_come_in_pages(service: Any, client: Client) -> None:
    everything = [{"id": f"r{i}", "number": i} for i in range(2300)]

    def answer(body: dict[str, Any]) -> Any:
        rows = everything[body["offset"] : body["offset"] + min(body["limit"], 700)]
        end = body["offset"] + len(rows)
        return {"items": rows, "next": str(end) if end < len(everything) else None}

    service.answers["runs.list"] = answer
    assert [run.number for run in tl.get_runs(limit=2200, offset=50)] == list(range(50, 2250))
    assert len(tl.get_runs(limit=10_000)) == 2300
    assert all(body["limit"] <= 1000 for body in service.sent("runs.list"))


def test_filters_reach_the_service(service: Any, client: Client) -> None:
    service.answers["runs.list"] = lambda body: {"items": []}
    tl.get_runs(
        statuses=["job_running"],
        name_ilikes=["%x%"],
        created_after=datetime(2026, 1, 1),
        select=["id"],
        sort="id",  # type: ignore[arg-type]
    )
    (body,) = service.sent("runs.list")
    assert body["statuses"] == ["job_running"]
    assert body["created_after"] == "2026-01-01T00:00:00+00:00"
    assert body["sort"] == ["id:asc"]


def test_a_run_is_reloaded_in_place(service: Any, client: Client) -> None:
    states = iter(["job_pending", "job_running"])
    service.answers["runs.get"] = lambda body: {
        "id": "r1", "number": 7, "status": next(states), "notes": "new",
        "progress": [{"operation": "epochs", "value": 1, "final_value": 4, "units": "epochs"}], "surprise": 1,
    }  # fmt: skip
    run = tl.Run.from_id("7")
    run.reload(["status"])
    assert (run.status, run.number) == ("job_running", 7)
    assert run.progress is not None
    assert run.progress[0].final_value == 4


def test_a_stop_carries_its_grace(service: Any, client: Client) -> None:
    service.answers["runs.stop"] = lambda body: {"id": "r1", "status": "run_stop_requested"}
    run = tl.Run(id="r1")
    run.stop(timedelta(seconds=90), command_id="c1")
    assert service.sent("runs.stop")[0] == {"run": "r1", "grace_s": 90.0, "command_id": "c1"}
    assert run.status == "run_stop_requested"


def test_metrics_are_paged_by_time_and_keep_their_kind(service: Any, client: Client) -> None:
    first = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6)
    times = [first + i for i in range(1500)]

    def chunk(steps: list[int], values: list[float], *, whole: bool) -> dict[str, Any]:
        points = points_of(steps, [times[step] for step in steps], values, whole=whole)
        return {"tag": "loss", "attempt": 1, "body": base64.b64encode(pack(points)).decode()}

    def answer(body: dict[str, Any]) -> Any:
        # The newer half first; below `next` lie all others.
        low, high, left = (750, 1500, times[750]) if body.get("reach") is None else (0, 750, None)
        odd, even = list(range(low + 1, high, 2)), list(range(low, high, 2))
        return {
            "chunks": [chunk(odd, odd, whole=True), chunk(even, [math.nan] * len(even), whole=False)],
            "next": left,
        }  # fmt: skip

    service.answers["runs.columns"] = answer
    found = tl.Run(id="r1").get_all_metrics()
    assert [point.global_step for point in found] == list(reversed(range(1500)))
    assert type(found[0].value) is int
    assert found[1].value != found[1].value
    assert tl.Run(id="r1").get_metrics(tags=[]) == []


def test_watch_gives_every_event_once_and_ends_with_the_run(service: Any, client: Client, feed_of: Any) -> None:
    stored = [_event(1, "run_created", "RunCreated")]
    service.answers["runs.events"] = lambda body: {"items": [e for e in stored if e["sequence"] > body["after"]]}

    def go_on() -> None:
        stored.extend([_event(2, "job_running", "JobStarted"), _event(3, "job_completed", "JobCompleted")])
        service.publish(feed_of("r1"))

    later = threading.Timer(0.3, go_on)
    later.start()
    seen = list(tl.Run(id="r1").watch())
    later.join()
    assert [event.sequence for event in seen] == [1, 2, 3]
    assert seen[-1].details["type"] == "JobCompleted"


def test_waiting_has_an_end(service: Any, client: Client) -> None:
    service.answers["runs.get"] = lambda body: {"id": "r1", "number": 1, "status": "job_running"}
    with pytest.raises(TimeoutError, match="run 1 is job_running"):
        tl.Run(id="r1").wait(timeout=0.2)


def test_following_draws_progress_by_tenths_when_piped(
    service: Any, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    values = iter([1, 1, 2, 4])

    def answer(body: dict[str, Any]) -> Any:
        value = next(values)
        progress = [{"operation": "epochs", "value": value, "final_value": 4, "units": "epochs"}]
        return {"id": "r1", "status": "job_completed" if value == 4 else "job_running", "progress": progress}

    service.answers["runs.get"] = answer
    assert tl.Run(id="r1").follow() == "job_completed"
    assert [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()] == [
        "job_running", "epochs 20 % (1 of 4 epochs)", "epochs 50 % (2 of 4 epochs)", "job_completed",
        "epochs 100 % (4 of 4 epochs)",
    ]  # fmt: skip


def test_a_checkpoint_is_downloaded_and_checked(service: Any, client: Client, tmp_path: Path) -> None:
    checkpoint = {"id": "c1", "run_id": "r1", "status": "complete", "files": [FILE]}
    service.answers["runs.checkpoints"] = lambda body: {"items": [checkpoint]}
    service.answers["runs.read_artifact"] = _part
    tl.download_checkpoint("c1", str(tmp_path))
    assert (tmp_path / "model.1.keras").read_bytes() == TEXT
    tl.download_checkpoint("c1", str(tmp_path))
    assert len(service.sent("runs.read_artifact")) == 1
    (tmp_path / "model.1.keras").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        tl.download_checkpoint("c1", str(tmp_path))
    checkpoint["status"] = "incomplete"
    with pytest.raises(tl.ConflictError):
        tl.download_checkpoint("c1", str(tmp_path))


def test_bytes_with_another_hash_are_refused_and_not_kept(service: Any, client: Client, tmp_path: Path) -> None:
    forged = FILE | {"sha256": "0" * 64}
    service.answers["runs.checkpoints"] = lambda body: {
        "items": [{"id": "c1", "status": "complete", "files": [forged]}]
    }
    service.answers["runs.read_artifact"] = _part
    with pytest.raises(tl.ValidationError, match="digest"):
        tl.download_checkpoint("c1", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_vault_item_answers_in_the_words_of_the_page(service: Any, client: Client) -> None:
    def rename(body: dict[str, Any]) -> Any:
        if body["name"] == "my_model0":
            raise TapelineError("no", code="not_found")
        if body["new_name"] in ("spy_e1", "my_model1"):
            raise TapelineError("no", code="already_exists")
        return {}

    service.answers["vault.rename"] = rename
    item = tl.VaultItem("contoso", "my_model1")
    assert repr(item) == "VaultItem(team='contoso', name='my_model1')"
    assert item.rename("my_model1") == {"status": "ERROR", "message": "name already exists"}
    assert item.name == "my_model1"
    assert item.rename("my_model2") == {
        "status": "SUCCESS", "message": "Vault item my_model1 has been renamed my_model2."
    }  # fmt: skip
    assert item.name == "my_model2"
    missing = tl.VaultItem("contoso", "my_model0")
    assert missing.rename("new_name") == {"status": "ERROR", "message": "item my_model0 not found"}
    assert missing.name == "my_model0"


def test_details_have_the_keys_of_the_page(service: Any, client: Client) -> None:
    def get(body: dict[str, Any]) -> Any:
        if body["name"] != "my_model1":
            raise TapelineError("no", code="not_found")
        return {
            "id": "v1", "name": "my_model1", "host": "bogdan", "project_id": "my_project", "run_number": 3,
            "training_epoch": 1, "model_file": "model.1.keras", "created_at": "2024-07-12T19:40:19.783233Z",
            "value": None, "summary": "", "canvas": {"nodes": []}, "input_shapes": [[20, 8], [1]],
        }  # fmt: skip

    service.answers["vault.get"] = get
    item = tl.VaultItem("contoso", "my_model1")
    assert item.details == {
        "host": "bogdan", "project": "my_project", "runid": 3, "epoch": 1, "model": "model.1.keras",
        "name": "my_model1", "value": None, "notes": None, "color": None,
        "dateAdded": "2024-07-12 19:40:19.783233+00:00", "workers": [],
    }  # fmt: skip
    assert item.canvas == {"nodes": []}
    assert [array.shape for array in item.zeros()] == [(1, 20, 8), (1, 1)]
    nothing = tl.VaultItem("contoso", "my_model0")
    assert nothing.details is None
    assert nothing.canvas is None
    with pytest.raises(tl.LitVaultError) as refused:
        nothing.zeros()
    assert refused.value.code == 404


def test_a_missing_asset_is_refused_on_construction(service: Any, client: Client) -> None:
    def get(body: dict[str, Any]) -> Any:
        raise TapelineError("there is no asset 'x'", code="not_found", hint="tapeline asset ls")

    service.answers["assets.get"] = get
    with pytest.raises(tl.LitModelError) as refused:
        tl.Asset("contoso", "x")
    assert str(refused.value) == "An error occurred in function '__init__'"
    assert isinstance(refused.value.__cause__, tl.NotFoundError)


def test_an_asset_fetches_its_files_on_first_use(service: Any, client: Client) -> None:
    files = [FILE | {"name": "spy_test.h5"}, FILE | {"name": "spy_train_0.h5"}]
    service.answers["assets.get"] = lambda body: {
        "id": "a1", "name": "spy", "status": "ready", "datasets": ["100_1_min", "up"], "files": files,
        "rows": {"spy_test.h5": 20, "spy_train_0.h5": 80},
    }  # fmt: skip
    service.answers["assets.read_artifact"] = _part
    asset = tl.Asset("contoso", "spy")
    assert (len(asset), asset.datasets) == (100, ["100_1_min", "up"])
    assert [(file.name, file.part, len(file)) for file in asset.files] == [
        ("spy_test.h5", "test", 20), ("spy_train_0.h5", "train", 80)
    ]  # fmt: skip
    assert repr(asset.files[0]).startswith("Path('/")
    assert service.sent("assets.read_artifact") == []
    assert asset.files[0].path.read_bytes() == TEXT
    assert Path(asset.files[0]).parent == asset.path
    assert asset.verify()


def test_a_failed_build_says_why(service: Any, client: Client) -> None:
    service.answers["assets.build"] = lambda body: {"id": "a1", "name": "spy", "status": "building"}
    service.answers["assets.get"] = lambda body: {
        "id": "a1", "name": "spy", "status": "failed", "code": "leak_found", "message": "it leaks", "hint": "mend it",
        "progress": [],
    }  # fmt: skip
    with pytest.raises(tl.LitModelError) as refused:
        tl.Asset.build("contoso", {"name": "spy"})
    cause: Any = refused.value.__cause__
    while isinstance(cause, tl.LitModelError):
        cause = cause.__cause__
    assert (cause.code, cause.message, cause.hint) == ("leak_found", "it leaks", "mend it")


def test_a_canvas_edited_by_hand_is_saved_before_it_trains(service: Any, client: Client) -> None:
    stored = json.loads(tl.example_canvas("demo").read_text())
    view = {"id": "k1", "name": "demo", "revision": 1, "content": stored}
    service.answers["assets.get_canvas"] = lambda body: view
    service.answers["assets.save_canvas"] = lambda body: view | {"revision": 2, "content": body["content"]}
    service.answers["runs.train"] = lambda body: {"run_id": "r1", "number": 4, "session_name": "demo-4"}
    canvas = tl.Canvas("contoso", "demo")
    assert canvas.inputs
    assert set(canvas.outputs[0]) == {
        "component_name", "label_index", "gaussian_noise", "dropout", "class_weighting", "activation", "feature"
    }  # fmt: skip
    assert canvas.train("cpu0") == "demo-4"
    assert service.sent("assets.save_canvas") == []
    edited = canvas.document | {"notes": "mine"}
    canvas.path.write_text(json.dumps(edited))
    canvas.train("cpu0", temp_canvas=True)
    assert service.sent("runs.train")[-1]["document"] == edited
    canvas.train("cpu0", "mine", asset="spy")
    assert service.sent("assets.save_canvas")[0]["content"] == edited
    assert service.sent("runs.train")[-1] | {"command_id": "", "min_position": 0} == {
        "canvas": "demo", "device": "cpu0", "session_name": "mine", "asset": "spy", "command_id": "", "min_position": 0
    }  # fmt: skip
    assert canvas.revision == 2
    canvas.remove()
    with pytest.raises(tl.LitModelError) as refused:
        canvas.inputs
    assert refused.value.code == 404 or isinstance(refused.value.__cause__, tl.NotFoundError)


def test_a_simulated_tape_is_uploaded_by_digest(service: Any, client: Client) -> None:
    received: dict[str, bytes] = {}

    def begin(body: dict[str, Any]) -> Any:
        received[body["sha256"]] = b""
        return {"upload_id": body["sha256"], "size_bytes": body["size_bytes"], "received_bytes": 0, "complete": False}

    def part(body: dict[str, Any]) -> Any:
        received[body["upload_id"]] += base64.b64decode(body["data"])
        complete = hashlib.sha256(received[body["upload_id"]]).hexdigest() == body["upload_id"]
        return {"upload_id": body["upload_id"], "size_bytes": 0, "received_bytes": 0, "complete": complete}

    def made(body: dict[str, Any]) -> Any:
        manifest = json.loads(received[body["manifest_sha256"]])
        return {
            "id": "t1", "name": body["name"], "content_sha256": manifest["content_sha256"], "symbols": ["SIM1"],
            "days": ["2024-01-02"], "rows": 100, "calendar": "SIM", "created_at": NOW,
        }  # fmt: skip

    service.answers |= {"assets.begin_upload": begin, "assets.upload_part": part, "assets.import_tape": made}
    tape = tl.tapes.simulate(name="sim", days=1, trades_per_day=100)
    assert tape.rows == 100
    assert len(received) == 2
    assert all(hashlib.sha256(data).hexdigest() == digest for digest, data in received.items())


def test_experiments_come_with_what_is_known(service: Any, client: Client) -> None:
    service.answers["runs.list"] = lambda body: {
        "items": [
            {"id": "r2", "number": 74, "status": "job_running"},
            {"id": "r1", "number": 73, "status": "job_failed"},
        ]
    }
    experiments = tl.get_experiments("contoso")
    assert [(each.runid, each.is_running) for each in experiments] == [(74, True), (73, False)]
    assert len(service.sent("runs.get")) == 0


def test_a_blueprint_is_looked_up_by_name(service: Any, client: Client) -> None:
    known = {"id": "b1", "name": "canvas", "version": "1.0.0", "config_schema": {}}
    service.answers["runs.blueprints"] = lambda body: {"items": [known] if body["name"] == "canvas" else []}
    assert tl.lookup_blueprint_id("canvas") == "b1"
    with pytest.raises(tl.BlueprintDoesNotExistError) as refused:
        tl.lookup_blueprint_id("canvass", "1.%")
    assert (refused.value.name, refused.value.version_ilike) == ("canvass", "1.%")
