"""Where in its session a sample lies: known in advance, so no leak."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.component import Columns, Component, FeatureParams
from tapeline.assets.view import View


def session_fraction(view: View, params: FeatureParams) -> NDArray[np.float64]:
    """The elapsed share of the session segment, above 0 and up to 1."""
    found = view.segment()
    out = np.full(len(view.times), np.nan)
    inside = found >= 0
    low, high = view.market.segments[found[inside]].T
    out[inside] = (view.times[inside] - low) / (high - low)
    return out[:, None]


SESSION_FRACTION = Component(
    id="session_fraction",
    kind="feature",
    version=1,
    params=FeatureParams,
    warmup_bars=lambda params: 0,
    columns=lambda params: Columns((1,), ("session_fraction",)),
    compute=session_fraction,
    doc="elapsed share of the session, 0 to 1",
)
