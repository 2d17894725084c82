"""An export becomes the log of a new home, from the command line too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tapeline import replay
from tapeline.cli.app import run
from tapeline.connection import connect
from tapeline.embedded.alone import server_alone
from tapeline.errors import TapelineError
from tapeline.home import Home, hold
from tapeline.log.memory import InMemoryLog
from tapeline.security.keys import read_credentials
from tapeline.topology import check

MakeLog = Callable[..., Awaitable[InMemoryLog]]


async def test_a_new_home_takes_over_the_log_and_its_id(make_log: MakeLog, tmp_path: Path) -> None:
    manifest = await replay.export(await make_log(50), tmp_path / "export")
    home = Home(tmp_path / "home")
    done = await replay.restore(home, tmp_path / "export")
    assert (done.written, done.log_id) == (50, manifest.log_id)
    async with server_alone(home) as url:
        client = await connect(read_credentials(home.credential("svc-runs")), url, name="runs")
        assert await check(client) == manifest.log_id, "services accept it"
        await client.close()
    assert not home.server_file.exists()


async def test_a_home_in_use_is_not_touched(make_log: MakeLog, tmp_path: Path) -> None:
    await replay.export(await make_log(5), tmp_path / "export")
    home = Home(tmp_path / "home")
    home.make()
    held = hold(home)
    try:
        with pytest.raises(TapelineError) as refused:
            await replay.restore(home, tmp_path / "export")
    finally:
        held.release()
    assert refused.value.code == "already_running"


async def test_the_command_line_checks_an_export(
    make_log: MakeLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await replay.export(await make_log(5), tmp_path / "export")
    assert run(["log", "import", str(tmp_path / "export"), "--verify-only", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["commits"] == 5
    next((tmp_path / "export").glob("*.zst")).write_bytes(b"")
    assert run(["--json", "log", "import", str(tmp_path / "export"), "--verify-only"]) == 5
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "corrupt"
    assert run(["log", "import", str(tmp_path), "--verify-only"]) == 3


async def test_a_home_that_does_not_run_is_sealed_and_checked_from_the_command_line(
    make_log: MakeLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replay.export(await make_log(30), tmp_path / "export")
    home = Home(tmp_path / "home")
    monkeypatch.setenv("TAPELINE_HOME", str(home.root))
    assert await asyncio.to_thread(run, ["log", "verify"]) == 8, "there is no log on this home"
    await replay.restore(home, tmp_path / "export")
    assert await asyncio.to_thread(run, ["log", "seal", "--now"]) == 0
    (seal,) = await replay.list_seals(home)
    assert (seal.position, seal.root) == (30, replay.read_manifest(tmp_path / "export").root)
    assert await asyncio.to_thread(run, ["log", "verify", "--against", str(tmp_path / "export")]) == 0
    assert await asyncio.to_thread(run, ["log", "seal", "--forget-after", "30", "--yes"]) == 7
    path = replay.shelf(home).file(seal.log_id)
    path.write_bytes(path.read_bytes().replace(b'"position":30', b'"position":31'))
    assert await asyncio.to_thread(run, ["log", "verify"]) == 5
