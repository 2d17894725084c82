"""The shape of a bar."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.component import FeatureParams
from tapeline.assets.features.per_bar import bar_feature, ratio, stacked
from tapeline.assets.view import Grid

EPSILON = 1e-12


def kbar(grid: Grid, params: FeatureParams) -> NDArray[np.float64]:
    """Body, length and shadows of the bar, against its open o and against its length h - l + e, e = 1e-12.

    Notes
    -----
    The nine K-bar features of Microsoft's qlib, Alpha158: KMID, KLEN, KMID2, KUP, KUP2, KLOW, KLOW2, KSFT,
    KSFT2. A bar without length gives 0 for what is divided by it.
    """
    o, h, l, c = grid.bars[:, :4].T  # noqa: E741 - the letters of the formula
    length = h - l + EPSILON
    upper, lower, shift = h - np.maximum(o, c), np.minimum(o, c) - l, 2 * c - h - l
    return stacked(
        ratio(c - o, o),
        ratio(h - l, o),
        ratio(c - o, length),
        ratio(upper, o),
        ratio(upper, length),
        ratio(lower, o),
        ratio(lower, length),
        ratio(shift, o),
        ratio(shift, length),
    )


KBAR = bar_feature(
    "kbar",
    FeatureParams,
    kbar,
    warmup_bars=lambda params: 1,
    names=("mid", "length", "mid_share", "upper", "upper_share", "lower", "lower_share", "shift", "shift_share"),
    doc="(c-o)/o, (h-l)/o, (c-o)/(h-l+e), upper and lower shadow each /o and /(h-l+e), (2c-h-l)/o, "
    "(2c-h-l)/(h-l+e), e = 1e-12",
    by_rows=True,
)
