"""kill -9 of the assets service at each named point of a build: the next process ends it, with the same bytes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tapeline.assets.build import build
from tapeline.assets.components import registry
from tapeline.contracts import EVENTS, TOMBSTONES, UPCASTERS
from tapeline.failpoints import DIED, VARIABLE
from tapeline.log.codec import Codec
from tapeline.log.jetstream import JetStreamLog
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.view import open_tape
from tapeline.testing.server import NatsServer, connector

CODEC = Codec(EVENTS, UPCASTERS, TOMBSTONES)
POINTS = ("asset.shard", "asset.assembled", "asset.stored")


async def built(server: NatsServer, folder: Path, armed: str = "") -> tuple[int | None, Any]:
    """How a process of the service ended, and what it said of the asset."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("build_process.py")), server.url, str(folder),
        stdout=asyncio.subprocess.PIPE, env=os.environ | ({VARIABLE: armed} if armed else {}),
    )  # fmt: skip
    try:
        said, _ = await asyncio.wait_for(process.communicate(), 90)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, json.loads(said.splitlines()[-1]) if process.returncode == 0 else None


async def births(server: NatsServer) -> Counter[str]:
    client = await server.connect()
    log = JetStreamLog(client, CODEC, connect=connector(server.url), role="test")
    found: Counter[str] = Counter()
    async for many in log.read():
        found.update(event.type for one in many for event in CODEC.decode(one))
    await client.close()
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "points", ["asset.stored:1", pytest.param("asset.shard:2 asset.assembled:1", marks=pytest.mark.long)]
)
async def test_a_build_that_is_killed_at_a_point_ends_as_if_it_never_was(
    server: NatsServer, tmp_path: Path, points: str, prepared: PreparedTape
) -> None:
    """The files are those that one thread makes of the recipe, with nothing of the system around it."""
    folder = tmp_path / "killed"
    folder.mkdir()
    for point in points.split():
        assert point.partition(":")[0] in POINTS
        assert await built(server, folder, point) == (DIED, None)
    code, asset = await built(server, folder)
    assert (code, asset["status"]) == (0, "ready")
    types = await births(server)
    assert (types["AssetBuilt"], types["AssetBuildFailed"]) == (1, 0), types
    (item,) = asset["spec"]["tapes"]
    (tmp_path / "alone").mkdir()
    alone = build(
        asset["spec"], name=asset["name"], team="contoso", spec_digest=asset["spec_digest"],
        tapes={item["tape"]: open_tape(prepared.manifest, prepared.path_of)}, folder=tmp_path / "alone",
        components=registry(), tell=lambda *progress: None,
    )  # fmt: skip
    digests = [hashlib.sha256(file.path.read_bytes()).hexdigest() for file in alone.files]
    assert [file["sha256"] for file in asset["files"]] == digests
