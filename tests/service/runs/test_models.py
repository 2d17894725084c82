"""Records of models on a real server and real tables."""

from __future__ import annotations

import asyncio
from typing import Any

from .conftest import Runs


async def model_of(runs: Runs, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = await runs.view("create_model", **({"namespace": "digits", "hash": "a1"} | changes))
    return made


async def test_a_model_makes_its_namespace_and_is_found_by_its_hash(runs: Runs) -> None:
    made = await model_of(runs, name="mlp", description="two layers")
    (found,) = (await runs.view("list_models", namespace="digits", hash="a1"))["items"]
    assert (found["id"], found["name"], found["description"], found["step"]) == (made["id"], "mlp", "two layers", None)
    (namespace,) = (await runs.view("list_namespaces"))["items"]
    assert (namespace["name"], namespace["models"], namespace["id"]) == ("digits", 1, made["namespace_id"])
    assert (await runs.view("list_models", namespace="nothing"))["items"] == []


async def test_of_two_models_with_one_hash_one_wins(runs: Runs) -> None:
    async def attempt() -> str:
        try:
            return str((await model_of(runs))["id"])
        except Exception as error:
            return str(getattr(error, "code", error))

    found = await asyncio.gather(*(attempt() for _ in range(8)))
    assert sorted(set(found))[-1] == "already_exists"
    assert found.count("already_exists") == 7
    assert len((await runs.view("list_models", namespace="digits"))["items"]) == 1


async def test_the_same_command_again_is_the_same_model(runs: Runs) -> None:
    first = await model_of(runs, command_id="once")
    assert (await model_of(runs, command_id="once"))["id"] == first["id"]


async def test_a_deleted_models_hash_is_free_again(runs: Runs) -> None:
    first = await model_of(runs)
    await runs.ask("delete_model", id=first["id"])
    await runs.ask("delete_model", id=first["id"])
    await runs.ask("delete_model", id="unknown")
    second = await model_of(runs)
    assert second["id"] != first["id"]
    assert [one["id"] for one in (await runs.view("list_models", namespace="digits"))["items"]] == [second["id"]]
    assert (await runs.refused("get_model", id=first["id"])).code == "not_found"


async def test_a_record_that_cannot_be_folded_says_so(runs: Runs) -> None:
    parked, fine = await model_of(runs), await model_of(runs, hash="b2")
    runs.host.set_aside("runs.models", f"main/model/{parked['id']}")
    assert [(await runs.view("get_model", id=one["id"]))["stale"] for one in (parked, fine)] == [True, None]
    listed = (await runs.view("list_models", namespace="digits"))["items"]
    assert {one["id"]: one["stale"] for one in listed} == {parked["id"]: True, fine["id"]: None}


async def test_name_step_and_description_change(runs: Runs) -> None:
    made = await model_of(runs, name="mlp", description="two layers")
    await runs.ask("update_model", namespace="digits", hash="a1", name="cnn")
    await runs.ask("set_model_step", id=made["id"], step=7)
    found = await runs.view("get_model", id=made["id"])
    assert (found["name"], found["description"], found["step"]) == ("cnn", "two layers", 7)
    assert (await runs.refused("update_model", namespace="digits", hash="zz", name="x")).code == "not_found"
    assert (await runs.refused("set_model_step", id=made["id"], step=-1)).code == "invalid"


async def test_iterations_metrics_and_modules_come_as_they_were_logged(runs: Runs) -> None:
    id = (await model_of(runs))["id"]
    first = await runs.view("create_iteration", id=id, step=5)
    assert (await runs.view("create_iteration", id=id, step=5))["id"] == first["id"]
    await runs.ask("create_iteration", id=id, step=1)
    await runs.ask("log_model_metric", id=id, name="loss", value={"$float": "NaN"}, step=5, phase="train")
    await runs.ask("log_model_metric", id=id, name="accuracy", value=[1, 2.5, None])
    await runs.ask("log_module", id=id, name="whole", attributes={"layers": 2})
    inner = await runs.view("log_module", id=id, name="dense", iteration_id=first["id"])

    async def parts(part: str, **more: Any) -> list[dict[str, Any]]:
        return list((await runs.view("list_model_parts", id=id, part=part, **more))["items"])

    assert [one["step"] for one in await parts("iterations")] == [5, 1]
    assert [(one["name"], one["value"], one["phase"]) for one in await parts("metrics")] == [
        ("loss", {"$float": "NaN"}, "train"),
        ("accuracy", [1, 2.5, None], None),
    ]
    assert [one["name"] for one in await parts("metrics", name="loss")] == ["loss"]
    assert [one["name"] for one in await parts("modules")] == ["whole"]
    assert [one["name"] for one in await parts("modules", iteration_id=first["id"])] == ["dense"]
    await runs.ask("remove_model_part", id=id, part="modules", part_id=inner["id"])
    assert await parts("modules", iteration_id=first["id"]) == []
    await runs.ask("clear_model_parts", id=id, part="metrics")
    await runs.ask("log_model_metric", id=id, name="later", value=1)
    assert [one["name"] for one in await parts("metrics")] == ["later"]
    assert len(await parts("iterations")) == 2


async def test_a_value_that_is_too_large_is_refused(runs: Runs) -> None:
    id = (await model_of(runs))["id"]
    assert (await runs.refused("log_model_metric", id=id, name="x", value="y" * 70_000)).code == "too_large"
    assert (await runs.view("list_model_parts", id=id, part="metrics"))["items"] == []


async def test_a_namespace_with_models_is_not_deleted(runs: Runs) -> None:
    made = await model_of(runs)
    assert (await runs.refused("delete_namespace", id=made["namespace_id"])).code == "conflict"
    await runs.ask("delete_model", id=made["id"])
    await runs.ask("delete_namespace", id=made["namespace_id"])
    assert (await runs.view("list_namespaces"))["items"] == []
    again = await runs.view("create_namespace", name="digits")
    assert (await runs.refused("create_namespace", name="digits")).code == "already_exists"
    await runs.ask("rename_namespace", id=again["id"], name="numbers")
    assert [one["name"] for one in (await runs.view("list_namespaces"))["items"]] == ["numbers"]
    await runs.ask("create_namespace", name="digits")
    assert (await runs.refused("rename_namespace", id=again["id"], name="digits")).code == "already_exists"


async def test_another_teams_model_is_not_found(runs: Runs) -> None:
    made = await model_of(runs)
    assert (await runs.refused("get_model", id=made["id"], team="other")).code == "not_found"
    assert (await runs.view("list_models", namespace="digits", team="other"))["items"] == []
