"""The server of a home without its services, for work on the log itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tapeline import teams, topology
from tapeline.connection import connect
from tapeline.embedded.child import Child
from tapeline.embedded.server import EmbeddedServer
from tapeline.embedded.supervisor import AGENT, START_SECONDS, START_TRIES, TEAM
from tapeline.home import Home, hold
from tapeline.security.keys import read_credentials


@asynccontextmanager
async def server_alone(home: Home, *, syncs_always: bool = True) -> AsyncIterator[str]:
    """The address of a home's server, which runs with its streams made while the context is open.

    Without `syncs_always` what it acknowledges may be lost with the power, and none but `admin` can write to it: for
    who syncs its files afterwards.

    Raises
    ------
    TapelineError
        `already_running` while an instance runs on the home.
    """
    home.make()
    held = hold(home)
    try:
        teams.make_identities(home, team=TEAM, agent=AGENT)
        server = EmbeddedServer(home, syncs_always=syncs_always)
        child = Child(server.spec(), home.logs, lambda: None)
        child.start()
        try:
            await child.wait_ready(START_SECONDS, START_TRIES)
            admin = await connect(read_credentials(home.credential("admin")), server.url, name="topology")
            try:
                sizes = topology.embedded_sizes(server.settings.max_file_bytes)
                await topology.apply(admin, topology.topology(sizes))
            finally:
                await admin.close()
            yield server.url
        finally:
            await child.stop()
            home.server_file.unlink(missing_ok=True)
    finally:
        held.release()
