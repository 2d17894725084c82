"""A whole embedded instance in a fresh folder, as `tapeline up` starts it: one per test, or one per module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tapeline import sdk as tl
from tapeline.embedded import start_detached, stop
from tapeline.home import Home
from tapeline.sdk import client as clients


@contextmanager
def running(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A running instance; the SDK of this process is connected to it."""
    home = Home(root)
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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """An instance for one test."""
    with running(tmp_path / "home", monkeypatch) as started:
        yield started


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """An instance for the tests of one module, which do not mind one another."""
    root = tmp_path_factory.mktemp("instance") / "home"
    with pytest.MonkeyPatch.context() as monkeypatch, running(root, monkeypatch) as started:
        yield started
