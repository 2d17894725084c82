import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tapeline import teams
from tapeline.connection import connect
from tapeline.home import Home, read_json
from tapeline.security import accounts as principals
from tapeline.security.keys import Credentials, create_key, write_credentials
from tapeline.server_config import ServerSettings, find_server, install, render, save_settings


@dataclass
class Bus:
    """A real server on the configuration that we ship, with two teams and two agents."""

    home: Home
    url: str
    process: subprocess.Popen

    async def connect(self, name, **options):
        return await connect(self.home.credential(name), self.url, name=name, **options)


def start_bus(folder: Path) -> Bus:
    home = Home(folder)
    home.make()
    accounts = teams.make_identities(home)
    accounts = principals.add_team(accounts, "contoso")
    for user, team in (("ann", "contoso"), ("bob", "main")):
        written = write_credentials(home.credential(user), Credentials(create_key(), "user", team=team, user=user))
        accounts = principals.add_user(accounts, team, user, written.key.public)
    written = write_credentials(home.credential("agent-far"), Credentials(create_key(), "agent", agent="far"))
    accounts = principals.add_agent(accounts, "far", ["contoso"], written.key.public)
    home.teams_file.write_text(principals.write_toml(accounts))
    settings = ServerSettings(max_file_bytes=1024**3)
    save_settings(home, settings)
    install(home, render(accounts, settings, home))
    with (home.logs / "server.log").open("wb") as log:
        process = subprocess.Popen([str(find_server()), "-c", str(home.server_conf)], stderr=log)
    deadline = time.monotonic() + 10
    while (ports := read_json(home.run / f"nats-server_{process.pid}.ports")) is None:
        assert time.monotonic() < deadline, (home.logs / "server.log").read_text()
        time.sleep(0.01)
    return Bus(home, ports["nats"][0], process)


@pytest.fixture(scope="module")
def bus(tmp_path_factory):
    made = start_bus(tmp_path_factory.mktemp("bus") / "home")
    yield made
    made.process.kill()
    made.process.wait()
