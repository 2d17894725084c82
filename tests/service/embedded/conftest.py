import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tapeline.embedded import status
from tapeline.home import Home, holder

PROGRAM = str(Path(__file__).with_name("dummy_instance.py"))


def wait_until(claim, timeout_s=60.0):
    """The first true answer of a claim, asked again and again."""
    deadline = time.monotonic() + timeout_s
    while not (found := claim()):
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"
        time.sleep(0.02)
    return found


def ended(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Foreground:
    """A supervisor that runs as our child, as under `tapeline up` in a terminal."""

    def __init__(self, home, children):
        home.root.mkdir(mode=0o700, exist_ok=True)
        self.home = home
        self.output = home.root.parent / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, children, "--home", str(home.root)],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self):
        return self.process.pid

    def wait_ready(self):
        wait_until(lambda: self.process.poll() is not None or status(self.home, positions=False).ready)
        assert self.process.poll() is None, self.output.read_text()
        return self

    def row(self, name):
        return next(row for row in status(self.home, positions=False).processes if row.name == name)

    def family(self):
        """The pids of everything below the supervisor."""
        return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    yield made
    if (left := holder(made)) is not None:
        os.kill(left, signal.SIGKILL)


@pytest.fixture
def start(home):
    started = []

    def run(children="host,agent-local"):
        started.append(Foreground(home, children))
        return started[-1]

    yield run
    for supervisor in started:
        if supervisor.process.poll() is None:
            supervisor.process.kill()
        supervisor.process.wait()


@pytest.fixture
def program():
    return PROGRAM


@pytest.fixture
def until():
    return wait_until


@pytest.fixture
def is_gone():
    return ended
