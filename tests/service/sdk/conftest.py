"""A real nats-server and a small service beside it, whose answers a test writes down."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from pydantic import BaseModel

from tapeline import subjects
from tapeline.contracts import agents, artifacts, assets, canvases, metrics, runs, tapes, vault
from tapeline.errors import TapelineError, fault
from tapeline.home import Home
from tapeline.loop_thread import LoopThread
from tapeline.sdk import client as client_module
from tapeline.sdk.client import Client
from tapeline.sdk.settings import Settings
from tapeline.security.keys import Credentials, create_key
from tapeline.testing.server import NatsServer, connect

CONTRACTS: dict[str, type[BaseModel]] = {
    "runs.hello": runs.Hello,
    "runs.create": runs.CreateRun,
    "runs.validate_config": runs.ValidateRunConfig,
    "runs.train": runs.TrainCanvas,
    "runs.get": runs.GetRun,
    "runs.list": runs.ListRuns,
    "runs.events": runs.ListEvents,
    "runs.metrics": runs.ListMetrics,
    "runs.columns": metrics.ReadColumns,
    "runs.latest": runs.LatestMetrics,
    "runs.checkpoints": runs.ListCheckpoints,
    "runs.delete_checkpoints": runs.DeleteCheckpoints,
    "runs.stop": runs.StopRun,
    "runs.pause": runs.PauseRun,
    "runs.resume": runs.ResumeRun,
    "runs.restart": runs.RestartRun,
    "runs.delete": runs.DeleteRun,
    "runs.set_notes": runs.SetNotes,
    "runs.blueprints": runs.ListBlueprints,
    "runs.read_artifact": artifacts.ReadArtifact,
    "assets.begin_upload": artifacts.BeginUpload,
    "assets.upload_part": artifacts.UploadPart,
    "assets.import_tape": tapes.ImportTape,
    "assets.get_tape": tapes.GetTape,
    "assets.list_tapes": tapes.ListTapes,
    "assets.remove_tape": tapes.RemoveTape,
    "assets.save_canvas": canvases.SaveCanvas,
    "assets.duplicate_canvas": canvases.DuplicateCanvas,
    "assets.remove_canvas": canvases.RemoveCanvas,
    "assets.get_canvas": canvases.GetCanvas,
    "assets.list_canvases": canvases.ListCanvases,
    "assets.list_revisions": canvases.ListRevisions,
    "assets.rename_canvas": canvases.RenameCanvas,
    "assets.validate_canvas": canvases.ValidateCanvas,
    "assets.components": canvases.ListComponents,
    "assets.build": assets.BuildAsset,
    "assets.cancel_build": assets.CancelBuild,
    "assets.features": assets.ListFeatures,
    "assets.remove_feature": assets.RemoveFeature,
    "assets.save_feature": assets.SaveFeature,
    "assets.get": assets.GetAsset,
    "assets.list": assets.ListAssets,
    "assets.remove": assets.RemoveAsset,
    "assets.read_artifact": artifacts.ReadArtifact,
    "vault.begin_upload": artifacts.BeginUpload,
    "vault.upload_part": artifacts.UploadPart,
    "vault.add": vault.AddVaultItem,
    "vault.import_model": vault.ImportModel,
    "vault.rename": vault.RenameVaultItem,
    "vault.remove": vault.RemoveVaultItem,
    "vault.get": vault.GetVaultItem,
    "vault.list": vault.ListVaultItems,
    "vault.read_artifact": artifacts.ReadArtifact,
}
"""What each verb must be able to read; a request that does not fit fails the test."""
Answer = Callable[[dict[str, Any]], Any]


class Service:
    """Answers requests as a test says; counts the effects of commands by their id."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[str] = []
        self.position = 1
        self.effects: dict[str, int] = {}
        self.replies: dict[str, dict[str, Any]] = {}
        self.drop = 0.0
        self.contracts = agents.CONTRACTS
        self._random = random.Random(7)
        self._loop = LoopThread("service")
        self._nats: Nats | None = None

    def start(self) -> None:
        self._loop.run(self._open(), 10)

    def pause(self) -> None:
        """Go away: requests find no responder."""
        assert self._nats is not None
        self._loop.run(self._nats.close(), 10)

    def stop(self) -> None:
        assert self._nats is not None
        self._loop.end(self._nats.close())

    def publish(self, subject: str) -> None:
        async def send() -> None:
            assert self._nats is not None
            await self._nats.publish(subject, b"{}")
            await self._nats.flush()

        self._loop.run(send(), 5)

    def sent(self, verb: str) -> list[dict[str, Any]]:
        """The bodies that came for a verb."""
        return [body for name, body in self.requests if name == verb]

    async def _open(self) -> None:
        self._nats = await connect(self.url)
        await self._nats.subscribe("tl.*.*.*", cb=self._hear)
        await self._nats.flush()

    async def _hear(self, message: Msg) -> None:
        _, user, service, verb = message.subject.split(".")
        name = f"{service}.{verb}"
        body = json.loads(message.data or b"{}")
        self.requests.append((name, body))
        try:
            CONTRACTS[name].model_validate(body)
        except (KeyError, ValueError) as error:
            self.faults.append(f"{name}: {error!r}")
        reply = self._answer(name, body, user)
        if self._random.random() >= self.drop:
            await message.respond(json.dumps(reply).encode())

    def _answer(self, name: str, body: dict[str, Any], user: str) -> dict[str, Any]:
        if name == "runs.hello":
            view: Any = {"team": "contoso", "user": user, "version": "0", "contracts": self.contracts, "log_id": "L"}
            return {"view": view, "position": 0, "log_id": "L"}
        command_id = body.get("command_id")
        if command_id in self.replies:
            return self.replies[command_id]
        try:
            view = self.answers[name](body) if name in self.answers else {}
        except TapelineError as error:
            return {"error": fault(error)}
        reply = {"view": view, "position": self.position, "log_id": "L"}
        if command_id is not None:
            self.position += 1
            self.effects[command_id] = self.effects.get(command_id, 0) + 1
            reply |= {"position": self.position, "sequence": 1, "replayed": False}
            self.replies[command_id] = reply
        return reply


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture
def service(server: NatsServer) -> Iterator[Service]:
    made = Service(server.url)
    made.start()
    yield made
    made.stop()
    assert made.faults == []


@pytest.fixture
def make_client(server: NatsServer, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    opened: list[Client] = []

    def make(timeout_s: float = 2.0, total_s: float | None = None) -> Client:
        credentials = Credentials(create_key(), "user", team="contoso", user="ann")
        settings = Settings(server.url, "contoso", "ann", credentials, Home(tmp_path), {})
        opened.append(Client(settings, timeout_s=timeout_s, total_s=total_s))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def client(service: Service, make_client: Callable[..., Client]) -> Iterator[Client]:
    """The default client, of team contoso."""
    made = make_client()
    client_module.use(made)
    yield made
    client_module.use(None)


@pytest.fixture
def feed_of() -> Callable[[str], str]:
    return lambda run_id: subjects.team_feed("run", run_id)
