"""`tapeline log diff`: where two logs part, or two aggregates."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapeline.cli import output
from tapeline.cli.output import Json
from tapeline.errors import TapelineError

if TYPE_CHECKING:
    from tapeline import replay

LIVE = "live"


def register(log: typer.Typer) -> None:
    """Put the verb under `log`."""
    log.command()(diff)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The folder of an export, live, or REF@POS.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    json: Json = False,
) -> None:
    """Show where two logs or two aggregates part; exit 5 when they do."""
    if ("@" in a) != ("@" in b):
        raise typer.BadParameter("compare two logs, or two aggregates as REF@POS")
    found = asyncio.run(_aggregates(a, b) if "@" in a else _logs(a, b))
    if output.wants_json(json):
        from dataclasses import asdict

        output.document({"equal": found is None, "difference": asdict(found) if found is not None else None})
    else:
        print(found if found is not None else "equal")
    if found is not None:
        raise typer.Exit(5)


async def _logs(a: str, b: str) -> replay.Difference | None:
    from tapeline import replay

    async with AsyncExitStack() as stack:
        sides: list[replay.Recorded] = []
        for side in (a, b):
            if side == LIVE:
                sides.append(await stack.enter_async_context(replay.opened()))
            else:
                sides.append(replay.ExportedLog(Path(side)))
        return await replay.diff(*sides)


async def _aggregates(a: str, b: str) -> replay.Change | None:
    from tapeline import replay

    async with replay.opened() as log:
        sides, end = [], (await log.head()).position
        for side in (a, b):
            place, _, position = side.rpartition("@")
            if not position.isdigit():
                raise typer.BadParameter(f"{side!r} is not <kind>/<id>@<position>")
            if int(position) > end:
                raise TapelineError(
                    f"position {position} is past the end of the log ({end})",
                    code="invalid",
                    hint=f"write {place}@{end} for what it is now",
                )
            sides.append(await log.load(await replay.find_ref(log, place), upto=int(position)))
        return replay.diff_aggregates(*sides)
