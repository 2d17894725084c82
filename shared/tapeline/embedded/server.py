"""The nats-server as a child: its configuration before each start, its ports after, its health while it runs."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tapeline import server_monitor, teams
from tapeline.embedded.child import ChildSpec, Restart
from tapeline.errors import TapelineError
from tapeline.home import Home, read_json, write_json
from tapeline.security import accounts as principals
from tapeline.server_config import (
    ServerSettings,
    find_server,
    install,
    load_settings,
    max_file_bytes,
    render,
    save_settings,
)

UNWELL_SECONDS = 10.0
_ASKED_EVERY_S = 2.0


class EmbeddedServer:
    """The nats-server of one instance.

    Its first start takes free ports; every later start of the same instance takes the same ones, so that
    clients find it again. Only an import's own server does not sync always.
    """

    def __init__(self, home: Home, *, port: int = -1, syncs_always: bool = True) -> None:
        self._home = home
        self._syncs_always = syncs_always
        self._program = find_server()
        room = max_file_bytes(shutil.disk_usage(home.root).free)
        before = load_settings(home)
        # Streams reserve their sizes within max_file: it stays as first chosen, however full the disk is now.
        size = before.max_file_bytes if before is not None else room
        self.settings = replace(before or ServerSettings(), port=port, monitor_port=-1, max_file_bytes=size)
        self._ports: tuple[int, int] | None = None

    @property
    def url(self) -> str:
        """Where clients connect, once the server is ready."""
        return f"nats://{self.settings.host}:{self._ports[0] if self._ports else self.settings.port}"

    def spec(self) -> ChildSpec:
        """The server's row in the table of children."""
        return ChildSpec(
            name="server",
            argv=(str(self._program), "-c", str(self._home.server_conf)),
            env={"PATH": os.environ.get("PATH", ""), "TZ": "UTC"},
            ready_timeout_s=10.0,
            restart=Restart(give_up_after=5),
            prepare=self._prepare,
            probe=self._is_ready,
            watch=self._until_unwell,
        )

    def _prepare(self) -> None:
        for told in (self._home.server_file, self._home.stuck_file):
            told.unlink(missing_ok=True)
        for left in self._home.run.glob("*.ports"):
            left.unlink()
        if self._ports is not None:
            self.settings = replace(self.settings, port=self._ports[0], monitor_port=self._ports[1])
        # The accounts may have changed while the server was down. The file stays as it is then until the
        # next start: a server refuses to reload one with other ports than it was started on, be they -1.
        with teams.changing(self._home):
            save_settings(self._home, self.settings)
            accounts = principals.load_accounts(self._home.teams_file)
            if not self._syncs_always:
                accounts = principals.alone(accounts)
            install(self._home, render(accounts, self.settings, self._home, syncs_always=self._syncs_always))

    async def _is_ready(self, pid: int) -> bool:
        found = _ports(self._home.run, pid)
        if found is None or not await asyncio.to_thread(server_monitor.is_healthy, found[1], 1.0):
            return False
        if self._syncs_always:
            await self._check_sync(found[1])
        self._ports = found
        created = psutil.Process(pid).create_time()
        write_json(self._home.server_file, {"pid": pid, "created": created, "url": self.url, "monitor_port": found[1]})
        return True

    async def _check_sync(self, monitor_port: int) -> None:
        always = await asyncio.to_thread(server_monitor.syncs_always, monitor_port)
        if not always and os.environ.get("TAPELINE_UNSAFE_SYNC") != "1":
            raise TapelineError(
                "the log server does not sync always: acknowledged events can be lost",
                code="unavailable",
                hint="set sync_interval: always",
            )

    async def _until_unwell(self, pid: int) -> str:
        """Ask for its health for ever; return when it has not been well for 10 s, or stores nothing any more."""
        assert self._ports is not None, "watched only when ready"
        loop = asyncio.get_running_loop()
        well_at = loop.time()
        while True:
            await asyncio.sleep(_ASKED_EVERY_S)
            if (read_json(self._home.stuck_file) or {}).get("pid") == pid:
                return "three appends in a row stayed without an answer: the log stores nothing more"
            wrong = await asyncio.to_thread(server_monitor.illness, self._ports[1], _ASKED_EVERY_S)
            if wrong is None:
                well_at = loop.time()
            elif loop.time() - well_at >= UNWELL_SECONDS:
                return f"it was not healthy for {UNWELL_SECONDS:.0f} s: {wrong}"


def _ports(folder: Path, pid: int) -> tuple[int, int] | None:
    """Client and monitoring port from the ports file of a server; none until it has written it."""
    found = read_json(folder / f"nats-server_{pid}.ports")
    if found is None:
        return None
    try:
        client, monitoring = (urlsplit(found[name][0]).port for name in ("nats", "monitoring"))
    except (KeyError, IndexError, TypeError):
        return None
    return (client, monitoring) if client and monitoring else None
