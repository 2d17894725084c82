"""Bars drawn as a picture; needs matplotlib, which is the extra `plot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tapeline.errors import TapelineError

if TYPE_CHECKING:
    import pandas as pd

RISE, FALL = "#1b7f5c", "#b5403a"


def plot_bars(frame: pd.DataFrame, path: Path, *, title: str = "") -> None:
    """Write a PNG of bars: open to close, high and low, and volume below.

    Parameters
    ----------
    frame : as `get_bar_daterange` gives it

    Raises
    ------
    TapelineError
        `dependency_missing` without matplotlib, `empty_input` without a bar that has a price.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise TapelineError(
            "pictures need the package matplotlib", code="dependency_missing", hint="pip install 'tapeline[plot]'"
        ) from None
    cells = frame.iloc[:, :8].to_numpy(float)
    some = ~np.isnan(cells[:, 3])
    if not some.any():
        raise TapelineError("there is no bar to draw", code="empty_input", hint="check the date")
    place, priced = np.flatnonzero(some), cells[some]
    o, high, low, close, volume = (priced[:, k] for k in (0, 1, 2, 3, 5))
    colors = np.where(close >= o, RISE, FALL)
    figure = Figure(figsize=(12, 6.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    prices, volumes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    prices.vlines(place, low, high, colors=colors, linewidth=0.7)
    body = np.maximum(np.abs(close - o), (high.max() - low.min()) * 0.001)
    prices.bar(place, body, 0.7, np.minimum(o, close), color=colors)
    prices.set_title(title)
    prices.set_ylabel("price")
    prices.margins(x=0.01)
    volumes.bar(place, volume, 0.7, color=colors)
    volumes.set_ylabel("volume")
    stamps = frame["timestamp"].dt.strftime("%H:%M:%S" if len(frame) < 2000 else "%H:%M").tolist()
    ticks = np.unique(np.linspace(0, len(frame) - 1, min(9, len(frame))).astype(int))
    volumes.set_xticks(ticks, [stamps[k] for k in ticks])
    volumes.set_xlabel("UTC, when the bar is known")
    figure.savefig(path, format="png")
