"""One whole embedded instance in a fresh folder, as `tapeline up` starts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapeline import sdk as tl
from tapeline.embedded import start_detached, stop
from tapeline.home import Home
from tapeline.sdk import client as clients


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A running instance; the SDK of this process is connected to it."""
    home = Home(tmp_path / "home")
    monkeypatch.setenv("TAPELINE_HOME", str(home.root))
    for name in ("TAPELINE_URL", "TAPELINE_CREDS", "TAPELINE_TEAM", "TAPELINE_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    start_detached(home, 60)
    try:
        client = tl.connect()
        yield home
        client.close()
    finally:
        clients.use(None)
        stop(home)
