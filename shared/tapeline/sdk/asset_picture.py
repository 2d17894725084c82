"""A picture of an asset as SVG: bars with the outcome of each sample's label, parts and embargo drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tapeline.sdk.assets import Asset

WIDTH, HEIGHT, LEFT, TOP, STRIP = 1200, 480, 70, 56, 36
COLUMNS = 1060
DATE_WIDTH, MOST_LINES = 84, 130
PARTS = ("train", "validation", "test")
FILLS = ("#eff6ff", "#fefce8", "#fdf2f8")
UP, DOWN, FLAT, INK, FAINT, EMBARGO, RULE = (
    "#15803d", "#b91c1c", "#94a3b8", "#0f172a", "#64748b", "#f97316", "#cbd5e1",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What is drawn.

    Attributes
    ----------
    end : int64 ns, shape (bars,), ascending; `session` the number of the session of each
    high, low, close : float64, shape (bars,)
    t0, part, outcome : of each sample its time, part (0 to 2), and -1, 0 or 1
    """

    title: str
    label: str
    end: NDArray[np.int64]
    session: NDArray[np.int32]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    t0: NDArray[np.int64]
    part: NDArray[np.uint8]
    outcome: NDArray[np.float64]
    embargo_ns: int


def outcomes(values: NDArray[Any], types: list[str]) -> tuple[NDArray[np.float64], int]:
    """-1, 0 or 1 for each row of a label, and the column that says so: the first of classes, else the first."""
    column = next((i for i, kind in enumerate(types) if kind != "regression"), 0)
    own = values[:, column].astype(np.float64)
    if types[column] == "binary":
        return np.where(own > 0, 1.0, -1.0), column
    if types[column].startswith("multiclass"):
        middle = (int(types[column].removeprefix("multiclass(").removesuffix(")")) - 1) / 2
        return np.sign(own - middle), column
    return np.sign(own), column


def picture_of(asset: Asset, symbol: str | None = None, label: str | None = None) -> Picture:
    """The picture of one symbol and label of an asset: the first, unless another is named."""
    from tapeline.errors import ValidationError
    from tapeline.sdk.arguments import one_of
    from tapeline.sdk.tapes import open_tape

    recipe = asset.recipe
    if asset.status not in ("ready", "stale"):
        raise ValidationError.of(
            "conflict", f"asset {asset.name} is {asset.status}; there is nothing to draw", hint="wait for its build"
        )
    tapes = {name: item["tape"] for item in recipe["tapes"] for name in item["symbols"]}
    names = sorted(tapes)
    chosen = names[0] if symbol is None else one_of("symbol", symbol, tuple(names))
    labels = [each["name"] for each in recipe["labels"]]
    target = labels[0] if label is None else one_of("label", label, tuple(labels))
    sampling = recipe["sampling"]
    unit, size = (sampling["unit"], sampling["size"]) if sampling.get("unit") not in (None, "tick") else ("min", 1)
    grid = open_tape(tapes[chosen], view=recipe["view"], team=asset.team).minute_grid(
        chosen, unit, size, first=recipe["range"]["from"], last=recipe["range"]["to"]
    )
    t0, part, values = [], [], []
    for file in asset.files:
        opened = file.opened()
        own = np.flatnonzero(opened.symbol == names.index(chosen))
        t0.append(opened.t0[own])
        part.append(opened.part[own])
        values.append(np.asarray(opened.column(target)[own]))
    found, column = outcomes(np.concatenate(values), asset.view["labels"][target])
    return Picture(
        f"{asset.name}: {chosen}, {recipe['range']['from']} to {recipe['range']['to']}, bars of {size} {unit}",
        f"{target} column {column}",
        grid.end_ns,
        grid.session,
        grid.bars[:, 1],
        grid.bars[:, 2],
        grid.bars[:, 3],
        np.concatenate(t0),
        np.concatenate(part),
        found,
        int(recipe["split"]["embargo_ns"]),
    )


def drawn(picture: Picture) -> str:
    """The text of an SVG file: plain shapes, no script and no link; equal pictures give equal texts."""
    n = len(picture.end)
    known = np.flatnonzero(~np.isnan(picture.close))
    low, high = (float(picture.low[known].min()), float(picture.high[known].max())) if len(known) else (0.0, 1.0)
    span = (high - low) or 1.0
    bottom = HEIGHT - STRIP - 48

    def x(row: float) -> float:
        return round(LEFT + row * COLUMNS / max(n, 1), 2)

    def y(price: float) -> float:
        return round(bottom - (price - low) / span * (bottom - TOP), 2)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="11">',
        f"<title>{escape(picture.title)}</title>",
        '<defs><pattern id="embargo" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<path d="M0 6 L6 0" stroke="{EMBARGO}" stroke-width="1.2"/></pattern></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold" fill="{INK}">{escape(picture.title)}</text>',
    ]
    parts += _bands(picture, x, bottom)
    parts += _prices(low, high, y)
    parts += _sessions(picture, x, bottom)
    parts += _bars(picture, x, y)
    parts += _samples(picture, x, bottom)
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 10}" fill="{FAINT}">each sample by {escape(picture.label)}: '
        f'<tspan fill="{UP}">up</tspan> <tspan fill="{FLAT}">flat</tspan> <tspan fill="{DOWN}">down</tspan>; '
        f'<tspan fill="{EMBARGO}">embargo</tspan> hatched; time is trading time</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _prices(low: float, high: float, y: Any) -> list[str]:
    """A faint line for each round price, about five of them."""
    rough = (high - low or 1.0) / 5
    ten = 10.0 ** math.floor(math.log10(rough))
    step = min((each * ten for each in (1.0, 2.0, 2.5, 5.0, 10.0)), key=lambda each: abs(each - rough))
    places = max(0, -math.floor(math.log10(step)) + (step / ten == 2.5))
    made = []
    for k in range(math.ceil(low / step), math.floor(high / step) + 1):
        at = y(k * step)
        made.append(
            f'<path d="M{LEFT} {at}H{LEFT + COLUMNS}" stroke="{RULE}" stroke-width="0.6"/>'
            f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end" fill="{FAINT}">{k * step:.{places}f}</text>'
        )
    return made


def _sessions(picture: Picture, x: Any, bottom: int) -> list[str]:
    """A line where each session begins, and its date below where there is room."""
    starts = np.flatnonzero(np.diff(picture.session, prepend=-1))
    stops = np.append(starts[1:], len(picture.end))
    made, free = [], 0.0
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        at = x(start)
        if len(starts) <= MOST_LINES:
            made.append(f'<path d="M{at} {TOP}V{bottom + STRIP}" stroke="{RULE}" stroke-width="0.6"/>')
        if at >= free:
            # The date of the last bar: a session that begins in the evening is that of the next day.
            date = np.datetime64(int(picture.end[stop - 1]) - 1, "ns").astype("datetime64[D]")
            made.append(f'<text class="date" x="{at + 2}" y="{bottom + STRIP + 14}" fill="{FAINT}">{date}</text>')
            free = at + DATE_WIDTH
    return made


def _bands(picture: Picture, x: Any, bottom: int) -> list[str]:
    made = []
    for number, name in enumerate(PARTS):
        rows = np.flatnonzero(picture.part == number)
        if not len(rows):
            continue
        # A part is whole sessions: it begins with that of its first sample.
        first, last = np.searchsorted(picture.end, [picture.t0[rows].min(), picture.t0[rows].max()], "left").tolist()
        start = int(np.searchsorted(picture.session, picture.session[min(first, len(picture.end) - 1)], "left"))
        stop = int(np.searchsorted(picture.session, picture.session[min(last, len(picture.end) - 1)], "right"))
        made.append(
            f'<rect class="part" x="{x(start)}" y="{TOP}" width="{round(x(stop) - x(start), 2)}" '
            f'height="{bottom - TOP + STRIP}" fill="{FILLS[number]}"/>'
            f'<text x="{x(start) + 4}" y="{TOP - 6}" fill="{FAINT}">{name}, {len(rows)} samples</text>'
        )
        if number and picture.embargo_ns and start:
            opened = int(picture.end[start]) - (
                int(picture.end[start + 1] - picture.end[start]) if start + 1 < stop else 0
            )
            over = int(np.searchsorted(picture.end, opened + picture.embargo_ns, "right"))
            made.append(
                f'<rect class="embargo" x="{x(start)}" y="{TOP}" width="{round(max(x(over) - x(start), 1.0), 2)}" '
                f'height="{bottom - TOP + STRIP}" fill="url(#embargo)" opacity="0.7"/>'
            )
    return made


def _bars(picture: Picture, x: Any, y: Any) -> list[str]:
    """A line from low to high for each column of the picture, and one along the closes."""
    ranges, line = [], []
    for rows in np.array_split(np.arange(len(picture.end)), min(len(picture.end), COLUMNS)):
        own = rows[~np.isnan(picture.close[rows])]
        if len(own):
            at = x(float(rows[0] + len(rows) / 2))
            ranges.append(f"M{at} {y(float(picture.high[own].max()))}V{y(float(picture.low[own].min()))}")
            line.append(f"{at},{y(float(picture.close[own[-1]]))}")
    return [
        f'<path d="{"".join(ranges)}" stroke="{FLAT}" stroke-width="0.8"/>',
        f'<polyline points="{" ".join(line)}" fill="none" stroke="{INK}" stroke-width="1"/>',
    ]


def _samples(picture: Picture, x: Any, bottom: int) -> list[str]:
    """A tick below the bars for each column with samples: upwards by how often the outcome is up, or down."""
    column = np.searchsorted(picture.end, picture.t0, "left") * COLUMNS // max(len(picture.end), 1)
    made: dict[str, list[str]] = {UP: [], FLAT: [], DOWN: []}
    middle = bottom + STRIP // 2
    for each in np.unique(column).tolist():
        mean = float(picture.outcome[column == each].mean())
        at = x(each * len(picture.end) / COLUMNS)
        color = UP if mean > 0 else DOWN if mean < 0 else FLAT
        reach = round(middle - (mean or 0.1) * (STRIP // 2 - 2), 2)
        made[color].append(f"M{at} {middle}V{reach}")
    return [f'<path class="samples" d="{"".join(ticks)}" stroke="{color}"/>' for color, ticks in made.items() if ticks]
