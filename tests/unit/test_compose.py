"""compose.yaml: what a compose implementation says to it, and that it starts what the system consists of."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[2]


def implementation() -> list[str] | None:
    """The compose that is installed here: the plugin of docker, or the program of its own."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]) is None:
            continue
        if subprocess.run([*words, "version"], capture_output=True, check=False).returncode == 0:
            return words
    return None


@pytest.fixture
def content() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((TOP / "compose.yaml").read_text())
    return found


def test_a_compose_implementation_accepts_the_file() -> None:
    words = implementation()
    if words is None:
        pytest.skip("neither docker compose nor docker-compose is installed")
    done = subprocess.run(
        [*words, "-f", str(TOP / "compose.yaml"), "config", "--quiet"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_process_is_started_by_a_module_that_exists(content: dict[str, Any]) -> None:
    modules = [
        service["command"][2] for service in content["services"].values() if service["command"][:2] == ["python", "-m"]
    ]
    assert sorted(modules) == ["tapeline.assets", "tapeline.runs", "tapeline.trainer", "tapeline.vault"]
    assert all(find_spec(f"{module}.__main__") is not None for module in modules)


def test_no_port_is_opened_to_the_outside(content: dict[str, Any]) -> None:
    assert not any("ports" in service for service in content["services"].values())


def test_the_image_is_built_from_a_file_that_is_there(content: dict[str, Any]) -> None:
    builds = {service["build"]["dockerfile"] for service in content["services"].values() if "build" in service}
    assert builds == {"services/Dockerfile"}
    assert (TOP / "services" / "Dockerfile").read_text().startswith("# The image")
