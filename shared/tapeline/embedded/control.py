"""An embedded instance from outside: stop it, look at it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from nats.errors import Error as NatsError

from tapeline.connection import connect
from tapeline.errors import TapelineError
from tapeline.home import Home, holder, read_instance, read_json

STOP_SECONDS = 60.0
_ASKED_EVERY_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """One process of an instance; `rss_bytes` counts its own children too."""

    name: str
    pid: int | None
    alive: bool
    state: str
    starts: int
    uptime_s: float | None
    rss_bytes: int
    reason: str | None
    log: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """An instance as it is now; without `pid` nothing runs on the home."""

    home: str
    running: bool
    ready: bool
    pid: int | None = None
    url: str | None = None
    web_url: str | None = None
    team: str | None = None
    version: str | None = None
    started_at: str | None = None
    uptime_s: float | None = None
    rss_bytes: int = 0
    processes: list[ProcessStatus] = field(default_factory=list)
    positions: dict[str, int] | None = None


def stop(home: Home, timeout_s: float = STOP_SECONDS) -> bool:
    """End the instance of a home and wait until it is gone; whether one was running.

    Raises
    ------
    TapelineError
        `timeout` when it is still there after the time.
    """
    pid = holder(home)
    if pid is None:
        return False
    deadline = time.monotonic() + timeout_s
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    while holder(home) == pid or _is_alive(pid):
        if time.monotonic() > deadline:
            raise TapelineError(
                f"the instance (process {pid}) is still ending after {timeout_s:.0f} s",
                code="timeout",
                hint=f"kill -9 {pid} ends it and its children at once; the log on disk is safe",
            )
        time.sleep(_ASKED_EVERY_S)
    return True


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def status(home: Home, *, positions: bool = True) -> Status:
    """What runs on a home: each process with its pid, age and memory, and the ends of the streams.

    With `positions` the server is asked for them as the replay identity; not from within an event loop.
    """
    pid = holder(home)
    if pid is None:
        return Status(home=str(home.root), running=False, ready=False)
    instance = read_instance(home)
    recorded = read_json(home.processes_file) or {}
    rows = recorded.get("processes") if recorded.get("pid") == pid else None
    processes = [_process(row) for row in rows or []]
    own = _own(pid, processes)
    url = instance.url if instance is not None else None
    return Status(
        home=str(home.root),
        running=True,
        ready=instance is not None and all(process.state == "ready" for process in processes),
        pid=pid,
        url=url,
        web_url=instance.web_url if instance is not None else None,
        team=instance.team if instance is not None else None,
        version=instance.version if instance is not None else None,
        started_at=instance.started_at if instance is not None else None,
        uptime_s=own.uptime_s,
        rss_bytes=own.rss_bytes + sum(process.rss_bytes for process in processes),
        processes=[own, *processes],
        positions=asyncio.run(_positions(home.credential("replay"), url)) if positions and url else None,
    )


def _own(pid: int, children: list[ProcessStatus]) -> ProcessStatus:
    created, rss, _ = _measured(pid, None, family=False)
    return ProcessStatus(
        name="supervisor", pid=pid, alive=True, state="ready", starts=1, uptime_s=_age(created), rss_bytes=rss,
        reason=None, log=None,
    )  # fmt: skip


def _process(row: dict[str, Any]) -> ProcessStatus:
    created, rss, alive = _measured(row.get("pid"), row.get("created"), family=True)
    return ProcessStatus(
        name=str(row.get("name")), pid=row.get("pid"), alive=alive, state=str(row.get("state")),
        starts=int(row.get("starts", 0)), uptime_s=_age(created) if alive else None, rss_bytes=rss,
        reason=row.get("reason"), log=row.get("log"),
    )  # fmt: skip


def _measured(pid: int | None, created: float | None, *, family: bool) -> tuple[float | None, int, bool]:
    """When a process began, its memory with that of its children, and whether it is the one meant."""
    if pid is None:
        return None, 0, False
    try:
        process = psutil.Process(pid)
        began = process.create_time()
        if created is not None and abs(began - created) > 1.0:
            return None, 0, False
        rss = process.memory_info().rss
        below = process.children(recursive=True) if family else []
    except psutil.NoSuchProcess:
        return None, 0, False
    for child in below:
        try:
            rss += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return began, rss, True


def _age(created: float | None) -> float | None:
    return None if created is None else max(0.0, datetime.now(UTC).timestamp() - created)


async def _positions(credentials: Path, url: str) -> dict[str, int] | None:
    """The last position of each stream; none when the server does not tell in 2 s."""
    try:
        client = await connect(credentials, url, name="status", timeout_s=2.0)
    except TapelineError:
        return None
    found: dict[str, int] = {}
    try:
        for stream in ("EVENTS", "METRICS"):
            answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", timeout=2.0)
            state = json.loads(answer.data).get("state")
            if state is not None:
                found[stream] = int(state["last_seq"])
    except (TimeoutError, NatsError, TapelineError, OSError):
        return None
    finally:
        await client.close()
    return found
