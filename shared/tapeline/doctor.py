"""What is wrong with a home, its instance, and this client's way to it: checks that change nothing.

Each check is a function that gives findings: what it looked at, whether that is fine, and what helps. They run at
the same time and have ten seconds in all; one that has not ended then says so.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotEnded
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tapeline.errors import TapelineError
from tapeline.home import Home, Instance, find_home, read_instance, read_json

if TYPE_CHECKING:
    from tapeline.sdk.client import Client

Verdict = Literal["ok", "skipped", "warning", "fault"]
TIME_LIMIT_S = 10.0
GIB = 2**30
WORST: tuple[Verdict, ...] = ("ok", "skipped", "warning", "fault")
EXITS = {"ok": 0, "skipped": 0, "warning": 1, "fault": 2}
OLD_KEY_DAYS = 365
OLD_SEAL_S = 20 * 60
OLD_BACKUP_S = 26 * 3600
OLD_STAGING_S = 24 * 3600
FAR_BEHIND, LONG_BEHIND_S = 1_000, 5.0
CLOCK_OFF_S = 2.0
OPEN_FILES = 1_024
LOOKED_FOR = ("keras", "tensorflow", "h5py", "numpy", "pandas", "pyarrow", "asyncpg")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what helps."""

    check: str
    verdict: Verdict
    message: str
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The finding with stable keys."""
        return asdict(self)


class Patient:
    """What the checks look at."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._lock = threading.Lock()
        self._client: Client | None = None

    @cached_property
    def instance(self) -> Instance | None:
        """The instance of the home, if one says that it runs."""
        return read_instance(self.home)

    @property
    def client(self) -> Client:
        """A connection of the SDK to whatever is configured; raises what connecting raises."""
        from tapeline.sdk.client import Client
        from tapeline.sdk.settings import resolve

        with self._lock:
            if self._client is None:
                self._client = Client(resolve(home=self.home), timeout_s=2.0, total_s=4.0)
            return self._client

    def close(self) -> None:
        """End the connection, if there was one."""
        if self._client is not None:
            self._client.close()


Check = Callable[[Patient], Iterator[Finding]]


def examine(home: Home | None = None, *, limit_s: float = TIME_LIMIT_S) -> list[Finding]:
    """Every finding, in the order of the checks."""
    patient = Patient(home or find_home())
    end = time.monotonic() + limit_s
    pool = ThreadPoolExecutor(len(CHECKS), thread_name_prefix="tapeline-doctor")
    try:
        running = [(check, pool.submit(_findings, check, patient)) for check in CHECKS]
        return [each for check, future in running for each in _told(check, future, end)]
    finally:
        patient.close()
        pool.shutdown(wait=False, cancel_futures=True)


def exit_of(findings: list[Finding]) -> int:
    """0 when all is fine, 1 for a warning, 2 for a fault."""
    return max((EXITS[each.verdict] for each in findings), default=0)


def _findings(check: Check, patient: Patient) -> list[Finding]:
    name = check.__name__
    try:
        return list(check(patient))
    except TapelineError as error:
        return [Finding(name, "fault", error.message, error.hint)]
    except (OSError, ValueError) as error:
        return [Finding(name, "fault", f"{type(error).__name__}: {error}")]


def _told(check: Check, future: Future[list[Finding]], end: float) -> list[Finding]:
    try:
        return future.result(max(0.0, end - time.monotonic()))
    except NotEnded:
        return [Finding(check.__name__, "warning", "the check has not ended in time", "run it again")]
    except Exception as error:
        # One check that nobody foresaw must not hide the others.
        return [Finding(check.__name__, "warning", f"the check failed: {error!r}", "report it")]


# --- this machine ---------------------------------------------------------------------------------


def installed(_patient: Patient) -> Iterator[Finding]:
    """Python, Tapeline, and what comes with its extras."""
    found = []
    for name in LOOKED_FOR:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("installed", "ok", f"tapeline {version('tapeline')}, Python {python}, {', '.join(found)}")


def open_files(_patient: Patient) -> Iterator[Finding]:
    """How many files this process may open."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES:
        yield Finding("open_files", "warning", f"this user may open {soft} files", f"ulimit -n {OPEN_FILES * 8}")
    else:
        yield Finding("open_files", "ok", f"{soft} files")


def devices(_patient: Patient) -> Iterator[Finding]:
    """What TensorFlow can train on, asked in a process of its own."""
    if find_spec("tensorflow") is None:
        yield Finding("devices", "skipped", "TensorFlow is not installed", "pip install 'tapeline[train]'")
        return
    program = "import tensorflow as tf; print(*(d.name for d in tf.config.list_physical_devices()))"
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        asked = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=TIME_LIMIT_S - 1, env=quiet
        )
    except subprocess.TimeoutExpired:
        yield Finding("devices", "skipped", "TensorFlow did not start in time", "tapeline device ls asks the agents")
        return
    if asked.returncode != 0:
        last = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        yield Finding(
            "devices", "fault", f"TensorFlow cannot be imported: {last[:200]}", "pip install 'tapeline[train]'"
        )
    else:
        yield Finding("devices", "ok", asked.stdout.strip() or "none")


# --- the home -------------------------------------------------------------------------------------


def folders(patient: Patient) -> Iterator[Finding]:
    """Whether the home is its owner's alone."""
    root = patient.home.root
    if not root.is_dir():
        yield Finding("folders", "ok", f"{root} is not there yet; tapeline up makes it")
        return
    fine = True
    for folder in (root, *(path for path in root.iterdir() if path.is_dir())):
        found = folder.stat()
        if found.st_uid != os.geteuid():
            fine = False
            yield Finding("folders", "fault", f"{folder} belongs to another user", "set TAPELINE_HOME")
        elif found.st_mode & 0o077:
            fine = False
            yield Finding(
                "folders", "fault", f"{folder} has mode {found.st_mode & 0o777:04o}", f"chmod 700 {folder}"
            )  # fmt: skip
    if fine:
        yield Finding("folders", "ok", str(root))


def credentials(patient: Patient) -> Iterator[Finding]:
    """Whether keys are private, and how old they are."""
    files = sorted(patient.home.creds.glob("*.nk")) if patient.home.creds.is_dir() else []
    fine = True
    for path in files:
        found = path.stat()
        if found.st_mode & 0o077:
            fine = False
            yield Finding("credentials", "fault", f"others may read {path}", f"chmod 600 {path}")
        days = (time.time() - found.st_mtime) / 86_400
        if days > OLD_KEY_DAYS:
            fine = False
            yield Finding(
                "credentials",
                "warning",
                f"{path.name} is {days:.0f} days old",
                "tapeline team user rotate <team> <user>",
            )
    if fine:
        yield Finding("credentials", "ok", f"{len(files)} key files")


def disk(patient: Patient) -> Iterator[Finding]:
    """Free space where the log, the tables, the artifacts and temporary files lie."""
    places = {"log": patient.home.log, "tables": patient.home.db, "artifacts": patient.home.store}
    for name, folder in {**places, "temporary files": Path(tempfile.gettempdir())}.items():
        there = next(each for each in (folder, *folder.parents) if each.exists())
        usage = shutil.disk_usage(there)
        share, text = usage.free / usage.total, f"{name}: {usage.free / GIB:.1f} GiB free in {there}"
        if share < 0.03 or usage.free < GIB:
            yield Finding("disk", "fault", text, "free space: below 3 % only stops and deletions are taken")
        elif share < 0.2 or usage.free < 5 * GIB:
            yield Finding("disk", "warning", text, "free space: below 10 % no new runs are taken")
        else:
            yield Finding("disk", "ok", text)


def tables(patient: Patient) -> Iterator[Finding]:
    """Whether the databases of the read models are whole."""
    import sqlite3

    files = sorted(patient.home.db.glob("*.db")) if patient.home.db.is_dir() else []
    for path in files:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2.0)
        try:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            said = str(error)
        finally:
            connection.close()
        if said == "ok":
            yield Finding("tables", "ok", path.name)
        else:
            yield Finding("tables", "fault", f"{path.name}: {said}", "tapeline rebuild makes it again from the log")


def staging(patient: Patient) -> Iterator[Finding]:
    """What was staged and never promoted."""
    folder = patient.home.store / "staging"
    before = time.time() - OLD_STAGING_S
    stale = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mtime < before]
    if stale:
        size = sum(path.stat().st_size for path in stale)
        yield Finding(
            "staging", "warning", f"{len(stale)} staged files, {size / 2**20:.0f} MiB, are older than a day",
            f"remove them from {folder}",
        )  # fmt: skip
    else:
        yield Finding("staging", "ok", "nothing is left over")


def spools(patient: Patient) -> Iterator[Finding]:
    """Measurements that no service has yet, of processes that are gone."""
    from tapeline.spool.reader import is_alive, told

    left = []
    for path in patient.home.root.rglob("spool.json"):
        said = told(path) or {}
        if not (isinstance(said.get("pid"), int) and is_alive(int(said["pid"]))):
            left.append(path.parent)
    if left:
        yield Finding(
            "spools", "warning", f"{len(left)} spools are left, the first at {left[0]}", "tapeline spool sync"
        )
    else:
        yield Finding("spools", "ok", "none is left over")


# --- the instance ---------------------------------------------------------------------------------


def connection(patient: Patient) -> Iterator[Finding]:
    """How this client finds a server, and whether that answers."""
    from tapeline.errors import UnavailableError

    try:
        client = patient.client
    except UnavailableError as error:
        yield Finding("connection", "skipped", error.message, "tapeline up")
        return
    origins = ", ".join(f"{name} from {place}" for name, place in sorted(client.settings.origins.items()))
    hello = client.hello()
    yield Finding("connection", "ok", f"{client.url} as {client.user} of {client.team} ({origins})")
    ours, theirs = version("tapeline"), str(hello.get("version"))
    if ours != theirs:
        yield Finding(
            "connection", "warning", f"this is tapeline {ours}, the services are {theirs}", "install the same"
        )


def server(patient: Patient) -> Iterator[Finding]:
    """The broker of the home: its version, JetStream, when it syncs, and its clock."""
    from tapeline import server_monitor

    if patient.instance is None:
        yield Finding("server", "skipped", "no instance runs on the home", "tapeline up")
        return
    port = (read_json(patient.home.server_file) or {}).get("monitor_port")
    if not isinstance(port, int):
        yield Finding("server", "fault", "the server does not say where it is watched", "tapeline down; tapeline up")
        return
    said = server_monitor.varz(port)
    if not said.get("jetstream"):
        yield Finding("server", "fault", "JetStream is off", "tapeline topology init; tapeline up")
    if not server_monitor.syncs_always(port):
        yield Finding("server", "fault", "the server does not sync each write to disk", "set sync_interval: always")
    ill = server_monitor.illness(port)
    if ill is not None:
        yield Finding("server", "fault", ill, "tapeline down; tapeline up")
    offset = abs((datetime.fromisoformat(str(said["now"])) - datetime.now(UTC)).total_seconds())
    if offset > CLOCK_OFF_S:
        yield Finding(
            "server", "warning", f"its clock is {offset:.1f} s from this one", "let both follow the same time"
        )
    yield Finding("server", "ok", f"nats-server {said.get('version')} at {patient.instance.url}")


def streams(patient: Patient) -> Iterator[Finding]:
    """Whether the streams are as this version makes them."""
    from tapeline.connection import connect
    from tapeline.server_config import load_settings
    from tapeline.topology import embedded_sizes, plan, topology

    settings, instance = load_settings(patient.home), patient.instance
    if settings is None or instance is None:
        yield Finding("streams", "skipped", "no instance runs on the home")
        return

    async def planned() -> list[Any]:
        client = await connect(patient.home.credential("admin"), instance.url, name="doctor")
        try:
            return await plan(client, topology(embedded_sizes(settings.max_file_bytes)))
        finally:
            await client.close()

    others = [step for step in asyncio.run(planned()) if step.action != "keep"]
    for step in others:
        yield Finding("streams", "fault", f"{step.name}: {', '.join(step.changes)}", "tapeline topology apply")
    if not others:
        yield Finding("streams", "ok", "as they should be")


def projections(patient: Patient) -> Iterator[Finding]:
    """How far tables are behind the log, and what they have set aside."""
    if patient.instance is None:
        yield Finding("projections", "skipped", "no instance runs on the home")
        return
    from tapeline import replay

    found = asyncio.run(replay.lag_of(patient.home))
    for one in found:
        if (one.lag or 0) > FAR_BEHIND or (one.age_s or 0) > LONG_BEHIND_S:
            yield Finding(
                "projections", "warning", f"{one.name} is {one.lag} commits, {one.age_s} s behind", "tapeline log lag"
            )
        if one.parked:
            yield Finding(
                "projections", "warning", f"{one.name} has set {one.parked} aggregates aside", "tapeline parked list"
            )
    yield Finding("projections", "ok", f"{len(found)} projections and processes")


def backup(patient: Patient) -> Iterator[Finding]:
    """When the log was last sealed and backed up."""
    if patient.instance is None:
        yield Finding("backup", "skipped", "no instance runs on the home")
        return
    from tapeline import replay
    from tapeline.replay.seals import last_seal

    found = asyncio.run(replay.backup_of(patient.home))
    if not found.to_json()["ok"]:
        yield Finding("backup", "warning", str(found), "tapeline log export")
    seal = last_seal(patient.home, patient.client.hello()["log_id"])
    if seal is not None and int(seal["position"]) < found.head:
        age = (datetime.now(UTC) - datetime.fromisoformat(str(seal["time"]))).total_seconds()
        if age > OLD_SEAL_S:
            open_for = f"{found.head - int(seal['position'])} commits are not sealed, for {age / 60:.0f} min"
            yield Finding("backup", "warning", open_for, "tapeline log seal")
    yield Finding("backup", "ok", str(found))


def runs(patient: Patient) -> Iterator[Finding]:
    """Runs that nobody hears of."""
    if patient.instance is None:
        yield Finding("runs", "skipped", "no instance runs on the home")
        return
    lost = int(patient.client.query("runs", "count", statuses=["job_unknown"])["count"])
    if lost:
        yield Finding("runs", "warning", f"{lost} runs are job_unknown", "tapeline run ls --status job_unknown")
    else:
        yield Finding("runs", "ok", f"{patient.client.query('runs', 'count')['count']} runs, none lost")


def agents(patient: Patient) -> Iterator[Finding]:
    """Agents, and those that are not heard."""
    if patient.instance is None:
        yield Finding("agents", "skipped", "no instance runs on the home")
        return
    found = patient.client.query("runs", "devices")["items"]
    gone = sorted({each["agent"] for each in found if not each["online"]})
    if gone:
        yield Finding("agents", "warning", f"agents are not heard: {', '.join(gone)}", "tapeline agent ls")
    elif not found:
        yield Finding("agents", "warning", "no agent offers a device", "tapeline up starts one")
    else:
        yield Finding("agents", "ok", ", ".join(f"{each['agent']}/{each['device']}" for each in found))


CHECKS: tuple[Check, ...] = (
    installed, open_files, devices, folders, credentials, disk, tables, staging, spools, connection, server, streams,
    projections, backup, runs, agents,
)  # fmt: skip
