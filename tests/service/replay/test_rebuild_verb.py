"""`tapeline rebuild` from the command line, on a home whose log is the recorded one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapeline import replay
from tapeline.cli.app import run
from tapeline.clock import FakeClock
from tapeline.contracts import EVENTS, UPCASTERS
from tapeline.home import Home
from tapeline.log.codec import Codec
from tapeline.testing.postgres import PostgresServer
from tapeline.testing.recorded import log_of, read_log

RECORDED = Path(__file__).parents[2] / "assets" / "logs" / "0.1.0.jsonl"
NAME = "vault.items"
Rebuild = Callable[..., Any]


@pytest.fixture
async def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a log and no tables."""
    log = log_of(read_log(RECORDED), Codec(EVENTS, UPCASTERS), FakeClock())
    await replay.export(log, tmp_path / "export")
    home = Home(tmp_path / "home")
    await replay.restore(home, tmp_path / "export")
    monkeypatch.setenv("TAPELINE_HOME", str(home.root))
    monkeypatch.delenv("TAPELINE_DATABASE_URL", raising=False)
    return home


@pytest.fixture
def rebuild(home: Home, capsys: pytest.CaptureFixture[str]) -> Rebuild:
    """Runs the verb; gives its exit code and the report of the one projection."""

    def ran(*arguments: str, name: str = NAME) -> tuple[int, Any]:
        code = run(["rebuild", name, "--json", *arguments])
        out, err = capsys.readouterr()
        return code, json.loads(out)[0] if out else json.loads(err.splitlines()[-1])["error"]

    return ran


def states(home: Home) -> dict[int, str]:
    with sqlite3.connect(home.db / "vault.db") as connection:
        query = "SELECT generation, state FROM projection_positions WHERE name = ? ORDER BY generation"
        return dict(connection.execute(query, (NAME,)))


def test_generations_are_built_shown_kept_and_gone_back_to(home: Home, rebuild: Rebuild) -> None:
    code, first = rebuild()
    assert (code, first["generation"], first["before"], first["shown"], first["equal"]) == (0, 1, 0, True, None)
    assert first["rows"] > 0
    assert states(home) == {1: "active"}

    code, beside = rebuild("--no-switch")
    assert (code, beside["generation"], beside["shown"]) == (0, 2, False)
    assert states(home) == {1: "active", 2: "building"}

    code, compared = rebuild("--compare")
    assert (code, compared["generation"], compared["equal"], compared["differences"]) == (0, 2, True, [])
    assert states(home) == {1: "kept", 2: "active"}

    code, back = rebuild("--back")
    assert (code, back["generation"], back["rows"]) == (0, 1, first["rows"])
    assert states(home) == {1: "active", 2: "kept"}

    code, last = rebuild("--keep", "0")
    assert (code, last["generation"]) == (0, 3)
    assert states(home) == {3: "active"}
    code, refused = rebuild("--back")
    assert (code, refused["code"]) == (3, "not_found")


def test_a_row_that_differs_is_named_and_is_exit_5(home: Home, rebuild: Rebuild) -> None:
    rebuild()
    with sqlite3.connect(home.db / "vault.db") as connection:
        (table, *_) = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'vault_items__g1'")
        ]
        connection.execute(f"UPDATE {table} SET name = 'forged'")
    code, report = rebuild("--compare")
    assert (code, report["equal"]) == (5, False)
    assert any("missing" in one and "forged" in one for one in report["differences"])
    assert any("added" in one and "forged" not in one for one in report["differences"])


def test_another_database_is_filled_and_compared(home: Home, rebuild: Rebuild, copied: str) -> None:
    rebuild()
    code, report = rebuild("--into", copied, "--compare")
    assert (code, report["equal"], report["shown"]) == (0, True, True)
    assert report["rows"] == report["before"] > 0
    assert states(home) == {1: "active"}


@pytest.fixture
def copied(postgres: PostgresServer) -> str:
    """An empty database of PostgreSQL."""
    return postgres.make_database()


def test_what_cannot_be_rebuilt_is_refused(home: Home, rebuild: Rebuild) -> None:
    code, refused = rebuild(name="vault.none")
    assert (code, refused["code"]) == (3, "not_found")
    assert "event_index" in refused["hint"]
    code, refused = rebuild("--version", "99")
    assert (code, refused["code"]) == (7, "invalid")
    code, refused = rebuild("--back")
    assert (code, refused["code"]) == (3, "not_found")
