"""Tapes: trades that are imported once, checked, and never changed.

Parsing and checking run here, in the caller's process; the tape's files are uploaded by digest and the
assets service checks them again.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.sdk import artifacts
from tapeline.sdk.arguments import name as checked_name
from tapeline.sdk.arguments import paged
from tapeline.sdk.client import Client, client_of
from tapeline.sdk.errors import NotFoundError, translated
from tapeline.sdk.records import BaseModelWithDatetime, Moment

if TYPE_CHECKING:
    from tapeline.sdk.stages import Stages
    from tapeline.tape.adapter import TapeAdapter
    from tapeline.tape.prepared import PreparedTape
    from tapeline.tape.view import OpenTape, View


ATTEMPTS = 8


class Tape(BaseModelWithDatetime):
    """An imported tape: what it holds, the digest of its numbers, and the id of the tape that it extends."""

    id: str
    name: str
    content_sha256: str
    symbols: list[str]
    days: list[str]
    rows: int
    calendar: str
    synthetic: dict[str, Any] | None = None
    parent: str | None = None
    report: dict[str, Any] = {}
    created_at: Moment
    user: str = ""


def import_(
    files: str | PathLike[str] | Iterable[str | PathLike[str]],
    *,
    name: str,
    format: str = "auto",
    symbol: str | None = None,
    team: str | None = None,
    quiet: bool = True,
    progress: Callable[[dict[str, Any]], None] | None = None,
    command_id: str | None = None,
    **options: Any,
) -> Tape:
    """Import trades from files or a folder as a tape.

    Parameters
    ----------
    files : path, or several
        What holds the trades.
    name : str
        The tape's name in the team.
    format : str
        How they are written: one of `tapeline.tape.options.FORMATS`.
    symbol : str, optional
        The symbol of files that do not say it.
    quiet : bool
        Whether no progress is drawn.
    progress : callable, optional
        Called with each step `{stage, done, total, unit, rows, rate, eta_s}`.
    **options
        Fields of `tapeline.tape.options.ImportOptions`, such as `calendar` and `tz`.

    Raises
    ------
    ValidationError
        A file cannot be read as the format, or what it holds is refused; nothing is kept.
    AlreadyExistsError
        The name is taken.
    UnavailableError
        The disk is full; nothing was imported.
    """
    from tapeline.sdk.stages import Stages
    from tapeline.tape.imports import import_tape
    from tapeline.tape.options import ImportOptions
    from tapeline.tape.staging import staging

    checked_name("name", name)
    client = client_of(team)
    with translated(), staging() as folder, Stages(f"tape {name}", quiet=quiet, tell=progress) as stages:
        prepared = import_tape(
            _paths(files), format, symbol=symbol, out_dir=folder, options=ImportOptions(**options), progress=stages.show
        )
        return _send(client, prepared, name, stages, command_id)


def extend(
    tape: str,
    files: str | PathLike[str] | Iterable[str | PathLike[str]],
    *,
    name: str | None = None,
    format: str = "auto",
    symbol: str | None = None,
    team: str | None = None,
    quiet: bool = True,
    progress: Callable[[dict[str, Any]], None] | None = None,
    command_id: str | None = None,
    **options: Any,
) -> Tape:
    """A new tape: the days of a tape and those of the files. The old one stays, the days they share are stored once.

    Parameters
    ----------
    tape : str
        The tape to extend.
    name : str, optional
        The new tape's name; the default is the old name and the last trade date, `spy-2024-03-28`.
    format, symbol, quiet, progress
        As for `import_`.
    **options
        As for `import_`; calendar, hours, currency, tick size and eligibility are those of the tape.

    Raises
    ------
    ConflictError
        A day is in the tape already with other trades, or an option differs from the tape's.
    """
    from tapeline.sdk.stages import Stages
    from tapeline.tape.extend import extend_tape
    from tapeline.tape.options import ImportOptions
    from tapeline.tape.staging import staging

    if name is not None:
        checked_name("name", name)
    client = client_of(team)
    parent = get_tape(tape, team)
    manifest = open_tape(tape, team=team).manifest
    with translated(), staging() as folder, Stages(f"tape {tape}", quiet=quiet, tell=progress) as stages:
        prepared = extend_tape(
            manifest, _paths(files), format, symbol=symbol, out_dir=folder, options=ImportOptions(**options),
            progress=stages.show,
        )  # fmt: skip
        if prepared.content_sha256 == parent.content_sha256 and name is None:
            return parent  # every day of the files is in the tape already
        return _send(client, prepared, name or f"{_undated(tape)}-{prepared.days[-1]}", stages, command_id)


def get_lineage(name: str, team: str | None = None) -> builtins.list[Tape]:
    """A tape, the tape that it extends, the one that that one extends, and so on, as far as they are still there."""
    found = [get_tape(name, team)]
    while (parent := found[-1].parent) is not None:
        try:
            found.append(get_tape(parent, team))
        except NotFoundError:
            break
    return found


def _undated(name: str) -> str:
    return re.sub(r"-\d{4}-\d\d-\d\d$", "", name)


def _paths(files: str | PathLike[str] | Iterable[str | PathLike[str]]) -> builtins.list[Path]:
    return [Path(fspath(each)) for each in ([files] if isinstance(files, str | PathLike) else files)]


def simulate(
    *,
    name: str,
    team: str | None = None,
    quiet: bool = True,
    command_id: str | None = None,
    **options: Any,
) -> Tape:
    """Make a seeded synthetic tape with a documented, learnable signal.

    Parameters
    ----------
    **options
        Arguments of `tapeline.tape.simulate.simulate`: `seed`, `symbols`, `days`, `start`,
        `trades_per_day`, `signal`, ...
    """
    from tapeline.sdk.stages import Stages
    from tapeline.tape.simulate import simulate as make
    from tapeline.tape.staging import room, staging

    checked_name("name", name)
    client = client_of(team)
    with translated(), staging() as folder, Stages(f"tape {name}", quiet=quiet) as stages:
        with room(folder):
            prepared = make(folder, progress=stages.show, **options)
        return _send(client, prepared, name, stages, command_id)


def get_tapes(team: str | None = None) -> builtins.list[Tape]:
    """The tapes of a team, by name."""
    client = client_of(team)

    def page(size: int, start: int) -> dict[str, Any]:
        return dict(client.query("assets", "list_tapes", limit=size, offset=start))

    return [_tape(view) for view in paged(page, 2**31, 0)]


def get_tape(name: str, team: str | None = None) -> Tape:
    """The tape of a name.

    Raises
    ------
    NotFoundError
        There is none.
    """
    return _tape(client_of(team).query("assets", "get_tape", name=checked_name("name", name)))


def open_tape(name: str, *, view: View = "regular", team: str | None = None) -> OpenTape:
    """A tape for reading; each day is downloaded, and checked by its digests, when it is first read.

    Raises
    ------
    NotFoundError
        There is none.
    ValidationError
        `tape_corrupt`: what was downloaded is not what the manifest says.
    """
    client = client_of(team)
    found = client.query("assets", "get_tape", name=checked_name("name", name))
    return _opened(client, found, artifacts.cache(client, "tapes", str(found["content_sha256"])), view)


def _opened(client: Client, found: dict[str, Any], folder: Path, view: View) -> OpenTape:
    """A tape whose files are kept in a folder."""
    from tapeline.tape.manifest import parse
    from tapeline.tape.view import OpenTape

    with translated():
        manifest = parse(artifacts.fetch(client, "assets", dict(found["manifest"]), folder).read_bytes())
        sizes = {day["artifact"]["sha256"]: day["artifact"]["size"] for day in manifest["days"]}

        def path_of(digest: str) -> Path:
            file = {"name": f"{digest}.h5", "sha256": digest, "size_bytes": sizes[digest]}
            return artifacts.fetch(client, "assets", file, folder)

        return OpenTape(manifest, path_of, view=view)


def open_adapter(
    name: str, symbol: str | None = None, *, view: View = "regular", team: str | None = None
) -> TapeAdapter:
    """An adapter over a tape: bars before and after any trade; `symbol` may be left out if there is only one."""
    from tapeline.sdk.errors import ValidationError
    from tapeline.tape.adapter import TapeAdapter

    tape = open_tape(name, view=view, team=team)
    if symbol is None and len(tape.symbols) != 1:
        some = ", ".join(tape.symbols[:5])
        raise ValidationError.of(
            "invalid_argument", f"tape {name} has {len(tape.symbols)} symbols", hint=f"name {some}"
        )
    with translated():
        return TapeAdapter(tape, symbol or tape.symbols[0], view)


def verify_tape(name: str, *, team: str | None = None) -> dict[str, Any]:
    """Read every day of a tape and compare its columns with their digests: `{name, days, rows, content_sha256}`.

    The days are read from the store again, not from what was downloaded before.

    Raises
    ------
    ValidationError
        `tape_corrupt` names the day and the column that differ.
    """
    from tapeline.tape import day_file
    from tapeline.tape.staging import room, staging

    client = client_of(team)
    found = client.query("assets", "get_tape", name=checked_name("name", name))
    with translated(), staging() as folder, room(folder):
        tape = _opened(client, found, folder, "all")
        odd = {symbol["symbol"] for symbol in tape.manifest["symbols"] if symbol.get("allow_nonpositive")}
        for day in tape.manifest["days"]:
            path = tape.path_of(day["artifact"]["sha256"])
            day_file.verify_day_file(path, day, allow_nonpositive=day["symbol"] in odd)
            path.unlink(missing_ok=True)
    days = tape.manifest["days"]
    return {
        "name": name,
        "days": len(days),
        "rows": sum(day["rows"] for day in days),
        "content_sha256": tape.manifest["content_sha256"],
    }


def remove_tape(name: str, team: str | None = None, *, command_id: str | None = None) -> None:
    """Remove a tape; refused while an asset names it."""
    client_of(team).command("assets", "remove_tape", name=checked_name("name", name), command_id=command_id)


def correct(name: str, by: str, team: str | None = None, *, command_id: str | None = None) -> builtins.list[str]:
    """Say that a tape is wrong and another right; assets that were cut from days that differ become stale.

    Returns
    -------
    list of str
        The names of those assets; they still train, and a run says so.
    """
    client = client_of(team)
    fields = {"name": checked_name("name", name), "by": checked_name("by", by)}
    return builtins.list(client.command("assets", "correct_tape", command_id=command_id, **fields).view["assets"])


def _send(client: Client, prepared: PreparedTape, name: str, stages: Stages, command_id: str | None) -> Tape:
    """Upload what was prepared, and import it.

    Uploads belong to the team: an import of the same files that ends meanwhile takes them with it, and they are
    sent again, which is not shown: progress never goes back.
    """
    for attempt in range(ATTEMPTS):
        _upload(client, prepared, stages if attempt == 0 else None)
        step = {"stage": "check", "done": 0, "total": prepared.rows, "unit": "rows", "rows": prepared.rows}
        stages.show(step)
        try:
            reply = client.command(
                "assets",
                "import_tape",
                name=name,
                manifest_sha256=prepared.manifest_file.sha256,
                command_id=command_id,
            )
        except NotFoundError:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        stages.show(step | {"done": prepared.rows})
        return _tape(reply.view)
    raise AssertionError("the last attempt returns or raises")


def _upload(client: Client, prepared: PreparedTape, stages: Stages | None) -> None:
    files = [*prepared.files, prepared.manifest_file]
    total, sent = sum(file.size for file in files), 0
    for file in files:
        artifacts.upload(client, "assets", file.path)
        sent += file.size
        if stages is not None:
            stages.show({"stage": "upload", "done": sent, "total": total, "unit": "bytes", "rows": prepared.rows})


def _tape(view: dict[str, Any]) -> Tape:
    return Tape(**{field: view[field] for field in Tape.model_fields if field in view})
