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
    name: Annotated[str, typer.Option(help="Name of the tape.")],
    format: Annotated[
        str,
        typer.Option(
            help="auto, lean, binance-trades, binance-aggtrades, kraken-csv, tardis-csv, csv, parquet, arrow."
        ),
    ] = "auto",
    symbol: Annotated[str | None, typer.Option(help="Symbol of files that do not say it.")] = None,
    calendar: Annotated[str | None, typer.Option(help="XNYS, 24/7, ...")] = None,
    map: Annotated[str | None, typer.Option(help="ts=Time,price=Px,volume=Qty")] = None,
    ts_unit: Annotated[str | None, typer.Option(help="s, ms, us, ns")] = None,
    tz: Annotated[str | None, typer.Option(help="Zone of times that have none.")] = None,
    delimiter: Annotated[str | None, typer.Option()] = None,
    decimal: Annotated[str | None, typer.Option()] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what would be repaired.")] = False,
    allow_nonpositive: Annotated[bool, typer.Option("--allow-nonpositive")] = False,
    drop_duplicates: Annotated[str | None, typer.Option(help="exact or seq")] = None,
    skip_bad: Annotated[int | None, typer.Option(help="Rows that may be unreadable.")] = None,
    max_void: Annotated[float | None, typer.Option(help="Share of void trades that is let pass.")] = None,
    conditions: Annotated[Path | None, typer.Option(help="CSV table of mask,flags.")] = None,
    currency: Annotated[str | None, typer.Option()] = None,
    json: Json = False,
) -> None:
    """Import trades as a tape."""
    from tapeline import sdk as tl
    from tapeline.tape.options import conditions_of

    given: dict[str, Any] = {
        "calendar": calendar, "ts_unit": ts_unit, "tz": tz, "delimiter": delimiter, "decimal": decimal,
        "strict": strict or None, "allow_nonpositive": allow_nonpositive or None, "drop_duplicates": drop_duplicates,
        "skip_bad": skip_bad, "max_void": max_void, "currency": currency,
        "conditions": conditions_of(conditions) if conditions else None,
        "map": dict(_pair(each) for each in map.split(",")) if map else None,
    }  # fmt: skip
    more = {key: value for key, value in given.items() if value is not None}
    as_json = output.wants_json(json)
    quiet = OPTIONS.quiet or as_json
    _made(tl.tapes.import_(files, format=format, name=name, symbol=symbol, quiet=quiet, **more), json)


def _pair(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found:
        raise typer.BadParameter(f"{text!r} is not name=column")
    return key, value


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
def verify(name: str, json: Json = False) -> None:
    """Compare every column of a tape with its digest."""
    from tapeline.sdk import tapes

    found = tapes.verify_tape(name)
    if output.wants_json(json):
        return output.document(found)
    output.said(f"tape {name}: {found['rows']:,} trades on {found['days']} days are as they were imported")


@app.command()
def head(
    name: str,
    date: Annotated[str, typer.Argument(help="Trade date, such as 2024-01-02.")],
    symbol: Annotated[str | None, typer.Option(help="Which, if the tape has several.")] = None,
    view: Annotated[str, typer.Option(help="regular, extended, all")] = "regular",
    rows: Annotated[int, typer.Option(min=1, help="How many trades.")] = 10,
    json: Json = False,
) -> None:
    """Show the first trades of a date."""
    from tapeline.sdk import tapes

    frame = tapes.open_adapter(name, symbol, view=view).get_date(date).head(rows)  # type: ignore[arg-type]
    _framed(frame, json)


@app.command()
def bars(
    name: str,
    date: Annotated[str, typer.Argument(help="Trade date, such as 2024-01-02.")],
    unit: Annotated[str, typer.Option(help="tick, sec, min, hour, day, volume, dollar")] = "min",
    size: Annotated[int, typer.Option(min=1, help="Of them in a bar.")] = 1,
    symbol: Annotated[str | None, typer.Option(help="Which, if the tape has several.")] = None,
    view: Annotated[str, typer.Option(help="regular, extended, all")] = "regular",
    csv: Annotated[Path | None, typer.Option(help="Write them as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write them as Parquet (extra io).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them as PNG (extra plot).")] = None,
    json: Json = False,
) -> None:
    """Cut the bars of a date; shown, written or drawn."""
    from tapeline.sdk import tapes

    frame = tapes.open_adapter(name, symbol, view=view).get_bar_daterange(date, unit, size)  # type: ignore[arg-type]
    if csv is not None:
        frame.to_csv(csv, index=False)
    if parquet is not None:
        frame.attrs.clear()  # arrays are no metadata of a file
        frame.to_parquet(parquet, index=False)
    if plot is not None:
        from tapeline.tape.plot import plot_bars

        plot_bars(frame, plot, title=f"{name} {date}, {size} {unit}")
    written = [str(path) for path in (csv, parquet, plot) if path is not None]
    if not written:
        return _framed(frame, json)
    output.said(f"{len(frame)} bars in {', '.join(written)}")


def _framed(frame: Any, json: bool) -> None:
    """A frame as a table, or as a list of its rows."""
    rows = [
        [str(cell) if name == "timestamp" else cell for name, cell in row.items()] for row in frame.to_dict("records")
    ]
    if output.wants_json(json):
        return output.document([dict(zip(frame.columns, row, strict=True)) for row in rows])
    output.table(tuple(frame.columns), rows)


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
