"""`tapeline log seal`: signed roots of the log."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from tapeline.cli import output
from tapeline.cli.output import Json, Yes


def register(log: typer.Typer) -> None:
    """Put the verb under `log`."""
    log.command()(seal)


def seal(
    now: Annotated[bool, typer.Option("--now", help="Seal the log as it stands.")] = False,
    every: Annotated[bool, typer.Option("--list", help="List all seals.")] = False,
    forget_after: Annotated[
        int | None, typer.Option(metavar="POS", help="Admit that what was sealed after the end of the log is lost.")
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Show the last seal, make one, or admit a loss."""
    from tapeline import replay

    as_json = output.wants_json(json)
    if sum((now, every, forget_after is not None)) > 1:
        raise typer.BadParameter("use one of --now, --list and --forget-after")
    if forget_after is not None:
        output.confirmed(f"Forget every event after position {forget_after}, for ever?", yes)
        found = [asyncio.run(replay.forget_after(forget_after))]
    elif now:
        found = asyncio.run(replay.seal_now())
    else:
        found = asyncio.run(replay.list_seals())
        found = found if every else found[-1:]
    if as_json:
        return output.document([one.to_json() for one in found])
    for one in found:
        print(one)
    if not found:
        output.said("no seal yet; tapeline log seal --now")
