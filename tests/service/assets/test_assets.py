"""Building assets over a real log, from an uploaded tape to files that train."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline.asset_files import TEST, TRAIN, VALIDATION, AssetFile
from tapeline.assets.app import build
from tapeline.assets.asset import aggregate
from tapeline.assets.component import FeatureParams
from tapeline.assets.components import registry
from tapeline.contracts.artifacts import PART_BYTES
from tapeline.contracts.assets import FailBuild
from tapeline.decider import origin_of
from tapeline.errors import TapelineError
from tapeline.security.hdf5 import open_own
from tapeline.subjects import Ref
from tapeline.tape import day_file
from tapeline.tape.manifest import sessions_of
from tapeline.tape.prepared import PreparedTape, TapeWriter
from tapeline.tape.sessions import Calendar
from tapeline.testing.hosted import Hosted, hosted
from tapeline.testing.server import NatsServer

SPEC: dict[str, Any] = {
    "schema": "tapeline.asset-spec/1",
    "name": "demo",
    "tapes": ["demo"],
    "features": ["bars_20_1min", "log_return_1min", "trade_size_1min", "volume_ratio_1min"],
    "labels": ["updown_5min"],
}


async def import_tape(service: Hosted, tape: PreparedTape, name: str = "demo") -> None:
    for file in tape.files:
        await service.upload(file.path)
    manifest = await service.upload(tape.manifest_file.path)
    await service.ask("import_tape", name=name, manifest_sha256=manifest)


async def ended(service: Hosted, name: str = "demo") -> dict[str, Any]:
    for _ in range(600):
        view: dict[str, Any] = await service.view("get", name=name)
        if view["status"] != "building":
            return view
        await asyncio.sleep(0.05)
    raise AssertionError("the build does not end")


async def download(service: Hosted, artifact: dict[str, Any], folder: Path) -> Path:
    data = b""
    while len(data) < artifact["size_bytes"]:
        part = await service.view("read_artifact", sha256=artifact["sha256"], offset=len(data), size_bytes=PART_BYTES)
        data += base64.b64decode(part["data"])
    assert hashlib.sha256(data).hexdigest() == artifact["sha256"]
    path = folder / str(artifact["name"])
    path.write_bytes(data)
    return path


async def test_what_would_be_too_large_is_refused_before_any_work(service: Hosted, prepared: PreparedTape) -> None:
    await import_tape(service, prepared)
    windows = {"component": "bars", "params": {"count": 10_000}}
    wide = [windows | {"name": f"wide{i}", "params": {"count": 10_000, "shift": i}} for i in range(200)]
    spec = SPEC | {"name": "wide", "features": wide, "layout": "materialised"}
    assert await service.code(service.ask("build", spec=spec)) == "too_large"
    assert await service.code(service.ask("get", name="wide")) == "not_found"


async def test_a_tape_becomes_an_asset_that_trains(service: Hosted, prepared: PreparedTape, tmp_path: Path) -> None:
    await import_tape(service, prepared)
    accepted = await service.view("build", spec=SPEC)
    assert accepted["status"] == "building"
    view = await ended(service)
    assert (view["status"], view["code"]) == ("ready", None)
    assert [file["name"] for file in view["files"]] == ["demo_test.h5", "demo_train_0.h5", "demo_train_1.h5"]
    assert view["datasets"] == [*SPEC["features"], *SPEC["labels"]]
    assert view["features"]["bars_20_1min"] == [20, 8]
    assert view["labels"] == {"updown_5min": ["regression", "binary", "binary", "binary", "binary"]}
    assert view["certificate"]["verdict"] in ("passed", "warned")
    assert {each["operation"] for each in view["progress"]} == {"plan", "shards", "assemble", "check"}
    files = [AssetFile(await download(service, file, tmp_path)) for file in view["files"]]
    assert [len(file) for file in files] == [view["rows"][file["name"]] for file in view["files"]]
    assert [set(file.part.tolist()) for file in files] == [{TEST}, {TRAIN}, {VALIDATION}]
    assert files[1].t0.max() < files[2].t0.min() < files[2].t0.max() < files[0].t0.min()
    mean = view["stats"]["features"]["log_return_1min"]["mean"]
    assert np.allclose(mean, files[1].column("log_return_1min").astype(np.float64).mean(axis=0))


async def test_the_same_spec_again_is_the_existing_asset(service: Hosted, prepared: PreparedTape) -> None:
    await import_tape(service, prepared)
    first = await service.view("build", spec=SPEC)
    await ended(service)
    again = await service.view("build", spec={**SPEC, "name": None})
    assert (again["id"], again["name"], again["status"]) == (first["id"], "demo", "ready")
    other = {**SPEC, "features": ["log_return_1min"]}
    assert await service.code(service.ask("build", spec=other)) == "already_exists"


async def test_a_build_cut_off_is_begun_again_and_gives_the_same_bytes(
    server: NatsServer, prepared: PreparedTape, tmp_path: Path
) -> None:
    async with hosted(server, build, tmp_path, "assets") as first:
        await import_tape(first, prepared)
        await first.ask("build", spec=SPEC)
        # The process ends here, in the middle of the build.
    async with hosted(server, build, tmp_path, "assets") as second:
        second.position = first.position
        resumed = await ended(second)
        await second.ask("remove", name="demo")
        await second.ask("build", spec=SPEC)
        anew = await ended(second)
    assert resumed["status"] == anew["status"] == "ready"
    assert resumed["files"] == anew["files"]
    assert resumed["data_digest"] == anew["data_digest"]


async def test_every_refusal_points_at_its_field(service: Hosted, prepared: PreparedTape) -> None:
    await import_tape(service, prepared)
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"tapes": ["dmeo"]}, "unknown_tape", "/tapes/0"),
        ({"features": ["log_retrun_1min"]}, "unknown_feature", "/features/0"),
        ({"labels": ["updwon_5min"]}, "unknown_label", "/labels/0"),
        ({"features": [{"name": "x", "component": "rsy"}]}, "unknown_component", "/features/0/component"),
        ({"features": ["log_return_1min", "log_return_1min"]}, "duplicate_name", "/features/1"),
        ({"range": {"from": "2031-01-01"}}, "empty_range", "/range"),
        ({"range": {"to": "2024-01-03"}}, "too_few_sessions", "/split"),
        ({"dtype": "float16"}, "unsupported", "/dtype"),
        ({"name": "No Slug"}, "invalid", "/name"),
        ({"fetaures": []}, "invalid", "/fetaures"),
        ({"split": {"test_fraction": 0.9}}, "invalid", "/split/test_fraction"),
        (
            {"features": [{"name": "x", "component": "log_return", "params": {"kk": 1}}]},
            "invalid",
            "/features/0/params/kk",
        ),
    ]
    for change, code, pointer in cases:
        with pytest.raises(TapelineError) as refused:
            await service.ask("build", spec={**SPEC, **change})
        fault = refused.value.data["error"]
        assert (fault["code"], fault["data"]["errors"][0]["pointer"]) == (code, pointer)
        assert fault["hint"], (code, pointer)
    assert (await service.view("list"))["items"] == []


async def test_near_names_are_suggested(service: Hosted, prepared: PreparedTape) -> None:
    await import_tape(service, prepared)
    with pytest.raises(TapelineError, match="did you mean 'demo'\\?"):
        await service.ask("build", spec={**SPEC, "tapes": ["dmeo"]})


async def test_a_tape_that_an_asset_names_cannot_be_removed(service: Hosted, prepared: PreparedTape) -> None:
    await import_tape(service, prepared)
    await service.ask("build", spec=SPEC)
    await ended(service)
    assert await service.code(service.ask("remove_tape", name="demo")) == "conflict"
    await service.ask("remove", name="demo")
    assert await service.code(service.ask("get", name="demo")) == "not_found"
    await service.ask("remove_tape", name="demo")


async def test_a_cancelled_build_leaves_nothing_and_may_be_asked_for_again(
    service: Hosted, prepared: PreparedTape
) -> None:
    await import_tape(service, prepared)
    await service.ask("build", spec=SPEC)
    view = await service.view("cancel_build", name="demo")
    assert view["status"] == "cancelled"
    assert (await service.view("get", name="demo"))["files"] == []
    await service.ask("build", spec=SPEC)
    assert (await ended(service))["status"] == "ready"


async def test_a_build_that_fails_says_why(service: Hosted, prepared: PreparedTape) -> None:
    await import_tape(service, prepared)
    long = {"name": "bars_long", "component": "bars", "params": {"count": 9000}}
    await service.ask("build", spec={**SPEC, "features": [long]})
    view = await ended(service)
    assert (view["status"], view["code"]) == ("failed", "empty_range")
    assert view["message"]
    assert view["hint"]
    assert view["files"] == []


async def test_another_team_sees_no_asset(service: Hosted, prepared: PreparedTape) -> None:
    await import_tape(service, prepared)
    await service.ask("build", spec=SPEC)
    view = await ended(service)
    foreign = {"team": "rivals", "user": "eve"}
    assert await service.code(service.ask("get", name="demo", **foreign)) == "not_found"
    assert await service.code(service.ask("remove", name="demo", **foreign)) == "not_found"
    assert await service.code(service.ask("build", spec=SPEC, **foreign)) == "unknown_tape"
    digest = view["files"][0]["sha256"]
    assert await service.code(service.ask("read_artifact", sha256=digest, **foreign)) == "not_found"


async def test_a_finished_build_of_another_spec_is_not_taken(service: Hosted, prepared: PreparedTape) -> None:
    await import_tape(service, prepared)
    view = await service.view("build", spec=SPEC)
    await ended(service)
    ref = Ref("contoso", "asset", view["id"])
    late = FailBuild(spec_digest="0" * 64, code="internal", message="late")
    outcome = await service.platform.deciders.handle(aggregate, ref, late, origin_of("service:assets", None))
    assert outcome.events == []
    assert (await service.view("get", name="demo"))["status"] == "ready"


async def test_features_and_components_are_listed(service: Hosted) -> None:
    view = await service.view("features")
    assert {"bars", "rsi", "updown"} <= {each["id"] for each in view["components"]}
    assert "bars_20_1min" in [each["name"] for each in view["features"]]
    assert [each["name"] for each in view["labels"]] == ["updown_5min"]


MEANT: dict[str, Any] = {"component": "bars", "params": {"count": 90, "norm": "last_price_pct"}}


async def test_a_feature_has_a_name_that_is_never_parsed_and_is_used_again(
    service: Hosted, prepared: PreparedTape
) -> None:
    await import_tape(service, prepared)
    saved = await service.view("save_feature", name="90_1daybar_lp%", **MEANT)
    assert (saved["name"], saved["version"], saved["kind"]) == ("90_1daybar_lp%", 1, "feature")
    # Nothing in it has a default left to look up.
    assert saved["params"] == {
        "unit": "min", "size": 1, "shift": 0, "count": 90, "norm": "last_price_pct",
    }  # fmt: skip
    await service.ask("save_feature", name="rr_atr_2_2_1800", component="rr_atr", params={"horizon": "1800s"})
    spec = {**SPEC, "features": ["90_1daybar_lp%", "log_return_1min"], "labels": ["rr_atr_2_2_1800"]}
    first = await service.view("build", spec=spec)
    assert first["spec"]["features"][0]["params"]["count"] == 90
    view = await ended(service)
    assert (view["status"], view["datasets"]) == ("ready", ["90_1daybar_lp%", "log_return_1min", "rr_atr_2_2_1800"])
    # Another meaning is a new version of the name; the asset keeps the spec that it was built from.
    again = await service.view("save_feature", name="90_1daybar_lp%", component="bars", params={"count": 5})
    assert again["version"] == 2
    assert (await service.view("get", name="demo"))["spec"]["features"][0]["params"]["count"] == 90
    other = await service.view("build", spec={**spec, "name": "other"})
    assert other["spec"]["features"][0]["params"]["count"] == 5
    listed = (await service.view("features"))["saved"]
    assert [(each["name"], each["version"]) for each in listed] == [("90_1daybar_lp%", 2), ("rr_atr_2_2_1800", 1)]


async def test_a_name_of_a_feature_is_taken_once_and_freed(service: Hosted, prepared: PreparedTape) -> None:
    await import_tape(service, prepared)
    await service.ask("save_feature", name="mine", **MEANT)
    same = await service.view("save_feature", name="mine", **MEANT)
    assert same["version"] == 1
    other: dict[str, Any] = {"component": "bars", "params": {"count": 5}}
    assert await service.code(service.ask("save_feature", name="mine", expected_version=0, **other)) == "already_exists"
    assert await service.code(service.ask("save_feature", name="mine", expected_version=7, **other)) == "conflict"
    assert await service.code(service.ask("save_feature", name="mine", component="rr_atr")) == "already_exists"
    assert await service.code(service.ask("save_feature", name="log_return_1min", **MEANT)) == "already_exists"
    foreign = {"team": "rivals", "user": "eve"}
    assert await service.code(service.ask("remove_feature", name="mine", **foreign)) == "not_found"
    assert (await service.view("save_feature", name="mine", **other, **foreign))["version"] == 1
    await service.ask("remove_feature", name="mine")
    await service.ask("remove_feature", name="mine")
    assert (await service.view("features"))["saved"] == []
    assert await service.code(service.ask("build", spec={**SPEC, "features": ["mine"]})) == "unknown_feature"
    assert (await service.view("save_feature", name="mine", **other))["version"] == 2


async def test_what_cannot_be_saved_as_a_feature_is_refused_with_a_hint(service: Hosted) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"name": "a/b", **MEANT}, "invalid", ""),
        ({"name": "_x", **MEANT}, "invalid", ""),
        ({"name": "x" * 129, **MEANT}, "invalid", ""),
        ({"name": "x", "component": "barz"}, "unknown_component", "'bars'"),
        ({"name": "x", "component": "bars", "params": {"cuont": 3}}, "invalid", "did you mean 'count'"),
        ({"name": "x", "component": "bars", "params": {"count": 0}}, "invalid", ""),
        ({"name": "x", "component": "bars", "component_version": 9}, "unknown_component", ""),
        ({"name": "x", "component": "updown", "params": {"horizon": "7 parsecs"}}, "invalid", "300s"),
        ({"name": "x", "component": "meta_label", "params": {"side": "rsi_14_1mni"}}, "unknown_feature", "rsi_14_1min"),
        ({"name": "x", "component": "meta_label"}, "invalid", "side"),
        ({"name": "x", "component": "updwon"}, "unknown_component", "'updown'"),
        ({"name": "x", "component": "macd", "params": {"fast": 9, "slow": 5}}, "invalid", "fast"),
    ]
    for request, code, hint in cases:
        with pytest.raises(TapelineError) as refused:
            await service.ask("save_feature", **request)
        fault = refused.value.data["error"]
        assert fault["code"] == code, request
        assert fault["hint"], request
        assert hint in fault["hint"], (request, fault["hint"])


async def test_an_asset_of_a_tape_that_was_corrected_is_stale(
    service: Hosted, prepared: PreparedTape, tmp_path: Path
) -> None:
    await import_tape(service, prepared)
    days = sorted(prepared.days)
    early = {**SPEC, "name": "early", "features": ["session_fraction"], "range": {"to": days[2]}}
    for spec in (SPEC, early):
        await service.ask("build", spec=spec)
        assert (await ended(service, spec["name"]))["status"] == "ready"
    # The same tape but for its last day.
    right = corrected(prepared, tmp_path / "right", days[-1])
    await import_tape(service, right, "right")
    assert await service.code(service.ask("correct_tape", name="demo", by="demo")) == "invalid"
    assert await service.code(service.ask("correct_tape", name="demo", by="none")) == "not_found"
    foreign = {"team": "rivals", "user": "eve"}
    assert await service.code(service.ask("correct_tape", name="demo", by="right", **foreign)) == "not_found"
    for _ in range(2):
        found = await service.view("correct_tape", name="demo", by="right")
        assert (found["days"], found["assets"]) == (1, ["demo"])
    stale, fresh = await service.view("get", name="demo"), await service.view("get", name="early")
    assert (stale["status"], fresh["status"]) == ("stale", "ready")
    assert "has been corrected" in stale["message"]
    assert stale["files"]


async def test_views_of_what_cannot_be_folded_say_so(service: Hosted, prepared: PreparedTape) -> None:
    await import_tape(service, prepared)
    await service.ask("build", spec=SPEC)
    tape, asset = await service.view("get_tape", name="demo"), await ended(service)
    assert tape["stale"] is None
    assert (await service.view("get", name="demo"))["stale"] is None
    service.set_aside("assets.tapes", f"contoso/tape/{tape['id']}")
    service.set_aside("assets.assets", f"contoso/asset/{asset['id']}")
    assert (await service.view("get_tape", name="demo"))["stale"] is True
    assert (await service.view("get", name="demo"))["stale"] is True


def corrected(tape: PreparedTape, folder: Path, day: str) -> PreparedTape:
    """The same tape with one trade less on one day."""
    writer = TapeWriter(folder, Calendar("SIM"))
    for entry in tape.manifest["days"]:
        trades = day_file.read(tape.path_of(entry["artifact"]["sha256"]), entry, open_file=open_own)
        kept = slice(0, len(trades) - (entry["trade_date"] == day))
        writer.add(entry["symbol"], entry["trade_date"], trades.take(kept))
    return writer.finish(sessions_of(tape.manifest), {})


async def test_a_leak_is_named_by_the_failed_build(server: NatsServer, prepared: PreparedTape, tmp_path: Path) -> None:
    def next_close(view: Any, params: Any) -> Any:
        grid = view.market.grid("min", 1)
        return grid.bars[np.minimum(np.searchsorted(grid.end, view.times), len(grid.end) - 2) + 1, 3][:, None]

    leaky = replace(registry()["roc"], id="leaky", params=FeatureParams, compute=next_close, warmup_bars=lambda _: 1)

    def with_leak(platform: Any) -> Any:
        return build(platform, registry(leaky))

    async with hosted(server, with_leak, tmp_path, "assets") as service:
        await import_tape(service, prepared)
        await service.ask("build", spec={**SPEC, "features": [{"name": "KURT_10", "component": "leaky"}]})
        view = await ended(service)
        assert (view["status"], view["code"]) == ("failed", "leak_found")
        assert "feature 'KURT_10' column 0 changed at 2024-01-" in view["message"]
        failure = view["certificate"]["checks"][0]["failure"]
        assert failure["row"] >= 0
        assert failure["time"] in view["message"]
        assert view["files"] == []
        allowed = {"features": [{"name": "KURT_10", "component": "leaky"}], "allow_lookahead": True}
        await service.ask("build", spec={**SPEC, **allowed, "name": "ahead"})
        view = await ended(service, "ahead")
        assert (view["status"], view["certificate"]["lookahead"]) == ("ready", True)
