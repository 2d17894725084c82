"""The doctor names a planted fault, says what helps, and changes nothing."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path

import pytest

from tapeline import doctor
from tapeline.cli.app import run
from tapeline.home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home without an instance. TensorFlow takes seconds to ask, and is asked elsewhere."""
    for name in ("URL", "CREDS", "TEAM", "PROFILE"):
        monkeypatch.delenv(f"TAPELINE_{name}", raising=False)
    made = Home(tmp_path / "home")
    made.make()
    monkeypatch.setenv("TAPELINE_HOME", str(made.root))
    monkeypatch.setattr(doctor, "CHECKS", tuple(one for one in doctor.CHECKS if one is not doctor.devices))
    return made


def verdicts(home: Home) -> dict[str, str]:
    """The worst verdict of each check."""
    found: dict[str, str] = {}
    for each in doctor.examine(home):
        worst = max(found.get(each.check, "ok"), each.verdict, key=doctor.WORST.index)
        found[each.check] = worst
        assert each.verdict in ("ok", "skipped") or each.hint, each
    return found


def test_a_home_without_an_instance_is_fine(home: Home) -> None:
    found = verdicts(home)
    assert {name for name, verdict in found.items() if verdict == "skipped"} == {
        "connection", "server", "streams", "projections", "backup", "runs", "agents",
    }  # fmt: skip
    assert {found[name] for name in ("installed", "folders", "credentials", "staging", "spools")} == {"ok"}


def _open_folder(home: Home) -> None:
    home.db.chmod(0o755)


def _open_key(home: Home) -> None:
    path = home.credential("me")
    path.write_text("key")
    path.chmod(0o644)


def _old_key(home: Home) -> None:
    path = home.credential("me")
    path.write_text("key")
    path.chmod(0o600)
    os.utime(path, (0, 0))


def _torn_table(home: Home) -> None:
    path = home.db / "runs.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 100)
    connection.close()
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)


def _stale_staging(home: Home) -> None:
    path = home.store / "staging" / "r" / "a.h5"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    os.utime(path, (time.time() - 2 * 86_400,) * 2)


def _left_spool(home: Home) -> None:
    folder = home.root / "spool" / "r" / "1"
    folder.mkdir(parents=True)
    (folder / "spool.json").write_text(json.dumps({"pid": 2**22 + 1}))
    for each in (home.root / "spool", home.root / "spool" / "r"):
        each.chmod(0o700)


@pytest.mark.parametrize(
    ("plant", "check", "verdict"),
    [
        (_open_folder, "folders", "fault"),
        (_open_key, "credentials", "fault"),
        (_old_key, "credentials", "warning"),
        (_torn_table, "tables", "fault"),
        (_stale_staging, "staging", "warning"),
        (_left_spool, "spools", "warning"),
    ],
)
def test_a_planted_fault_is_named(home: Home, plant: object, check: str, verdict: str) -> None:
    plant(home)  # type: ignore[operator]
    assert verdicts(home)[check] == verdict


def test_a_check_that_fails_or_lasts_hides_no_other(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = os.pipe()

    def breaks(_patient: doctor.Patient) -> object:
        raise RuntimeError("never foreseen")

    def lasts(_patient: doctor.Patient) -> object:
        os.read(gate[0], 1)
        return iter(())

    monkeypatch.setattr(doctor, "CHECKS", (breaks, lasts, doctor.installed))
    found = doctor.examine(home, limit_s=0.3)
    os.write(gate[1], b"x")
    assert [(each.check, each.verdict) for each in found] == [
        ("breaks", "warning"), ("lasts", "warning"), ("installed", "ok"),
    ]  # fmt: skip


def test_the_verb_prints_json_and_ends_with_the_worst(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    _open_folder(home)
    assert run(["doctor", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert {"check", "verdict", "message", "hint"} == set(told[0])
    assert any(each["verdict"] == "fault" for each in told)
