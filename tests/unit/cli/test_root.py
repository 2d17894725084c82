"""Words at the top are loaded one by one, and none is forgotten."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest
import typer

import tapeline.cli
from tapeline.cli.app import app, run
from tapeline.cli.root import PLACES

PARTS = {"backup:register", "seal:register", "diff:register", "team:users"}
"""What stands within another noun."""


def test_every_noun_and_register_function_has_a_word_at_the_top() -> None:
    found = set()
    for module in iter_modules(tapeline.cli.__path__):
        if module.name in ("__main__", "app", "root", "nouns"):
            continue
        members = vars(import_module(f"tapeline.cli.{module.name}"))
        found |= {f"{module.name}:{name}" for name, value in members.items() if isinstance(value, typer.Typer)}
        found |= {f"{module.name}:{name}" for name in members if name.startswith("register")}
    assert found == set(PLACES.values()) | PARTS


def test_every_word_is_that_of_a_command() -> None:
    root = typer.main.get_command(app)
    assert [command.name for command in root.load_all().values()] == list(PLACES)  # type: ignore[attr-defined]


def test_a_verb_does_not_wait_for_the_nouns() -> None:
    asked = (
        "import sys; from tapeline.cli.app import run; run(['version']); print('tapeline.cli.run_verbs' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_word_that_is_none_is_met_with_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runn"]) == 2
    assert "Did you mean 'run'" in capsys.readouterr().err
