"""`tapeline at` and `tapeline watch`: what was, and what comes."""

from __future__ import annotations

import asyncio
import json as json_module
import shlex
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapeline.cli import output
from tapeline.cli.log import quiet
from tapeline.cli.output import Format, Json
from tapeline.errors import TapelineError

if TYPE_CHECKING:
    from tapeline import replay


def register(app: typer.Typer) -> None:
    """Put the verbs at the top."""
    app.command()(at)
    app.command()(watch)


def at(
    context: typer.Context,
    when: Annotated[str, typer.Argument(metavar="WHEN", help="A position, a time, or 2h, 3d ago.")],
    place: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="<team>/<kind>/<id>, or <kind>/<id>.", show_default=False)
    ] = None,
    team: Annotated[str | None, typer.Option(help="A whole team instead of one aggregate.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="With --team: a Python prompt that asks the past.")] = False,
    format: Format = None,
    json: Json = False,
) -> None:
    """Show an aggregate, or all that a team had, as it was at a position or a time."""
    from tapeline import replay

    context.with_resource(quiet())
    moment = replay.parse_when(when)
    if (place is None) == (team is None) or (open_ and team is None):
        raise typer.BadParameter("name either an aggregate or a --team; --open goes with --team")
    if team is not None:
        return asyncio.run(_at_team(moment, team, open_, output.wants_lines(format, json)))

    async def work() -> replay.Past:
        async with replay.opened() as log:
            return await replay.at(log, moment, await replay.find_ref(log, place or ""))

    found = asyncio.run(work()).to_json()
    if output.wants_lines(format, json):
        return output.document(found) if format is None else output.line(found)
    state = found.pop("state")
    output.fields(found | state if isinstance(state, dict) else found | {"state": state})


async def _at_team(moment: int | datetime, team: str, open_: bool, as_json: bool) -> None:
    from tapeline import replay

    async with replay.at_team(moment, team) as world:
        if open_:
            return _prompt(world)
        things = list(world.things())
        if as_json:
            for kind, view in things:
                output.line({"position": world.position, "kind": kind} | view)
            return
        output.said(f"team {team} at position {world.position}, {world.place.time:%Y-%m-%d %H:%M:%SZ}")
        rows = [(kind, view["name"], view.get("status") or "", view["id"]) for kind, view in things]
        output.table(("kind", "name", "status", "id"), rows)


def _prompt(world: replay.World) -> None:
    """A Python prompt whose `tl` answers from the past."""
    import code

    from tapeline import sdk

    banner = f"tl is the SDK as of position {world.position}, {world.team} only; commands raise ReadOnly"
    # The event loop is of no use meanwhile, and its way with Ctrl-C would end the prompt.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with world.sdk as past:
            code.interact(banner, local={"tl": sdk, "past": past}, exitmsg="")
    finally:
        signal.signal(signal.SIGINT, before)


def watch(
    context: typer.Context,
    since: Annotated[
        str | None,
        typer.Option(metavar="POS|REF", help="After this position or time; of an aggregate from its birth; now."),
    ] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind; may be repeated.")] = None,
    type: Annotated[list[str] | None, typer.Option(help="Only this type of event; may be repeated.")] = None,
    team: Annotated[str | None, typer.Option(help="Only of this team.")] = None,
    state: Annotated[Path | None, typer.Option(help="Keep the position in this file, and go on from it.")] = None,
    execute: Annotated[str | None, typer.Option("--exec", help="Run this for each event, given on its input.")] = None,
    until_head: Annotated[bool, typer.Option("--until-head", help="End at what is now the last event.")] = False,
) -> None:
    """Print every event from a position on, one JSON object a line."""
    from tapeline import replay

    context.with_resource(quiet())
    bookmark = replay.Bookmark(state) if state is not None else None
    command = shlex.split(execute) if execute is not None else None
    sheet = replay.Sheet(sys.stdout.fileno()) if command is None else None

    async def told(event: replay.Watched) -> None:
        await asyncio.to_thread(_run, command or [], json_module.dumps(event.to_json()))

    async def work() -> None:
        async with replay.opened() as log:
            head = await log.head()

            async def begin() -> int:
                return head.position if since is None else await replay.since_of(log, since)

            start = await replay.begun(bookmark, sheet, log_id=head.log_id, start=begin)
            events = replay.watch(
                log, since=start, kinds=kind or (), types=type or (), team=team, follow=not until_head
            )
            give = sheet.give if sheet is not None else told
            await replay.deliver(events, give, log_id=head.log_id, bookmark=bookmark, sheet=sheet)

    try:
        asyncio.run(work())
    except KeyboardInterrupt:
        return


def _run(command: list[str], line: str) -> None:
    try:
        done = subprocess.run(command, input=line + "\n", text=True, check=False)
    except OSError as error:
        raise TapelineError(
            f"{command[0]} cannot be run: {error.strerror}", code="invalid", hint="give a program with its arguments"
        ) from error
    if done.returncode != 0:
        raise TapelineError(
            f"{command[0]} ended with exit code {done.returncode}",
            code="conflict",
            hint="the position before this event is kept: mend it and start again",
        )
