"""Windows of bars as places in grids: what files of the layout `indexed` hold in place of the windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.grids import Grid, Unit, joined_grids
from tapeline.assets.layout import Indexed
from tapeline.assets.plan import Plan
from tapeline.assets.samples import Samples
from tapeline.assets.shard import ShardData
from tapeline.assets.view import Market, View
from tapeline.tape.trades import none

Key = tuple[int, Unit, int]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the windows of all stored samples lie.

    Attributes
    ----------
    grids : by number of the symbol, unit and size, the bars of the build and of its history
    past : by feature int64, shape (n,): the row of the sample's grid one past the newest bar of its window
    """

    plan: Plan
    codes: NDArray[np.uint16]
    grids: dict[Key, Grid]
    past: dict[str, NDArray[np.int64]]
    norms: dict[str, str]

    def of(self, rows: NDArray[np.int64]) -> tuple[dict[str, Indexed], dict[str, NDArray[Any]]]:
        """The indexed data sets of some samples, and as much of the grids as they reach."""
        codes = self.codes[rows]
        made: dict[str, Indexed] = {}
        columns: dict[str, NDArray[Any]] = {}
        for unit, size in self.plan.grids:
            features = [each for each in self.plan.indexed if (each.params.unit, each.params.size) == (unit, size)]
            past = {each.name: self.past[each.name][rows] for each in features}
            names = []
            for code in range(len(self.plan.symbols)):
                own = codes == code
                grid = self.grids[code, unit, size]
                low, high = 0, 0
                if bool(own.any()):
                    low = min(int(past[each.name][own].min()) - each.columns.shape[0] for each in features)
                    low, high = max(low, 0), max(int(past[each.name][own].max()) for each in features)
                for each in features:
                    past[each.name][own] -= low
                names.append(f"{unit}_{size}_{code}")
                columns[names[-1]] = grid.bars[low:high]
                columns[f"{names[-1]}_end"] = grid.end[low:high]
            for each in features:
                scale = np.stack([each.fitted[symbol] for symbol in self.plan.symbols]) if each.fitted else None
                made[each.name] = Indexed(
                    past[each.name],
                    tuple(names),
                    each.columns.shape[0],
                    self.norms[each.name],
                    each.columns.shape,
                    scale,
                )
        return made, columns


def places(plan: Plan, parts: Sequence[ShardData], stored: Samples, codes: NDArray[np.uint16]) -> Places:
    """Where the windows of the stored samples lie, by the bars that the shards brought."""
    grids: dict[Key, Grid] = {}
    past = {each.name: np.zeros(len(codes), np.int64) for each in plan.indexed}
    norms: dict[str, str] = {}
    for code, (symbol, days) in enumerate(plan.symbols.items()):
        own = [(shard, part) for shard, part in zip(plan.shards, parts, strict=True) if shard.symbol == symbol]
        rows = np.flatnonzero(codes == code)
        for unit, size in plan.grids:
            before = days.market(own[0][0].number, own[0][0].number, plan.needs).grid(unit, size) if own else None
            pieces = [part.grids[unit, size] for _, part in own]
            empty = np.empty(0, np.int64)
            grid = joined_grids([before or Grid(unit, size, np.empty((0, 8)), empty, empty, empty), *pieces])
            grids[code, unit, size] = grid
            market = Market(symbol, none(), days.segments, days.session, days.dates, None, {(unit, size): grid})
            for each in plan.indexed:
                if (each.params.unit, each.params.size) == (unit, size) and each.component.windows is not None:
                    view = View(market, stored.t0[rows], ahead=True)
                    found = each.component.windows(view, each.params)
                    past[each.name][rows], norms[each.name] = found.past, found.norm
    return Places(plan, codes, grids, past, norms)
