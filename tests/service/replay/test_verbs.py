"""The verbs of the command line on the log of a home: what they print, and with which exit code they end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tapeline import replay
from tapeline.cli.app import run
from tapeline.home import Home
from tapeline.log.codec import digest


@pytest.fixture
def home(recorded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that holds the recorded log and runs nothing."""

    async def make() -> None:
        await replay.export(recorded, tmp_path / "export")
        await replay.restore(Home(tmp_path / "home"), tmp_path / "export")

    asyncio.run(make())
    monkeypatch.setenv("TAPELINE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_verbs_of_history_answer_on_a_home(home: Path, recorded: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["why", "vault:demo_model@1.0.0", "--format", "json"]) == 0
    chain = lines(capsys.readouterr().out)
    assert [link["position"] for link in chain] == [51, 47, 32, 31, 30, 27, 6, 6, 4, 2, 1]
    assert run(["why", "vault:nothing", "--format", "json"]) == 3
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "not_found"
    assert run(["why", "main/run/0193", "--team", "contoso"]) == 3
    assert run(["why", chain[0]["id"], "--team", "contoso", "--format=json"]) == 6
    capsys.readouterr()
    assert run(["why", "vault:demo_model", "--graph", "dot"]) == 0
    assert capsys.readouterr().out.startswith("digraph why {")

    assert run(["dry-run", "--decider", "runs"]) == 0
    assert capsys.readouterr().out.startswith("runs: 38 same, 0 different, 0 refused, 0 lossy of 38 commits\n")
    assert run(["dry-run", "--decider", "ghosts"]) == 3
    assert run(["dry-run", "--decider", "names", "--branch", "--format", "json"]) == 0
    assert lines(capsys.readouterr().out)[0]["same"] == 7

    assert run(["log", "show", "11", "--format", "json"]) == 0
    (shown,) = lines(capsys.readouterr().out)
    commit = recorded.commits[10]
    assert shown["digest"] == digest(commit.subject, commit.header, commit.body)
    assert shown["is_chained"] is True
    assert shown["header"] == json.loads(commit.header)
    assert [event["type"] for event in shown["events"]] == ["JobCreated", "JobSubmitted"]
    assert run(["log", "show", "11"]) == 0
    text = capsys.readouterr().out
    assert shown["digest"] in text
    assert "JobSubmitted" in text
    assert run(["log", "show", "11", "--raw", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["body"].encode() == commit.body
    assert run(["log", "show", "99"]) == 3
    assert run(["log", "show", "run/0193"]) == 3

    assert run(["log", "tail", "-n", "2", "--kind", "run", "--team", "main", "--format", "json"]) == 0
    assert [line["position"] for line in lines(capsys.readouterr().out)] == [49, 50]
    assert run(["log", "tail", "--after", "50", "--type", "NameClaimed"]) == 0
    assert capsys.readouterr().out.startswith("52\t")
    assert run(["log", "tail", "--after", "53"]) == 7


def test_an_interrupted_tail_ends_well_and_says_where(home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tapeline.cli", "log", "tail", "-n", "1", "--follow", "--format", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ,
    )  # fmt: skip
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["position"] == 52
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, b"")
    assert told.splitlines()[-1] == b"position 52"


async def test_an_event_can_be_seen_as_it_was_written(recorded: Any) -> None:
    commit = recorded.commits[9]
    (event,) = json.loads(commit.body)
    event["data"]["no_longer_known"] = 7
    recorded.commits[9] = msgspec.structs.replace(commit, body=json.dumps([event]).encode())
    newest = (await replay.show(recorded, "10"))[0].to_json()["data"]
    stored = (await replay.show(recorded, "10", schema="stored"))[0].to_json()["data"]
    assert stored["no_longer_known"] == 7
    assert newest == {key: value for key, value in stored.items() if key in newest}
    assert "no_longer_known" not in newest
    assert not (await replay.show_commit(recorded, 11)).raw.is_chained, "its predecessor has changed"


async def test_a_commit_whose_header_is_torn_can_still_be_looked_at(recorded: Any) -> None:
    commit = recorded.commits[10]
    recorded.commits[10] = msgspec.structs.replace(commit, header=commit.header[:-20])
    (shown,) = await replay.show_raw(recorded, "11")
    assert shown.to_json()["header"] == commit.header[:-20].decode()
    assert not shown.is_chained
    assert not (await replay.show_raw(recorded, "12"))[0].is_chained
