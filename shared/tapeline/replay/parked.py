"""What the projections could not fold: list it, and have it folded again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from tapeline.database import Engine
from tapeline.errors import TapelineError
from tapeline.home import Home, find_home, holder
from tapeline.projections.parked import Parked, listed, wish
from tapeline.replay.databases import databases
from tapeline.replay.rebuild import names_of

WAIT_S = 30.0
_CHECK_S = 0.1


async def parked(engines: Mapping[str, Engine], name: str | None = None) -> list[Parked]:
    """Every aggregate that is set aside in these databases, or those of one projection."""
    found = []
    for engine in engines.values():
        found += await engine.read(lambda connection: listed(connection, name))
    return found


async def retry(
    engines: Mapping[str, Engine], name: str, aggregate: str | None = None, *, timeout_s: float = WAIT_S
) -> list[Parked]:
    """Have the running projector fold its parked aggregates again; gives those that are parked still.

    Raises
    ------
    TapelineError
        `not_found` for an unknown projection, or an aggregate that is not parked; `unavailable` when no
        projector has tried in time.
    """
    known = await names_of(engines)
    if name not in known:
        raise TapelineError(
            f"no projection is named {name!r}", code="not_found", hint=f"projections are: {', '.join(sorted(known))}"
        )
    engine = engines[known[name]]
    asked = {one.aggregate for one in await engine.write(lambda connection: wish(connection, name, aggregate))}
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                left = [one for one in await parked({"": engine}, name) if one.aggregate in asked]
                if not any(one.wanted for one in left):
                    return left
                await asyncio.sleep(_CHECK_S)
    except TimeoutError as error:
        raise TapelineError(
            f"the projector of {name} has not tried within {timeout_s:g} s", code="unavailable", hint="tapeline status"
        ) from error


async def parked_of(home: Home | None = None, name: str | None = None) -> list[Parked]:
    """`parked` for the databases of a home, whether an instance runs on it or not."""
    async with databases(home or find_home(), os.environ.get("TAPELINE_DATABASE_URL")) as engines:
        return await parked(engines, name)


async def retry_of(name: str, aggregate: str | None = None, home: Home | None = None) -> list[Parked]:
    """`retry` for the instance that runs on a home; raises `unavailable` when none does."""
    home = home or find_home()
    if holder(home) is None:
        raise TapelineError(f"no instance runs on {home.root}", code="unavailable", hint="tapeline up")
    async with databases(home, os.environ.get("TAPELINE_DATABASE_URL")) as engines:
        return await retry(engines, name, aggregate)
