"""Tapes: trades that are imported once, checked, and never changed.

Parsing and checking run here, in the caller's process; the tape's files are uploaded by digest and the
assets service checks them again.
"""

from __future__ import annotations

import builtins
import tempfile
from collections.abc import Callable, Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapeline.sdk import artifacts
from tapeline.sdk.arguments import name as checked_name
from tapeline.sdk.arguments import paged
from tapeline.sdk.client import Client, client_of
from tapeline.sdk.errors import translated
from tapeline.sdk.records import BaseModelWithDatetime, Moment, Progress

if TYPE_CHECKING:
    from tapeline.sdk.progress import Bars
    from tapeline.tape.adapter import TapeAdapter
    from tapeline.tape.prepared import PreparedTape
    from tapeline.tape.view import OpenTape, View


class Tape(BaseModelWithDatetime):
    """An imported tape: what it holds, and the digest of its numbers."""

    id: str
    name: str
    content_sha256: str
    symbols: list[str]
    days: list[str]
    rows: int
    calendar: str
    synthetic: dict[str, Any] | None = None
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
    **options
        Fields of `tapeline.tape.options.ImportOptions`, such as `calendar` and `tz`.

    Raises
    ------
    ValidationError
        A file cannot be read as the format, or what it holds is refused; nothing is kept.
    AlreadyExistsError
        The name is taken.
    """
    from tapeline.sdk.progress import Bars
    from tapeline.tape.imports import import_tape
    from tapeline.tape.options import ImportOptions

    checked_name("name", name)
    given = [files] if isinstance(files, str | PathLike) else builtins.list(files)
    sources = [Path(fspath(each)) for each in given]
    client = client_of(team)
    with translated(), tempfile.TemporaryDirectory(prefix="tapeline-tape-") as folder:
        with Bars(f"tape {name}", quiet=quiet) as bars:
            prepared = import_tape(
                sources, format, symbol=symbol, out_dir=Path(folder), options=ImportOptions(**options),
                progress=_drawn(bars),
            )  # fmt: skip
        return _send(client, prepared, name, quiet, command_id)


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
    from tapeline.sdk.progress import Bars
    from tapeline.tape.simulate import simulate as make

    checked_name("name", name)
    client = client_of(team)
    with translated(), tempfile.TemporaryDirectory(prefix="tapeline-tape-") as folder:
        with Bars(f"tape {name}", quiet=quiet) as bars:
            prepared = make(Path(folder), progress=_drawn(bars), **options)
        return _send(client, prepared, name, quiet, command_id)


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
    from tapeline.tape.manifest import parse
    from tapeline.tape.view import OpenTape

    client = client_of(team)
    found = client.query("assets", "get_tape", name=checked_name("name", name))
    folder = artifacts.cache(client, "tapes", str(found["content_sha256"]))
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

    Raises
    ------
    ValidationError
        `tape_corrupt` names the day and the column that differ.
    """
    from tapeline.tape import day_file

    tape = open_tape(name, view="all", team=team)
    with translated():
        for day in tape.manifest["days"]:
            day_file.verify_day_file(
                tape.path_of(day["artifact"]["sha256"]),
                day,
                allow_nonpositive=any(s.get("allow_nonpositive") for s in tape.manifest["symbols"]),
            )
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


def _send(client: Client, prepared: PreparedTape, name: str, quiet: bool, command_id: str | None) -> Tape:
    from tapeline.sdk.progress import Bars

    files = [*prepared.files, prepared.manifest_file]
    total, sent = sum(file.size for file in files), 0
    with Bars(f"tape {name}", quiet=quiet) as bars:
        for file in files:
            artifacts.upload(client, "assets", file.path)
            sent += file.size
            bars.show([Progress(operation="upload", value=sent, final_value=total, units="bytes")])
        reply = client.command(
            "assets", "import_tape", name=name, manifest_sha256=prepared.manifest_file.sha256, command_id=command_id
        )
    return _tape(reply.view)


def _drawn(bars: Bars) -> Callable[[dict[str, Any]], None]:
    def draw(told: dict[str, Any]) -> None:
        total = told.get("total") or 0
        bars.show([Progress(operation=told["stage"], value=told["done"], final_value=total or 1, units=told["unit"])])

    return draw


def _tape(view: dict[str, Any]) -> Tape:
    return Tape(**{field: view[field] for field in Tape.model_fields if field in view})
