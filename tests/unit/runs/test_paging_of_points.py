"""Pages of points: whatever their size, however many are asked for at once, they give what a plain fold gives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, insert

from tapeline.columns import Points, is_rising, least_step, pack, points_of, unpack
from tapeline.contracts.metrics import ColumnsView, ReadColumns
from tapeline.contracts.runs import ListMetrics
from tapeline.runs.metrics import batch as batches
from tapeline.runs.metrics import queries
from tapeline.runs.metrics.projection import LONGEST
from tapeline.runs.metrics.tables import METADATA, metric_batches, metric_segments
from tapeline.runs.metrics.thin import STRETCH, thinned
from tapeline.runs.run.tables import METADATA as RUNS
from tapeline.runs.run.tables import attempts
from tapeline.sdk import measured

START_US = 1_750_000_000_000_000
Row = tuple[str, int, int, int, float]
"""Tag, attempt, step, time and value of a point."""


class Stored:
    """A run's points as the tables hold them, some as segments, the newest perhaps as batches."""

    def __init__(self, connection: Connection, seed: int) -> None:
        self.connection = connection
        self.rows: list[Row] = []
        self.bounds: dict[int, int] = {}
        self._dice = random.Random(seed)
        self._now = START_US
        # What a test would otherwise need megabytes for.
        queries.PAGE_BYTES = self._dice.choice([1, 700, 5_000, 40_000])
        queries.AHEAD = self._dice.choice([1, 2, 32])
        self._fill()

    def _fill(self) -> None:
        dice, step = self._dice, 0
        for attempt in range(1, dice.randrange(1, 5) + 1):
            start = None if attempt == 1 else dice.randrange(-1, max(step, 1) + 20)
            self.connection.execute(
                insert(attempts), [{"team": "t", "run_id": "r", "attempt": attempt, "from_step": start}]
            )
            if start is not None:
                step = start + 1
                self.bounds = {one: min(start, self.bounds.get(one, start)) for one in range(1, attempt)}
            for place in range(dice.randrange(0, 6)):
                length = dice.choice([1, 3, 40, 2 * STRETCH + 1, 300])
                for tag in dice.sample("abc", dice.randrange(1, 4)):
                    # Most go on; some measure steps again, or one step twice.
                    begin = max(0, step - dice.choice([0, 0, 0, 5, 200]))
                    slow = dice.choice([1, 1, 1, 2])
                    steps = [begin + i // slow for i in range(length)]
                    self._put(tag, attempt, steps, is_tail=dice.random() < 0.2 and place > 2)
                step += length

    def _put(self, tag: str, attempt: int, steps: list[int], *, is_tail: bool) -> None:
        times = [self._now + 3 * i + self._dice.randrange(3) for i in range(len(steps))]
        values = [self._dice.choice([0.5, float("inf"), self._dice.random()]) for _ in steps]
        self._now = times[-1] + 1
        self.rows += [
            (tag, attempt, step, at, value) for step, at, value in zip(steps, times, values, strict=True)
        ]  # fmt: skip
        points = points_of(steps, times, values)
        of = {"team": "t", "run_id": "r", "attempt": attempt, "first_us": times[0], "last_us": times[-1]}
        if is_tail:
            body = batches.encode(
                batches.Batch(
                    run="r", attempt=attempt, batch=1, epoch=1, last_us=0, columns=[batches.Column(tag, pack(points))]
                )
            )
            self.connection.execute(insert(metric_batches), [of | {"batch": len(self.rows), "body": body}])
            return
        assert len(points) <= LONGEST
        ascends = all(a < b for a, b in pairwise(steps))
        row = {
            "tag": tag, "points": len(points), "min_step": min(steps), "max_step": max(steps),
            "nonfinite": len(points) - int(points.finite().sum()), "body": pack(points),
            "thin": pack(thinned(points)) if ascends and len(points) > 2 * STRETCH else None,
        }  # fmt: skip
        self.connection.execute(insert(metric_segments), [of | row])

    def counting(self, tags: list[str] | None, attempt: int | str | None, before: int | None) -> set[Row]:
        """The points that count, told one by one."""
        chosen = [row for row in self.rows if tags is None or row[0] in tags]
        if attempt is None:
            chosen = [row for row in chosen if row[2] <= self.bounds.get(row[1], row[2])]
            # Later ones come later in the list.
            chosen = list({(tag, step): (tag, of, step, at, value) for tag, of, step, at, value in chosen}.values())
        elif attempt != "all":
            chosen = [row for row in chosen if row[1] == attempt]
        return {row for row in chosen if before is None or row[3] < before}


@contextmanager
def stored(seed: int) -> Iterator[Stored]:
    kept = queries.PAGE_BYTES, queries.AHEAD
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            METADATA.create_all(connection)
            RUNS.create_all(connection)
            yield Stored(connection, seed)
    finally:
        queries.PAGE_BYTES, queries.AHEAD = kept
        engine.dispose()


class Service:
    """What a run of the SDK asks, answered from the tables; counts what it was asked."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.pages = 0

    def query(self, service: str, verb: str, *, run: str, **fields: Any) -> Any:
        assert (service, verb) == ("runs", "columns")
        self.pages += 1
        return page(self.connection, **fields).model_dump()


def page(connection: Connection, **fields: Any) -> ColumnsView:
    return queries.columns(connection, "t", "r", ReadColumns(run="r", **fields))


class Here:
    """Asks at once instead of in threads: a connection in memory belongs to one."""

    def __init__(self, _most: int) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Any, *args: Any) -> Any:
        from concurrent.futures import Future

        made: Future[Any] = Future()
        made.set_result(work(*args))
        return made


def told(chunks: Any) -> list[Row]:
    found: list[Row] = []
    for tag, attempt, points in chunks:
        columns = zip(points.steps.tolist(), points.times.tolist(), points.values(), strict=True)
        found += [(tag, attempt, *each) for each in columns]
    return found


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6),
    st.sampled_from([None, ["a"], ["a", "c"]]),
    st.sampled_from([None, None, "all", 1, 2]),
    st.sampled_from([None, None, 200, 900]),
)
def test_pages_of_any_size_give_what_counts_once_and_newest_first(
    seed: int, tags: list[str] | None, attempt: int | str | None, early: int | None
) -> None:
    with stored(seed) as run, pytest.MonkeyPatch.context() as patch:
        before = None if early is None else START_US + early
        fields: dict[str, Any] = {"tags": tags, "attempt": attempt}
        if before is not None:
            fields["created_before"] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=before)
        wanted = run.counting(tags, attempt, before)
        # One page after the other, as any client may ask.
        one_by_one: list[Row] = []
        reach = edge = None
        while True:
            view = page(run.connection, reach=reach, before=edge, **fields)
            one_by_one += told((each.tag, each.attempt, _points(each.body)) for each in view.chunks)
            reach, edge = view.next, view.before
            if reach is None:
                break
        assert len(one_by_one) == len(set(one_by_one))
        assert set(one_by_one) == wanted
        # Several at once, as the SDK asks.
        patch.setattr(measured, "ThreadPoolExecutor", Here)
        patch.setattr(measured.Measured, "_client", lambda _: Service(run.connection))
        lots = list(measured.Measured(id="r")._pages("r", **fields))
        assert told(lot[:3] for lot in lots) == one_by_one
        for place, (_, _, points, reach) in enumerate(lots):
            # Where a page says so, what is to come is older.
            later = [int(lot[2].times.max()) for lot in lots[place + 1 :]]
            assert reach is None or not len(points) or max(later, default=0) < reach


class Growing:
    """A run that goes on while it is read: batches come, and become segments."""

    def __init__(self, connection: Connection, dice: random.Random) -> None:
        self.connection = connection
        self.rows: list[Row] = []
        self._dice = dice
        self._now = START_US
        self._step = 0
        self._waiting: dict[int, list[dict[str, list[tuple[int, int, float]]]]] = {1: [], 2: []}

    def grow(self, *, is_late: bool) -> None:
        """One more batch, of the second attempt or, late, of the first; perhaps one that makes segments."""
        dice = self._dice
        attempt = 1 if is_late else 2
        made: dict[str, list[tuple[int, int, float]]] = {}
        for _ in range(dice.choice([1, 4, 30])):
            self._step += 1
            for tag in dice.sample("abcdef", dice.randrange(1, 7)):
                self._now += dice.randrange(1, 4)
                made.setdefault(tag, []).append((self._step, self._now, dice.random()))
        waiting = self._waiting[attempt]
        waiting.append(made)
        self.rows += [(tag, attempt, *point) for tag, many in made.items() for point in many]
        of = {"team": "t", "run_id": "r", "attempt": attempt}
        b = metric_batches.c
        if dice.random() < 0.8:
            columns = [batches.Column(tag, pack(points_of(*zip(*many, strict=True)))) for tag, many in made.items()]
            body = batches.encode(batches.Batch(run="r", attempt=attempt, batch=1, epoch=1, last_us=0, columns=columns))
            times = [at for many in made.values() for _, at, _ in many]
            row = of | {"batch": len(self.rows), "first_us": min(times), "last_us": max(times), "body": body}
            self.connection.execute(insert(metric_batches), [row])
            return
        self.connection.execute(metric_batches.delete().where(b.attempt == attempt))
        for tag in sorted({tag for each in waiting for tag in each}):
            many = [point for each in waiting for point in each.get(tag, [])]
            steps = [step for step, _, _ in many]
            row = of | {
                "tag": tag, "first_us": many[0][1], "last_us": many[-1][1], "points": len(many),
                "min_step": min(steps), "max_step": max(steps), "nonfinite": 0,
                "body": pack(points_of(*zip(*many, strict=True))), "thin": None,
            }  # fmt: skip
            self.connection.execute(insert(metric_segments), [row])
        waiting.clear()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([None, ["a"], ["b", "d"]]), st.booleans())
def test_each_point_comes_once_while_a_run_goes_on(seed: int, tags: list[str] | None, is_late: bool) -> None:
    """Batches become segments between two pages; where attempts overlap, nothing goes on meanwhile."""
    dice = random.Random(seed)
    with stored(0) as run:
        for table in (metric_batches, metric_segments, attempts):
            run.connection.execute(table.delete())
        growing = Growing(run.connection, dice)
        first, second = dice.randrange(0, 6), dice.randrange(1, 10)
        for place in range(first + second):
            growing.grow(is_late=dice.random() < 0.3 if is_late else place < first)
        queries.PAGE_BYTES = dice.choice([1, 400, 2_000])
        wanted = {row for row in growing.rows if tags is None or row[0] in tags}
        found: list[Row] = []
        reach = edge = None
        for _ in range(3000):
            view = page(run.connection, tags=tags, reach=reach, before=edge)
            found += told((each.tag, each.attempt, _points(each.body)) for each in view.chunks)
            reach, edge = view.next, view.before
            if reach is None:
                break
            if not is_late and dice.random() < 0.6:
                growing.grow(is_late=False)
        assert reach is None
        assert wanted <= set(found)
        assert len(found) == len(set(found))


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6),
    st.sampled_from([None, ["a"], ["a", "c"]]),
    st.sampled_from([None, None, "all", 1, 2]),
    st.sampled_from([None, None, 200, 900]),
    st.integers(1, 400),
)
def test_the_newest_points_are_the_newest_of_those_that_count(
    seed: int, tags: list[str] | None, attempt: int | str | None, early: int | None, limit: int
) -> None:
    with stored(seed) as run:
        before = None if early is None else START_US + early
        fields: dict[str, Any] = {"tags": tags, "attempt": attempt, "limit": limit}
        if before is not None:
            fields["created_before"] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=before)
        found = queries.points(run.connection, "t", "r", ListMetrics(run="r", **fields))
        wanted = sorted(run.counting(tags, attempt, before), key=lambda row: -row[3])[:limit]
        assert [(each.tag, each.job_id, each.global_step, float(each.value)) for each in found] == [
            (tag, f"r.{of}", step, value) for tag, of, step, _, value in wanted
        ]


def _points(body: str) -> Points:
    import base64

    return unpack(base64.b64decode(body))


def test_segments_go_out_as_the_bytes_that_they_are_stored_as(monkeypatch: pytest.MonkeyPatch) -> None:
    with stored(0) as run:
        for table in (metric_batches, metric_segments, attempts):
            run.connection.execute(table.delete())
        for start in range(0, 2000, 200):
            run._put("a", 1, list(range(start, start + 200)), is_tail=False)
        queries.PAGE_BYTES = 5_000
        monkeypatch.setattr("tapeline.runs.metrics.units.unpack", None)
        reach: int | None = None
        pages = 0
        while True:
            view = page(run.connection, reach=reach, tags=["a"])
            reach, pages = view.next, pages + 1
            if reach is None:
                break
        assert pages > 2


@given(st.lists(st.integers(0, 2**53), min_size=1, max_size=9))
def test_the_head_of_a_column_tells_its_least_step_and_whether_they_rise(steps: list[int]) -> None:
    for given_steps in (steps, sorted(steps), sorted(set(steps))):
        body = pack(points_of(given_steps, range(len(given_steps)), [0.5] * len(given_steps)))
        assert least_step(body) == min(given_steps)
        assert is_rising(body) == all(a < b for a, b in pairwise(given_steps))
