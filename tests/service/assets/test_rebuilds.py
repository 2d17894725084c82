"""Assets built again and compared, and the progress of builds as other copies of the service see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapeline.assets.app import build
from tapeline.assets.asset import aggregate
from tapeline.assets.components import registry
from tapeline.contracts.assets import FailBuild
from tapeline.errors import TapelineError
from tapeline.log import progress
from tapeline.runs.metrics import batch
from tapeline.service import Platform, Service
from tapeline.tape.prepared import PreparedTape
from tapeline.testing.hosted import Hosted, hosted
from tapeline.testing.server import NatsServer

from .test_assets import ended, import_tape

SPEC: dict[str, Any] = {
    "name": "demo",
    "tapes": ["demo"],
    "features": ["log_return_1min", {"name": "9%", "component": "roc", "params": {"k": 9}}],
    "labels": ["updown_5min"],
}


async def rebuilt(service: Hosted) -> dict[str, Any]:
    for _ in range(600):
        view: dict[str, Any] = await service.view("get", name="demo")
        if view["rebuild"]["status"] != "building":
            return view
        await asyncio.sleep(0.05)
    raise AssertionError("the build does not end")


def with_roc(change: Callable[[Any], Any] | None, *, version: int = 1) -> Callable[[Platform], Service]:
    """The service with another formula, or another version, of `roc`; None for none at all."""
    known = dict(registry())
    if change is None:
        known["roc"] = replace(known["roc"], version=version)
    else:
        known["roc"] = replace(known["roc"], compute=lambda *given: change(registry()["roc"].compute(*given)))
    return lambda platform: build(platform, known)


async def test_an_asset_built_again_is_compared_and_stays(service: Hosted, prepared: PreparedTape) -> None:
    await import_tape(service, prepared)
    await service.ask("build", spec=SPEC)
    first = await ended(service)
    assert (first["rebuild"], first["not_rebuildable"]) == (None, None)
    # The same spec under another name is the asset that is there, and with `rebuild` it is built again.
    same = await service.view("build", spec={**SPEC, "name": "other"})
    assert (same["name"], same["rebuild"]) == ("demo", None)
    for wish in (service.view("build", spec={**SPEC, "rebuild": True}), service.view("rebuild", name="demo")):
        begun = await wish
        assert (begun["id"], begun["status"], begun["rebuild"]["status"]) == (first["id"], "ready", "building")
        view = await rebuilt(service)
        assert (view["status"], view["rebuild"]["status"]) == ("ready", "same")
        assert {key: view[key] for key in ("files", "data_digest")} == {
            key: first[key] for key in ("files", "data_digest")
        }
    assert [each["name"] for each in (await service.view("list"))["items"]] == ["demo"]
    assert await service.code(service.ask("rebuild", name="nothing")) == "not_found"
    foreign = {"team": "rivals", "user": "eve"}
    assert await service.code(service.ask("rebuild", name="demo", **foreign)) == "not_found"


async def test_a_formula_that_changed_in_secret_is_not_reproducible(
    server: NatsServer, prepared: PreparedTape, tmp_path: Path
) -> None:
    async with hosted(server, build, tmp_path, "assets") as before:
        await import_tape(before, prepared)
        await before.ask("build", spec=SPEC)
        first = await ended(before)
    async with hosted(server, with_roc(lambda values: values * 2), tmp_path, "assets") as after:
        after.position = before.position
        await after.ask("rebuild", name="demo")
        view = await rebuilt(after)
        assert (view["status"], view["rebuild"]["code"]) == ("ready", "not_reproducible")
        assert first["data_digest"][:12] in view["rebuild"]["message"]
        assert view["rebuild"]["hint"]
        assert view["files"] == first["files"]
        # Once more, in the very same words: it ends again.
        await after.ask("rebuild", name="demo")
        assert (await rebuilt(after))["rebuild"]["code"] == "not_reproducible"
    async with hosted(server, with_roc(None, version=2), tmp_path, "assets") as gone:
        gone.position = after.position
        view = await gone.view("get", name="demo")
        assert "'9%' needs component 'roc' version 1" in view["not_rebuildable"]
        with pytest.raises(TapelineError) as refused:
            await gone.ask("rebuild", name="demo")
        fault = refused.value.data["error"]
        assert (fault["code"], "'9%'" in fault["message"], bool(fault["hint"])) == ("not_rebuildable", True, True)


async def test_a_build_that_fails_twice_in_the_same_words_has_failed_twice(
    service: Hosted, prepared: PreparedTape
) -> None:
    await import_tape(service, prepared)
    long = {"name": "long", "component": "bars", "params": {"count": 9000}}
    for _ in range(2):
        assert (await service.view("build", spec={**SPEC, "features": [long]}))["status"] == "building"
        assert (await ended(service))["status"] == "failed"


async def test_a_component_that_breaks_is_told_with_symbol_and_day(
    server: NatsServer, prepared: PreparedTape, tmp_path: Path
) -> None:
    async with hosted(server, with_roc(lambda values: values[len(values)]), tmp_path, "assets") as service:
        await import_tape(service, prepared)
        await service.ask("build", spec=SPEC)
        view = await ended(service)
        assert (view["status"], view["code"], view["files"]) == ("failed", "internal", [])
        (symbol,) = prepared.symbols
        assert f"the build broke in {symbol} on 2024-01-" in view["message"]
        assert "IndexError" in view["message"]
        assert view["hint"]
        assert view["shard"] in [f"{symbol} on {day}" for day in prepared.days]


async def test_a_shard_that_fails_now_and_then_does_not_end_a_build(
    server: NatsServer, prepared: PreparedTape, tmp_path: Path
) -> None:
    failures = iter(range(3))

    def short_of_memory(values: Any) -> Any:
        if next(failures, None) is not None:
            raise MemoryError
        return values

    async with hosted(server, with_roc(short_of_memory), tmp_path, "assets") as service:
        await import_tape(service, prepared)
        await service.ask("build", spec=SPEC)
        view = await ended(service)
        assert (view["status"], view["shard"], next(failures, None)) == ("ready", None, None)


async def test_another_copy_of_the_service_sees_how_far_a_build_is(
    server: NatsServer, prepared: PreparedTape, tmp_path: Path
) -> None:
    async with hosted(server, build, tmp_path, "assets") as one:
        await import_tape(one, prepared)
        accepted = await one.view("build", spec=SPEC)
        await ended(one)
        (tmp_path / "other").mkdir()
        async with hosted(server, build, tmp_path / "other", "assets") as other:
            other.position = one.position
            told = (await other.view("get", name="demo"))["progress"]
            assert told == (await one.view("get", name="demo"))["progress"]
            # What a build says while it runs is seen too.
            said: dict[str, dict[str, Any]] = {}
            async with progress.told(one.platform.metrics, "contoso", accepted["id"], said):
                said["shards"] = {"operation": "shards", "value": 3, "final_value": 9, "units": "shards"}
                for _ in range(100):
                    seen = (await other.view("get", name="demo"))["progress"]
                    if seen != told:
                        break
                    await asyncio.sleep(0.05)
                assert seen == [said["shards"]]
    assert {each["operation"]: each["value"] == each["final_value"] for each in told} == dict.fromkeys(
        ("plan", "shards", "check", "assemble"), True
    )


async def test_progress_is_a_batch_like_those_of_runs_without_a_point(service: Hosted) -> None:
    said = {"plan": {"operation": "plan", "value": 1, "final_value": 1, "units": "plans"}}
    for _ in range(2):
        async with progress.told(service.platform.metrics, "contoso", "a1", said):
            pass
    stored = [one async for one in service.platform.metrics.of_run("contoso", "a1")]
    assert [(one.attempt, one.batch) for one in stored] == [(1, 1), (2, 1)]
    found = batch.decode(stored[-1].body)
    assert (found.run, found.points, [each.operation for each in found.progress]) == ("a1", 0, ["plan"])
    with pytest.raises(TapelineError, match="cannot be read"):
        progress.operations_of(b"\x00")


def test_the_outcome_of_a_build_that_is_not_wanted_changes_nothing() -> None:
    late = FailBuild(spec_digest="0", code="internal", message="late")
    assert aggregate.decide(aggregate.initial(), late) == []
