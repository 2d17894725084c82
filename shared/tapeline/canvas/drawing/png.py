"""A canvas as PNG; needs matplotlib, which is the extra `plot`."""

from __future__ import annotations

from io import BytesIO

from tapeline.canvas.drawing.layout import HEAD, HEIGHT, MARGIN, WIDTH, Layout
from tapeline.canvas.drawing.svg import FAINT, FILLS, INK, LINE
from tapeline.errors import TapelineError

_DOTS = 100
_LARGEST = 16_000
"""Pixels along one side; a larger picture is drawn smaller."""


def png(layout: Layout, *, scale: float = 2.0) -> bytes:
    """The picture as the bytes of a PNG file; equal layouts give equal bytes with one matplotlib.

    Parameters
    ----------
    scale : float
        Pixels for each unit of the layout.

    Raises
    ------
    TapelineError
        `dependency_missing` without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import FancyBboxPatch, PathPatch
        from matplotlib.path import Path as Curve
    except ImportError:
        raise TapelineError(
            "a PNG needs the package matplotlib", code="dependency_missing", hint="pip install 'tapeline[plot]', or SVG"
        ) from None
    scale = min(scale, _LARGEST / max(layout.width, layout.height))
    figure = Figure(figsize=(layout.width / _DOTS, layout.height / _DOTS), dpi=_DOTS * scale)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, layout.width)
    axes.set_ylim(layout.height, 0)
    axes.axis("off")

    def write(x: float, y: float, text: str, size: float, color: str, weight: str = "normal") -> None:
        # The layout counts in CSS pixels, matplotlib in points of 1/72 inch; `$` would begin a formula.
        axes.text(
            x, y, text, fontsize=size * 72 / _DOTS, color=color, weight=weight, family="DejaVu Sans Mono",
            parse_math=False,
        )  # fmt: skip

    write(MARGIN, HEAD - 12, layout.title, 15, INK, "bold")
    for edge in layout.edges:
        x2, y2 = edge.spans[-1][2:]
        points, steps = [edge.spans[0][:2]], [Curve.MOVETO]
        for x1, y1, to_x, to_y in edge.spans:
            bend = (to_x - x1) // 2
            points += [(x1, y1), (x1 + bend, y1), (to_x - bend, to_y), (to_x, to_y)]
            steps += [Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
        axes.add_patch(PathPatch(Curve(points, steps), fill=False, edgecolor=LINE, linewidth=1.0))
        axes.fill([x2, x2 - 7, x2 - 7], [y2, y2 - 3.5, y2 + 3.5], color=LINE, linewidth=0)
    for box in layout.boxes:
        axes.add_patch(
            FancyBboxPatch(
                (box.x + 7, box.y + 7), WIDTH - 14, HEIGHT - 14, boxstyle="round,pad=7,rounding_size=7",
                facecolor=FILLS[box.category], edgecolor=LINE, linewidth=0.8,
                linestyle="solid" if box.is_trainable else "dashed",
            )
        )  # fmt: skip
        write(box.x + 9, box.y + 19, box.title, 10, INK, "bold")
        write(box.x + 9, box.y + 36, box.detail, 9.5, FAINT)
        if box.shape:
            write(box.x + 9, box.y + 54, box.shape, 9.5, FAINT)
    made = BytesIO()
    # Without its version the file depends on what is drawn alone.
    figure.savefig(made, format="png", metadata={"Software": None})
    return made.getvalue()
