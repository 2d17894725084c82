"""Saving, copying, checking and removing canvases over a real log."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from tapeline.testing.hosted import Hosted

DOCUMENT: dict[str, Any] = {
    "schema": "tapeline.canvas/1",
    "nodes": [
        {"id": "in1", "kind": "input", "features": ["log_return_1min"]},
        {"id": "d1", "kind": "dense", "inputs": ["in1"], "units": 8},
        {"id": "o1", "kind": "output", "inputs": ["d1"], "feature": "updown_5min", "label_index": 4},
    ],
}


def changed(units: int) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    made["nodes"][1]["units"] = units
    return made


async def test_every_revision_stays_readable(service: Hosted) -> None:
    first = await service.view("save_canvas", name="demo", content=DOCUMENT)
    assert first["revision"] == 1
    second = await service.view("save_canvas", name="demo", content=changed(16))
    assert (second["revision"], second["id"]) == (2, first["id"])
    assert second["digest"] != first["digest"]
    again = await service.view("save_canvas", name="demo", content=changed(16))
    assert again["revision"] == 2
    assert (await service.view("get_canvas", name="demo"))["content"] == changed(16)
    assert (await service.view("get_canvas", name="demo", revision=1))["content"] == DOCUMENT
    assert await service.code(service.ask("get_canvas", name="demo", revision=3)) == "not_found"


async def test_revisions_are_listed_from_the_first(service: Hosted) -> None:
    for units in (8, 16, 32):
        await service.ask("save_canvas", name="demo", content=changed(units))
    rows = (await service.view("list_revisions", name="demo"))["items"]
    assert [row["revision"] for row in rows] == [1, 2, 3]
    assert [row["content"]["nodes"][1]["units"] for row in rows] == [8, 16, 32]
    page = await service.view("list_revisions", name="demo", limit=1, offset=1)
    assert ([row["revision"] for row in page["items"]], page["next"]) == ([2], "2")
    assert await service.code(service.ask("list_revisions", name="demo", team="rivals", user="eve")) == "not_found"


async def test_a_renamed_canvas_keeps_its_revisions_and_frees_its_name(service: Hosted) -> None:
    first = await service.view("save_canvas", name="demo", content=DOCUMENT)
    await service.ask("save_canvas", name="taken", content=DOCUMENT)
    fields = {"name": "demo", "new_name": "better", "command_id": "019aa000-0000-7000-8000-000000000005"}
    renamed = await service.ask("rename_canvas", **fields)
    assert (renamed["view"]["name"], renamed["view"]["id"], renamed["view"]["revision"]) == ("better", first["id"], 1)
    assert (await service.ask("rename_canvas", **fields))["replayed"] is True
    assert await service.code(service.ask("get_canvas", name="demo")) == "not_found"
    assert (await service.view("save_canvas", name="better", content=changed(9)))["revision"] == 2
    assert (await service.view("save_canvas", name="demo", content=DOCUMENT))["id"] != first["id"]
    assert await service.code(service.ask("rename_canvas", name="better", new_name="taken")) == "already_exists"
    assert await service.code(service.ask("rename_canvas", name="nothing", new_name="x")) == "not_found"
    assert (await service.view("get_canvas", name="better"))["revision"] == 2


async def test_a_save_in_between_is_a_conflict(service: Hosted) -> None:
    await service.ask("save_canvas", name="demo", content=DOCUMENT)
    await service.ask("save_canvas", name="demo", content=changed(16), expected_revision=1)
    late = service.ask("save_canvas", name="demo", content=changed(32), expected_revision=1)
    assert await service.code(late) == "conflict"


async def test_the_same_command_saves_once(service: Hosted) -> None:
    fields: dict[str, Any] = {
        "name": "demo",
        "content": DOCUMENT,
        "command_id": "019aa000-0000-7000-8000-000000000003",
    }
    first = await service.ask("save_canvas", **fields)
    again = await service.ask("save_canvas", **fields)
    assert again["replayed"] is True
    assert (again["view"]["id"], again["position"]) == (first["view"]["id"], first["position"])


async def test_copies_count_up(service: Hosted) -> None:
    source = await service.view("save_canvas", name="demo", content=DOCUMENT)
    fields = {"name": "demo", "command_id": "019aa000-0000-7000-8000-000000000004"}
    first = await service.view("duplicate_canvas", **fields)
    assert (first["name"], first["copied_from"], first["revision"]) == ("demo_copy", source["id"], 1)
    assert (await service.view("duplicate_canvas", **fields))["name"] == "demo_copy"
    assert (await service.view("duplicate_canvas", name="demo"))["name"] == "demo_copy_2"
    names = [each["name"] for each in (await service.view("list_canvases"))["items"]]
    assert names == ["demo", "demo_copy", "demo_copy_2"]


async def test_a_removed_canvas_frees_its_name(service: Hosted) -> None:
    first = await service.view("save_canvas", name="demo", content=DOCUMENT)
    await service.ask("remove_canvas", name="demo")
    assert await service.code(service.ask("get_canvas", name="demo")) == "not_found"
    assert await service.code(service.ask("remove_canvas", name="demo")) == "not_found"
    second = await service.view("save_canvas", name="demo", content=DOCUMENT)
    assert (second["revision"], second["id"] != first["id"]) == (1, True)


async def test_a_draft_is_kept_and_its_errors_are_told(service: Hosted) -> None:
    draft = changed(0)
    await service.ask("save_canvas", name="draft", content=draft)
    found = await service.view("validate_canvas", name="draft")
    assert found["ok"] is False
    assert found["errors"][0]["node"] == "d1"
    assert found["errors"][0]["pointer"] == "/nodes/1/units"
    assert (await service.view("validate_canvas", content=DOCUMENT))["ok"] is True


async def test_another_team_sees_no_canvas(service: Hosted) -> None:
    await service.ask("save_canvas", name="demo", content=DOCUMENT)
    foreign = {"team": "rivals", "user": "eve"}
    for verb in ("get_canvas", "remove_canvas", "duplicate_canvas"):
        assert await service.code(service.ask(verb, name="demo", **foreign)) == "not_found"
    assert (await service.view("list_canvases", **foreign))["items"] == []


async def test_what_is_no_canvas_is_refused(service: Hosted) -> None:
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"ui": deep}
    assert await service.code(service.ask("save_canvas", name="x", content=deep)) == "canvas_too_deep"
    wide = {"notes": "x" * 600_000}
    assert await service.code(service.ask("save_canvas", name="x", content=wide)) == "canvas_too_large"
    assert await service.code(service.ask("save_canvas", name="\u202ex", content=DOCUMENT)) == "invalid"


async def test_components_are_listed(service: Hosted) -> None:
    found = (await service.view("components"))["components"]
    assert {"input", "dense", "output"} <= {each["type"] for each in found}


EXAMPLES = sorted(
    path.name for path in files("tapeline.canvas").joinpath("examples").iterdir() if path.name.endswith(".json")
)


@pytest.mark.parametrize("name", EXAMPLES)
async def test_the_examples_can_be_saved(service: Hosted, name: str) -> None:
    content = json.loads(files("tapeline.canvas").joinpath("examples", name).read_text())
    assert (await service.view("save_canvas", name=name, content=content))["revision"] == 1
    assert (await service.view("validate_canvas", name=name))["ok"] is True


async def test_a_canvas_that_cannot_be_folded_is_shown_as_stale(service: Hosted) -> None:
    parked, fine = [await service.view("save_canvas", name=name, content=DOCUMENT) for name in ("parked", "fine")]
    # The projection has come to rest: while it folds, it keeps its own list of what it has set aside.
    assert (await service.view("get_canvas", name="fine"))["stale"] is None
    service.set_aside("assets.canvases", f"contoso/canvas/{parked['id']}")
    assert [(await service.view("get_canvas", name=name))["stale"] for name in ("parked", "fine")] == [True, None]
    listed = (await service.view("list_canvases"))["items"]
    assert {one["id"]: one["stale"] for one in listed} == {parked["id"]: True, fine["id"]: None}
