"""What a user is told of assets and canvases that cannot be: code, sentence, remedy, by the SDK and the command line.

The instance has a component that looks ahead, installed by an operator as any other: by an entry point.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tapeline import sdk as tl
from tapeline.canvas.limits import MAX_BYTES
from tapeline.cli.app import run
from tapeline.errors import CODES, TapelineError
from tapeline.home import Home

from .conftest import running

TEAM = "main"
LEAK = """
import numpy as np
from tapeline.assets.component import Columns, Component, FeatureParams

def next_close(view, params):
    grid = view.market.grid("min", 1)
    return grid.bars[np.minimum(np.searchsorted(grid.end, view.times), len(grid.end) - 2) + 1, 3][:, None]

LEAKY = Component(
    id="kurtosis", kind="feature", version=1, params=FeatureParams, warmup_bars=lambda params: 1,
    columns=lambda params: Columns((1,), ("kurtosis",)), compute=next_close, doc="what an operator installed",
)
"""
SPEC: dict[str, Any] = {
    "name": "bad",
    "tapes": ["spy"],
    "sampling": {"kind": "every", "unit": "min", "size": 5},
    "features": [{"name": "90_1daybar_lp%", "component": "bars", "params": {"count": 9, "norm": "last_price_pct"}}],
    "labels": [{"name": "updown", "component": "updown", "params": {"horizon": "300s"}}],
}


def chain(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"schema": "tapeline.canvas/1", "nodes": list(nodes)}


X = {"id": "x", "kind": "input", "features": ["90_1daybar_lp%"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("operator")
    (folder / "operators_formulas.py").write_text(LEAK, encoding="utf-8")
    metadata = folder / "operators_formulas-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: operators-formulas\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tapeline.components]\nkurtosis = operators_formulas:LEAKY\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", str(folder))
        with running(tmp_path_factory.mktemp("instance") / "home", monkeypatch) as home:
            tl.tapes.simulate(name="spy", days=5, trades_per_day=500)
            tl.Asset.build(TEAM, {**SPEC, "name": "good"})
            yield home


@dataclass(frozen=True)
class Case:
    """A change to a good spec and what it gets; `hint` is a part of the remedy."""

    change: dict[str, Any]
    code: str
    sentence: str
    hint: str


KURT = {"name": "KURT_10", "component": "kurtosis"}
SPECS = {
    "a feature of no name": Case({"features": ["rsi_14_1mni"]}, "unknown_feature", "/features/0", "'rsi_14_1min'"),
    "a label of no name": Case({"labels": ["updwon_5min"]}, "unknown_label", "/labels/0", "'updown_5min'"),
    "a label in place of a feature": Case(
        {"features": ["updown_5min"]}, "unknown_feature", "is a label", "name a feature"
    ),
    "an unknown tape": Case({"tapes": ["spi"]}, "unknown_tape", "/tapes/0", "did you mean 'spy'?"),
    "a range without days": Case({"range": {"from": "2031-01-01"}}, "empty_range", "/range", "the tapes have 20"),
    "too few sessions": Case({"range": {"to": "2024-01-03"}}, "too_few_sessions", "2 sessions", "test_fraction 0"),
    "a name already taken": Case({"name": "good", "missing": "zero"}, "already_exists", "'good'", "another name"),
    "a name that is no file name": Case({"name": "../x"}, "invalid", "/name", "a-z, 0-9"),
    "a data set twice": Case({"labels": [*SPEC["labels"], *SPEC["labels"]]}, "duplicate_name", "/labels/1", "its own"),
    "half precision": Case({"dtype": "float16"}, "unsupported", "/dtype", "leave dtype out"),
    "a share beyond its bound": Case(
        {"split": {"test_fraction": 0.9}}, "invalid", "test_fraction must be at most 0.5, got 0.9", "at most 0.5"
    ),
    "a misspelt field of the split": Case(
        {"split": {"tset_fraction": 0.1}}, "invalid", "/split/tset_fraction", "did you mean 'test_fraction'"
    ),
    "more than a spec may hold": Case({"features": ["x" * 90_000] * 3}, "spec_too_large", "262144", "fewer features"),
    "more than a team may keep": Case(
        {
            "features": [
                {"name": f"wide{i}", "component": "bars", "params": {"count": 10_000, "shift": i}} for i in range(200)
            ],
            "sampling": {"kind": "every", "unit": "min", "size": 1},
            "layout": "materialised",
        },
        "too_large", "GiB, the limit is 50", "sample less often",
    ),
    "a label without future data": Case(
        {"labels": [{"name": "late", "component": "updown", "params": {"horizon": "9h"}}]},
        "empty_range", "label 'late'", "shorter horizon",
    ),
    "a split that leaves no test rows": Case(
        {"split": {"embargo": "8h"}}, "too_few_sessions", "no row is left in", "shorter horizon or embargo"
    ),
    "a leaking feature": Case({"features": [KURT]}, "leak_found", "feature 'KURT_10' column 0 changed at 2024-01-", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_that_cannot_be_built_is_refused_by_name(
    place: Home, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = SPECS[name]
    spec = {**SPEC, **case.change}
    with pytest.raises(tl.LitModelError) as caught:
        tl.Asset.build(TEAM, spec)
    cause = caught.value.__cause__
    assert isinstance(cause, TapelineError)
    assert (cause.code, case.sentence in cause.message) == (case.code, True), cause.message
    assert cause.hint
    assert case.hint in cause.hint, cause.hint
    (tmp_path / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    told(capsys, ["asset", "build", "-f", str(tmp_path / "spec.json")], case.code, case.sentence, case.hint)
    assert [asset.name for asset in tl.get_assets(TEAM) if asset.status == "ready"] == ["good"]


def told(capsys: pytest.CaptureFixture[str], command: list[str], code: str, sentence: str, hint: str) -> None:
    """Check what a command says, to programs and to people."""
    assert run(["--json", "-q", *command]) == CODES[code].exit
    out = capsys.readouterr()
    error = json.loads(out.err)["error"]
    assert (error["code"], sentence in error["message"], hint in error["hint"]) == (code, True, True), error
    assert out.out == ""


def test_a_leak_is_shown_with_its_first_row_and_both_values(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(tl.LitModelError):
        tl.Asset.build(TEAM, {**SPEC, "name": "leaky", "features": [KURT]})
    asset = tl.Asset(TEAM, "leaky")
    certificate = asset.certificate
    assert certificate is not None
    failure = certificate["checks"][0]["failure"]
    assert (asset.status, failure["feature"], failure["column"], failure["row"] >= 0) == ("failed", "KURT_10", 0, True)
    assert len({json.dumps(value) for value in failure["values"]}) == 2
    assert asset.view["files"] == []
    assert run(["asset", "check", "leaky"]) == 5
    assert "feature 'KURT_10' column 0 changed at" in capsys.readouterr().out
    assert run(["asset", "show", "leaky"]) == 0
    shown = capsys.readouterr().out
    assert "failed" in shown
    assert "KURT_10" in shown
    told(capsys, ["asset", "rebuild", "leaky"], "conflict", "'leaky' is failed", "by its spec")
    told(capsys, ["asset", "show", "leaky", "--plot", "/nowhere/x.svg"], "not_found", "/nowhere", "make it")


CANVASES: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "depth": (lambda: b'{"nodes":' + b"[" * 100_000, "canvas_too_deep", "deeper than 32"),
    "size": (lambda: b'{"notes":"' + b"x" * MAX_BYTES + b'"}', "canvas_too_large", "524,288"),
    "no JSON": (lambda: b"\xff\xfe", "canvas_invalid", "UTF-8"),
    "no object": (lambda: b"[]", "canvas_invalid", "JSON object"),
    "an unknown kind": (
        lambda: json.dumps(chain(X, {"id": "l", "kind": "lambda", "inputs": ["x"]})).encode(),
        "canvas_invalid", "kind 'lambda' is not known",
    ),
    "a circle": (
        lambda: json.dumps(
            chain({"id": "a", "kind": "flatten", "inputs": ["b"]}, {"id": "b", "kind": "flatten", "inputs": ["a"]})
        ).encode(),
        "canvas_invalid", "a -> b -> a",
    ),
    "a bomb of parameters": (
        lambda: json.dumps(
            chain(
                X, {"id": "f", "kind": "flatten", "inputs": ["x"]},
                {"id": "d", "kind": "dense", "inputs": ["f"], "units": [65536, 65536]},
                {"id": "o", "kind": "output", "inputs": ["d"], "feature": "updown", "label_index": 1},
            )
        ).encode(),
        "canvas_invalid", "parameters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CANVASES)
def test_a_hostile_canvas_is_refused_by_what_is_wrong_with_it(
    place: Home, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, code, sentence = CANVASES[name]
    file = tmp_path / "hostile.json"
    file.write_bytes(make())
    with pytest.raises(tl.LitModelError) as caught:
        tl.Canvas(TEAM, path=file).train("cpu0", temp_canvas=True, asset="good")
    cause = caught.value.__cause__
    assert isinstance(cause, TapelineError)
    said = cause.message + json.dumps(getattr(cause, "errors", None) or [])
    assert (cause.code, sentence in said, bool(cause.hint)) == (code, True, True), said
    assert run(["--json", "canvas", "train", str(file), "--asset", "good", "--temp"]) == CODES[code].exit
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["code"], sentence in json.dumps(error)) == (code, True), error
    assert run(["canvas", "validate", str(file), "--asset", "good"]) in (5, 7)
    assert sentence in "".join(capsys.readouterr())
    assert tl.get_canvases(TEAM) == []


def test_an_asset_is_built_again_on_the_command_line(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["asset", "rebuild", "good"]) == 0
    assert "built again, the same data" in capsys.readouterr().out
    tl.Asset(TEAM, "good").rebuild(timeout=60)
    again = tl.Asset.build(TEAM, {**SPEC, "name": "other", "rebuild": True})
    assert (again.name, again.view["rebuild"]["status"]) == ("good", "same")
    assert run(["asset", "show", "good"]) == 0
    shown = capsys.readouterr().out
    assert "the same data" in shown
    assert "90_1daybar_lp%\tfeature\tbars" in shown
    assert run(["--json", "asset", "verify", "good"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_rows_of_a_part_are_read_where_they_lie(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    asset = tl.Asset(TEAM, "good")
    for name in asset.datasets:
        whole = {part: asset.read(name, part=part) for part in ("train", "validation", "test")}
        assert sum(map(len, whole.values())) == len(asset)
        for part, rows in whole.items():
            assert asset.read(name, part=part, start=2, stop=5).tobytes() == rows[2:5].tobytes()
            assert asset.read(name, part=part, start=-3).tobytes() == rows[-3:].tobytes()
            assert asset.read(name, part=part, start=len(rows)).shape == (0, *rows.shape[1:])
    assert not asset.read("updown").flags.writeable
    with pytest.raises(tl.LitModelError) as caught:
        asset.read("updwon")
    assert isinstance(caught.value.__cause__, tl.errors.NotFoundError)
    assert "it has 90_1daybar_lp%, updown" in str(caught.value.__cause__.hint)
    told(capsys, ["asset", "cancel", "good"], "conflict", "'good' is ready", "tapeline asset rm good")
