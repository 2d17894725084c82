"""Damage of the log's own files while the server is down: always found, and a backup brings everything back."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tapeline import replay, topology
from tapeline.clock import SystemClock
from tapeline.database import make_engine, sqlite_url
from tapeline.errors import TapelineError
from tapeline.log import StoredCommit
from tapeline.log.bulk import BulkClient
from tapeline.log.jetstream import JetStreamLog
from tapeline.log.memory import InMemoryLog
from tapeline.projections import LogSource, Projector
from tapeline.security.keys import Credentials, create_key
from tapeline.store import LocalStore
from tapeline.testing.log import everything
from tapeline.testing.server import NatsServer, connect, connector

from ..mortal import Counting
from .conftest import CODEC, MIB, Till, open_till

COMMITS = 300
EXPORTED = 240
AT_ONCE = 5
FOUND = ("log_damaged", "log_behind_seal", "topology_mismatch", "not_found", "unavailable")
"""What a log answers that cannot be read at all."""


@dataclass(frozen=True)
class Kept:
    """A sealed log at rest, and its backup, which is older."""

    folder: Path
    export: Path
    shelf: replay.Shelf
    seals: list[replay.Seal]
    commits: list[StoredCommit]

    @property
    def blocks(self) -> list[Path]:
        return sorted((self.folder / "jetstream").rglob("EVENTS/msgs/*.blk"))


async def written(folder: Path) -> Kept:
    """A log of some blocks, the closed ones compressed, sealed at its end."""
    key = Credentials(create_key(), "seal")
    shelf = replay.Shelf(folder / "seals", frozenset({key.key.public}))
    with NatsServer(folder / "nats") as server:
        till = await open_till(server, events_bytes=16 * MIB)
        chance = random.Random(0)
        for number in range(COMMITS):
            # The server begins a new file after four megabytes, and packs the old one.
            await till.turn(f"c{number}", f"n{number % 7}", chance.randbytes(15_000).hex())
            if number + 1 == EXPORTED:
                await replay.export(till.log, folder / "export")
        store = LocalStore(folder / "store")
        await replay.Archivist(log=till.log, store=store, shelf=shelf, credentials=key, clock=SystemClock()).seal_now()
        log_id = (await till.log.head()).log_id
        commits = await everything(till.log)
        await till.close()
    return Kept(folder / "nats", folder / "export", shelf, shelf.every(log_id), commits)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    made = asyncio.run(written(tmp_path_factory.mktemp("damage")))
    assert len(made.blocks) > 2
    return made


def flip(block: Path, chance: random.Random) -> None:
    """Turn one bit over."""
    data = bytearray(block.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    block.write_bytes(data)


def cut(block: Path, chance: random.Random) -> None:
    """Take away what a file ends with."""
    with block.open("r+b") as file:
        file.truncate(chance.randrange(block.stat().st_size))


async def faults_of(server: NatsServer, kept: Kept) -> list[str]:
    """What start-up and `log verify` find wrong with a log."""
    client = await server.connect()
    log = JetStreamLog(client, CODEC, connect=connector(server.url), role="test", timeout_s=2.0)
    try:
        async with asyncio.timeout(30):
            report = await replay.verify(log, seals=kept.seals)
            found = [str(fault) for fault in report.faults]
            if not found:
                await replay.check_seals(log, kept.shelf)
                assert await everything(log) == kept.commits, "damage that nobody has found"
    except TapelineError as error:
        if error.code not in FOUND:
            raise
        return [error.message]
    finally:
        await client.close()
    return found


async def restored(kept: Kept, folder: Path) -> list[StoredCommit]:
    """The commits of the backup in an empty log."""
    with NatsServer(folder) as server:
        client = BulkClient()
        await connect(server.url, client)
        await topology.apply(client, topology.topology())
        await replay.import_log(client, kept.export)
        found = await everything(JetStreamLog(client, CODEC, connect=connector(server.url), role="test"))
        await client.close()
    return found


async def one_damage(kept: Kept, folder: Path, damage: Callable[[Path, random.Random], None], seed: int) -> list[str]:
    chance = random.Random(seed)
    await asyncio.to_thread(shutil.copytree, kept.folder, folder)
    block = folder / chance.choice(kept.blocks).relative_to(kept.folder)
    damage(block, chance)
    async with NatsServer(folder) as server:
        found = await faults_of(server, kept)
    await asyncio.to_thread(shutil.rmtree, folder)
    return found


async def rounds(kept: Kept, folder: Path, first: int, last: int) -> None:
    some = asyncio.Semaphore(AT_ONCE)

    async def one(seed: int) -> tuple[str, bool]:
        damage = flip if seed % 2 else cut
        async with some:
            found = await one_damage(kept, folder / f"round{seed}", damage, seed)
        return f"{damage.__name__}, seed {seed}", found != []

    tried = await asyncio.gather(*map(one, range(first, last)))
    assert [what for what, is_found in tried if not is_found] == []


async def test_a_whole_log_at_rest_has_no_faults(kept: Kept, tmp_path: Path) -> None:
    assert await one_damage(kept, tmp_path / "whole", lambda block, chance: None, 0) == []


async def test_a_flipped_bit_or_a_lost_tail_of_a_file_of_the_log_is_found(kept: Kept, tmp_path: Path) -> None:
    await rounds(kept, tmp_path, 0, 10)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_hundred_damages_of_the_log_are_found(kept: Kept, tmp_path: Path) -> None:
    await rounds(kept, tmp_path, 10, 110)


async def test_a_backup_brings_back_everything_up_to_its_end(kept: Kept, tmp_path: Path) -> None:
    found = await restored(kept, tmp_path / "restored")
    assert found == kept.commits[:EXPORTED]


async def test_tables_that_are_ahead_of_the_log_show_that_its_unsealed_tail_is_gone(tmp_path: Path) -> None:
    whole = InMemoryLog(CODEC, log_id="one")
    till = Till(whole, asyncio.Event().wait)
    for number in range(20):
        await till.turn(f"c{number}", f"n{number % 7}")
    engine = make_engine(sqlite_url(tmp_path / "tables.db"))
    projector = Projector(LogSource(whole, CODEC, Counting.kinds), Counting(), engine)
    await projector.open()
    task = asyncio.create_task(projector.run())
    await projector.wait_for(20, 30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    shorter = InMemoryLog(CODEC, log_id="one")
    again = Till(shorter, asyncio.Event().wait)
    for number in range(15):
        await again.turn(f"c{number}", f"n{number % 7}")
    with pytest.raises(TapelineError, match="at position 20, past the end of the log") as refused:
        await Projector(LogSource(shorter, CODEC, Counting.kinds), Counting(), engine).open()
    assert refused.value.code == "log_behind_seal"
    await engine.dispose()
