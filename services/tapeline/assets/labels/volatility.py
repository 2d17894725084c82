"""How much the price is going to vary."""

from __future__ import annotations

import numpy as np

from tapeline.assets.component import Columns, Component, LabelParams
from tapeline.assets.features.per_bar import ratio, sums
from tapeline.assets.features.returns import log_returns
from tapeline.assets.labels.reach import Answer, reach
from tapeline.assets.view import View


def fwd_vol(view: View, params: LabelParams) -> Answer:
    """Realised volatility of the h bars after t + d against that of the last h up to t: ratio, and ratio > 1.

    Notes
    -----
    Realised volatility is sqrt(sum of r^2) over log returns r. No sample where the last h bars did not move.
    """
    found = reach(view, params)
    vol = np.sqrt(sums(np.square(log_returns(found.grid.bars[:, 3], 1)), params.horizon_bars))
    change = ratio(vol[found.last], vol[found.now])
    return found.answer(change, np.where(np.isfinite(change), change > 1.0, np.nan))


FWD_VOL = Component(
    id="fwd_vol",
    kind="label",
    version=1,
    params=LabelParams,
    warmup_bars=lambda params: params.horizon_bars + 1,
    columns=lambda params: Columns((2,), ("ratio", "up"), ("regression", "binary")),
    compute=fwd_vol,
    stacks=True,
    doc="realised volatility of the next h bars against the last h: ratio, up or down",
)
