"""Fixtures that every kind of test shares: a real server on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapeline.testing.server import NatsServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server of this test alone, with its own folder."""
    with NatsServer(tmp_path / "nats") as one:
        yield one
