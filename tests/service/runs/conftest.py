"""The runs service on a real nats-server, and an agent that says what it is told to say."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tapeline.bus import Verb, answer
from tapeline.clock import SystemClock
from tapeline.contracts.agents import Offer
from tapeline.errors import TapelineError, from_fault
from tapeline.ids import new_id
from tapeline.runs.app import build
from tapeline.runs.blueprint.builtin import CANVAS, SELFTEST
from tapeline.testing.hosted import Hosted, hosted
from tapeline.testing.server import NatsServer

TEAM = "main"


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


class Runs:
    """The service as a user of team `main` sees it."""

    def __init__(self, host: Hosted) -> None:
        self.host = host

    async def ask(self, verb: str, *, team: str = TEAM, **fields: Any) -> dict[str, Any]:
        return await self.host.ask(verb, team=team, **fields)

    async def view(self, verb: str, *, team: str = TEAM, **fields: Any) -> Any:
        return (await self.ask(verb, team=team, **fields))["view"]

    async def refused(self, verb: str, **fields: Any) -> TapelineError:
        try:
            await self.ask(verb, **fields)
        except TapelineError as error:
            return error
        raise AssertionError(f"{verb} was accepted")

    async def create(self, **changes: Any) -> dict[str, Any]:
        fields = {
            "name": "demo", "version": "1", "resources": {"cpu": "1", "memory": "64Mi"}, "config": {"steps": 10},
            "task_type": "training", "blueprint_id": SELFTEST.id, "project_id": "default",
        }  # fmt: skip
        return await self.view("create", **(fields | changes))

    async def until(self, run: str, status: str, timeout_s: float = 45) -> dict[str, Any]:
        """The run once it has a status."""
        deadline = time.monotonic() + timeout_s
        while True:
            view = await self.view("get", run=run)
            if view["status"] == status:
                return view
            assert time.monotonic() < deadline, f"run is {view['status']} ({view['message']}), not {status}"
            await asyncio.sleep(0.02)

    async def types(self, run: str) -> list[str]:
        page = await self.view("events", run=run, sort="sequence:asc", limit=1000)
        return [event["details"]["type"] for event in page["items"]]


class FakeAgent:
    """An agent without a process: its requests, and the offers and stops that it hears."""

    def __init__(self, host: Hosted, server: NatsServer, name: str) -> None:
        self.name = name
        self.boot = new_id()
        self.offers: asyncio.Queue[Offer] = asyncio.Queue()
        self.stops: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.seq: dict[tuple[str, int], int] = {}
        self.rebind(host)
        self._server = server
        self._client: Any = None

    def rebind(self, host: Hosted) -> None:
        """Talk to another process of the service."""
        self.host = host
        self._verbs: dict[str, Verb] = {verb.name: verb for verb in host.service.verbs if verb.audience == "agent"}

    async def start(self) -> None:
        self._client = await self._server.connect()

        async def hear(message: Any) -> None:
            if message.subject.endswith(".start"):
                self.offers.put_nowait(Offer.model_validate_json(message.data))
            else:
                self.stops.put_nowait(json.loads(message.data))

        await self._client.subscribe(f"actl.{self.name}.>", cb=hear)
        await self._client.flush()

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        body = json.dumps({"command_id": new_id()} | fields).encode()
        reply = json.loads(await answer(self._verbs[verb], f"ag.{self.name}.{verb}", body, {}, SystemClock()))
        if "error" in reply:
            raise from_fault(reply["error"], json.dumps(reply))
        self.host.position = max(self.host.position, reply["position"])
        return reply["view"]

    async def refused(self, verb: str, **fields: Any) -> TapelineError:
        try:
            await self.ask(verb, **fields)
        except TapelineError as error:
            return error
        raise AssertionError(f"{verb} was accepted")

    async def announce(self, **changes: Any) -> dict[str, Any]:
        fields = {
            "boot": self.boot, "version": "1", "host": "h",
            "devices": [{"name": "cpu0", "kind": "cpu", "cores": 4, "memory": 8 * 2**30}],
            "backends": {"tensorflow": "2.21.0"},
            "blueprints": [{"name": "canvas", "version": "1.0.0"}, {"name": "selftest", "version": "1.0.0"}],
        }  # fmt: skip
        return await self.ask("announce", **(fields | changes))

    async def take(self, timeout_s: float = 30) -> dict[str, Any]:
        """The lease of the next run that is offered."""
        offer = await asyncio.wait_for(self.offers.get(), timeout_s)
        return await self.claim(offer)

    async def claim(self, offer: Offer) -> dict[str, Any]:
        return await self.ask(
            "claim", command_id=f"claim-{offer.offer}", team=offer.team, run=offer.run, offer=offer.offer,
            device=offer.device,
        )  # fmt: skip

    async def report(self, lease: dict[str, Any], kind: str, seq: int | None = None, **data: Any) -> dict[str, Any]:
        key = (lease["run"], lease["epoch"])
        number = seq if seq is not None else self.seq.get(key, 0) + 1
        fields = {"team": lease["team"], "run": lease["run"], "epoch": lease["epoch"], "seq": number, "kind": kind}
        view = await self.ask("report", **fields, data=data)
        self.seq[key] = max(number, self.seq.get(key, 0))
        return view

    async def started(self, lease: dict[str, Any], **changes: Any) -> None:
        await self.report(lease, "started", **({"pid": 7, "resume": "none"} | changes))

    async def completed(self, lease: dict[str, Any]) -> None:
        await self.report(lease, "completed", global_step=10, training_epochs=1)

    async def measure(self, lease: dict[str, Any], batch: int, points: dict[str, list[Any]], **more: Any) -> int:
        """Append one batch: per tag a list of (step, value, time in ns)."""
        columns = [
            {"tag": tag, "kind": "f8", "step": [p[0] for p in many], "value": [p[1] for p in many],
             "time": [p[2] for p in many]}
            for tag, many in points.items()
        ]  # fmt: skip
        named = {key: lease[key] for key in ("team", "run", "attempt", "epoch")}
        return (await self.ask("append_metrics", **named, batch=batch, columns=columns, **more))["batch"]

    async def checkpoint(
        self, lease: dict[str, Any], step: int, data: bytes = b"weights", monitored: float = 0.5
    ) -> str:
        """Stage, report and so complete a checkpoint of one file; gives the child's name of it."""
        given = f"a{lease['attempt']}-s{step:09d}"
        file = {"name": "state.npz", "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        await self.report(lease, "checkpoint_begun", checkpoint_id=given, global_step=step)
        named = {key: lease[key] for key in ("team", "run", "epoch")}
        place = await self.ask("stage", **named, checkpoint_id=given, files=[file])
        await self.host.platform.store.stage_bytes(f"{place['prefix']}/state.npz", data)
        await self.report(
            lease, "checkpoint", checkpoint_id=given, global_step=step, training_epoch=0, files=[file],
            monitored={"val/loss": monitored},
        )  # fmt: skip
        return given


Open = Callable[[], AbstractAsyncContextManager[Hosted]]


@pytest.fixture
def open_service(server: NatsServer, tmp_path: Path) -> Open:
    """Opens the service on the same server and folder, as often as one likes."""
    return lambda: hosted(server, build, tmp_path, "runs")


@pytest.fixture
async def host(open_service: Open) -> AsyncIterator[Hosted]:
    async with open_service() as host:
        yield host


@pytest.fixture
def runs(host: Hosted) -> Runs:
    return Runs(host)


@pytest.fixture
def make_runs() -> Callable[[Hosted], Runs]:
    """A user's view of another process of the service."""
    return Runs


@pytest.fixture
async def make_agent(host: Hosted, server: NatsServer) -> AsyncIterator[Callable[..., Awaitable[FakeAgent]]]:
    made: list[FakeAgent] = []

    async def make(name: str = "a1") -> FakeAgent:
        agent = FakeAgent(host, server, name)
        await agent.start()
        made.append(agent)
        return agent

    yield make
    for agent in made:
        await agent.close()


@pytest.fixture
async def agent(make_agent: Callable[..., Awaitable[FakeAgent]]) -> FakeAgent:
    """An agent `a1` with one CPU that has announced itself."""
    agent = await make_agent()
    await agent.announce()
    return agent


__all__ = ["CANVAS", "SELFTEST", "FakeAgent", "Runs"]
