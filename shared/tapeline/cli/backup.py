"""`tapeline log export` and `import`, `tapeline bundle import`: the log as files, and back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from tapeline.cli import output
from tapeline.cli.log import quiet
from tapeline.cli.nouns import group
from tapeline.cli.output import Json

if TYPE_CHECKING:
    from tapeline import replay
    from tapeline.log import EventLog

bundles = group("Parts of a log, taken to another one.")


@bundles.callback()
def bundle(context: typer.Context) -> None:
    """Parts of a log, taken to another one."""
    context.with_resource(quiet())


def register(log: typer.Typer) -> None:
    """Put the verbs under `log`."""
    log.command("export")(export)
    log.command("import")(import_)


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder; of a part also a .zip file.")],
    after: Annotated[int, typer.Option(help="Only what comes after this position: a bundle.")] = 0,
    upto: Annotated[int | None, typer.Option(help="Last position.")] = None,
    aggregate: Annotated[
        list[str] | None, typer.Option(metavar="REF", help="Only this aggregate: a bundle. May be repeated.")
    ] = None,
    team: Annotated[str | None, typer.Option(help="Only this team: a bundle.")] = None,
    with_artifacts: Annotated[
        bool, typer.Option("--with-artifacts", help="Copy the files that events name, too.")
    ] = False,
    erase: Annotated[
        list[str] | None,
        typer.Option(metavar="REF[:FIELD]", help="Leave this out, as a log of its own. May be repeated."),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why something is erased; kept in the manifest.")] = None,
    json: Json = False,
) -> None:
    """Write the log into a folder, or add what is new to an export that is there."""
    is_part = bool(after or aggregate or team)
    if erase and (is_part or upto is not None):
        raise typer.BadParameter("--erase takes the whole log: leave --after, --upto, --aggregate and --team out")
    if erase and not reason:
        raise typer.BadParameter("--erase needs a --reason")
    if folder.suffix == ".zip" and not is_part:
        raise typer.BadParameter("only a part of the log becomes a file: give a folder")
    as_json = output.wants_json(json)
    work = _exported(
        folder, after=after, upto=upto, aggregates=aggregate or [], team=team, with_artifacts=with_artifacts,
        erase=erase or [], reason=reason or "", quiet=as_json,
    )  # fmt: skip
    found, missing = asyncio.run(work)
    if as_json:
        return output.document(msgspec.to_builtins(found) | {"missing_artifacts": missing})
    what = "bundle of log" if found.part is not None else "log"
    output.said(f"{what} {found.log_id} up to position {found.position}, manifest {found.digest}")
    for erasure in found.erasures:
        output.said(str(erasure))
    if with_artifacts:
        output.said(f"{len(found.artifacts)} artifacts, {missing} are not in the store")


async def _exported(
    folder: Path,
    *,
    after: int,
    upto: int | None,
    aggregates: list[str],
    team: str | None,
    with_artifacts: bool,
    erase: list[str],
    reason: str,
    quiet: bool,
) -> tuple[replay.Manifest, int]:
    from tapeline import replay
    from tapeline.errors import TapelineError
    from tapeline.home import find_home, read_instance
    from tapeline.store import LocalStore

    home = find_home()
    if erase and read_instance(home) is not None:
        raise TapelineError(
            f"an instance runs on {home.root}: what it stores from now on would be missing",
            code="already_running",
            hint="tapeline down; then export again",
        )
    if folder.suffix == ".zip" and folder.exists():
        raise TapelineError(f"{folder} is there already", code="not_empty", hint="take another name")

    def told(segment: replay.Segment) -> None:
        if not quiet:
            output.said(f"{segment.name}  {segment.size_bytes} bytes  sha256 {segment.sha256}")

    async def written(log: EventLog, into: Path) -> replay.Manifest:
        if erase:
            wanted = [await _erasure(log, each, reason) for each in erase]
            return await replay.export_erased(log, into, wanted, on_segment=told)
        if after or aggregates or team:
            refs = [await replay.find_ref(log, each, team) for each in aggregates]
            named = [f"{ref.team}/{ref}" for ref in refs]
            return await replay.export_part(
                log, into, aggregates=named, team=team, after=after, upto=upto, on_segment=told
            )
        seal = replay.last_seal(home, (await log.head()).log_id)
        return await replay.export(log, into, upto=upto, seal=seal, on_segment=told)

    async with replay.opened() as log:
        with TemporaryDirectory(prefix="tapeline-export-") as made:
            into = Path(made) / "bundle" if folder.suffix == ".zip" else folder
            found, missing = await written(log, into), 0
            if with_artifacts:
                found, missing = await replay.add_artifacts(into, found, LocalStore(home.store))
            if into != folder:
                replay.pack(into, folder)
    return found, missing


async def _erasure(log: EventLog, text: str, reason: str) -> replay.Erasure:
    from tapeline import replay

    place, _, field = text.partition(":")
    ref = await replay.find_ref(log, place)
    return replay.Erasure(f"{ref.team}/{ref}", reason, field or None)


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


@bundles.command("import")
def bundle_import(
    path: Annotated[Path, typer.Argument(metavar="FILE|DIR")],
    verify_only: Annotated[
        bool, typer.Option("--verify-only", help="Check the bundle, compare it with the log and write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Append the aggregates of a bundle to this log: ids, sequences and digests stay, positions are new."""
    from tapeline import replay
    from tapeline.home import find_home

    found = asyncio.run(replay.take_in(find_home(), path, verify_only=verify_only))
    if output.wants_json(json):
        return output.document(found.to_json())
    for one in found.moved:
        print(one)
    output.said(str(found))


def _described(found: Any) -> dict[str, Any]:
    described: dict[str, Any] = found.to_json()
    return described
