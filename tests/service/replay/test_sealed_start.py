"""A real service on a real home: what it does when the seals and the log do not agree."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tapeline import hosting, replay
from tapeline.cli.app import run
from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.embedded.alone import server_alone
from tapeline.errors import TapelineError
from tapeline.home import Home
from tapeline.log.codec import Codec
from tapeline.log.memory import InMemoryLog
from tapeline.replay.seals import signed
from tapeline.security.keys import Credentials, create_key
from tapeline.vault.app import build

MakeLog = Callable[..., Awaitable[InMemoryLog]]


@pytest.fixture
async def sealed(make_log: MakeLog, tmp_path: Path) -> tuple[Home, InMemoryLog]:
    """A home with thirty commits, sealed to the last one."""
    log, home = await make_log(30), Home(tmp_path / "home")
    await replay.export(log, tmp_path / "whole")
    await replay.restore(home, tmp_path / "whole")
    await replay.seal_now(home)
    return home, log


async def start(home: Home) -> str:
    """Start a service as its process does; the code of its refusal, or `ready`."""
    async with server_alone(home) as url:
        settings = hosting.HostSettings(home=home.root, url=url)
        try:
            async with hosting._hosted("vault", build, settings):
                return "ready"
        except TapelineError as error:
            return str(error.code)


async def put_in_place(home: Home, log: InMemoryLog, folder: Path, upto: int | None = None) -> replay.Imported:
    """Another log lies where the sealed one was."""
    await replay.export(log, folder, upto=upto)
    shutil.rmtree(home.log)
    return await replay.restore(home, folder)


async def test_a_log_that_fits_its_seals_is_served(sealed: tuple[Home, InMemoryLog]) -> None:
    assert await start(sealed[0]) == "ready"


async def test_no_service_starts_on_a_log_that_ends_before_its_last_seal_until_the_loss_is_admitted(
    sealed: tuple[Home, InMemoryLog],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home, log = sealed
    done = await put_in_place(home, log, tmp_path / "shorter", upto=20)
    assert "restored to position 20; the last seal known is 30: 10 commits are lost" in str(done)
    assert await start(home) == "log_behind_seal"
    monkeypatch.setenv("TAPELINE_HOME", str(home.root))
    assert await asyncio.to_thread(run, ["log", "verify"]) == 5
    assert "the log ends at 20, but 30 was sealed" in capsys.readouterr().out
    assert await asyncio.to_thread(run, ["log", "seal", "--forget-after", "20", "--yes"]) == 0
    assert await start(home) == "ready"
    assert await asyncio.to_thread(run, ["log", "verify"]) == 0
    assert "forgotten: 21 to 30, admitted on" in capsys.readouterr().out


async def test_no_service_starts_on_a_log_with_another_commit_where_it_was_sealed(
    sealed: tuple[Home, InMemoryLog], make_log: MakeLog, tmp_path: Path
) -> None:
    home, log = sealed
    codec = Codec(EVENTS, UPCASTERS, TOMBSTONES)
    other = await make_log(31, events=2, log=InMemoryLog(codec, log_id=(await log.head()).log_id))
    await put_in_place(home, other, tmp_path / "other")
    assert await start(home) == "log_damaged"


async def test_no_service_starts_beside_a_seal_that_nobody_it_knows_has_signed(
    sealed: tuple[Home, InMemoryLog],
) -> None:
    home, _ = sealed
    (seal,) = await replay.list_seals(home)
    path = replay.shelf(home).file(seal.log_id)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(seal.signature[:8].encode(), seal.signature[8:16].encode()))
    assert await start(home) == "log_damaged", "a bad signature"
    stranger = Credentials(create_key(), "seal")
    forged = signed(
        stranger, log_id=seal.log_id, position=seal.position, sealed_digest=seal.digest, root=bytes.fromhex(seal.root),
        at=datetime(2026, 11, 21, tzinfo=UTC),
    )  # fmt: skip
    path.write_bytes(msgspec.json.encode(forged) + b"\n")
    assert await start(home) == "log_damaged", "a key of somebody else"
    path.write_bytes(whole)
    assert await start(home) == "ready"
