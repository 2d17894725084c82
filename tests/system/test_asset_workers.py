"""Worker processes build one asset together; kill -9 of any of them leaves its bytes as they would have been."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
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
TRIES = 12
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


def wait_for_shards(home: Home, count: int) -> None:
    until(lambda: shards(home) >= count)


def both_did_some(home: Home, logs: Sequence[Path], known: list[int], last: int) -> bool:
    """Wait until each worker has made more shards than were known, or there are none left to make."""

    def did() -> bool:
        return all(now > then for now, then in zip(made(logs), known, strict=True))

    until(lambda: did() or shards(home) >= last)
    return did()


def together(home: Home, host: int, workers: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path]) -> tl.Asset:
    """An asset that both workers have computed shards of, one of which was killed over it.

    The services stand still while the workers do what lies in the queue. They may have been done before they could
    be stopped: then another asset is begun.
    """
    for k in range(TRIES):
        before, known = shards(home), made(logs)
        feature = {"name": "roc", "component": "roc", "params": {"k": k + 2}}
        asset = tl.Asset.build("main", recipe(f"together{k}", feature), wait=False)
        wait_for_shards(home, before + 1)
        psutil.Process(host).suspend()
        try:
            if both_did_some(home, logs, known, before + TAPE["days"]):
                os.kill(random.Random(SEED).choice(workers).pid, signal.SIGKILL)
                return asset
        finally:
            psutil.Process(host).resume()
        asset.wait(120)
    raise AssertionError(f"the workers were never in time: {made(logs)}")


def test_two_workers_build_one_asset_and_a_kill_changes_no_byte(
    home: Home, prepared: PreparedTape, tmp_path: Path
) -> None:
    assert tl.tapes.simulate(name="sim", **TAPE).content_sha256 == prepared.content_sha256
    logs = [tmp_path / f"worker{i}.log" for i in range(2)]
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(log)) for log in logs]
        host = victim(home, "host")
        assert host is not None
        asset = together(home, host, workers, logs)
        asset.wait(120)
        assert [file["sha256"] for file in asset.view["files"]] == alone(prepared, asset, tmp_path / "one")
        assert {each["operation"] for each in asset.view["progress"]} == {"plan", "shards", "assemble", "check"}
        # Kill what puts the asset together, in the middle: the next process goes on with the shards that are there.
        other = {"name": "roc_9", "component": "roc", "params": {"k": 9}}
        before = shards(home)
        asset = tl.Asset.build("main", recipe("resumed", other), wait=False)
        wait_for_shards(home, before + 1)
        os.kill(host, signal.SIGKILL)
        until(lambda: victim(home, "host") not in (None, host))
        asset.wait(120)
        assert asset.status == "ready"
        assert [file["sha256"] for file in asset.view["files"]] == alone(prepared, asset, tmp_path / "two")
    shown(asset, tmp_path / "asset.svg")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments_change_no_byte(home: Home, prepared: PreparedTape, tmp_path: Path) -> None:
    """Workers and the process that puts the asset together, whichever the dice say, whenever they say it."""
    dice = random.Random(SEED)
    tl.tapes.simulate(name="sim", **TAPE)
    killed: list[str] = []
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(tmp_path / f"worker{i}.log")) for i in range(2)]
        for n in range(20):
            feature = {"name": "roc", "component": "roc", "params": {"k": n + 2}}
            asset = tl.Asset.build("main", recipe(f"round{n}", feature), wait=False)
            time.sleep(dice.uniform(0.0, 1.2))
            who = dice.choice(("worker", "worker", "host"))
            killed.append(f"{who} at {asset.status}")
            if who == "host":
                host = victim(home, "host")
                assert host is not None
                os.kill(host, signal.SIGKILL)
                until(lambda host=host: victim(home, "host") not in (None, host))  # type: ignore[misc]
            else:
                i = dice.randrange(2)
                workers[i].kill()
                workers[i] = stack.enter_context(worker(tmp_path / f"worker{n}.{i}.log"))
            asset.wait(120)
            assert asset.status == "ready", killed
            made = [file["sha256"] for file in asset.view["files"]]
            assert made == alone(prepared, asset, tmp_path / f"alone{n}"), killed
    assert {each.split()[0] for each in killed} == {"worker", "host"}
