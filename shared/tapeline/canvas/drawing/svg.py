"""A canvas as SVG: plain text, no script, no link, nothing that is fetched."""

from __future__ import annotations

from xml.sax.saxutils import escape

from tapeline.canvas.drawing.layout import HEAD, HEIGHT, MARGIN, WIDTH, Box, Edge, Layout

FILLS = {
    "data": "#dbeafe",
    "core": "#dcfce7",
    "sequence": "#fef3c7",
    "shape": "#f1f5f9",
    "merge": "#ede9fe",
    "scaling": "#ffe4e6",
    "regularising": "#e0f2fe",
}
"""A colour for each category of the catalogue."""
LINE, INK, FAINT = "#64748b", "#0f172a", "#475569"


def svg(layout: Layout) -> str:
    """The picture as the text of an SVG file; equal layouts give equal texts."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{layout.width}" height="{layout.height}" '
        f'viewBox="0 0 {layout.width} {layout.height}" font-family="ui-monospace, Menlo, Consolas, monospace" '
        'font-size="10">',
        f"<title>{escape(layout.title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>',
        f'<rect width="{layout.width}" height="{layout.height}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="{HEAD - 12}" font-size="15" font-weight="bold" fill="{INK}">'
        f"{escape(layout.title)}</text>",
    ]
    parts += [_edge(edge) for edge in layout.edges]
    parts += [_box(box) for box in layout.boxes]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _edge(edge: Edge) -> str:
    at = edge.spans[0][:2]
    drawn = f"M{at[0]} {at[1]}"
    for x1, y1, x2, y2 in edge.spans:
        if (x1, y1) != at:
            drawn += f" L{x1} {y1}"
        bend = (x2 - x1) // 2
        drawn += f" C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
        at = (x2, y2)
    return f'<path d="{drawn}" fill="none" stroke="{LINE}" stroke-width="1.4" marker-end="url(#tip)"/>'


def _box(box: Box) -> str:
    dash = "" if box.is_trainable else ' stroke-dasharray="5 3"'
    lines = [
        f'<g transform="translate({box.x} {box.y})"><rect width="{WIDTH}" height="{HEIGHT}" rx="7" '
        f'fill="{FILLS[box.category]}" stroke="{LINE}"{dash}/>',
        f'<text x="9" y="19" font-weight="bold" fill="{INK}">{escape(box.title)}</text>',
        f'<text x="9" y="36" fill="{FAINT}">{escape(box.detail)}</text>',
    ]
    if box.shape:
        lines.append(f'<text x="9" y="54" fill="{FAINT}">{escape(box.shape)}</text>')
    return "".join([*lines, "</g>"])
