"""What bad input gets, through the SDK and the command line: a typed error with a sentence and a remedy.

And nothing half-written: the log, the lists and the files of the instance are as they were.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tapeline import replay
from tapeline import sdk as tl
from tapeline.home import Home
from tapeline.ids import new_id
from tapeline.sdk import blueprints, tapes, vault

from .contoso import named, spec

TEAM = "main"


@dataclass(frozen=True)
class Place:
    """The instance with a tape, an asset, a canvas and a finished run, and a folder with files."""

    home: Home
    folder: Path
    run: tl.Run
    command_id: str

    def file(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def place(shared_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("files")
    (folder / "trades.csv").write_text("hello\nworld,1\n", encoding="utf-8")
    (folder / "noise.bin").write_bytes(bytes(range(64)))
    (folder / "broken.json").write_text("{", encoding="utf-8")
    tape = tl.tapes.simulate(name="spy", days=5, trades_per_day=500)
    bars = [named("bars_20_1min", "bars", count=20, norm="last_price_pct")]
    tl.Asset.build(TEAM, spec(tape, "small", 10, bars, [named("updown_5min", "updown", horizon="300s")]))
    document = {
        "schema": "tapeline.canvas/1",
        "name": "demo",
        "nodes": [
            {"id": "bars", "kind": "input", "features": ["bars_20_1min"]},
            {"id": "flat", "kind": "flatten", "inputs": ["bars"]},
            {"id": "up", "kind": "output", "inputs": ["flat"], "feature": "updown_5min", "label_index": 1},
        ],
        "training": {"asset": "small", "epochs": 1},
    }
    (folder / "demo.json").write_text(json.dumps(document), encoding="utf-8")
    tl.Canvas(TEAM, path=folder / "demo.json").save()
    document["nodes"][1]["inputs"] = ["bras"]  # type: ignore[index]
    document["nodes"][2]["dropout"] = 2  # type: ignore[index]
    (folder / "faulty.json").write_text(json.dumps(document), encoding="utf-8")
    command_id = new_id()
    run = tl.Run.from_id(create(command_id))
    assert run.wait(120) == "job_completed"
    return Place(shared_home, folder, run, command_id)


def create(command_id: str, steps: int = 1) -> str:
    """A run that ends at once."""
    return tl.create_run(
        name="checked", version="1", resources=tl.Resources(cpu="1", memory="64Mi"), config={"steps": steps},
        task_type="selftest", blueprint_id=tl.lookup_blueprint_id("selftest"), project_id="default",
        command_id=command_id,
    )  # fmt: skip


async def head(home: Home) -> int:
    """The position of the last event on the log."""
    async with replay.opened(home) as log:
        return (await log.head()).position


def state(home: Home) -> dict[str, Any]:
    """All that may not change: the log, what the lists say, the files of the store and of uploads."""
    return {
        "log": asyncio.run(head(home)),
        "runs": [run.id for run in tl.get_runs(limit=100)],
        "tapes": [tape.name for tape in tl.get_tapes()],
        "canvases": [(canvas.name, canvas.revision) for canvas in tl.get_canvases(TEAM)],
        "assets": [asset.name for asset in tl.get_assets(TEAM)],
        "vault": [item.name for item in tl.get_vault_items(TEAM)],
        "files": sorted(
            str(path.relative_to(home.root))
            for folder in (home.store, home.run / "assets", home.run / "vault", home.run / "runs")
            for path in folder.rglob("*")
            if path.is_file()
        ),
    }


@pytest.fixture
def untouched(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Compares the instance, and the folder for temporary files, before and after a test."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = state(place.home)
    yield
    assert state(place.home) == before
    assert list((tmp_path / "temporary").iterdir()) == []


@dataclass(frozen=True)
class Case:
    """A call with bad input, what it raises, and the command that does the same."""

    call: Callable[[Place], object]
    kind: type[tl.errors.TapelineError]
    code: str
    sentence: str
    hint: str
    status: int
    arguments: Callable[[Place], list[str]]
    exit: int


CASES = {
    "a missing file of trades": Case(
        lambda at: tapes.import_(at.file("no.csv"), name="t", format="csv"),
        tl.errors.NotFoundError, "not_found", "no.csv", "check the path", 404,
        lambda at: ["tape", "import", at.file("no.csv"), "--format", "csv", "--name", "t"], 3,
    ),
    "a missing file of a canvas": Case(
        lambda at: tl.Canvas(TEAM, path=at.file("no.json")),
        tl.errors.LitModelError, "not_found", "no.json", "a canvas's JSON file", 404,
        lambda at: ["canvas", "save", at.file("no.json")], 3,
    ),
    "a missing file of a model": Case(
        lambda at: vault.import_model(TEAM, at.file("no.keras")),
        tl.errors.LitVaultError, "not_found", "no.keras", "name a regular file", 404,
        lambda at: ["vault", "import", at.file("no.keras")], 3,
    ),
    "an unknown format": Case(
        lambda at: tapes.import_(at.file("trades.csv"), name="t", format="xlsx"),
        tl.errors.ValidationError, "unsupported_format", "'xlsx'", "lean", 422,
        lambda at: ["tape", "import", at.file("trades.csv"), "--format", "xlsx", "--name", "t"], 7,
    ),
    "a file of another format": Case(
        lambda at: tapes.import_(at.file("noise.bin"), name="t"),
        tl.errors.ValidationError, "unsupported_format", "noise.bin", "--format", 422,
        lambda at: ["tape", "import", at.file("noise.bin"), "--name", "t"], 7,
    ),
    "text that is no table of trades": Case(
        lambda at: tapes.import_(at.file("trades.csv"), name="t", format="csv"),
        tl.errors.ValidationError, "column_missing", "ts, price, volume", "--map", 422,
        lambda at: ["tape", "import", at.file("trades.csv"), "--format", "csv", "--name", "t"], 7,
    ),
    "a canvas that is no JSON": Case(
        lambda at: tl.Canvas(TEAM, path=at.file("broken.json")),
        tl.errors.LitModelError, "canvas_invalid", "broken.json", "tapeline canvas schema", 422,
        lambda at: ["canvas", "save", at.file("broken.json")], 7,
    ),
    "a model that is none": Case(
        lambda at: vault.import_model(TEAM, at.file("noise.bin")),
        tl.errors.LitVaultError, "model_refused", "noise.bin", "model.save", 422,
        lambda at: ["vault", "import", at.file("noise.bin")], 7,
    ),
    "an unknown team": Case(
        lambda at: tl.get_vault_items("fabrikam"),
        tl.errors.LitVaultError, "permission_denied", "'fabrikam'", "tapeline team user add fabrikam", 403,
        lambda at: ["--team", "fabrikam", "vault", "ls"], 6,
    ),
    "an unknown device": Case(
        lambda at: tl.Canvas(TEAM, "demo").train("gpu9"),
        tl.errors.LitModelError, "unknown_device", "'gpu9'", "local/cpu0", 422,
        lambda at: ["canvas", "train", "demo", "--device", "gpu9"], 7,
    ),
    "an unknown canvas": Case(
        lambda at: tl.Canvas(TEAM, "nothing"),
        tl.errors.LitModelError, "not_found", "'nothing'", "tapeline canvas ls", 404,
        lambda at: ["canvas", "train", "nothing", "--device", "cpu0"], 3,
    ),
    "an unknown asset": Case(
        lambda at: tl.Asset(TEAM, "nothing"),
        tl.errors.LitModelError, "not_found", "'nothing'", "tapeline asset ls", 404,
        lambda at: ["asset", "show", "nothing"], 3,
    ),
    "an unknown asset to train on": Case(
        lambda at: tl.Canvas(TEAM, "demo").train("cpu0", asset="nothing"),
        tl.errors.LitModelError, "not_found", "'nothing'", "small", 404,
        lambda at: ["canvas", "train", "demo", "--asset", "nothing"], 3,
    ),
    "an unknown model": Case(
        lambda at: tl.VaultItem(TEAM, "nothing").load_model(),
        tl.errors.LitVaultError, "not_found", "'nothing'", "tapeline vault ls", 404,
        lambda at: ["vault", "show", "nothing"], 3,
    ),
    "an unknown run": Case(
        lambda at: tl.Run.from_id("12345"),
        tl.errors.RunDoesNotExistError, "not_found", "'12345'", "tapeline run ls", 404,
        lambda at: ["run", "stop", "12345"], 3,
    ),
    "an unknown blueprint": Case(
        lambda at: blueprints.lookup_blueprint_id("canvsa"),
        tl.errors.BlueprintDoesNotExistError, "not_found", "'canvsa'", "tapeline blueprint ls", 404,
        lambda at: ["blueprint", "show", "canvsa"], 3,
    ),
    "a canvas with errors": Case(
        lambda at: tl.Canvas(TEAM, path=at.file("faulty.json")).train("cpu0", temp_canvas=True),
        tl.errors.LitModelError, "canvas_invalid", "up: dropout must be below 1", "use a share", 422,
        lambda at: ["canvas", "train", at.file("faulty.json"), "--device", "cpu0", "--temp"], 7,
    ),
    "a stop of a finished run": Case(
        lambda at: at.run.stop(),
        tl.errors.ConflictError, "conflict", "run r1 is job_completed", "tapeline run restart 1", 409,
        lambda at: ["run", "stop", "1"], 4,
    ),
    "a stop of a finished experiment": Case(
        lambda at: tl.Experiment(TEAM, 1).stop(),
        tl.errors.LitModelError, "conflict", "job_completed", "tapeline run restart 1", 409,
        lambda at: ["run", "stop", str(at.run.id)], 4,
    ),
}  # fmt: skip


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_a_typed_error_with_a_remedy(name: str, place: Place) -> None:
    case = CASES[name]
    with pytest.raises(case.kind) as caught:
        case.call(place)

    error = caught.value
    cause = error.__cause__ if isinstance(error, tl.errors.LitError) else error
    assert isinstance(cause, tl.errors.ApiException)
    assert (cause.code, cause.status) == (case.code, case.status)
    if isinstance(error, tl.errors.LitError):
        assert error.code == case.status
    assert case.sentence in cause.message
    assert case.hint in str(cause.hint)


@pytest.fixture(scope="module")
def commands(place: Place) -> dict[str, subprocess.CompletedProcess[str]]:
    """What each command printed; four at a time, since most of their time is Python's start."""
    before = state(place.home)
    found: dict[str, subprocess.CompletedProcess[str]] = {}
    names = list(CASES)
    for some in (names[i : i + 4] for i in range(0, len(names), 4)):
        children = {
            name: subprocess.Popen(
                [sys.executable, "-m", "tapeline.cli", "--json", *CASES[name].arguments(place)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for name in some
        }  # fmt: skip
        for name, child in children.items():
            out, err = child.communicate(timeout=60)
            found[name] = subprocess.CompletedProcess(child.args, child.returncode, out, err)
    assert state(place.home) == before
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_command_line_says_the_same(name: str, commands: dict[str, subprocess.CompletedProcess[str]]) -> None:
    case, done = CASES[name], commands[name]
    assert done.returncode == case.exit, done.stderr
    assert done.stdout == ""
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["status"]) == (case.code, case.status)
    assert case.sentence in error["message"]
    assert case.hint in error["hint"]


@pytest.mark.usefixtures("untouched")
def test_a_canvas_with_errors_lists_each_with_node_pointer_and_hint(
    place: Place, commands: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    with pytest.raises(tl.errors.LitModelError) as caught:
        tl.Canvas(TEAM, path=place.file("faulty.json")).train("cpu0", temp_canvas=True)
    cause = caught.value.__cause__
    assert isinstance(cause, tl.errors.ValidationError)
    found = {(each["node"], each["pointer"]): each["hint"] for each in cause.errors}
    assert {("flat", "/nodes/1/inputs/0"), ("up", "/nodes/2/dropout")} <= set(found)
    assert all(found.values())
    notes = "\n".join(caught.value.__notes__)
    assert "flat /nodes/1/inputs/0: there is no node 'bras'" in notes
    listed = json.loads(commands["a canvas with errors"].stderr)["error"]["errors"]
    assert {(each["node"], each["pointer"]) for each in listed} == set(found)


@pytest.mark.usefixtures("untouched")
def test_one_command_id_makes_one_run(place: Place) -> None:
    assert create(place.command_id) == place.run.id
    with pytest.raises(tl.errors.ConflictError) as caught:
        create(place.command_id, steps=2)
    assert (caught.value.code, caught.value.status) == ("conflict", 409)
    assert place.command_id in caught.value.message
    assert caught.value.hint


@pytest.mark.usefixtures("untouched")
def test_one_command_id_makes_one_run_on_the_command_line(place: Place, tmp_path: Path) -> None:
    found = []
    for steps in (1, 2):
        arguments = {
            "name": "checked", "version": "1", "resources": {"cpu": "1", "memory": "64Mi"}, "config": {"steps": steps},
            "task_type": "selftest", "blueprint_id": tl.lookup_blueprint_id("selftest"), "project_id": "default",
            "command_id": place.command_id,
        }  # fmt: skip
        (tmp_path / "run.json").write_text(json.dumps(arguments), encoding="utf-8")
        command = [sys.executable, "-m", "tapeline.cli", "--json", "run", "create", "-f", str(tmp_path / "run.json")]
        found.append(subprocess.run(command, capture_output=True, text=True, timeout=60, check=False))
    assert found[0].returncode == 0, found[0].stderr
    assert json.loads(found[0].stdout)["id"] == place.run.id
    assert found[1].returncode == 4
    error = json.loads(found[1].stderr)["error"]
    assert (error["code"], error["status"]) == ("conflict", 409)
    assert error["hint"]
