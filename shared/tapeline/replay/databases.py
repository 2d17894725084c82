"""The databases of an instance, opened beside its services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tapeline.database import Engine, make_engine, sqlite_url
from tapeline.home import Home

SERVICES = ("assets", "runs", "vault")


@asynccontextmanager
async def databases(home: Home, database_url: str | None = None) -> AsyncIterator[dict[str, Engine]]:
    """Engines by service: those of a URL that may hold `{service}`, else the SQLite files of a home."""
    if database_url is None:
        engines = {file.stem: make_engine(sqlite_url(file)) for file in sorted(home.db.glob("*.db"))}
    elif "{service}" in database_url:
        engines = {service: make_engine(database_url.format(service=service)) for service in SERVICES}
    else:
        engines = {"all": make_engine(database_url)}
    try:
        yield engines
    finally:
        for engine in engines.values():
            await engine.dispose()
