"""Where a client connects and as whom: the look-up order of arguments, environment, profile and instance."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.errors import PermissionDeniedError, UnavailableError, ValidationError
from tapeline.home import Home, find_home, read_instance

if TYPE_CHECKING:
    from tapeline.security.keys import Credentials


@dataclass(frozen=True, slots=True)
class Settings:
    """A server, an identity on it, and where each came from."""

    url: str
    team: str
    user: str
    credentials: Credentials
    home: Home
    origins: dict[str, str]


def resolve(
    url: str | None = None,
    team: str | None = None,
    creds: str | os.PathLike[str] | None = None,
    profile: str | None = None,
    *,
    home: Home | None = None,
) -> Settings:
    """The settings of a connection: argument, `TAPELINE_*`, profile of `config.toml`, running instance.

    Raises
    ------
    UnavailableError
        Nothing names a server.
    PermissionDeniedError
        The credential file is missing or readable by others, or there is none for the team.
    ValidationError
        The profile is not in `config.toml`.
    """
    home = home or find_home()
    origins: dict[str, str] = {}
    asked_profile = _first(origins, "profile", ("argument", profile), _env("PROFILE"))
    chosen = _profile(asked_profile)
    place = f"profile {asked_profile or 'default'}"
    instance = read_instance(home)
    where = f"instance {home.root}"
    found_url = _first(
        origins, "url",
        ("argument", url), _env("URL"), (place, chosen.get("url")), (where, instance.url if instance else None),
    )  # fmt: skip
    found_team = _first(
        origins, "team",
        ("argument", team), _env("TEAM"), (place, chosen.get("team")),
    )  # fmt: skip
    found_creds = _first(
        origins, "creds",
        ("argument", os.fspath(creds) if creds is not None else None), _env("CREDS"), (place, chosen.get("creds")),
        (where, instance.creds if instance else None),
    )  # fmt: skip
    if found_creds is None and found_url is not None:
        found_creds = str(home.credential("me"))
        origins["creds"] = f"home {home.root}"
    if found_creds is None:
        raise UnavailableError.of(
            "unavailable",
            f"no running instance in {home.root}, and neither TAPELINE_URL nor a profile names a server",
            hint="tapeline up",
        )
    credentials = _credentials(Path(found_creds).expanduser(), found_team, home, origins)
    if found_url is None:
        found_url = credentials.server
        origins["url"] = f"credentials {credentials.path}"
    if found_url is None:
        raise UnavailableError.of(
            "unavailable", f"the credential file {credentials.path} names no server", hint="set TAPELINE_URL"
        )
    if credentials.team is None or credentials.user is None:
        raise PermissionDeniedError.of(
            "forbidden",
            f"the credential file {credentials.path} is of role {credentials.role}, not of a user",
            hint="tapeline team user add <team> <user> --out FILE",
        )
    origins.setdefault("team", f"credentials {credentials.path}")
    return Settings(found_url, credentials.team, credentials.user, credentials, home, origins)


def _credentials(path: Path, team: str | None, home: Home, origins: dict[str, str]) -> Credentials:
    from tapeline.errors import TapelineError
    from tapeline.sdk.errors import api_error
    from tapeline.security.keys import read_credentials

    try:
        found = read_credentials(path)
        if team is None or found.team == team:
            return found
        beside = [home.credential(team), path.with_name(f"{team}.nk")]
        for other in beside:
            if other.exists():
                found = read_credentials(other)
                if found.team == team:
                    origins["creds"] = f"team {team}"
                    return found
    except TapelineError as error:
        raise api_error(error) from error
    raise PermissionDeniedError.of(
        "permission_denied",
        f"there are no credentials for team {team!r}; {path} is of team {found.team!r}",
        hint=f"tapeline team user add {team} <user> --out {home.credential(team)}",
    )


def _env(name: str) -> tuple[str, str | None]:
    variable = f"TAPELINE_{name}"
    return variable, os.environ.get(variable) or None


def _first(origins: dict[str, str], name: str, *candidates: tuple[str, str | None]) -> str | None:
    for origin, value in candidates:
        if value:
            origins[name] = origin
            return str(value)
    return None


def _profile(name: str | None) -> dict[str, Any]:
    import tomllib

    import platformdirs

    path = platformdirs.user_config_path("tapeline") / "config.toml"
    try:
        profiles = tomllib.loads(path.read_text(encoding="utf-8")).get("profiles", {})
    except FileNotFoundError:
        profiles = {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValidationError.of("invalid", f"{path}: {error}", hint="mend the file") from error
    found = profiles.get(name or "default")
    if found is None and name is not None:
        known = ", ".join(sorted(profiles)) or "none"
        raise ValidationError.of("invalid", f"no profile is named {name!r} in {path}", hint=f"profiles are: {known}")
    return dict(found or {})
