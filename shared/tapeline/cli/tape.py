"""`tapeline tape`: imported trades."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tapeline.cli import output
from tapeline.cli.nouns import group
from tapeline.cli.output import OPTIONS, Json, Yes

app = group("Tapes: imported, checked, immutable trades.")


Files = Annotated[list[Path], typer.Argument(help="Files, or a folder.")]
TradeFormat = Annotated[
    str,
    typer.Option(
        help="auto, lean, binance-trades, binance-aggtrades, databento-dbn, kraken-csv, tardis-csv, csv, parquet, "
        "arrow."
    ),
]
Symbol = Annotated[str | None, typer.Option(help="Symbol of files that do not say it.")]
Map = Annotated[str | None, typer.Option(help="ts=Time,price=Px,volume=Qty[,seq=,cond=,symbol=]")]
TsUnit = Annotated[str | None, typer.Option(help="s, ms, us, ns")]
Ts = Annotated[str | None, typer.Option(help="Of databento-dbn: event (default) or recv.")]
Tz = Annotated[str | None, typer.Option(help="Zone of times that have none.")]
Delimiter = Annotated[str | None, typer.Option(help="Of csv; the default is a comma.")]
Decimal = Annotated[str | None, typer.Option(help="Of csv; the default is a point.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse times that would be sorted.")]
VoidOutliers = Annotated[bool, typer.Option("--void-outliers", help="Count no price far from its neighbours.")]
DropDuplicates = Annotated[str | None, typer.Option(help="exact or seq")]
KeepFinal = Annotated[bool, typer.Option("--keep-final-duplicate", help="Of lean futures.")]
SkipBad = Annotated[int | None, typer.Option(help="Rows that may be unreadable.")]
MaxVoid = Annotated[float | None, typer.Option(help="Share of void trades that is let pass.")]
Complete = Annotated[bool, typer.Option("--require-complete", help="Refuse a session without trades.")]
Codec = Annotated[str | None, typer.Option(help="none (default) or gzip")]
Shown = Annotated[str, typer.Option("--progress", help="auto, or json: an object a line on standard error.")]


@app.command("import")
def import_(
    files: Files,
    name: Annotated[str, typer.Option(help="Name of the tape.")],
    format: TradeFormat = "auto",
    symbol: Symbol = None,
    calendar: Annotated[str | None, typer.Option(help="XNYS, CMES, 24/7, SIM, ...")] = None,
    close_grace: Annotated[int | None, typer.Option(help="Seconds by which closes are moved, for auctions.")] = None,
    extended: Annotated[str | None, typer.Option(help="Extended hours, local: 04:00-20:00.")] = None,
    map: Map = None,
    ts_unit: TsUnit = None,
    ts: Ts = None,
    tz: Tz = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    strict: Strict = False,
    allow_nonpositive: Annotated[
        bool, typer.Option("--allow-nonpositive", help="Prices may be 0 or less: spreads, power.")
    ] = False,
    void_outliers: VoidOutliers = False,
    drop_duplicates: DropDuplicates = None,
    keep_final_duplicate: KeepFinal = False,
    skip_bad: SkipBad = None,
    max_void: MaxVoid = None,
    require_complete: Complete = False,
    conditions: Annotated[Path | None, typer.Option(help="CSV table of mask,flags.")] = None,
    currency: Annotated[str | None, typer.Option(help="Of prices, such as USD.")] = None,
    tick_size: Annotated[float | None, typer.Option(help="Least step of prices.")] = None,
    codec: Codec = None,
    progress: Shown = "auto",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Import trades as a tape."""
    from tapeline import sdk as tl
    from tapeline.tape.options import conditions_of

    more = _given(
        calendar=calendar, close_grace_s=close_grace, extended=extended, map=_mapped(map), ts_unit=ts_unit, ts=ts,
        tz=tz, delimiter=delimiter, decimal=decimal, strict=strict, allow_nonpositive=allow_nonpositive,
        void_outliers=void_outliers, drop_duplicates=drop_duplicates, keep_final_duplicate=keep_final_duplicate,
        skip_bad=skip_bad, max_void=max_void, require_complete=require_complete,
        conditions=conditions_of(conditions) if conditions else None, currency=currency, tick_size=tick_size,
        codec=codec,
    )  # fmt: skip
    taken = _guessed(files, format, yes, output.wants_json(json))
    _made(tl.tapes.import_(files, format=taken, name=name, symbol=symbol, **_shown(progress, json), **more), json)


@app.command()
def extend(
    tape: Annotated[str, typer.Argument(help="Tape to extend.")],
    files: Files,
    name: Annotated[str | None, typer.Option("--as", help="Name of the new tape; else TAPE and its last date.")] = None,
    format: TradeFormat = "auto",
    symbol: Symbol = None,
    map: Map = None,
    ts_unit: TsUnit = None,
    ts: Ts = None,
    tz: Tz = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    strict: Strict = False,
    void_outliers: VoidOutliers = False,
    drop_duplicates: DropDuplicates = None,
    keep_final_duplicate: KeepFinal = False,
    skip_bad: SkipBad = None,
    max_void: MaxVoid = None,
    require_complete: Complete = False,
    codec: Codec = None,
    progress: Shown = "auto",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Make a new tape of a tape's days and those of files; calendar and eligibility are the tape's."""
    from tapeline import sdk as tl

    more = _given(
        map=_mapped(map), ts_unit=ts_unit, ts=ts, tz=tz, delimiter=delimiter, decimal=decimal, strict=strict,
        void_outliers=void_outliers, drop_duplicates=drop_duplicates, keep_final_duplicate=keep_final_duplicate,
        skip_bad=skip_bad, max_void=max_void, require_complete=require_complete, codec=codec,
    )  # fmt: skip
    taken = _guessed(files, format, yes, output.wants_json(json))
    _made(tl.tapes.extend(tape, files, name=name, format=taken, symbol=symbol, **_shown(progress, json), **more), json)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value not in (None, False)}


def _mapped(text: str | None) -> dict[str, str] | None:
    return dict(_pair(each) for each in text.split(",")) if text else None


def _pair(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found:
        raise typer.BadParameter(f"{text!r} is not name=column")
    return key, value


def _guessed(files: list[Path], format: str, yes: bool, json: bool) -> str:
    """The format that the files look like, confirmed on a terminal."""
    if format != "auto":
        return format
    from tapeline.sdk.errors import translated
    from tapeline.tape.sources import guessed

    with translated():
        found = guessed(files)
    if not OPTIONS.quiet and not json:
        print(f"format: {found}", file=sys.stderr)
    if sys.stdin.isatty() and not yes:
        output.confirmed(f"Import them as {found}?", yes)
    return found


def _shown(progress: str, json: bool) -> dict[str, Any]:
    """How progress is shown: drawn, not at all, or as JSON lines."""
    if progress not in ("auto", "json"):
        raise typer.BadParameter(f"--progress is {progress!r}: take auto or json")
    if progress == "json":
        return {"quiet": True, "progress": _told}
    return {"quiet": OPTIONS.quiet or output.wants_json(json)}


def _told(step: dict[str, Any]) -> None:
    import json

    print(json.dumps(step), file=sys.stderr, flush=True)


@app.command()
def simulate(
    name: Annotated[str, typer.Option(help="Name of the tape.")],
    seed: Annotated[int, typer.Option()] = 7,
    symbols: Annotated[int, typer.Option()] = 1,
    days: Annotated[int, typer.Option()] = 60,
    start: Annotated[str, typer.Option(help="First trade date.")] = "2024-01-02",
    calendar: Annotated[str, typer.Option(help="SIM, 24/7, XNYS, ...")] = "SIM",
    trades_per_day: Annotated[int, typer.Option()] = 20_000,
    signal: Annotated[float, typer.Option(help="0 to 1: how much can be learnt.")] = 0.15,
    ties: Annotated[float, typer.Option(help="Share of trades at the time of the one before.")] = 0.3,
    jumps: Annotated[float, typer.Option(help="Jumps of the price in a session, on average.")] = 0.5,
    price: Annotated[float, typer.Option(help="First price.")] = 100.0,
    tick: Annotated[float, typer.Option(help="Least step of prices.")] = 0.01,
    json: Json = False,
) -> None:
    """Make a seeded synthetic tape with a learnable signal."""
    from tapeline import sdk as tl

    made = tl.tapes.simulate(
        name=name, seed=seed, symbols=symbols, days=days, start=start, calendar=calendar,
        trades_per_day=trades_per_day, signal=signal, ties=ties, jumps=jumps, price=price, tick=tick,
        quiet=OPTIONS.quiet or output.wants_json(json),
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


def _days(days: list[str]) -> str:
    return f"{len(days)}, {days[0]} to {days[-1]}" if days else "none"


@app.command()
def show(name: str, json: Json = False) -> None:
    """Show a tape, and the tapes that it extends."""
    from tapeline.sdk import tapes

    found, *before = tapes.get_lineage(name)
    if output.wants_json(json):
        return output.document(dict(found) | {"lineage": [tape.name for tape in before]})
    pairs = dict(found)
    if before:
        pairs["parent"] = " < ".join(tape.name for tape in before)
    report = pairs.pop("report", None) or {}
    pairs["symbols"], pairs["days"] = ", ".join(found.symbols), _days(found.days)
    output.fields({field: value for field, value in pairs.items() if field not in ("manifest", "files")})
    # What an import found, but for what it did not find.
    told = {field: value for field, value in report.items() if value not in (None, 0, "", [], {})}
    if told:
        print()
        output.table(
            ("import", ""),
            (
                (field.replace("_", " "), datetime.fromtimestamp(value / 1e9, UTC) if field.endswith("_ts") else value)
                for field, value in told.items()
            ),
        )


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="Tape; or --all.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every tape of the team.")] = False,
    json: Json = False,
) -> None:
    """Compare every column of a tape with its digest."""
    from tapeline.sdk import tapes
    from tapeline.sdk.errors import TapelineError

    if (name is None) is not all:
        raise typer.BadParameter("name a tape, or give --all")
    found: list[dict[str, Any]] = []
    failed: TapelineError | None = None
    for each in [tape.name for tape in tapes.get_tapes()] if all else [str(name)]:
        try:
            found.append(tapes.verify_tape(each) | {"intact": True})
        except TapelineError as error:
            if not all:
                raise
            failed = failed or error
            found.append({"name": each, "intact": False, "code": error.code, "message": error.message})
    if output.wants_json(json):
        output.document(found if all else found[0])
    else:
        for one in found:
            right = one["intact"] and f"{one['rows']:,} trades on {one['days']} days are as they were imported"
            output.said(f"tape {one['name']}: {right or one['message']}")
    if failed is not None:
        raise failed


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


def register(top: typer.Typer) -> None:
    """Make `bars` a verb of its own."""
    top.command("bars")(bars)


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


@app.command()
def correct(
    name: Annotated[str, typer.Argument(help="The tape that is wrong.")],
    by: Annotated[str, typer.Argument(help="The tape that is right.")],
    json: Json = False,
) -> None:
    """Say that a tape is wrong: assets that were cut from days that differ become stale."""
    from tapeline.sdk import tapes

    found = tapes.correct(name, by)
    if output.wants_json(json):
        return output.document({"assets": found})
    output.said(f"stale: {', '.join(found)}" if found else "no asset was cut from days that differ")


def _made(tape: Any, json: bool) -> None:
    if output.wants_json(json):
        return output.document(tape)
    output.said(f"tape {tape.name}: {tape.rows} trades of {len(tape.symbols)} symbols on {len(tape.days)} days")
    counts = [(name, value) for name, value in tape.report.items() if isinstance(value, int) and value]
    stamps = ("rows", "first_ts", "last_ts", "rows_read", "files")
    odd = [(name.replace("_", " "), value) for name, value in counts if name not in stamps]
    if odd and not OPTIONS.quiet:
        output.table(("found", "count"), odd)
    for text in tape.report.get("examples", [])[:5]:
        output.said(f"  {text}")
