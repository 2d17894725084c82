"""Curves from afar: at most so many of a tag's points, its first, its last and its extremes among them.

What comes out depends on the points and on the question alone. A long curve is drawn from the extremes that
segments keep of each 64 points; a short one, and whatever is cut by a range, by supersession or by points that
were measured twice, from the points themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from tapeline.columns import Points, joined, points_of, unpack
from tapeline.contracts.metrics import ReadSeries, SeriesView, packed_text
from tapeline.metric_archives import Files
from tapeline.runs.metrics.tables import metric_segments
from tapeline.runs.metrics.thin import STRETCH, extremes, thinned
from tapeline.runs.metrics.units import Bounds, Unit, Wanted, bodies, bounds, facts, tail

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def series(connection: Connection, team: str, run_id: str, query: ReadSeries, files: Files | None = None) -> SeriesView:
    """The curve of a tag."""
    wanted = Wanted(team=team, run=run_id, tags=[query.tag], attempt=query.attempt, files=files)
    limits: Bounds = bounds(connection, team, run_id) if query.attempt is None else {}
    units = [unit for unit in (*facts(connection, wanted), *tail(connection, wanted)) if _is_in(unit, query, limits)]
    units.sort(key=lambda unit: unit.last_us)
    curve = _Curve(connection, wanted, query, limits, units)
    # Fewer extremes than are asked for would show less than there is to see.
    from_afar = sum(unit.count for unit in units) > query.points * STRETCH and curve.is_in_order
    chosen, count, nonfinite = curve.thin() if from_afar else curve.whole()
    exact = not from_afar and count <= query.points
    if not exact:
        chosen = _reduced(chosen, query.points)
    return SeriesView(tag=query.tag, exact=exact, count=count, nonfinite=nonfinite, body=packed_text(chosen))


def _reduced(points: Points, most: int) -> Points:
    import numpy as np

    count = len(points)
    if count <= most:
        return points
    if most < 4:
        return points.take(np.array([0, count - 1]))
    stretch = -(-count // ((most - 2) // 2))
    places = np.unique(np.concatenate([[0, count - 1], extremes(points, stretch)]))
    return points.take(places)


def _is_in(unit: Unit, query: ReadSeries, limits: Bounds) -> bool:
    """Whether some of a unit's points may be on the curve."""
    bound = limits.get(unit.attempt)
    if bound is not None and unit.min_step > bound:
        return False
    low, high = (unit.min_step, unit.max_step) if query.x == "step" else (unit.first_us, unit.last_us)
    return (query.start is None or high >= query.start) and (query.stop is None or low < query.stop)


class _Curve:
    def __init__(
        self, connection: Connection, wanted: Wanted, query: ReadSeries, limits: Bounds, units: Sequence[Unit]
    ) -> None:
        self._connection = connection
        self._wanted = wanted
        self._query = query
        self._limits = limits
        self._units = units

    @property
    def is_in_order(self) -> bool:
        """Whether no two units share steps, so that no point of one is measured again in another."""
        return all(a.max_step < b.min_step for a, b in zip(self._units, self._units[1:], strict=False))

    def whole(self) -> tuple[Points, int, int]:
        """Every point of the curve by x, how many, and how many of them are not finite."""
        self._read(self._units, metric_segments.c.body)
        points = self._counted(joined(self._cut(unit) for unit in self._units))
        points = points.take(self._order(points))
        return points, len(points), len(points) - int(points.finite().sum())

    def thin(self) -> tuple[Points, int, int]:
        """The extremes of each stretch, with the first and the last point; counts are of all points."""
        cut = [unit for unit in self._units if self._is_cut(unit)]
        ends = [self._units[0], self._units[-1]]
        uncut = [unit for unit in self._units if not self._is_cut(unit) and unit.given is None]
        self._read([*cut, *ends], metric_segments.c.body)
        found = bodies(
            self._connection, self._wanted, self._query.tag, metric_segments.c.thin, {unit.last_us for unit in uncut}
        )
        short = [unit for unit in uncut if found.get(unit.last_us) is None]
        self._read(short, metric_segments.c.body)
        lots, count, nonfinite = [], 0, 0
        for place, unit in enumerate(self._units):
            body = found.get(unit.last_us)
            is_whole = not self._is_cut(unit)
            if is_whole and body is not None:
                lot, n, bad = unpack(body), unit.count, unit.nonfinite
                ends_here = [unit.points.take(slice(0, 1))] if place == 0 else []
                ends_here += [unit.points.take(slice(-1, None))] if place == len(self._units) - 1 else []
                lot = joined([lot, *ends_here])
            else:
                points = self._counted(self._cut(unit))
                lot, n, bad = thinned(points), len(points), len(points) - int(points.finite().sum())
                lot = joined([points.take(slice(0, 1)), lot, points.take(slice(-1, None))])
            lots.append(lot)
            count, nonfinite = count + n, nonfinite + bad
        points = joined(lots)
        points = points.take(self._order(points))
        return _once(points), count, nonfinite

    def _counted(self, points: Points) -> Points:
        """The last point of each step, unless every one is asked for."""
        if self._query.attempt is not None or not len(points):
            return points
        import numpy as np

        _, places = np.unique(points.steps[::-1], return_index=True)
        return points.take(np.sort(len(points) - 1 - places))

    def _order(self, points: Points) -> NDArray[np.intp]:
        import numpy as np

        if self._query.x == "time":
            return np.argsort(points.times, kind="stable")
        return np.lexsort((points.times, points.steps))

    def _is_cut(self, unit: Unit) -> bool:
        """Whether only a part of a unit is on the curve."""
        bound, query = self._limits.get(unit.attempt), self._query
        if bound is not None and unit.max_step > bound:
            return True
        low, high = (unit.min_step, unit.max_step) if query.x == "step" else (unit.first_us, unit.last_us)
        return (query.start is not None and low < query.start) or (query.stop is not None and high >= query.stop)

    def _cut(self, unit: Unit) -> Points:
        points, query = unit.points, self._query
        if not self._is_cut(unit):
            return points
        import numpy as np

        x = points.steps if query.x == "step" else points.times
        kept = np.ones(len(points), bool)
        if (bound := self._limits.get(unit.attempt)) is not None:
            kept &= points.steps <= bound
        if query.start is not None:
            kept &= x >= query.start
        if query.stop is not None:
            kept &= x < query.stop
        return points.take(kept)

    def _read(self, units: Sequence[Unit], column: object) -> None:
        """Give units their points."""
        missing = [unit for unit in units if unit.given is None and unit.body is None]
        found = bodies(
            self._connection, self._wanted, self._query.tag, column, {unit.last_us for unit in missing}
        )  # fmt: skip
        for unit in missing:
            unit.body = found[unit.last_us]


def _once(points: Points) -> Points:
    """Points without those that come twice; they are in order, and times never come twice."""
    import numpy as np

    if not len(points):
        return points_of([], [], [])
    kept = np.ones(len(points), bool)
    kept[1:] = points.times[1:] != points.times[:-1]
    return points.take(kept)
