"""The command line against a service: what it prints, and the exit codes of refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapeline.cli.app import run
from tapeline.errors import CODES, TapelineError
from tapeline.sdk.client import Client

NOW = "2026-01-02T03:04:05.678901Z"


@pytest.mark.parametrize(
    "code", ["not_found", "conflict", "forbidden", "invalid", "too_large", "internal", "rate_limited"]
)
def test_a_refusal_is_an_object_on_stderr_and_an_exit_code(
    service: Any, client: Client, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    def refuse(body: dict[str, Any]) -> Any:
        raise TapelineError("it is so", code=code, hint="do this")

    service.answers["runs.get"] = refuse
    assert run(["run", "show", "7", "--json"]) == CODES[code].exit
    printed = capsys.readouterr()
    assert printed.out == ""
    fault = {"code": code, "status": CODES[code].status, "message": "it is so", "hint": "do this"}
    assert json.loads(printed.err) == {"error": fault}


def test_a_refusal_is_a_sentence_without_json(service: Any, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(body: dict[str, Any]) -> Any:
        raise TapelineError("there is no asset 'x'", code="not_found", hint="tapeline asset ls")

    service.answers["assets.get"] = refuse
    assert run(["asset", "show", "x"]) == 3
    assert capsys.readouterr().err == "Error: there is no asset 'x'\nHint: tapeline asset ls\n"


def test_runs_are_listed_as_json_and_as_lines(service: Any, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    service.answers["runs.list"] = lambda body: {
        "items": [{"id": "r1", "number": 7, "name": "first", "status": "job_running", "created_at": NOW}]
    }
    assert run(["--json", "runs", "list"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"id": "r1", "number": 7, "name": "first", "status": "job_running", "created_at": NOW}
    ]
    assert run(["run", "ls", "--status", "job_running"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split("\t")[:3] == ["7", "first", "job_running"]
    assert service.sent("runs.list")[1]["statuses"] == ["job_running"]


def test_metrics_print_nan_as_text(service: Any, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    service.answers["runs.get"] = lambda body: {"id": "r1"}
    point = {"id": "m", "created_at": NOW, "run_id": "r1", "global_step": 1, "tag": "loss", "value": "NaN"}
    service.answers["runs.latest"] = lambda body: {"items": [point]}
    assert run(["run", "metrics", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["value"] == "NaN"


def test_followed_events_are_lines_of_json(service: Any, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    service.answers["runs.get"] = lambda body: {"id": "r1"}
    event = {
        "id": "e1", "sequence": 1, "run_id": "r1", "created_at": NOW, "status": "job_failed",
        "details": {"type": "JobFailed"},
    }  # fmt: skip
    service.answers["runs.events"] = lambda body: {"items": [event] if body["after"] < 1 else []}
    assert run(["run", "events", "7", "-f", "--json"]) == 0
    assert [json.loads(line)["sequence"] for line in capsys.readouterr().out.splitlines()] == [1]


def test_waiting_for_a_failed_run_exits_with_one(service: Any, client: Client) -> None:
    service.answers["runs.get"] = lambda body: {"id": "r1", "number": 7, "status": "job_failed"}
    assert run(["run", "wait", "7"]) == 1
    service.answers["runs.get"] = lambda body: {"id": "r1", "number": 7, "status": "job_completed"}
    assert run(["run", "tail", "7"]) == 0


def test_an_invalid_canvas_exits_with_five(
    service: Any, client: Client, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    file.write_text("{}")
    fault = {"node": None, "code": "missing", "pointer": "/nodes", "message": "nodes is missing", "hint": None}
    service.answers["assets.validate_canvas"] = lambda body: {"ok": False, "errors": [fault]}
    assert run(["canvas", "validate", str(file)]) == 5
    assert "nodes is missing" in capsys.readouterr().out


def test_destruction_without_a_terminal_needs_yes(service: Any, client: Client) -> None:
    service.answers["runs.get"] = lambda body: {"id": "r1"}
    assert run(["run", "rm", "7"]) == 2
    assert service.sent("runs.delete") == []
    assert run(["run", "rm", "7", "--yes"]) == 0
    assert len(service.sent("runs.delete")) == 1


def test_a_run_is_created_from_a_file(service: Any, client: Client, tmp_path: Path) -> None:
    service.answers["runs.create"] = lambda body: {"id": "r1"}
    service.answers["runs.get"] = lambda body: {"id": "r1", "number": 1, "status": "run_created"}
    file = tmp_path / "run.toml"
    file.write_text(
        'name = "n"\nversion = "1"\ntask_type = "t"\nblueprint_id = "b"\n[config]\nepochs = 2\n'
        '[resources]\ncpu = "1"\nmemory = "1Gi"\n'
    )
    assert run(["run", "create", "-f", str(file)]) == 0
    assert service.sent("runs.create")[0]["config"] == {"epochs": 2}
    assert run(["run", "create", "-f", str(tmp_path / "none.json")]) == 3
