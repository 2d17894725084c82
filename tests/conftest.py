"""Fixtures that every kind of test shares: a real nats-server, and databases of both kinds."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tapeline.database import sqlite_url
from tapeline.testing.postgres import PostgresServer
from tapeline.testing.server import NatsServer

KINDS = ("system", "service", "contract", "unit")
"""The folders of tests, those with the longest files first."""


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: in the background of a script it is ignored, and they would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Services that a test hosts write as an unconfigured structlog does, which draws every local variable of a
    # traceback: some 10 s each where there are arrays among them.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files: a worker that comes to one last would run alone to the end."""

    def rank(item: pytest.Item) -> int:
        return next((place for place, kind in enumerate(KINDS) if f"tests/{kind}/" in item.nodeid), len(KINDS))

    items.sort(key=rank)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server of this test alone, with its own folder."""
    with NatsServer(tmp_path / "nats") as one:
        yield one


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests; each takes a database of its own."""
    with PostgresServer() as one:
        yield one


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database, once a SQLite file and once on PostgreSQL."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "tables.db")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.make_database()
    yield url
    server.drop_database(url)
