"""What runs keep: inputs, outputs, parameters, metrics tables; copies, forks, and blueprints of a team."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline.ids import new_id
from tapeline.metric_tables import columns_of, write

MANY = {
    "loss": [0.5, 0.25, 0.125],
    "label": ["a", "bé", ""],
    "ok": [True, False, True],
    "emb": [[1.0, 2], [3, 4], [5, 6]],
}


@pytest.fixture
def table_file(tmp_path: Path) -> Any:
    def made(**columns: Any) -> Path:
        path = tmp_path / f"{new_id()}.h5"
        write(path, columns_of(columns))
        return path

    return made


@pytest.fixture
async def ended(runs: Any, agent: Any) -> dict[str, Any]:
    """A run that has measured, checkpointed and completed."""
    run = await runs.create(name="first", notes="n")
    lease = await agent.take()
    await agent.started(lease)
    await agent.measure(lease, 1, {"loss": [(1, 0.5, time.time_ns()), (2, 0.25, time.time_ns() + 2000)]})
    await agent.checkpoint(lease, 5)
    await agent.completed(lease)
    return await runs.until(run["id"], "job_completed")


async def add_table(runs: Any, run: str, path: Path, **fields: Any) -> dict[str, Any]:
    sha256 = await runs.host.upload(path, team="main")
    (view,) = (await runs.view("add_table", run=run, sha256=sha256, **fields))["tables"]
    return view


async def test_inputs_outputs_and_parameters_are_folds(runs: Any) -> None:
    run = (await runs.create())["id"]
    # Its job is made meanwhile: what is counted below is what is asked for there.
    await runs.until(run, "job_pending")
    for _ in range(2):
        await runs.ask("add_input", run=run, value={"seed": 1})
        await runs.ask("add_output", run=run, value={"score": 0.5})
    await runs.ask("set_parameters", run=run, parameters={"lr": 0.1, "layers": [1, 2]})
    before = len(await runs.types(run))
    await runs.ask("set_parameters", run=run, parameters={"lr": 0.1})
    assert len(await runs.types(run)) == before, "an equal value is no event"
    await runs.ask("set_parameters", run=run, parameters={"lr": 0.2})
    kept = await runs.view("record", run=run)
    assert kept["inputs"] == [{"seed": 1}]
    assert kept["outputs"] == [{"score": 0.5}, {"score": 0.5}]
    assert kept["parameters"] == {"lr": 0.2, "layers": [1, 2]}
    last = (await runs.view("events", run=run, limit=1))["items"][0]
    assert (last["details"]["old"], last["details"]["new"]) == ({"lr": 0.1}, {"lr": 0.2})
    assert kept["last_modified"] == last["created_at"]
    refused = await runs.refused("add_input", run=run, value={"big": "x" * 70_000})
    assert (refused.code, bool(refused.hint)) == ("too_large", True)
    assert (await runs.refused("add_input", run=run, value=[1])).code == "invalid"
    assert (await runs.refused("record", run=run, team="other")).code == "not_found"


async def test_a_table_is_checked_kept_and_shared(runs: Any, table_file: Any) -> None:
    run, other = (await runs.create())["id"], (await runs.create())["id"]
    table = await add_table(runs, run, table_file(**MANY), name="epoch 1", stream_name="val")
    assert (table["rows"], table["name"], table["stream_name"]) == (3, "epoch 1", "val")
    assert [said["kind"] for said in table["columns"].values()] == ["float", "text", "bool", "vector"]
    seen = await runs.view("table", table=table["id"])
    assert seen["file"] == table["file"]
    assert (await runs.view("read_artifact", sha256=table["file"]["sha256"]))["size_bytes"] == table["file"][
        "size_bytes"
    ]
    for _ in range(2):
        await runs.ask("attach_tables", run=other, tables=[table["id"]])
    (again,) = (await runs.view("record", run=other))["tables"]
    assert (again["id"], again["run_id"]) == (table["id"], other)
    await runs.ask("remove_tables", run=run, tables=[table["id"], "unknown"])
    assert (await runs.view("record", run=run))["tables"] == []
    assert (await runs.view("table", table=table["id"]))["run_id"] == other
    await runs.ask("delete", run=other, stop=True)
    missing = await runs.refused("table", table=table["id"])
    assert (missing.code, bool(missing.hint)) == ("not_found", True)
    assert (await runs.refused("table", table=table["id"], team="other")).code == "not_found"


async def test_rows_belong_to_the_rows_of_a_foreign_table(runs: Any, table_file: Any) -> None:
    run = (await runs.create())["id"]
    url = f"tapeline://main/tables/{(await add_table(runs, run, table_file(**MANY)))['id']}"
    own = {"loss": [1.0, 2.0], "example_id": [2, 2], "foreign_table_id": [0, 0]}
    view = await add_table(runs, run, table_file(**own), foreign_table_url=url, foreign_table_display_name="train")
    assert (view["foreign_table_url"], view["foreign_table_display_name"]) == (url, "train")
    for columns, given, code in (
        (own | {"example_id": [0, 3]}, url, "invalid"),
        (own | {"example_id": [0.0, 1.0]}, url, "invalid"),
        ({"loss": [1.0]}, url, "invalid"),
        (own, "tapeline://main/tables/unknown", "not_found"),
        (own, "tapeline://main/assets/none/a.h5", "not_found"),
        (own, url.replace("main", "other"), "invalid"),
        (own, "file:///etc/passwd", "invalid"),
        (own, "tapeline://main/tables/../x", "invalid"),
    ):
        sha256 = await runs.host.upload(table_file(**columns), team="main")
        refused = await runs.refused("add_table", run=run, sha256=sha256, foreign_table_url=given)
        assert (refused.code, bool(refused.hint)) == (code, True), given


async def test_a_file_that_is_no_table_is_refused(runs: Any, tmp_path: Path) -> None:
    run = (await runs.create())["id"]
    (tmp_path / "bad.h5").write_bytes(b"not hdf5" * 100)
    sha256 = await runs.host.upload(tmp_path / "bad.h5", team="main")
    assert (await runs.refused("add_table", run=run, sha256=sha256)).code == "asset_refused"
    assert (await runs.refused("add_table", run=run, sha256="0" * 64)).code == "not_found"


async def test_a_copy_has_everything_but_checkpoints_and_outlives_its_source(
    runs: Any, ended: Any, agent: Any, table_file: Any
) -> None:
    source = ended["id"]
    await runs.ask("set_parameters", run=source, parameters={"lr": 0.1})
    await runs.ask("add_input", run=source, value={"a": 1})
    table = await add_table(runs, source, table_file(**MANY))
    measured = (await runs.view("metrics", run=source))["items"]
    command_id = new_id()
    copy = await runs.view("copy", run=source, command_id=command_id)
    assert (copy["name"], copy["status"], copy["notes"], copy["number"]) == ("first_copy", "job_completed", "n", 2)
    assert await runs.view("copy", run=source, command_id=command_id) == copy
    assert (await runs.types(copy["id"]))[:3] == ["RunCreated", "RunCopied", "MetricsTableAdded"]
    kept = await runs.view("record", run=copy["id"])
    assert (kept["parameters"], kept["inputs"], kept["source"]) == ({"lr": 0.1}, [{"a": 1}], source)
    assert [each["id"] for each in kept["tables"]] == [table["id"]]
    assert (await runs.view("checkpoints", run_ids=[copy["id"]]))["items"] == []
    await runs.ask("delete", run=source)
    again = (await runs.view("metrics", run=copy["id"]))["items"]
    facts = [(each["tag"], each["global_step"], each["value"], each["created_at"]) for each in measured]
    assert [(each["tag"], each["global_step"], each["value"], each["created_at"]) for each in again] == facts
    assert (await runs.view("get", run=copy["id"]))["status"] == "job_completed"
    await runs.ask("restart", run=copy["id"])
    assert (await agent.take())["attempt"] == 2


async def test_what_is_done_when_a_copy_would_have_the_name_of_another(runs: Any, ended: Any) -> None:
    source = ended["id"]
    first = await runs.view("copy", run=source, name="x")
    refused = await runs.refused("copy", run=source, name="x")
    assert (refused.code, bool(refused.hint)) == ("already_exists", True)
    assert (await runs.view("copy", run=source, name="x", if_exists="rename"))["name"] == "x_1"
    assert (await runs.view("copy", run=source, name="x", if_exists="rename"))["name"] == "x_2"
    assert (await runs.view("copy", run=source, name="x", project_id="elsewhere"))["project_id"] == "elsewhere"
    last = await runs.view("copy", run=source, name="x", if_exists="overwrite")
    assert (await runs.refused("get", run=first["id"])).code == "not_found"
    assert [each["id"] for each in (await runs.view("list", name_ilikes=["x"], project_ids=["default"]))["items"]] == [
        last["id"]
    ]
    live = await runs.create(name="y")
    refused = await runs.refused("copy", run=source, name="y", if_exists="overwrite")
    assert (refused.code, bool(refused.hint)) == ("conflict", True)
    refused = await runs.refused("copy", run=live["id"])
    assert (refused.code, bool(refused.hint)) == ("conflict", True)
    assert (await runs.refused("copy", run=source, if_exists="merge")).code == "invalid"


async def test_a_fork_starts_from_a_checkpoint_of_another_run(runs: Any, ended: Any, agent: Any) -> None:
    (checkpoint,) = (await runs.view("checkpoints", run_ids=[ended["id"]]))["items"]
    fork = await runs.view("fork", run=ended["id"])
    assert (fork["name"], fork["config"]) == ("first_fork", ended["config"])
    lease = await agent.take()
    assert lease["run"] == fork["id"]
    assert lease["spec"]["from_checkpoint"]["id"] == checkpoint["id"]
    refused = await runs.refused("fork", run=ended["id"], from_checkpoint="unknown")
    assert (refused.code, bool(refused.hint)) == ("not_found", True)
    refused = await runs.refused("fork", run=fork["id"])
    assert (refused.code, bool(refused.hint)) == ("conflict", True)


async def test_a_team_registers_kinds_of_training(runs: Any, agent: Any) -> None:
    schema = {"type": "object", "additionalProperties": False, "properties": {"steps": {"type": "integer"}}}
    given = {"name": "mine", "version": "1.0.0", "config_schema": schema, "entrypoint": "mine.train:go"}
    first = await runs.view("register_blueprint", **given)
    assert (await runs.view("register_blueprint", **given))["id"] == first["id"]
    later = await runs.view("register_blueprint", **(given | {"version": "1.1.0-rc.1"}))
    found = (await runs.view("blueprints", name="mine"))["items"]
    assert [each["id"] for each in found] == [later["id"], first["id"]]
    assert (await runs.view("blueprints", name="mine", version_ilike="1.0%"))["items"][0][
        "entrypoint"
    ] == "mine.train:go"
    assert (await runs.view("blueprints", name="mine", team="other"))["items"] == []
    other = schema | {"required": ["steps"]}
    for changes, code in (
        ({"config_schema": other}, "already_exists"),
        ({"name": "canvas"}, "already_exists"),
        ({"version": "1.0"}, "invalid"),
        ({"version": "v1.0.0"}, "invalid"),
        ({"version": "01.0.0"}, "invalid"),
        ({"entrypoint": "no colon"}, "invalid"),
        ({"config_schema": {"type": "objekt"}, "version": "2.0.0"}, "invalid"),
    ):
        refused = await runs.refused("register_blueprint", **(given | changes))
        assert (refused.code, bool(refused.hint)) == (code, True), changes
    refused = await runs.refused("validate_config", blueprint_id=first["id"], config={"stepz": 1})
    assert (refused.code, refused.hint) == ("invalid", "did you mean 'steps'?")
    run = await runs.create(blueprint_id=first["id"], config={"steps": 3})
    view = await runs.until(run["id"], "job_pending")
    assert view["reason"] == "no_device"
    await runs.ask("remove_blueprint", blueprint_id=first["id"])
    assert [each["id"] for each in (await runs.view("blueprints", name="mine"))["items"]] == [later["id"]]
    assert (await runs.refused("validate_config", blueprint_id=first["id"], config={})).code == "not_found"
    assert (await runs.refused("remove_blueprint", blueprint_id=first["id"], team="other")).code == "not_found"


def test_columns_that_make_no_table_are_refused() -> None:
    from tapeline.errors import TapelineError

    for metrics in (
        {}, {"a": [1, 2], "b": [1]}, {"a": [object()]}, {"a": [None, 1]}, {"a": 3}, {"a": [[1], [1, 2]]}, {"": [1]},
        {"a": np.array(["2020-01-01"], dtype="datetime64[ns]")}, {"a": np.zeros((2, 2, 2))}, {"a": [1j]},
    ):  # fmt: skip
        with pytest.raises(TapelineError) as refused:
            columns_of(metrics)
        assert (refused.value.code, bool(refused.value.hint)) == ("invalid", True), metrics
