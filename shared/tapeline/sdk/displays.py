"""What a notebook shows of the SDK's objects: HTML that fetches nothing, with every value escaped.

A display shows what is loaded: it never asks the network and never raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tapeline.sdk.assets import Asset
    from tapeline.sdk.canvases import Canvas
    from tapeline.sdk.runs import Run
    from tapeline.sdk.tables import Table
    from tapeline.sdk.vault import VaultItem

T = TypeVar("T")

LONGEST = 400
"""Characters of one value; what is longer is cut."""
MOST_ROWS = 100
_PILLS = {
    "job_completed": "#166534",
    "job_failed": "#991b1b",
    "job_create_failed": "#991b1b",
    "job_running": "#1d4ed8",
    "job_terminated": "#9a3412",
}
_OTHER_PILL = "#475569"
_CELL = 'style="text-align:left;vertical-align:top;padding:2px 10px 2px 0;border:0"'


def never_raising(draw: Callable[[T], str]) -> Callable[[T], str]:
    """A display that falls back on the object's own text when something in it cannot be drawn."""

    @wraps(draw)
    def drawn(thing: T) -> str:
        try:
            return draw(thing)
        except Exception as error:  # a notebook shows a value, whatever state it is in
            return f"<pre>{text(f'{type(thing).__name__} ({type(error).__name__} while it was drawn)')}</pre>"

    return drawn


def text(value: Any) -> str:
    """A value as escaped text of a bounded length; `-` for None."""
    if value is None:
        return "-"
    found = f"{value:.6g}" if isinstance(value, float) else str(value)
    plain = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in found[: LONGEST + 1])
    return escape(plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…")


def heading(title: str, *more: str) -> str:
    """A title in bold with what stands beside it; both are HTML already."""
    return f'<div style="margin:2px 0 4px"><b>{title}</b> {" ".join(more)}</div>'


def pill(status: str | None) -> str:
    """A status on a coloured ground."""
    color = _PILLS.get(status or "", _OTHER_PILL)
    style = f"background:{color};color:#fff;border-radius:8px;padding:1px 8px;font-size:85%"
    return f'<span style="{style}">{text(status)}</span>'


def fields(pairs: Mapping[str, Any]) -> str:
    """Names and values, one pair a line; None is left out."""
    rows = "".join(
        f"<tr><th {_CELL}>{text(name)}</th><td {_CELL}>{text(value)}</td></tr>"
        for name, value in pairs.items()
        if value is not None
    )
    return f'<table style="border:0">{rows}</table>' if rows else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], total: int | None = None) -> str:
    """A table of at most 100 rows; cells that are `Html` stand as they are."""
    shown = [row for row, _ in zip(rows, range(MOST_ROWS), strict=False)]
    head = "".join(f"<th {_CELL}>{text(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td {_CELL}>{cell if isinstance(cell, Html) else text(cell)}</td>" for cell in row) + "</tr>"
        for row in shown
    )
    more = f"<div>{len(shown)} of {total}</div>" if total is not None and total > len(shown) else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


class Html(str):
    """HTML of our own making, which is not escaped again."""


def bar(value: float, final: float, label: str) -> str:
    """A progress bar; a value beyond the end fills it."""
    share = min(1.0, max(0.0, value / final)) if final > 0 and math.isfinite(value / final) else 0.0
    return (
        '<div style="width:240px;background:#e2e8f0;border-radius:4px;margin:2px 0">'
        f'<div style="width:{share * 240:.0f}px;background:#3b82f6;border-radius:4px;height:8px"></div></div>'
        f'<div style="font-size:85%">{text(label)}</div>'
    )


def sparkline(values: Sequence[float], *, width: int = 240, height: int = 36) -> str:
    """A line of values as SVG; those that are not finite leave a gap."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    # Halves, since the difference of two numbers may be too large to be one.
    low, high = min(finite) / 2, max(finite) / 2
    step, span = width / (len(values) - 1), (high - low) or 1.0
    drawn, is_open = [], False
    for i, value in enumerate(values):
        if not math.isfinite(value):
            is_open = False
            continue
        y = height - 2 - (value / 2 - low) / span * (height - 4)
        drawn.append(f"{'L' if is_open else 'M'}{i * step:.1f} {y:.1f}")
        is_open = True
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<path d="{" ".join(drawn)}" fill="none" stroke="#3b82f6" stroke-width="1.3"/></svg>'
    )


@never_raising
def run_html(run: Run) -> str:
    """A run: status, progress and config as they were loaded."""
    title = f"run {text(run.number if run.number is not None else run.id)} {text(run.name or '')}"
    bars = "".join(
        bar(each.value, each.final_value, f"{each.operation} {each.value:g} of {each.final_value:g} {each.units}")
        for each in run.progress or ()
    )
    said = {
        "id": run.id, "version": run.version, "project": run.project_id, "task": run.task_type,
        "created": run.created_at, "device": run.device, "attempt": run.attempt, "reason": run.reason,
        "message": run.message, "notes": run.notes,
    }  # fmt: skip
    curves = "".join(
        f"<div>{text(tag)} {sparkline([value for _, value in sorted(points)])}</div>"
        for tag, points in list(run._seen.items())[:4]
    )
    config = f"<details><summary>config</summary>{fields(run.config)}</details>" if run.config else ""
    return heading(title, pill(run.status)) + bars + curves + fields(said) + config


@never_raising
def runs_html(runs: Sequence[Run]) -> str:
    """Runs, one a row."""
    rows = (
        (run.number, run.name, Html(pill(run.status)), run.project_id, run.created_at, _furthest(run)) for run in runs
    )
    return table(("number", "name", "status", "project", "created", "progress"), rows, len(runs))


def _furthest(run: Run) -> str | None:
    if not run.progress:
        return None
    last = run.progress[-1]
    return f"{last.operation} {last.value:g}/{last.final_value:g}"


@never_raising
def table_html(shown: Table) -> str:
    """A table: what it is called, and what its columns are."""
    rows = [(name, said.kind, said.display_name, said.description) for name, said in shown.schema.items()]
    title = heading(f"table {text(shown.name)}", f"{len(shown)} rows", f"<code>{text(shown.url)}</code>")
    return title + table(("column", "kind", "name", "description"), rows, len(rows))


@never_raising
def canvas_html(canvas: Canvas) -> str:
    """A canvas: the drawing of its working copy, or what is wrong with it."""
    from tapeline.canvas import validate
    from tapeline.canvas.drawing import lay_out, svg

    revision = f"revision {canvas.revision}" if canvas.revision is not None else "a file"
    title = heading(f"canvas {text(canvas.name)}", text(revision))
    found = validate(canvas.document)
    if found.canvas is None or not found.ok:
        rows = ((fault.node, fault.code, fault.pointer, fault.message, fault.hint) for fault in found.errors)
        return title + table(("node", "code", "place", "message", "hint"), rows, len(found.errors))
    drawn = svg(lay_out(found.canvas, title=canvas.name))
    return title + f'<div style="overflow-x:auto">{drawn}</div>'


@never_raising
def asset_html(asset: Asset) -> str:
    """An asset: its data sets, as they were loaded."""
    view = asset.view
    said = {
        "id": view.get("id"), "samples": sum(view["rows"].values()) if view.get("rows") else None,
        "files": ", ".join(str(file["name"]) for file in view.get("files") or ()),
        "built": view.get("built_at"), "digest": view.get("data_digest"),
    }  # fmt: skip
    kinds: list[tuple[Any, ...]] = [
        (name, "feature", tuple(shape)) for name, shape in (view.get("features") or {}).items()
    ]
    kinds += [(name, "label", ", ".join(types)) for name, types in (view.get("labels") or {}).items()]
    return (
        heading(f"asset {text(asset.name)}", pill(view.get("status")))
        + fields(said)
        + table(("data set", "kind", "shape or columns"), kinds, len(kinds))
    )


@never_raising
def vault_item_html(item: VaultItem) -> str:
    """A vault item: its name; what the vault says of it is not asked for."""
    return heading(f"vault item {text(item.name)}") + fields({"team": item.team})
