"""Which trend the price is in."""

from __future__ import annotations

import numpy as np
from pydantic import model_validator

from tapeline.assets.component import Columns, Component, LabelParams
from tapeline.assets.labels.reach import Answer, reach
from tapeline.assets.view import View

SHORTEST = 3
STEEPEST = 1000.0


class TrendParams(LabelParams):
    """The horizon is L, the longest stretch that is looked at: 3 bars or more."""

    @model_validator(mode="after")
    def _is_long_enough(self) -> TrendParams:
        if isinstance(self.horizon, int) and self.horizon < SHORTEST:
            raise ValueError(f"a trend needs a horizon of {SHORTEST} bars or more, got {self.horizon}")
        return self


def trend_scan(view: View, params: TrendParams) -> Answer:
    """The t-value of the steepest slope over 3 to L bars after the entry, and whether it is above 0.

    Notes
    -----
    López de Prado, Machine Learning for Asset Managers, section 5.4: of the least-squares lines through closes
    t + d to t + d + k, k = 3 to L, the one whose slope has the largest absolute t-value. A line that fits
    without error has 1000, a flat one 0. t1 is that of the whole horizon, whichever stretch is steepest.
    """
    found = reach(view, params)
    close, longest = found.grid.bars[:, 3], params.horizon_bars
    base = close[found.entry]
    best = np.zeros(len(base))
    total, squares, products = np.zeros(len(base)), np.zeros(len(base)), np.zeros(len(base))
    for k in range(1, longest + 1):
        # Counted from the entry's close: sums of squares of prices as they are would lose their digits.
        rise = close[found.entry + k] - base
        total, squares, products = total + rise, squares + rise * rise, products + k * rise
        if k < SHORTEST:
            continue
        n = k + 1
        about_x = n * (n * n - 1) / 12.0
        about_y = np.maximum(squares - total * total / n, 0.0)
        slope = (products - total * k / 2.0) / about_x
        rest = np.maximum(about_y - slope * slope * about_x, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = slope / np.sqrt(rest / (n - 2) / about_x)
        value = np.where(slope == 0, 0.0, np.clip(value, -STEEPEST, STEEPEST))
        best = np.where(np.isnan(value) | (np.abs(value) > np.abs(best)), value, best)
    return found.answer(best, np.where(np.isfinite(best), best > 0, np.nan))


TREND_SCAN = Component(
    id="trend_scan",
    kind="label",
    version=1,
    params=TrendParams,
    warmup_bars=lambda params: 1,
    columns=lambda params: Columns((2,), ("t_value", "up"), ("regression", "binary")),
    compute=trend_scan,
    stacks=True,
    doc="t-value of the steepest slope over 3 to L bars, its sign; t1 = t + d + L always",
)
