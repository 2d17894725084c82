"""Where an embedded instance lives on disk: the paths below `TAPELINE_HOME`, and who holds them.

creds/      credential files          log/      the server's JetStream folder
db/         read models (SQLite)      store/    artifacts by digest
agents/     folders of agents         logs/     what the processes print
seals/      signed roots of the log   run/      sockets and ports files of the running instance
teams.toml  who may sign in           server.json, server.conf   the server's settings, its configuration
instance.json   the running instance  up.lock   held by its supervisor
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapeline.errors import TapelineError

_LOOKED_AT_S = 0.5
_FOLDERS = ("creds", "log", "db", "store", "agents", "logs", "seals", "run")


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one embedded instance, and the paths in it."""

    root: Path

    @property
    def creds(self) -> Path:
        return self.root / "creds"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def db(self) -> Path:
        return self.root / "db"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def agents(self) -> Path:
        return self.root / "agents"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def seals(self) -> Path:
        return self.root / "seals"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def teams_file(self) -> Path:
        return self.root / "teams.toml"

    @property
    def server_settings(self) -> Path:
        return self.root / "server.json"

    @property
    def server_conf(self) -> Path:
        return self.root / "server.conf"

    @property
    def instance_file(self) -> Path:
        return self.root / "instance.json"

    @property
    def processes_file(self) -> Path:
        return self.run / "processes.json"

    @property
    def server_file(self) -> Path:
        """Pid of the running server, for those who ask it to read its configuration again."""
        return self.run / "server.json"

    @property
    def stuck_file(self) -> Path:
        """Pid of a server that answers but stores nothing any more: only a restart heals it."""
        return self.run / "log_stuck.json"

    @property
    def lock_file(self) -> Path:
        return self.root / "up.lock"

    def credential(self, name: str) -> Path:
        """The credential file of an identity: `admin`, `replay`, `seal`, `svc-runs`, `me`, `agent-local`."""
        return self.creds / f"{name}.nk"

    def make(self) -> None:
        """Make the folders that are missing, each for its owner alone.

        Raises
        ------
        TapelineError
            `forbidden` when the home belongs to another user or others may enter it,
            `unavailable` when it cannot be made.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not any(self.root.iterdir()):
                # A folder just made by hand has the mode of the umask and nothing in it to protect yet.
                self.root.chmod(0o700)
            for name in _FOLDERS:
                (self.root / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise TapelineError(
                f"the home {self.root} cannot be made: {error.strerror}",
                code="unavailable",
                hint="set TAPELINE_HOME to a folder that you can write to",
            ) from error
        for folder in (self.root, *(self.root / name for name in _FOLDERS)):
            found = folder.stat()
            if found.st_uid != os.geteuid():
                raise TapelineError(
                    f"the folder {folder} belongs to another user",
                    code="forbidden",
                    hint="set TAPELINE_HOME to a folder of your own",
                )
            if found.st_mode & 0o077:
                raise TapelineError(
                    f"the folder {folder} has mode {found.st_mode & 0o777:04o}",
                    code="forbidden",
                    hint=f"chmod 700 {folder}",
                )


def find_home(root: Path | str | None = None) -> Home:
    """The home at a path, else at `TAPELINE_HOME`, else in the platform's user data folder."""
    chosen = root or os.environ.get("TAPELINE_HOME")
    if not chosen:
        import platformdirs

        chosen = platformdirs.user_data_path("tapeline")
    return Home(Path(chosen).expanduser().absolute())


@dataclass(frozen=True, slots=True)
class Instance:
    """What a running embedded instance says of itself to clients."""

    pid: int
    started_at: str
    url: str
    web_url: str | None
    team: str
    creds: str
    version: str


class HomeLock:
    """The right to run an instance on a home; the kernel gives it back when its holder dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the home back. The file stays, so that no two holders lock different files."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def hold(home: Home) -> HomeLock:
    """Take the home for this process.

    Raises
    ------
    TapelineError
        `already_running`, naming the holder's pid.
    """
    descriptor = os.open(home.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOOKED_AT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            # One who merely looks holds the lock for a moment, and leaves the pid of a dead holder in it.
            by = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            if not (by.isdigit() and _is_alive(int(by))) and time.monotonic() < deadline:
                time.sleep(0.005)
                continue
            os.close(descriptor)
            raise TapelineError(
                f"the home {home.root} is already in use{f' by process {by}' if by else ''}",
                code="already_running",
                hint="tapeline status shows it, tapeline down stops it; or set TAPELINE_HOME to another folder",
                data={"pid": int(by) if by.isdigit() else None, "home": str(home.root)},
            ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return HomeLock(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def holder(home: Home) -> int | None:
    """The pid of the process that runs an instance on a home; none when nobody holds it."""
    try:
        descriptor = os.open(home.lock_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(descriptor, 32).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else None
    else:
        return None
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole, on disk before it is seen, readable by its owner alone."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; none when the file is missing or is no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file as a whole by a JSON object."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def write_instance(home: Home, instance: Instance) -> None:
    """Tell clients of this home where the running instance is."""
    write_json(home.instance_file, asdict(instance))


def read_instance(home: Home) -> Instance | None:
    """The running instance of a home; none when there is no file, or its process is gone."""
    found = read_json(home.instance_file)
    if found is None:
        return None
    try:
        instance = Instance(**{name: found.get(name) for name in Instance.__slots__})  # type: ignore[arg-type]
    except TypeError:
        return None
    if not isinstance(instance.pid, int) or not isinstance(instance.url, str):
        return None
    return instance if holder(home) == instance.pid else None
