"""Several views of one symbol at once: formulas run over all of their bars in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapeline.assets.grids import Grid, Unit, stacked_grids
from tapeline.assets.view import History, View, newest, refuse_future
from tapeline.bars import ranks

MOST_VALUES = 16 * 2**20
"""Values of samples in one stack: more would be memory for nothing."""


def in_stretches(
    items: Sequence[int], alike: Callable[[int, int], bool], size: Callable[[int], int]
) -> Iterator[list[int]]:
    """Items in order, in runs of those that are alike and no larger together than a stack should be."""
    run: list[int] = []
    held = 0
    for item in items:
        if run and (held + size(item) > MOST_VALUES or not alike(run[-1], item)):
            yield run
            run, held = [], 0
        run.append(item)
        held += size(item)
    if run:
        yield run


@dataclass(frozen=True, slots=True, eq=False)
class Lie:
    """Where the samples of a stack lie in the grids of their markets.

    Attributes
    ----------
    grids : of each view's market
    past : int64, shape (n,): for each sample the row one past its newest complete bar, in its own grid
    oldest, stop : int64, shape (views,): `past` of the first and of the last sample of each view
    """

    grids: list[Grid]
    past: NDArray[np.int64]
    oldest: NDArray[np.int64]
    stop: NDArray[np.int64]

    @classmethod
    def of(cls, views: Sequence[View], unit: Unit, size: int) -> Lie:
        """Where the samples of some views lie, each of which has one or more."""
        grids = [view.market.grid(unit, size) for view in views]
        parts = [ranks(grid.end, view.times, right=True) for grid, view in zip(grids, views, strict=True)]
        ends = np.array([(part[0], part[-1]) for part in parts], np.int64)
        return cls(grids, np.concatenate(parts), ends[:, 0], ends[:, 1])


@dataclass(frozen=True, slots=True, eq=False)
class Stack(View):
    """Views, one after another: samples of the first, then of the second, and so on.

    The grid of a stack is that of each view, one after another; `past` are rows of it. A row before the first of a
    view's own is another view's, so nothing may be read there: see `Component.stacks`.

    Attributes
    ----------
    views : one or more of one symbol, none without a sample; the market with most segments stands for all, theirs
        being the first of its
    """

    views: tuple[View, ...] = ()
    _lies: dict[tuple[str, int], Lie] = field(default_factory=dict)
    _cuts: dict[tuple[str, int, History | None, bool], tuple[Grid, NDArray[np.int64]]] = field(default_factory=dict)

    @classmethod
    def of(cls, views: Sequence[View]) -> Stack:
        """The stack of some views."""
        widest = max((view.market for view in views), key=lambda market: len(market.segments))
        return cls(widest, np.concatenate([view.times for view in views]), views=tuple(views))

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first sample of each view: int64, shape (views,)."""
        return np.cumsum([0, *(len(view.times) for view in self.views[:-1])])

    def seen(
        self, history: History | None = None, *, ahead: bool = False, given: Mapping[str, Any] | None = None
    ) -> Stack:
        return Stack(
            self.market, self.times, history, ahead, given or {}, views=self.views, _lies=self._lies, _cuts=self._cuts
        )

    def alone(self) -> list[View]:
        """Each view by itself, with the history and foresight of the stack."""
        return [view.seen(self.history, ahead=self.ahead) for view in self.views]

    def grid(self, unit: Unit, size: int, *, future: bool = False) -> Grid:
        if future and not self.ahead:
            refuse_future(unit, size)
        return self._cut(unit, size)[0]

    def past(self, unit: Unit, size: int) -> NDArray[np.int64]:
        grid, first = self._cut(unit, size)
        # A row of a market's grid is so many rows further on in the grid of the stack.
        return self._at(unit, size).past + self._of_samples(np.array(grid.starts, np.int64) - first)

    def depth(self, unit: Unit, size: int) -> NDArray[np.int64]:
        return self._at(unit, size).past - self._of_samples(self._cut(unit, size)[1])

    def reaches(self, unit: Unit, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        grid = self.grid(unit, size)
        rows = np.array([*grid.starts, len(grid)], np.int64)
        return self._of_samples(rows[:-1]), self._of_samples(rows[1:])

    def newest(self, values: NDArray[np.float64], unit: Unit, size: int, shift: int) -> NDArray[np.float64]:
        found = newest(values, self.past(unit, size), shift)
        lacking = self.depth(unit, size) <= shift
        if bool(lacking.any()):
            found[lacking] = np.nan
        return found

    @staticmethod
    def joined(parts: Sequence[Any]) -> Any:
        """What a component gave for each view, one after another."""
        if isinstance(parts[0], tuple):
            return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))
        return np.concatenate([np.asarray(part) for part in parts])

    def apart(self, found: Any) -> list[Any]:
        """What a component gave for all samples, by view."""
        edges = [*self.starts.tolist(), len(self.times)]
        if isinstance(found, tuple):
            return [tuple(values[low:high] for values in found) for low, high in pairwise(edges)]
        return [found[low:high] for low, high in pairwise(edges)]

    def _of_samples(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """One value a view as one a sample."""
        return np.repeat(values, [len(view.times) for view in self.views])

    def _at(self, unit: Unit, size: int) -> Lie:  # type: ignore[override]
        found = self._lies.get((unit, size))
        if found is None:
            found = self._lies[unit, size] = Lie.of(self.views, unit, size)
        return found

    def _cut(self, unit: Unit, size: int) -> tuple[Grid, NDArray[np.int64]]:
        """The grid of the stack, and the first row of each market's grid that is in it."""
        whole = self.ahead and self.history is None
        key = (unit, size, self.history, whole)
        found = self._cuts.get(key)
        if found is None:
            lie = self._at(unit, size)
            if self.history is None:
                first = np.zeros(len(self.views), np.int64)
            elif self.history.sessions is None:
                first = np.maximum(lie.oldest - self.history.bars, 0)
            else:
                rows = zip(lie.grids, lie.oldest.tolist(), strict=True)
                first = np.array([self.history.first_row(grid, row) for grid, row in rows], np.int64)
            stop = [len(grid) for grid in lie.grids] if whole else lie.stop.tolist()
            ranges = zip(lie.grids, first.tolist(), stop, strict=True)
            found = self._cuts[key] = stacked_grids([grid.cut(*rows) for grid, *rows in ranges]), first
        return found
