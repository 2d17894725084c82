"""What the command line prints: tables for people, JSON for programs, errors on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Format = Annotated[Literal["text", "json"] | None, typer.Option("--format", help="text, or json: one object a line.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_LONGEST = 60


@dataclass(slots=True)
class Options:
    """The options before the noun."""

    json: bool = False
    quiet: bool = False
    no_color: bool = False


OPTIONS = Options()


def wants_json(local: bool) -> bool:
    """Whether JSON is asked for, before the noun or after the verb."""
    OPTIONS.json = OPTIONS.json or local
    return OPTIONS.json


def wants_lines(format: str | None, json: bool = False) -> bool:
    """Whether JSON lines are asked for: by `--format json`, or by `--json` anywhere."""
    return wants_json(json) if format is None else format == "json"


def document(value: Any) -> None:
    """One JSON document."""
    print(json.dumps(plain(value), ensure_ascii=False, indent=2 if sys.stdout.isatty() else None, allow_nan=False))


def line(value: Any) -> None:
    """One JSON document on a line of its own, seen at once."""
    print(json.dumps(plain(value), ensure_ascii=False, allow_nan=False), flush=True)


def said(text: str) -> None:
    """A sentence, unless `--quiet`."""
    if not OPTIONS.quiet:
        print(text)


def plain(value: Any) -> Any:
    """A value as JSON data: times as text, NaN and infinities as strings, models as objects."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if callable(dumped := getattr(value, "model_dump", None)):
        return plain(dumped())
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, note: str = "") -> None:
    """Rows under headings: drawn on a terminal, separated by tabs when piped; numbers to the right."""
    piped = not sys.stdout.isatty()
    texts = [[_cell(each, longest=None if piped else _LONGEST) for each in row] for row in rows]
    if piped:
        for row in ([*columns], *texts):
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        numeric = bool(texts) and all(_is_number(row[i]) for row in texts)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in texts:
        drawn.add_row(*(escape(each) for each in row))
    console = Console(no_color=OPTIONS.no_color)
    console.print(drawn)
    if note and not OPTIONS.quiet:
        console.print(note, style="dim", markup=False)


def fields(pairs: Mapping[str, Any]) -> None:
    """One thing, a field a line."""
    widest = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        if isinstance(value, dict | list):
            text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
        else:
            text = _cell(value, longest=None)
        print(f"{name:<{widest}}  {text}")


def confirmed(question: str, yes: bool) -> None:
    """Ask before something is destroyed; without a terminal and without `--yes` that is wrong usage."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("without a terminal this needs --yes")
    if not typer.confirm(question):
        raise typer.Abort


def _cell(value: Any, longest: int | None = _LONGEST) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict | list):
        text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    else:
        text = str(value)
    # A control character from a name must not steer the terminal.
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True
