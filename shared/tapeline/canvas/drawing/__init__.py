"""Pictures of canvases: `layout.py` says where each node stands, `svg.py` and `png.py` draw that.

Equal canvases give equal bytes: neither `ui` nor the order of nodes nor the clock has a part in a picture.
"""

from tapeline.canvas.drawing.layout import Box, Layout, lay_out
from tapeline.canvas.drawing.svg import svg

__all__ = ["Box", "Layout", "lay_out", "svg"]
