"""A real nats-server, a real local store, a real agent; only the runs service is a double."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tapeline import subjects
from tapeline.clock import SystemClock
from tapeline.columns import unpack
from tapeline.contracts.agents import BlueprintOffer, DeviceInfo
from tapeline.store.local import LocalStore
from tapeline.trainer.agent import Agent, Equipment
from tapeline.trainer.hold import Patience

TEAM = "contoso"


class Server:
    """A nats-server without accounts on a free port of the loopback."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
        self.process = subprocess.Popen(
            [program, "-a", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            _sleep()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def _sleep() -> None:
    import time

    time.sleep(0.02)


@dataclass
class FakeRun:
    """What the double knows of one run."""

    id: str
    spec: dict[str, Any]
    files: list[dict[str, Any]] = field(default_factory=list)
    attempt: int = 1
    epoch: int = 0
    seq: int = 0
    kinds: list[str] = field(default_factory=list)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    points: dict[tuple[str, int], Any] = field(default_factory=dict)
    batch: int = 0
    progress: dict[str, Any] = field(default_factory=dict)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    is_fenced: bool = False
    stop: dict[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        return bool(self.kinds) and self.kinds[-1] in ("completed", "failed", "terminated", "lease_lost")


class FakeRuns:
    """A double of the runs service: answers the verbs of an agent, over a real server."""

    def __init__(self, connection: Client, store: LocalStore) -> None:
        self.connection = connection
        self.store = store
        self.runs: dict[str, FakeRun] = {}
        self.announced: list[dict[str, Any]] = []
        self.renewals = 0
        self.is_mute = False
        self.mute_verbs: set[str] = set()
        self.can_reclaim = False
        self.ttl_s = 30.0
        self.calls: list[str] = []
        self.command_ids: dict[str, int] = {}

    async def serve(self) -> None:
        await self.connection.subscribe("ag.>", cb=self._hear)
        await self.connection.flush()

    async def offer(self, run: FakeRun, device: str = "cpu0") -> None:
        self.runs[run.id] = run
        run.spec |= {"run": run.id, "attempt": run.attempt, "team": TEAM}
        body = {
            "offer": f"{run.id}-{run.attempt}",
            "team": TEAM,
            "run": run.id,
            "attempt": run.attempt,
            "device": device,
        }
        await self.connection.publish(subjects.AGENT_START, json.dumps(body).encode())

    async def ask_stop(self, run: FakeRun, grace_s: float) -> None:
        body = {"team": TEAM, "run": run.id, "epoch": run.epoch, "grace_s": grace_s, "reason": "user"}
        await self.connection.publish(subjects.AGENT_STOP, json.dumps(body).encode())

    async def _hear(self, message: Msg) -> None:
        verb = message.subject.split(".")[-1]
        if self.is_mute or verb in self.mute_verbs:
            return
        body = json.loads(message.data)
        self.calls.append(verb)
        try:
            reply = {"view": await getattr(self, f"on_{verb}")(body), "sequence": 1, "position": 1, "log_id": "x"}
        except Refused as refused:
            reply = {"error": {"code": refused.code, "status": 409, "message": refused.code, "data": refused.data}}
        await message.respond(json.dumps(reply).encode())

    def _held(self, body: dict[str, Any]) -> FakeRun:
        run = self.runs.get(body["run"])
        if run is None:
            raise Refused("not_found")
        if run.is_fenced or body["epoch"] != run.epoch:
            raise Refused("fenced", {"current": run.epoch})
        return run

    async def on_announce(self, body: dict[str, Any]) -> dict[str, Any]:
        self.announced.append(body)
        return {"agent": "a1", "teams": [TEAM], "fenced": []}

    async def on_claim(self, body: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[body["run"]]
        run.epoch += 1
        run.seq = 0
        run.is_fenced = False
        return self._lease(run)

    def _lease(self, run: FakeRun) -> dict[str, Any]:
        return {
            "team": TEAM, "run": run.id, "attempt": run.attempt, "epoch": run.epoch, "device": "cpu0",
            "ttl_s": self.ttl_s, "spec": run.spec, "files": run.files,
        }  # fmt: skip

    async def on_renew(self, body: dict[str, Any]) -> dict[str, Any]:
        self.renewals += 1
        answers = []
        for item in body["leases"]:
            try:
                run = self._held(item)
            except Refused:
                answers.append({"run": item["run"], "epoch": item["epoch"], "answer": "fenced"})
                continue
            answer = {"run": run.id, "epoch": run.epoch, "answer": "ok"}
            answers.append(answer | ({"answer": "stop"} | run.stop if run.stop else {}))
        return {"leases": answers}

    async def on_report(self, body: dict[str, Any]) -> dict[str, Any]:
        run = self._held(body)
        self.command_ids[body["command_id"]] = self.command_ids.get(body["command_id"], 0) + 1
        if body["seq"] > run.seq + 1:
            raise Refused("gap", {"expected": run.seq + 1})
        if body["seq"] == run.seq + 1:
            kind, data = body["kind"], body.get("data", {})
            if kind == "checkpoint":
                for file in data["files"]:
                    key = f"{run.id}/{run.epoch}/{data['checkpoint_id']}/{file['name']}"
                    await self.store.promote(key, sha256=file["sha256"], size_bytes=file["size_bytes"])
                run.checkpoints.append(data)
            run.seq += 1
            run.kinds.append(kind)
            run.data[kind] = data
        return {"seq": body["seq"], "status": "job_running"}

    async def on_append_metrics(self, body: dict[str, Any]) -> dict[str, Any]:
        run = self._held(body)
        if body["batch"] > run.batch + 1:
            raise Refused("gap", {"expected": run.batch + 1})
        if body["batch"] == run.batch + 1:
            run.batch += 1
            for column in body.get("columns", []):
                points = unpack(base64.b64decode(column["body"]))
                for step, value in zip(points.steps.tolist(), points.values(), strict=True):
                    run.points[column["tag"], step] = value
            for said in body.get("progress", []):
                run.progress[said["operation"]] = said
        return {"batch": run.batch}

    async def on_stage(self, body: dict[str, Any]) -> dict[str, Any]:
        run = self._held(body)
        return {"prefix": f"{run.id}/{run.epoch}/{body['checkpoint_id']}"}

    async def on_reclaim(self, body: dict[str, Any]) -> dict[str, Any]:
        if not self.can_reclaim:
            raise Refused("conflict")
        run = self.runs[body["run"]]
        run.epoch += 1
        run.seq = 0
        run.is_fenced = False
        return self._lease(run)


class Refused(Exception):
    def __init__(self, code: str, data: Any = None) -> None:
        super().__init__(code)
        self.code = code
        self.data = data


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
async def service(server: Server, store: LocalStore) -> AsyncIterator[FakeRuns]:
    connection = await nats.connect(server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    service = FakeRuns(connection, store)
    await service.serve()
    yield service
    await connection.close()


def equipment() -> Equipment:
    return Equipment(
        version="test",
        devices=[DeviceInfo(name="cpu0", kind="cpu", cores=2)],
        backends={"tensorflow": "2.21.0"},
        blueprints=[BlueprintOffer(name="selftest", version="1.0.0")],
    )


@pytest.fixture
async def agent(server: Server, store: LocalStore, tmp_path: Path, service: FakeRuns) -> AsyncIterator[Agent]:
    """An agent within this process, with short patience; it has left when the test ends."""
    connection = await nats.connect(server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    agent = Agent(
        connection=connection,
        folder=tmp_path / "agent",
        store=store,
        clock=SystemClock(),
        equipment=equipment(),
        has_spare=False,
        patience=Patience(shutdown_grace_s=2.0),
        renew_every_s=0.3,
    )
    stop, ready = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(agent.run(stop, ready.set))
    await asyncio.wait_for(ready.wait(), 30)
    await connection.flush()
    yield agent
    stop.set()
    await asyncio.wait_for(serving, 30)
    await connection.close()


async def until(condition: Any, timeout_s: float = 45.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is a state of other processes
            await asyncio.sleep(0.02)


def state_of(pid: int) -> str:
    """What a process does, in the kernel's letter: `T` is paused, `Z` dead; `X` when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    return state_of(pid) not in "XZ"


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, number)
