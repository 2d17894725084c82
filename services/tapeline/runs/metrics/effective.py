"""Which points count: later attempts supersede earlier ones, and of two points of a tag at one step the later counts.

Most units are told by the facts of their rows, and by the head of their bytes, to count as they lie: nothing newer
has steps of theirs. What is newer is looked at, and read, for the others alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, func, select

from tapeline.columns import Points, is_rising, least_step, unpack
from tapeline.runs.metrics import batch as batches
from tapeline.runs.metrics.tables import metric_batches, metric_segments
from tapeline.runs.metrics.units import Bounds, Unit, Wanted, bodies, chosen, facts, tail

_s = metric_segments.c


@dataclass
class Effective:
    """Which points of a unit count, for units that come newest first."""

    connection: Connection
    wanted: Wanted
    bounds: Bounds
    # The lowest step of a tag that what is newer has; the newer units themselves by their last times.
    _lows: dict[str, int] = field(default_factory=dict)
    _newer: dict[str, dict[int, Unit]] = field(default_factory=dict)
    _start: int | None = None
    _looked_up: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        start = self.wanted.before_us if self.wanted.reach_us is None else self.wanted.reach_us
        if start is None or self.wanted.attempt is not None:
            return
        # What is newer than the first unit that will come is not seen on the way.
        self._start = start
        lows = (
            chosen(select(_s.tag, _s.attempt, func.min(_s.min_step)), self._everything(self.wanted.tags))
            .where(_s.last_us >= start)
            .group_by(_s.tag, _s.attempt)
        )
        for tag, attempt, low in map(tuple, self.connection.execute(lows)):
            self._lower(tag, attempt, int(low))
        tags = None if self.wanted.tags is None else frozenset(self.wanted.tags)
        b = metric_batches.c
        rows = select(b.attempt, b.body).where(
            b.team == self.wanted.team, b.run_id == self.wanted.run, b.last_us >= start
        )
        for attempt, body in self.connection.execute(rows):
            for column in batches.decode(body).columns:
                if tags is None or column.tag in tags:
                    self._lower(column.tag, attempt, least_step(column.body))

    def counts_whole(self, unit: Unit) -> bool:
        """Whether all points of a stored unit count, told without reading them; it is seen with that."""
        if unit.given is not None:
            return False
        if self.wanted.attempt is not None:
            return True
        bound = self.bounds.get(unit.attempt)
        if bound is not None and unit.max_step > bound:
            return False
        if self._lows.get(unit.tag, unit.max_step + 1) <= unit.max_step or not is_rising(unit.packed):
            return False
        self._note(unit)
        return True

    def of(self, unit: Unit) -> Points:
        """The points of a unit that count."""
        points = unit.points
        if self.wanted.attempt is not None:
            return points
        import numpy as np

        bound = self.bounds.get(unit.attempt)
        if bound is not None and unit.max_step > bound:
            points = points.take(points.steps <= bound)
        if len(points) and self._lows.get(unit.tag, unit.max_step + 1) <= int(points.steps.max()):
            low, high = int(points.steps.min()), int(points.steps.max())
            for other in self._later(unit):
                if other.min_step <= high and other.max_step >= low:
                    points = points.take(~np.isin(points.steps, self._steps(other)))
        if len(points) > 1 and not bool((np.diff(points.steps) > 0).all()):
            # The last of each step, in the order of time.
            _, places = np.unique(points.steps[::-1], return_index=True)
            points = points.take(np.sort(len(points) - 1 - places))
        self._note(unit)
        return points

    def _everything(self, tags: Any) -> Wanted:
        return replace(self.wanted, tags=tags, attempt=None, before_us=None, reach_us=None)

    def _later(self, unit: Unit) -> list[Unit]:
        """The units of a tag that are newer than one of it."""
        if self._start is not None and unit.tag not in self._looked_up:
            self._looked_up.add(unit.tag)
            everything = self._everything([unit.tag])
            for other in (*facts(self.connection, everything, since=self._start), *tail(self.connection, everything)):
                if other.last_us >= self._start:
                    self._note(other)
        return [other for other in self._newer.get(unit.tag, {}).values() if other.last_us > unit.last_us]

    def _note(self, unit: Unit) -> None:
        bound = self.bounds.get(unit.attempt)
        if bound is not None and unit.min_step > bound:
            return
        self._lower(unit.tag, unit.attempt, unit.min_step)
        # The points themselves are read again in the rare case that they matter.
        self._newer.setdefault(unit.tag, {}).setdefault(unit.last_us, replace(unit, body=None))

    def _lower(self, tag: str, attempt: int, low: int) -> None:
        bound = self.bounds.get(attempt)
        if bound is None or low <= bound:
            self._lows[tag] = min(low, self._lows.get(tag, low))

    def _steps(self, unit: Unit) -> Any:
        """The steps of a unit that supersede older ones."""
        if unit.given is None:
            found = bodies(self.connection, self.wanted, unit.tag, _s.body, [unit.last_us])
            unit.given = unpack(found[unit.last_us])
        steps = unit.given.steps
        bound = self.bounds.get(unit.attempt)
        return steps if bound is None else steps[steps <= bound]
