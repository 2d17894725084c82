"""Worker processes build one asset together; kill -9 of any of them leaves its bytes as they would have been."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tapeline import sdk as tl
from tapeline.assets.build import build
from tapeline.assets.components import registry
from tapeline.home import Home
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate
from tapeline.tape.view import open_tape

from .torture import until, victim

SEED = int(os.environ.get("TAPELINE_CHAOS_SEED", "1"))
TAPE: dict[str, Any] = {"seed": 7, "days": 24, "trades_per_day": 1000}
FEATURES: list[Any] = ["bars_20_1min", "rsi_14_1min", "realised_vol_20_1min", "session_fraction"]


def recipe(name: str, *features: Any) -> dict[str, Any]:
    return {"name": name, "tapes": ["sim"], "features": [*FEATURES, *features], "labels": ["updown_5min"]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedTape:
    return simulate(tmp_path_factory.mktemp("tape"), **TAPE)


@contextmanager
def worker(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that computes shards and nothing else."""
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-u", "-m", "tapeline.assets", "--worker"], stdout=out, stderr=out)
    try:
        until(lambda: b"services_ready" in log.read_bytes())
        yield process
    finally:
        process.kill()
        process.wait()


def alone(prepared: PreparedTape, asset: tl.Asset, folder: Path) -> list[str]:
    """The digests of the files that one thread makes of the asset's recipe, with nothing of the system around it."""
    folder.mkdir()
    (item,) = asset.recipe["tapes"]
    built = build(
        asset.recipe,
        name=asset.name,
        team=asset.team,
        spec_digest=asset.view["spec_digest"],
        tapes={item["tape"]: open_tape(prepared.manifest, prepared.path_of)},
        folder=folder,
        components=registry(),
        tell=lambda *progress: None,
    )
    return [hashlib.sha256(file.path.read_bytes()).hexdigest() for file in built.files]


def shown(asset: tl.Asset, file: Path) -> None:
    """What the command line shows of an asset."""
    tapeline = [sys.executable, "-m", "tapeline.cli", "asset"]
    subprocess.run([*tapeline, "show", asset.name, "--plot", str(file)], check=True, timeout=60)
    assert 'class="embargo"' in file.read_text()
    done = subprocess.run([*tapeline, "check", asset.name], check=True, capture_output=True, text=True, timeout=60)
    assert all(name in done.stdout for name in ("causality", "truncation", "universe"))


def shards(home: Home) -> int:
    return sum(1 for file in (home.store / "staging" / "builds").rglob("*") if file.is_file() and file.name[0] != ".")


def made(logs: Sequence[Path]) -> list[int]:
    return [log.read_bytes().count(b"shards_made") for log in logs]


def test_two_workers_build_one_asset_and_a_kill_changes_no_byte(
    home: Home, prepared: PreparedTape, tmp_path: Path
) -> None:
    assert tl.tapes.simulate(name="sim", **TAPE).content_sha256 == prepared.content_sha256
    logs = [tmp_path / f"worker{i}.log" for i in range(2)]
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(log)) for log in logs]
        host = victim(home, "host")
        assert host is not None
        # The services stand still while the workers do the work that lies in the queue.
        asset = tl.Asset.build("main", recipe("together"), wait=False)
        until(lambda: shards(home) > 0)
        psutil.Process(host).suspend()
        try:
            until(lambda: min(made(logs)) > 0)
            os.kill(random.Random(SEED).choice(workers).pid, signal.SIGKILL)
        finally:
            psutil.Process(host).resume()
        asset.wait(60)
        assert [file["sha256"] for file in asset.view["files"]] == alone(prepared, asset, tmp_path / "one")
        # Kill what puts the asset together, in the middle: the next process goes on with the shards that are there.
        other = {"name": "roc_9", "component": "roc", "params": {"k": 9}}
        before = shards(home)
        asset = tl.Asset.build("main", recipe("resumed", other), wait=False)
        until(lambda: shards(home) > before)
        os.kill(host, signal.SIGKILL)
        until(lambda: victim(home, "host") not in (None, host))
        asset.wait(60)
        assert asset.status == "ready"
        assert [file["sha256"] for file in asset.view["files"]] == alone(prepared, asset, tmp_path / "two")
    shown(asset, tmp_path / "asset.svg")
    assert {each["operation"] for each in asset.view["progress"]} == {"plan", "shards", "assemble", "check"}
