"""`tapeline log export` and `import`: the log as files, and back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tapeline.cli import output
from tapeline.cli.output import Json


def register(log: typer.Typer) -> None:
    """Put the verbs under `log`."""
    log.command("export")(export)
    log.command("import")(import_)


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    upto: Annotated[int | None, typer.Option(help="Last position.")] = None,
    json: Json = False,
) -> None:
    """Write the log into a folder, or add what is new to an export that is there."""
    from tapeline import replay
    from tapeline.home import find_home

    as_json = output.wants_json(json)

    def told(segment: replay.Segment) -> None:
        if not as_json:
            output.said(f"{segment.name}  {segment.size_bytes} bytes  sha256 {segment.sha256}")

    async def work() -> replay.Manifest:
        async with replay.opened() as log:
            seal = replay.last_seal(find_home(), (await log.head()).log_id)
            return await replay.export(log, folder, upto=upto, seal=seal, on_segment=told)

    found = asyncio.run(work())
    if as_json:
        return output.document(msgspec.to_builtins(found))
    output.said(f"log {found.log_id} up to position {found.position}, manifest {found.digest}")


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    verify_only: Annotated[bool, typer.Option("--verify-only", help="Check the export and write nothing.")] = False,
    as_new_log: Annotated[bool, typer.Option("--as-new-log", help="Do not take over the log's id.")] = False,
    json: Json = False,
) -> None:
    """Make a log of an export, position by position, in a home that has none yet."""
    from tapeline import replay
    from tapeline.home import find_home

    as_json = output.wants_json(json)
    if verify_only:
        found = replay.verify_only(folder)
    else:
        found = asyncio.run(replay.restore(find_home(), folder, as_new_log=as_new_log))
    if as_json:
        return output.document(_described(found))
    output.said(str(found))


def _described(found: Any) -> dict[str, Any]:
    described: dict[str, Any] = found.to_json()
    return described
