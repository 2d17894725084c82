"""The assets service on a real log, and a small synthetic tape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tapeline.assets.app import build
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate
from tapeline.testing.hosted import Hosted, hosted
from tapeline.testing.server import NatsServer


@pytest.fixture
async def service(server: NatsServer, tmp_path: Path) -> AsyncIterator[Hosted]:
    async with hosted(server, build, tmp_path, "assets") as one:
        yield one


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedTape:
    return simulate(tmp_path_factory.mktemp("tape"), days=5, trades_per_day=2000)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> PreparedTape:
    return simulate(tmp_path_factory.mktemp("other"), days=3, trades_per_day=500, seed=11)
