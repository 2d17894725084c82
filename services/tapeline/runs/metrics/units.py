"""What the tables hold of a run's points, newest first: segments, and the columns of batches not yet compacted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, func, select

from tapeline.columns import Points, unpack
from tapeline.metric_archives import Files
from tapeline.runs.metrics import batch as batches
from tapeline.runs.metrics.tables import metric_attempts, metric_batches, metric_segments
from tapeline.runs.run.tables import attempts

FIRST, MOST = 4, 256
"""Segments that are read at once: few at first, as a few large ones fill a page."""
AT_ONCE = 32
Bounds = dict[int, int]
"""Per attempt the last step that is effective; an attempt that is not in it is not superseded."""

_FACTS = [
    metric_segments.c[name]
    for name in ("tag", "attempt", "first_us", "last_us", "points", "min_step", "max_step", "nonfinite")
]
_s = metric_segments.c
_BODY = [_s.body, _s.object, _s.place, _s.size_bytes, _s.digest]
"""The points of a segment, or where they lie."""


@dataclass
class Unit:
    """Some points of one tag of one attempt, in the order of their times.

    Attributes
    ----------
    body, where : its points as they are stored, or where they lie; neither for a unit of a batch, which is `given`
    batch_us : the first time of the batch that it is part of
    """

    tag: str
    attempt: int
    first_us: int
    last_us: int
    count: int
    min_step: int
    max_step: int
    nonfinite: int = 0
    body: bytes | None = None
    given: Points | None = None
    where: tuple[str, int, int, bytes] | None = None
    files: Files | None = None
    batch_us: int | None = None

    @cached_property
    def points(self) -> Points:
        if self.given is not None:
            return self.given
        return unpack(self.packed)

    @property
    def packed(self) -> bytes:
        """Its points as they are stored."""
        if self.body is None and self.where is not None:
            self.body = _archived(self.files, *self.where)
        if self.body is None:
            raise LookupError("this unit was read without its points")
        return self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which points of a run are asked for.

    Attributes
    ----------
    attempt : one attempt's raw points, those of all with `"all"`, the effective ones with None
    before_us : only points of an earlier time
    reach_us : only units whose last time is earlier: where the page before ended
    until_us : only units whose last time is not earlier: where the page after begins
    files : the objects that hold archived points
    """

    team: str
    run: str
    tags: Sequence[str] | None = None
    attempt: int | str | None = None
    before_us: int | None = None
    reach_us: int | None = None
    until_us: int | None = None
    files: Files | None = None


def bounds(connection: Connection, team: str, run_id: str) -> Bounds:
    """How far each attempt's points are effective: later attempts supersede what lies beyond their start."""
    statement = select(attempts.c.attempt, attempts.c.from_step).where(
        attempts.c.team == team, attempts.c.run_id == run_id
    )
    starts = [(row.attempt, row.from_step) for row in connection.execute(statement) if row.from_step is not None]
    if not starts:
        return {}
    return {
        attempt: min(step for later, step in starts if later > attempt)
        for attempt in range(1, max(later for later, _ in starts))
        if any(later > attempt for later, _ in starts)
    }


def tail(connection: Connection, wanted: Wanted) -> list[Unit]:
    """The units of batches that no segment holds yet, newest first."""
    b = metric_batches.c
    statement = select(b.attempt, b.first_us, b.body).where(b.team == wanted.team, b.run_id == wanted.run)
    if isinstance(wanted.attempt, int):
        statement = statement.where(b.attempt == wanted.attempt)
    if wanted.before_us is not None:
        statement = statement.where(b.first_us < wanted.before_us)
    if wanted.reach_us is not None:
        statement = statement.where(b.first_us < wanted.reach_us)
    if wanted.until_us is not None:
        statement = statement.where(b.last_us >= wanted.until_us)
    tags = None if wanted.tags is None else frozenset(wanted.tags)
    found = []
    for row in connection.execute(statement):
        for column in batches.decode(row.body).columns:
            if tags is None or column.tag in tags:
                points = batches.in_time(column.points())
                found.append(_unit(column.tag, row.attempt, points, row.first_us))
    if wanted.reach_us is not None:
        found = [unit for unit in found if unit.last_us < wanted.reach_us]
    return sorted(found, key=lambda unit: -unit.last_us)


def _unit(tag: str, attempt: int, points: Points, batch_us: int) -> Unit:
    return Unit(
        tag, attempt, int(points.times[0]), int(points.times[-1]), len(points), int(points.steps.min()),
        int(points.steps.max()), len(points) - int(points.finite().sum()), given=points, batch_us=batch_us,
    )  # fmt: skip


def _stored(row: Any, wanted: Wanted) -> Unit:
    """The unit of a row of `_FACTS` and `_BODY`."""
    unit = Unit(*row[: len(_FACTS) + 1])
    if unit.body is None:
        unit.where, unit.files = tuple(row[len(_FACTS) + 1 :]), wanted.files
    return unit


def _archived(files: Files | None, sha256: str, place: int, size_bytes: int, digest: bytes) -> bytes:
    if files is None:
        raise LookupError("these points are archived, and nobody gave the objects that hold them")
    return files.body(sha256, place, size_bytes, digest)


def facts(connection: Connection, wanted: Wanted, since: int | None = None) -> list[Unit]:
    """The segments of a run, or those that end at `since` or later, without their points, oldest first."""
    statement = chosen(select(*_FACTS), wanted).order_by(_s.last_us)
    if since is not None:
        statement = statement.where(_s.last_us >= since)
    return [Unit(*row) for row in connection.execute(statement)]


def bodies(connection: Connection, wanted: Wanted, tag: str, column: Any, last: Collection[int]) -> dict[int, bytes]:
    """One column of bytes of some segments of a tag, by their last times."""
    found: dict[int, Any] = {}
    times = sorted(last)
    chosen = _BODY if column is _s.body else [column]
    for start in range(0, len(times), 500):
        statement = select(_s.last_us, *chosen).where(
            _s.team == wanted.team, _s.run_id == wanted.run, _s.tag == tag,
            _s.last_us.in_(times[start : start + 500]),
        )  # fmt: skip
        rows: Any = connection.execute(statement)
        for last_us, value, *where in rows:
            is_archived = value is None and column is _s.body
            found[last_us] = _archived(wanted.files, *where) if is_archived else value
    return found


def walk(connection: Connection, wanted: Wanted) -> Iterator[Unit]:
    """The units of a run with their points, by their last times, newest first."""
    waiting = tail(connection, wanted)[::-1]
    for segment in _segments(connection, wanted):
        while waiting and waiting[-1].last_us > segment.last_us:
            yield waiting.pop()
        yield segment
    yield from reversed(waiting)


def _segments(connection: Connection, wanted: Wanted) -> Iterator[Unit]:
    before, reach = wanted.before_us, wanted.reach_us
    if before is not None and (reach is None or reach > before):
        yield from _straddling(connection, wanted, before)
        reach = before
    statement = chosen(select(*_FACTS, *_BODY), wanted).order_by(_s.last_us.desc())
    if wanted.until_us is not None:
        statement = statement.where(_s.last_us >= wanted.until_us)
    size = FIRST
    while True:
        page = statement if reach is None else statement.where(_s.last_us < reach)
        rows = connection.execute(page.limit(size)).all()
        for row in rows:
            yield _stored(row, wanted)
        if len(rows) < size:
            return
        reach, size = int(rows[-1].last_us), min(2 * size, MOST)


def _straddling(connection: Connection, wanted: Wanted, before: int) -> list[Unit]:
    """The segments that a moment lies within: of each tag one, or one an attempt where attempts overlap."""
    statement = chosen(select(*_FACTS, *_BODY), wanted).where(_s.last_us >= before)
    if wanted.reach_us is not None:
        statement = statement.where(_s.last_us < wanted.reach_us)
    found: list[Unit] = []
    if wanted.tags is not None and len(wanted.tags) <= AT_ONCE:
        m = metric_attempts.c
        most = connection.scalar(
            select(func.count()).where(m.team == wanted.team, m.run_id == wanted.run)
        )  # fmt: skip
        for tag in dict.fromkeys(wanted.tags):
            one = statement.where(_s.tag == tag).order_by(_s.last_us).limit((most or 0) + 1)
            found += [unit for row in connection.execute(one) if (unit := _stored(row, wanted)).first_us < before]
    else:
        found = [_stored(row, wanted) for row in connection.execute(statement.where(_s.first_us < before))]
    return sorted(found, key=lambda unit: -unit.last_us)


def chosen(statement: Any, wanted: Wanted) -> Any:
    """A statement for the segments of a run, of some tags and of one attempt where that is wanted."""
    statement = statement.where(_s.team == wanted.team, _s.run_id == wanted.run)
    if wanted.tags is not None:
        tags = list(dict.fromkeys(wanted.tags))
        # One tag is read in the order of the key.
        statement = statement.where(_s.tag == tags[0] if len(tags) == 1 else _s.tag.in_(tags))
    if isinstance(wanted.attempt, int):
        statement = statement.where(_s.attempt == wanted.attempt)
    return statement
