"""An export becomes the log of a new home, from the command line too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from tapeline import replay
from tapeline.cli.app import run
from tapeline.connection import connect, connect_as
from tapeline.embedded.alone import server_alone
from tapeline.errors import TapelineError
from tapeline.failpoints import armed
from tapeline.home import Home, hold
from tapeline.log.bulk import BulkAppender, BulkClient
from tapeline.log.memory import InMemoryLog
from tapeline.security.keys import read_credentials
from tapeline.subjects import ref_of
from tapeline.testing.log import everything
from tapeline.topology import begin_import, check

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


async def test_an_import_that_dies_before_its_end_is_taken_up_and_refused_by_services_until_then(
    make_log: MakeLog, tmp_path: Path
) -> None:
    manifest = await replay.export(await make_log(50), tmp_path / "export")
    home = Home(tmp_path / "home")
    with armed("import.synced:1:raise"), pytest.raises(OSError, match=r"import\.synced"):
        await replay.restore(home, tmp_path / "export")
    assert "sync_interval: always" not in home.server_conf.read_text(), "it was the import's own server"
    async with server_alone(home) as url:
        client = await connect(read_credentials(home.credential("svc-runs")), url, name="runs")
        with pytest.raises(TapelineError, match="being imported: 50 of 50"):
            await check(client)
        await client.close()
    assert "sync_interval: always" in home.server_conf.read_text()
    done = await replay.restore(home, tmp_path / "export")
    assert (done.written, done.position, done.root) == (0, 50, manifest.root)


async def test_what_an_interrupted_import_left_is_compared_to_its_first_commit(
    make_log: MakeLog, tmp_path: Path
) -> None:
    """A power cut may have taken something before the end: the last commit alone does not tell."""
    source = await make_log(60)
    manifest = await replay.export(source, tmp_path / "export")
    commits = await everything(source)
    commits[6] = msgspec.structs.replace(commits[6], body=commits[6].body + b" ")
    home = Home(tmp_path / "home")
    async with server_alone(home) as url:
        client = BulkClient()
        await connect_as(client, read_credentials(home.credential("admin")), url, name="import")
        await begin_import(client, log_id=manifest.log_id, upto=60)
        bulk = BulkAppender(client, position=0)
        await bulk.add(commits[:40])
        await bulk.finish()
        await client.close()
    with pytest.raises(TapelineError, match="40 commits, and that of position 7 is another one") as refused:
        await replay.restore(home, tmp_path / "export")
    assert refused.value.code == "not_empty"


async def test_nobody_but_operators_signs_in_to_the_server_of_an_import(tmp_path: Path) -> None:
    """So that nothing can come between two of its publishes."""
    home = Home(tmp_path / "home")
    async with server_alone(home, syncs_always=False) as url:
        for name in ("svc-runs", "svc-assets", "svc-vault", "main.you", "agent-local"):
            path = home.credential(name)
            if path.exists():
                with pytest.raises(TapelineError) as refused:
                    await connect(read_credentials(path), url, name=name)
                assert refused.value.code == "unauthenticated"
        for name in ("admin", "replay"):
            client = await connect(read_credentials(home.credential(name)), url, name=name)
            await client.close()
    assert home.credential("svc-runs").exists()


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
    source = await make_log(30)
    await replay.export(source, tmp_path / "export")
    home = Home(tmp_path / "home")
    monkeypatch.setenv("TAPELINE_HOME", str(home.root))
    assert await asyncio.to_thread(run, ["log", "verify"]) == 8, "there is no log on this home"
    await replay.restore(home, tmp_path / "export")
    assert await asyncio.to_thread(run, ["log", "seal", "--now"]) == 0
    (seal,) = await replay.list_seals(home)
    assert (seal.position, seal.root) == (30, replay.read_manifest(tmp_path / "export").root)
    assert await asyncio.to_thread(run, ["log", "verify", "--against", str(tmp_path / "export")]) == 0
    place = str(ref_of((await everything(source))[0].subject))
    assert await asyncio.to_thread(run, ["log", "diff", f"{place}@30", f"{place}@30"]) == 0
    assert await asyncio.to_thread(run, ["log", "diff", f"{place}@30", f"{place}@31"]) == 7, "past the end of the log"
    assert await asyncio.to_thread(run, ["log", "seal", "--forget-after", "30", "--yes"]) == 7
    path = replay.shelf(home).file(seal.log_id)
    path.write_bytes(path.read_bytes().replace(b'"position":30', b'"position":31'))
    assert await asyncio.to_thread(run, ["log", "verify"]) == 5
