"""Who may sign in: teams, their users, and agents, as `teams.toml` lists them. Public keys only.

    [platform]
    admin = "U..."                   # and replay, seal

    [platform.services]
    runs = ["U..."]                  # and assets, vault

    [teams.main.users]
    me = ["U..."]                    # a second key while rotating

    [agents.local]
    teams = ["main"]
    keys = ["U..."]

Every function here is pure: it gives the accounts as they should be. `tapeline.server_config` writes them
and makes the running server take them over.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tapeline import subjects
from tapeline.errors import TapelineError
from tapeline.security.keys import is_public_key

MAX_KEYS = 2


@dataclass(frozen=True, slots=True)
class AgentAccount:
    """An agent: its public keys, and the teams that it may act for."""

    keys: tuple[str, ...]
    teams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Accounts:
    """All principals with their public keys."""

    admin: str
    replay: str
    seal: str
    services: Mapping[str, tuple[str, ...]]
    teams: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    agents: Mapping[str, AgentAccount] = field(default_factory=dict)

    def may_act_for(self, agent: str, team: str) -> bool:
        """Whether an agent is known and the team is on its list."""
        found = self.agents.get(agent)
        return found is not None and team in found.teams

    def team(self, name: str) -> Mapping[str, tuple[str, ...]]:
        """The users of a team with their keys; `not_found` when there is no such team."""
        if name not in self.teams:
            known = ", ".join(sorted(self.teams)) or "none"
            raise TapelineError(
                f"no team is named {name!r}", code="not_found", hint=f"teams are: {known}; tapeline team add {name}"
            )
        return self.teams[name]


def add_team(accounts: Accounts, team: str, agents: Iterable[str] = ()) -> Accounts:
    """The accounts with one more team, without users yet; `agents` may act for it too."""
    subjects.check_slug(team, "team")
    if team in accounts.teams:
        raise TapelineError(
            f"team {team!r} exists", code="already_exists", hint=f"tapeline team user add {team} <user> --out FILE"
        )
    enrolled = dict(accounts.agents)
    for agent in agents:
        if agent not in enrolled:
            raise _no_agent(accounts, agent)
        enrolled[agent] = replace(enrolled[agent], teams=(*enrolled[agent].teams, team))
    return replace(accounts, teams={**accounts.teams, team: {}}, agents=enrolled)


def add_user(accounts: Accounts, team: str, user: str, public: str) -> Accounts:
    """The accounts with one more user of a team."""
    subjects.check_slug(user, "user")
    users = accounts.team(team)
    if user in users:
        raise TapelineError(
            f"user {user!r} of team {team!r} exists",
            code="already_exists",
            hint=f"tapeline team user revoke {team} {user} ends the old key",
        )
    return replace(accounts, teams={**accounts.teams, team: {**users, user: (public,)}})


def revoke_user(accounts: Accounts, team: str, user: str) -> Accounts:
    """The accounts without a user and the keys that the user had."""
    users = accounts.team(team)
    if user not in users:
        known = ", ".join(sorted(users)) or "none"
        raise TapelineError(f"team {team!r} has no user {user!r}", code="not_found", hint=f"users are: {known}")
    left = {name: keys for name, keys in users.items() if name != user}
    return replace(accounts, teams={**accounts.teams, team: left})


def add_agent(accounts: Accounts, agent: str, teams: Iterable[str], public: str) -> Accounts:
    """The accounts with one more agent that may act for some teams."""
    subjects.check_slug(agent, "agent")
    if agent in accounts.agents:
        raise TapelineError(
            f"agent {agent!r} exists", code="already_exists", hint=f"tapeline agent key revoke {agent} ends the old key"
        )
    chosen = tuple(dict.fromkeys(teams))
    for team in chosen:
        accounts.team(team)
    if not chosen:
        raise TapelineError(f"agent {agent!r} is for no team", code="invalid", hint="--teams a,b")
    return replace(accounts, agents={**accounts.agents, agent: AgentAccount((public,), chosen)})


def revoke_agent(accounts: Accounts, agent: str) -> Accounts:
    """The accounts without an agent."""
    if agent not in accounts.agents:
        raise _no_agent(accounts, agent)
    return replace(accounts, agents={name: found for name, found in accounts.agents.items() if name != agent})


def _no_agent(accounts: Accounts, agent: str) -> TapelineError:
    known = ", ".join(sorted(accounts.agents)) or "none"
    return TapelineError(f"no agent is named {agent!r}", code="not_found", hint=f"agents are: {known}")


def write_toml(accounts: Accounts) -> str:
    """The text of `teams.toml`. Names are slugs and keys are base32, so nothing needs quoting rules."""
    lines = ["# Written by tapeline: use tapeline team and tapeline agent key.", "", "[platform]"]
    lines += [f'{name} = "{getattr(accounts, name)}"' for name in ("admin", "replay", "seal")]
    lines += ["", "[platform.services]"]
    lines += [f"{name} = {_list(keys)}" for name, keys in sorted(accounts.services.items())]
    for team, users in sorted(accounts.teams.items()):
        lines += ["", f"[teams.{team}.users]"]
        lines += [f"{user} = {_list(keys)}" for user, keys in sorted(users.items())]
    for agent, found in sorted(accounts.agents.items()):
        lines += ["", f"[agents.{agent}]", f"teams = {_list(found.teams)}", f"keys = {_list(found.keys)}"]
    return "\n".join(lines) + "\n"


def read_toml(text: str, path: Path) -> Accounts:
    """The accounts in the text of `teams.toml`; `invalid`, naming the place, when it holds anything else."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _invalid(path, str(error)) from error
    platform = _table(found, "platform", path)
    teams: dict[str, dict[str, tuple[str, ...]]] = {}
    for team, entry in _table(found, "teams", path).items():
        users = _table(_as_table(entry, f"teams.{team}", path), "users", path)
        teams[_slug(team, path)] = {
            _slug(user, path): _keys(keys, f"teams.{team}.users.{user}", path) for user, keys in users.items()
        }
    agents: dict[str, AgentAccount] = {}
    for agent, entry in _table(found, "agents", path).items():
        place = f"agents.{agent}"
        table = _as_table(entry, place, path)
        listed = table.get("teams")
        if not isinstance(listed, list) or not all(isinstance(team, str) and team in teams for team in listed):
            raise _invalid(path, f"{place}.teams must list teams of this file")
        agents[_slug(agent, path)] = AgentAccount(_keys(table.get("keys"), f"{place}.keys", path), tuple(listed))
    services = _table(platform, "services", path)
    if set(services) != set(subjects.SERVICES):
        raise _invalid(path, f"platform.services must name {', '.join(subjects.SERVICES)}")
    single = {name: _keys([platform.get(name)], f"platform.{name}", path)[0] for name in ("admin", "replay", "seal")}
    accounts = Accounts(
        single["admin"], single["replay"], single["seal"],
        {name: _keys(keys, f"platform.services.{name}", path) for name, keys in services.items()},
        teams, agents,
    )  # fmt: skip
    _each_key_once(accounts, path)
    return accounts


def load_accounts(path: Path) -> Accounts:
    """The accounts in a `teams.toml`; `not_found` when there is no such file."""
    try:
        return read_toml(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError as error:
        raise TapelineError(f"no file {path}", code="not_found", hint="tapeline up makes it") from error


def alone(accounts: Accounts) -> Accounts:
    """The same accounts with nobody in them but operators: on their server nothing else is written or heard."""
    return replace(accounts, services=dict.fromkeys(accounts.services, ()), teams={}, agents={})


class AccountsFile:
    """The accounts as a file holds them now: read again whenever the file was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._accounts: Accounts | None = None

    def __call__(self) -> Accounts:
        """The accounts as of now."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return load_accounts(self._path)
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._accounts is None or seen != self._seen:
            self._accounts, self._seen = load_accounts(self._path), seen
        return self._accounts


def _each_key_once(accounts: Accounts, path: Path) -> None:
    # The server takes the last of two equal keys: a principal would silently become another.
    keys = [accounts.admin, accounts.replay, accounts.seal]
    for of_service in accounts.services.values():
        keys += of_service
    for users in accounts.teams.values():
        for of_user in users.values():
            keys += of_user
    for agent in accounts.agents.values():
        keys += agent.keys
    if len(set(keys)) != len(keys):
        raise _invalid(path, "one key is listed for two principals")


def _list(texts: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"


def _table(parent: Mapping[str, object], name: str, path: Path) -> dict[str, object]:
    return _as_table(parent.get(name, {}), name, path)


def _as_table(value: object, place: str, path: Path) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _invalid(path, f"{place} must be a table")
    return value


def _keys(value: object, place: str, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_KEYS:
        raise _invalid(path, f"{place} must list one or two public keys")
    if not all(isinstance(key, str) and is_public_key(key) for key in value):
        raise _invalid(path, f"{place} is not a public nkey of a user")
    return tuple(value)


def _slug(text: str, path: Path) -> str:
    if not subjects.is_slug(text) or text in subjects.RESERVED_SLUGS:
        raise _invalid(path, f"{text!r} is not a name that a subject can hold")
    return text


def _invalid(path: Path, why: str) -> TapelineError:
    return TapelineError(f"{path}: {why}", code="invalid", hint="mend the file, or restore it from a backup")
