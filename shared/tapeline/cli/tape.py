"""`tapeline tape`: imported trades."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import OPTIONS, Json, Yes

app = group("Tapes: imported, checked, immutable trades.")


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Files, or a folder.")],
    format: Annotated[str, typer.Option(help="csv, lean, ...")],
    name: Annotated[str, typer.Option(help="Name of the tape.")],
    symbol: Annotated[str | None, typer.Option()] = None,
    calendar: Annotated[str | None, typer.Option()] = None,
    option: Annotated[list[str] | None, typer.Option("-o", help="Further option of the format, as key=value.")] = None,
    json: Json = False,
) -> None:
    """Import trades as a tape."""
    from tapeline import sdk as tl

    more: dict[str, Any] = {key: value for key, value in (("symbol", symbol), ("calendar", calendar)) if value}
    for each in option or []:
        key, found, value = each.partition("=")
        if not found:
            raise typer.BadParameter(f"{each!r} is not key=value")
        more[key.replace("-", "_")] = value
    _made(tl.tapes.import_(files, format=format, name=name, quiet=OPTIONS.quiet, **more), json)


@app.command()
def simulate(
    name: Annotated[str, typer.Option(help="Name of the tape.")],
    seed: Annotated[int, typer.Option()] = 7,
    symbols: Annotated[int, typer.Option()] = 1,
    days: Annotated[int, typer.Option()] = 60,
    start: Annotated[str, typer.Option(help="First trade date.")] = "2024-01-02",
    trades_per_day: Annotated[int, typer.Option()] = 20_000,
    signal: Annotated[float, typer.Option(help="0 to 1: how much can be learnt.")] = 0.15,
    json: Json = False,
) -> None:
    """Make a seeded synthetic tape with a learnable signal."""
    from tapeline import sdk as tl

    made = tl.tapes.simulate(
        name=name, seed=seed, symbols=symbols, days=days, start=start, trades_per_day=trades_per_day, signal=signal,
        quiet=OPTIONS.quiet,
    )  # fmt: skip
    _made(made, json)


@app.command()
def ls(json: Json = False) -> None:
    """List tapes by name."""
    from tapeline import sdk as tl

    found = tl.get_tapes()
    if output.wants_json(json):
        return output.document(found)
    output.table(
        ("name", "symbols", "days", "rows", "synthetic", "created"),
        ((t.name, len(t.symbols), len(t.days), t.rows, t.synthetic is not None, t.created_at) for t in found),
    )


@app.command()
def show(name: str, json: Json = False) -> None:
    """Show a tape."""
    from tapeline.sdk import tapes

    found = tapes.get_tape(name)
    if output.wants_json(json):
        return output.document(found)
    output.fields(dict(found))


@app.command()
def rm(name: str, yes: Yes = False) -> None:
    """Remove a tape; refused while an asset names it."""
    from tapeline.sdk import tapes

    output.confirmed(f"Remove tape {name}?", yes)
    tapes.remove_tape(name)


def _made(tape: Any, json: bool) -> None:
    if output.wants_json(json):
        return output.document(tape)
    output.said(f"tape {tape.name}: {tape.rows} trades of {len(tape.symbols)} symbols on {len(tape.days)} days")
