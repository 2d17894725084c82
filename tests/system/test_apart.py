"""The processes of compose.yaml, each started on its own from the wheels, with the same commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tapeline import sdk as tl
from tapeline.sdk import client as clients
from tapeline.server_config import find_server
from tapeline.testing.server import free_port

COMMANDS = {
    "runs": ["-m", "tapeline.runs"],
    "assets": ["-m", "tapeline.assets"],
    "vault": ["-m", "tapeline.vault"],
    "agent": ["-m", "tapeline.trainer", "--agent", "local", "--no-spare"],
}


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended by its own id."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def tapeline(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tapeline.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_services_and_agent_work_as_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "deploy"
    port, monitor = free_port(), free_port()
    monkeypatch.setenv("TAPELINE_HOME", str(home))
    monkeypatch.setenv("TAPELINE_URL", f"nats://127.0.0.1:{port}")
    monkeypatch.setenv("TAPELINE_CREDS", str(home / "creds" / "me.nk"))
    tapeline("topology", "init", "--port", str(port), "--monitor-port", str(monitor))
    with ExitStack() as stack:
        stack.enter_context(process([str(find_server()), "-c", str(home / "server.conf")], tmp_path / "server.log"))
        tapeline("topology", "apply")
        tapeline("topology", "apply", "--check")
        agent = {"TAPELINE_CREDS": str(home / "creds" / "agent-local.nk")}
        for name, command in COMMANDS.items():
            with monkeypatch.context() as patch:
                for key, value in (agent if name == "agent" else {}).items():
                    patch.setitem(os.environ, key, value)
                stack.enter_context(process([sys.executable, *command], tmp_path / f"{name}.log"))
        try:
            client = tl.connect()
            run = tl.Run.from_id(
                tl.create_run(
                    name="apart", version="1", task_type="selftest", project_id="default",
                    resources=tl.Resources(cpu="1", memory="64Mi"),
                    blueprint_id=tl.lookup_blueprint_id("selftest"), config={"steps": 5},
                )
            )  # fmt: skip
            assert run.wait(120) == "job_completed", (tmp_path / "agent.log").read_text()
            assert tl.get_vault_items("main") == []
            assert tl.get_assets("main") == []
            client.close()
        finally:
            clients.use(None)
