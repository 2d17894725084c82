"""The command line without an instance: usage, exit codes, near names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tapeline.cli.app import run
from tapeline.sdk import client as client_module


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "CREDS", "TEAM", "PROFILE"):
        monkeypatch.delenv(f"TAPELINE_{name}", raising=False)
    monkeypatch.setenv("TAPELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    client_module.use(None)


def test_help_lists_the_nouns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    printed = capsys.readouterr().out
    for noun in (
        "run",
        "checkpoint",
        "blueprint",
        "tape",
        "asset",
        "canvas",
        "vault",
        "agent",
        "device",
        "team",
        "log",
    ):
        assert f"\n  {noun} " in printed


@pytest.mark.parametrize("noun", ["runs", "blueprints", "canvases", "tapes", "vault", "trainer"])
def test_plurals_are_nouns_too(noun: str) -> None:
    assert run([noun, "--help"]) == 0


@pytest.mark.parametrize("arguments", [["nothing"], ["run", "fly"], ["run", "show"], ["run", "ls", "--limit", "x"]])
def test_wrong_usage_exits_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "Usage" in capsys.readouterr().err


def test_wrong_usage_is_json_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "fly", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage"


def test_no_instance_exits_with_eight_and_names_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "ls", "--json"]) == 8
    fault = json.loads(capsys.readouterr().err)["error"]
    assert (fault["code"], fault["status"], fault["hint"]) == ("unavailable", 503, "tapeline up")


@pytest.mark.parametrize("verb", [["rebuild"], ["log", "verify"], ["log", "tail"]])
def test_the_log_needs_an_instance(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*verb, "--json"]) == 8
    assert json.loads(capsys.readouterr().err)["error"]["hint"] == "tapeline up"


def test_status_without_an_instance_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--json"]) == 8
    assert json.loads(capsys.readouterr().out)["running"] is False


def test_credentials_that_others_may_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ann.nk"
    file.write_text("x")
    file.chmod(0o644)
    monkeypatch.setenv("TAPELINE_CREDS", str(file))
    assert run(["run", "ls", "--json"]) == 6
    assert json.loads(capsys.readouterr().err)["error"]["hint"] == f"chmod 600 {file}"


def test_an_unknown_profile_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPELINE_PROFILE", "")
    assert run(["--profile", "none", "run", "ls"]) == 7
    assert "no profile is named 'none'" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert run(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": version("tapeline")}


def test_an_error_that_ctrl_c_brought_about_is_told_as_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class CutOff:
        def main(self, **_: object) -> None:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                raise ValueError("I/O operation on closed file")  # noqa: B904 - as a file that is closed raises it

    monkeypatch.setattr("typer.main.get_command", lambda app: CutOff())
    assert run(["version"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
