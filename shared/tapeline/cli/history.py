"""`tapeline at` and `tapeline watch`: what was, and what comes."""

from __future__ import annotations

import asyncio
import json as json_module
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from tapeline.cli import output
from tapeline.cli.log import quiet
from tapeline.cli.output import Json
from tapeline.errors import TapelineError


def register(app: typer.Typer) -> None:
    """Put the verbs at the top."""
    app.command()(at)
    app.command()(watch)


def at(
    context: typer.Context,
    when: Annotated[str, typer.Argument(metavar="WHEN", help="A position, a time, or 2h, 3d ago.")],
    place: Annotated[str, typer.Argument(metavar="REF", help="<team>/<kind>/<id>, or <kind>/<id>.")],
    json: Json = False,
) -> None:
    """Show an aggregate as it was at a position or a time."""
    from tapeline import replay

    context.with_resource(quiet())
    moment = replay.parse_when(when)

    async def work() -> replay.Past:
        async with replay.opened() as log:
            return await replay.at(log, moment, await replay.find_ref(log, place))

    found = asyncio.run(work()).to_json()
    if output.wants_json(json):
        return output.document(found)
    state = found.pop("state")
    output.fields(found | state if isinstance(state, dict) else found | {"state": state})


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
