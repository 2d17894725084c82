"""Canvases in the SDK and on the command line: revisions, differences, drawings, Keras models."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tapeline import sdk as tl
from tapeline.cli.app import run
from tapeline.errors import TapelineError
from tapeline.sdk.client import Client

NOW = "2026-01-02T03:04:05.678901+00:00"
STORED = json.loads(tl.example_canvas("demo").read_text())
NEWER = copy.deepcopy(STORED)
NEWER["nodes"][5]["units"] = 8
NEWER["training"]["epochs"] = 9


def _view(body: dict[str, Any]) -> dict[str, Any]:
    revision = body.get("revision") or 2
    if revision > 2:
        raise TapelineError("canvas 'demo' has no revision 3", code="not_found", hint="revisions are 1 to 2")
    content = STORED if revision == 1 else NEWER
    return {
        "id": "k1", "name": "demo", "revision": revision, "content": content, "digest": f"d{revision}",
        "user": "ann", "created_at": NOW, "updated_at": NOW,
    }  # fmt: skip


@pytest.fixture
def canvas(service: Any, client: Client) -> tl.Canvas:
    service.answers["assets.get_canvas"] = _view
    service.answers["assets.list_revisions"] = lambda body: {"items": [_view({"revision": n}) for n in (1, 2)]}
    return tl.Canvas("contoso", "demo")


def test_every_revision_can_be_opened_and_compared(canvas: tl.Canvas) -> None:
    assert [each["revision"] for each in canvas.revisions()] == [1, 2]
    assert canvas.revisions()[0]["saved_at"].isoformat() == NOW
    first = canvas.version(1)
    assert (first.revision, first.document) == (1, STORED)
    changed = canvas.diff(1, 2)
    assert changed.changed == {"trunk": {"units": ([32, 16], 8)}}
    assert changed.training == {"epochs": (8, 9)}
    assert canvas.diff(first).to_json() == changed.to_json()
    assert canvas.diff().is_empty
    with pytest.raises(tl.LitModelError):
        canvas.version(3)


def test_the_working_copy_is_compared_with_the_revision_that_was_opened(canvas: tl.Canvas) -> None:
    canvas.path.write_text(json.dumps(STORED))
    assert set(canvas.diff().changed) == {"trunk"}


def test_a_renamed_canvas_goes_by_its_new_name(service: Any, canvas: tl.Canvas) -> None:
    service.answers["assets.rename_canvas"] = lambda body: _view({}) | {"name": body["new_name"]}
    canvas.rename("better")
    assert canvas.name == "better"
    assert service.sent("assets.rename_canvas")[0]["name"] == "demo"


def test_a_second_removal_is_no_change(service: Any, canvas: tl.Canvas) -> None:
    canvas.remove()
    canvas.remove()
    assert len(service.sent("assets.remove_canvas")) == 1


def test_a_canvas_is_drawn_into_a_file_and_a_notebook(service: Any, canvas: tl.Canvas, tmp_path: Path) -> None:
    service.answers["assets.get"] = lambda body: {
        "features": {
            "bars_20_1min": [20, 8], "log_return_1min": [1], "trade_size_1min": [2], "volume_ratio_1min": [1]
        },
        "labels": {"updown_5min": ["regression", "binary"]},
    }  # fmt: skip
    drawn = canvas.render(tmp_path / "demo.svg")
    assert (tmp_path / "demo.svg").read_text(encoding="utf-8") == drawn
    canvas.render(tmp_path / "demo.png", asset="spy")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert "20 × 8" in canvas.render(asset="spy")
    with pytest.raises(tl.LitModelError) as refused:
        canvas.render(tmp_path / "demo.gif")
    assert "ends in .gif" in str(refused.value.__cause__)
    assert "<svg" in canvas._repr_html_()
    canvas.path.write_text('{"schema": "tapeline.canvas/1", "nodes": [{"id": "<b>"}]}')
    assert "<svg" not in canvas._repr_html_()
    assert "&lt;b&gt;" in canvas._repr_html_()
    canvas.path.write_text("no json")
    assert "<pre>" in canvas._repr_html_()


def test_files_are_compared_and_drawn_without_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text(json.dumps(STORED))
    other.write_text(json.dumps(NEWER))
    assert run(["canvas", "diff", str(one), str(other), "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["changed"] == {"trunk": {"units": [[32, 16], 8]}}
    assert run(["canvas", "diff", str(one), str(one)]) == 0
    assert run(["canvas", "diff", str(one), str(other)]) == 5
    assert "changed\ttrunk\tunits\t[32, 16]\t8" in capsys.readouterr().out
    assert run(["canvas", "render", str(one)]) == 0
    assert capsys.readouterr().out.startswith("<svg")
    assert run(["canvas", "render", str(one), "--out", str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_revisions_are_named_with_an_at(canvas: tl.Canvas, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["canvas", "diff", "demo@1", "demo", "--json"]) == 5
    assert set(json.loads(capsys.readouterr().out)["changed"]) == {"trunk"}
    assert run(["canvas", "revisions", "demo", "--json"]) == 0
    assert [each["digest"] for each in json.loads(capsys.readouterr().out)] == ["d1", "d2"]
    assert run(["canvas", "diff", "demo@3", "demo"]) == 3


def test_a_keras_model_becomes_a_canvas_on_the_command_line(
    service: Any, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"batch_shape": [None, 3], "dtype": "float32", "sparse": False, "ragged": False, "name": "x"}
    tensor = {"class_name": "__keras_tensor__", "config": {"shape": [None, 3], "keras_history": ["x", 0, 0]}}
    end = {
        "module": "keras.layers", "class_name": "Dense", "registered_name": None, "name": "up",
        "config": {"name": "up", "units": 1, "activation": "sigmoid", "use_bias": True},
        "build_config": {"input_shape": [None, 3]}, "inbound_nodes": [{"args": [tensor], "kwargs": {}}],
    }  # fmt: skip
    entry = {
        "module": "keras.layers", "class_name": "InputLayer", "config": shape, "registered_name": None, "name": "x",
        "inbound_nodes": [],
    }  # fmt: skip
    config = {
        "name": "m", "layers": [entry, end], "input_layers": [["x", 0, 0]], "output_layers": [["up", 0, 0]]
    }  # fmt: skip
    model = {"module": "keras.src.models.functional", "class_name": "Functional", "config": config}
    file = tmp_path / "model.json"
    file.write_text(json.dumps(model))
    arguments = ["canvas", "import", str(file), "--feature", "x=ret", "--label", "up=updown[4]"]
    assert run(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["nodes"][0]["features"] == ["ret"]
    assert (document["nodes"][1]["feature"], document["nodes"][1]["label_index"]) == ("updown", 4)
    service.answers["assets.save_canvas"] = lambda body: _view({}) | {"content": body["content"], "revision": 1}
    assert run([*arguments, "--name", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["revision"] == 1
    assert service.sent("assets.save_canvas")[0]["name"] == "mine"
    assert run(["canvas", "import", str(file), "--feature", "y=ret"]) == 7
    end["class_name"] = "Lambda"
    file.write_text(json.dumps(model))
    assert run(["canvas", "import", str(file)]) == 7
    assert "layer 'up' (Lambda)" in capsys.readouterr().err
