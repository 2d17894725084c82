"""Where the bus of a home is, for the processes that serve on it."""

from __future__ import annotations

import asyncio

from tapeline.errors import TapelineError
from tapeline.home import Home, read_instance, read_json
from tapeline.readiness import is_awaited

SERVER_WAIT_S = 30.0
LOOK_AGAIN_S = 0.01


async def find_url(home: Home, given: str | None = None) -> str:
    """The address of the bus: the one that is given, else that of the server which runs on the home.

    A child of `tapeline up` is started beside the server, so that both get ready at the same time, and waits
    here for the server to say where it listens; anybody else is told at once that none runs.

    Raises
    ------
    TapelineError
        `unavailable` when no server runs, or none has said where it is after 30 s.
    """
    if given:
        return given
    if not is_awaited():
        instance = read_instance(home)
        if instance is None:
            raise TapelineError(
                "no instance runs on this home", code="unavailable", hint="tapeline up, or set TAPELINE_URL"
            )
        return instance.url
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SERVER_WAIT_S
    while (found := read_json(home.server_file)) is None:
        if loop.time() > deadline:
            raise TapelineError(
                f"the server of {home.root} did not start in {SERVER_WAIT_S:.0f} s",
                code="unavailable",
                hint=f"look into {home.logs}",
            )
        await asyncio.sleep(LOOK_AGAIN_S)
    return str(found["url"])
