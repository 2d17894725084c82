"""Change who may sign in: `teams.toml`, the server's configuration and the running server, together."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from tapeline import server_monitor, subjects
from tapeline.errors import TapelineError
from tapeline.home import Home, holder, read_json, write_atomically
from tapeline.security import accounts as principals
from tapeline.security.accounts import Accounts
from tapeline.security.keys import Credentials, Role, create_key, read_credentials, write_credentials
from tapeline.server_config import ServerSettings, install, load_settings, render

RELOAD_SECONDS = 2.0
AGENT = "local"
"""The agent of an embedded instance."""


@contextmanager
def changing(home: Home) -> Iterator[None]:
    """Hold the home's accounts for one change: a second change waits for the first."""
    lock = home.root / "teams.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def change(home: Home, edit: Callable[[Accounts], Accounts]) -> Accounts:
    """Edit the accounts of a home, and make a running server take them over before returning.

    Raises
    ------
    TapelineError
        What `edit` refuses; `unavailable` when the running server does not take the file over in 2 s, and
        then the accounts are as they were.
    """
    with changing(home):
        before = principals.load_accounts(home.teams_file)
        after = edit(before)
        _put(home, after)
        try:
            _reload(home)
        except (TapelineError, OSError) as error:
            _put(home, before)
            if isinstance(error, TapelineError):
                raise
            raise TapelineError(f"the server does not answer: {error}", code="unavailable") from error
        return after


def _put(home: Home, accounts: Accounts) -> None:
    settings = load_settings(home) or ServerSettings()
    install(home, render(accounts, settings, home))
    write_atomically(home.teams_file, principals.write_toml(accounts))


def _reload(home: Home) -> None:
    running = _server(home)
    if running is None:
        # No server runs: the next start reads the new file.
        return
    pid, port = running
    try:
        before = server_monitor.varz(port)["config_load_time"]
        os.kill(pid, signal.SIGHUP)
        deadline = time.monotonic() + RELOAD_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.01)
            if server_monitor.varz(port)["config_load_time"] != before:
                return
    except OSError:
        if _server(home) is None:
            # It died just now; the supervisor starts it again on the new file.
            return
        raise
    raise TapelineError(
        f"the server (process {pid}) did not take the new configuration over in {RELOAD_SECONDS:g} s",
        code="unavailable",
        hint=f"look into {home.logs / 'server.log'}",
    )


def _server(home: Home) -> tuple[int, int] | None:
    """Pid and monitoring port of this home's running server.

    None when a supervisor died and left them behind: the number may by now be another process.
    """
    running = read_json(home.server_file)
    if running is None or holder(home) is None:
        return None
    try:
        process = psutil.Process(int(running["pid"]))
        same = abs(process.create_time() - float(running["created"])) < 0.1
        return (process.pid, int(running["monitor_port"])) if same else None
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return None


def add_team(home: Home, team: str, agents: Iterable[str] | None = None) -> None:
    """Make a team, and let the running server know it.

    `agents` train for the team from now on; None is the embedded instance's own agent, where there is one.
    """

    def edit(accounts: Accounts) -> Accounts:
        chosen = [each for each in (AGENT,) if each in accounts.agents] if agents is None else agents
        return principals.add_team(accounts, team, chosen)

    change(home, edit)


def add_user(home: Home, team: str, user: str, out: Path, *, server: str | None = None) -> Credentials:
    """Make a user of a team with a credential file of its own; the identity as written."""
    made = Credentials(create_key(), "user", team=team, user=user, server=server)
    return _with_file(home, made, out, lambda accounts: principals.add_user(accounts, team, user, made.key.public))


def revoke_user(home: Home, team: str, user: str) -> None:
    """End a user's keys; connections with them are cut at once."""
    change(home, lambda accounts: principals.revoke_user(accounts, team, user))


def add_agent(home: Home, agent: str, teams: Iterable[str], out: Path, *, server: str | None = None) -> Credentials:
    """Make an agent that may act for some teams, with a credential file; the identity as written."""
    chosen = tuple(teams)
    made = Credentials(create_key(), "agent", agent=agent, server=server)
    return _with_file(home, made, out, lambda accounts: principals.add_agent(accounts, agent, chosen, made.key.public))


def revoke_agent(home: Home, agent: str) -> None:
    """End an agent's keys; connections with them are cut at once."""
    change(home, lambda accounts: principals.revoke_agent(accounts, agent))


def _with_file(home: Home, made: Credentials, out: Path, edit: Callable[[Accounts], Accounts]) -> Credentials:
    edit(principals.load_accounts(home.teams_file))  # refuse before a file is made
    written = write_credentials(out, made)
    try:
        change(home, edit)
    except TapelineError:
        out.unlink()
        raise
    return written


def make_identities(home: Home, *, team: str = "main", user: str = "me", agent: str = AGENT) -> Accounts:
    """The accounts of a home: those of its `teams.toml`, else new ones, each with its credential file."""
    if home.teams_file.exists():
        return principals.load_accounts(home.teams_file)

    def made(name: str, role: Role, *, agent: str | None = None, service: str | None = None) -> str:
        # A file left by a first start that was cut off is an identity as good as a new one.
        path = home.credential(name)
        if path.exists() or path.is_symlink():
            return read_credentials(path).key.public
        made = Credentials(create_key(), role, agent=agent, service=service)
        if role == "user":
            made = replace(made, team=team, user=user)
        return write_credentials(path, made).key.public

    accounts = Accounts(
        made("admin", "admin"),
        made("replay", "replay"),
        made("seal", "seal"),
        {service: (made(f"svc-{service}", "service", service=service),) for service in subjects.SERVICES},
        {team: {user: (made("me", "user"),)}},
        {agent: principals.AgentAccount((made(f"agent-{agent}", "agent", agent=agent),), (team,))},
    )
    write_atomically(home.teams_file, principals.write_toml(accounts))
    return accounts
