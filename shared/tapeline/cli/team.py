"""`tapeline team`: who may sign in to this instance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import Json, Yes

app = group("Teams of this instance.")
users = group("Users of a team.")
app.add_typer(users, name="user")


@app.command()
def add(
    team: str,
    agent: Annotated[list[str] | None, typer.Option(help="Agents that train for it; default: the local one.")] = None,
) -> None:
    """Make a team."""
    from tapeline import teams
    from tapeline.home import find_home

    teams.add_team(find_home(), team, agent or None)
    output.said(f"team {team}")


@app.command()
def ls(json: Json = False) -> None:
    """List teams and their users."""
    from tapeline.home import find_home
    from tapeline.security.accounts import load_accounts

    found = load_accounts(find_home().teams_file).teams
    if output.wants_json(json):
        return output.document([{"team": team, "users": sorted(of)} for team, of in sorted(found.items())])
    output.table(("team", "users"), ((team, ", ".join(sorted(of))) for team, of in sorted(found.items())))


@users.command("add")
def add_user(
    team: str,
    user: str,
    out: Annotated[Path, typer.Option(help="Where the credential file goes.")],
    server: Annotated[str | None, typer.Option(help="Address that the file names.")] = None,
) -> None:
    """Make a user of a team, with a credential file."""
    from tapeline import teams
    from tapeline.home import find_home

    teams.add_user(find_home(), team, user, out, server=server)
    output.said(f"user {user} of team {team}: {out}")


@users.command("revoke")
def revoke_user(team: str, user: str, yes: Yes = False) -> None:
    """End a user's key at once."""
    from tapeline import teams
    from tapeline.home import find_home

    output.confirmed(f"Revoke user {user} of team {team}?", yes)
    teams.revoke_user(find_home(), team, user)
    output.said(f"user {user} of team {team} is revoked")
