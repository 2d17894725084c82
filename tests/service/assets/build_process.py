"""The assets service as its own process, on a server without accounts: `build_process.py <url> <folder>`.

It imports a tape and asks for an asset, unless that was done before, waits until the build has ended, and prints it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from tapeline.assets.app import build
from tapeline.tape.simulate import simulate
from tapeline.testing.hosted import hosted
from tapeline.testing.server import connect

SPEC = {"name": "demo", "tapes": ["demo"], "features": ["log_return_1min"], "labels": ["updown_5min"]}
TAPE: dict[str, Any] = {"days": 5, "trades_per_day": 2000}


class Given:
    """A server that somebody else has started."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def connect(self, client: Client | None = None, **options: Any) -> Client:
        return await connect(self.url, client, **options)


async def main(url: str, folder: Path) -> None:
    async with hosted(Given(url), build, folder, "assets") as service:  # type: ignore[arg-type]
        if not (folder / "asked").exists():
            tape = simulate(folder / "tape", **TAPE)
            for path in (*(file.path for file in tape.files), tape.manifest_file.path):
                manifest = await service.upload(path)
            await service.ask("import_tape", name="demo", manifest_sha256=manifest)
            (folder / "asked").touch()
            await service.ask("build", spec=SPEC)
        for _ in range(1200):
            view = await service.view("get", name="demo")
            if view["status"] != "building":
                break
            await asyncio.sleep(0.05)
        print(json.dumps(view))


asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
