"""What an adapter answers about the past knows nothing of the future, and the other way round."""

from __future__ import annotations

import math
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tapeline.bars import reference
from tapeline.tape.adapter import TapeAdapter
from tapeline.tape.lookups import Lookups
from tapeline.tape.seen import Seen
from tapeline.tape.windows import Wish

EXAMPLES = int(os.environ.get("TAPELINE_EXAMPLES", "12"))
SECOND = 1_000_000_000
SEEDS = st.integers(0, 2**32 - 1)

WISHES: list[dict[str, Any]] = [
    {"unit": "tick", "size": 3},
    {"unit": "tick", "size": 3, "cross_session": False},
    {"unit": "tick", "size": 2, "strict_time": True},
    {"unit": "sec", "size": 30},
    {"unit": "sec", "size": 30, "partial": "truncate"},
    {"unit": "sec", "size": 7, "partial": "truncate", "empty": "nan"},
    {"unit": "min", "size": 1, "empty": "skip"},
    {"unit": "min", "size": 2, "empty": "skip", "partial": "truncate"},
    {"unit": "min", "size": 1, "partial": "truncate", "strict_time": True},
    {"unit": "hour", "size": 1, "partial": "truncate"},
    {"unit": "day", "size": 1},
    {"unit": "day", "size": 2, "partial": "truncate"},
    {"unit": "volume", "size": 900},
    {"unit": "volume", "size": 900, "partial": "truncate"},
    {"unit": "dollar", "size": 20_000, "partial": "truncate", "strict_time": True},
    {"unit": "sec", "size": 20, "align": "index"},
    {"unit": "min", "size": 1, "align": "index", "empty": "nan"},
    {"unit": "min", "size": 1, "align": "index", "cross_session": False},
]
WISH = st.sampled_from(WISHES)
COUNT = 4


def adapter(case: Any) -> TapeAdapter:
    return TapeAdapter(case.opened(), "X", case.view)


def equal(a: Any, b: Any) -> bool:
    """Bars and companions equal to the bit, except that any NaN equals any NaN."""
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True))


def past_is_causal(cases: SimpleNamespace, seed: int, wish: dict[str, Any]) -> bool:
    """Whether a past answer stays as it is when everything from the index on changes."""
    case = cases.random(seed)
    index = int(np.random.default_rng(seed).integers(0, len(case.shown())))
    found = [
        adapter(version).get_bars(index, COUNT, **wish, companions=True)
        for version in (case, cases.other_future(case, index, seed + 1))
    ]
    return equal(*found)


@settings(max_examples=EXAMPLES * 3, deadline=None)
@given(seed=SEEDS, wish=WISH)
def test_the_future_cannot_be_seen(cases: SimpleNamespace, seed: int, wish: dict[str, Any]) -> None:
    assert past_is_causal(cases, seed, wish)


@pytest.mark.parametrize("mutant", ["one trade too many", "the whole running bar"])
def test_a_leaky_adapter_is_found_out(cases: SimpleNamespace, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    windows, before = Lookups.windows, Seen.before
    if mutant == "one trade too many":
        monkeypatch.setattr(Seen, "before", lambda self, i, w: np.minimum(before(self, i, w) + 1, len(self)))
    else:

        def whole(self: Lookups, index: Any, wish: Wish, out: Any = None) -> Any:
            return windows(
                self, index, type(wish)(**{k: getattr(wish, k) for k in wish.__slots__} | {"whole": True}), out
            )

        monkeypatch.setattr(Lookups, "windows", whole)
    wish = {"unit": "min", "size": 1, "partial": "truncate"}
    assert not all(past_is_causal(cases, seed, wish) for seed in range(25))


def naive(case: Any, index: int, wish: dict[str, Any]) -> NDArray[np.float64]:
    """The past bars of a reader who has seen the trades before the index, one by one, and the clock."""
    shown = case.shown()
    now = int(shown.ts[index])
    stop = index
    while wish.get("strict_time") and stop and shown.ts[stop - 1] == now:
        stop -= 1
    unit, size = wish["unit"], wish["size"]
    empty, rows = wish.get("empty", "carry"), []
    regular = case.view == "regular"
    segments = [
        (row.trade_date, row.open_ns, row.close_ns) if regular else (row.trade_date, row.pre_open_ns, row.post_close_ns)
        for row in case.sessions
    ]
    if not regular:  # one segment a date, from before the first open to after the last close
        dates = sorted({day for day, *_ in segments})
        segments = [
            (d, min(a for day, a, _ in segments if day == d), max(b for day, _, b in segments if day == d))
            for d in dates
        ]
    ends = {day: high for day, _, high in segments}
    date_of = [next(day for day, high in ends.items() if t < high) for t in shown.ts]
    segments = [row for row in segments if row[0] >= date_of[0]]

    def bar(low: int, high: int) -> NDArray[np.float64]:
        row = np.empty((1, 8))
        lasts = [float(shown.price[i]) for i in range(low) if shown.flags[i] & 2]
        carry = np.array([lasts[-1] if lasts else math.nan])
        edges = np.array([[low, high]], np.int64)
        fill = empty != "nan"
        args = (shown.price, shown.volume, shown.flags, edges, carry, fill, row, np.zeros(2, np.int64))
        assert reference.running_bars(*args) == 0
        return row[0]

    def between(low_ns: int, high_ns: int, most: int) -> tuple[int, int]:
        inside = [i for i in range(most) if low_ns <= shown.ts[i] < high_ns]
        if inside:
            return inside[0], inside[-1] + 1
        first = sum(1 for i in range(most) if shown.ts[i] < low_ns)
        return first, first

    if unit == "tick":
        group: list[int] = []
        for i in range(stop - 1, -1, -1):
            if wish.get("cross_session") is False and group and date_of[group[0]] != date_of[i]:
                group = []
            group.insert(0, i)
            if len(group) == size:
                rows.insert(0, bar(group[0], i + size))
                group = []
    elif unit in ("volume", "dollar"):
        for day in dict.fromkeys(date_of):
            first, total = None, 0.0
            mine = [i for i in range(stop) if date_of[i] == day]
            for i in mine:
                first = i if first is None else first
                if shown.flags[i] & 4:
                    total += float(shown.volume[i]) * (float(shown.price[i]) if unit == "dollar" else 1.0)
                if total >= size:
                    rows.append(bar(first, i + 1))
                    first, total = None, 0.0
            if day == date_of[index]:
                if wish.get("partial") == "truncate":
                    rows.append(bar(stop if first is None else first, stop))
                break
            if first is not None:
                rows.append(bar(first, mine[-1] + 1))
    else:
        spans: list[tuple[int, int]] = []
        if unit == "day":
            dates = list(dict.fromkeys(day for day, *_ in segments))
            for k in range(0, len(dates), size):
                block = [row for row in segments if row[0] in dates[k : k + size]]
                spans.append((block[0][1], block[-1][2] if k + size <= len(dates) else 2**62))
        else:
            width = size * {"sec": SECOND, "min": 60 * SECOND, "hour": 3600 * SECOND}[unit]
            spans = [(at, min(at + width, high)) for _, low, high in segments for at in range(low, high, width)]
        for low_ns, high_ns in spans:
            if high_ns <= now or (low_ns <= now and wish.get("partial") == "truncate"):
                rows.append(bar(*between(low_ns, high_ns, stop)))
        if empty == "skip":
            rows = [row for row in rows if row[4] > 0]
    nothing = np.array([math.nan] * 4 + [0.0] * 4)
    return np.stack([*[nothing] * COUNT, *rows][-COUNT:])


@settings(max_examples=EXAMPLES * 3, deadline=None)
@given(seed=SEEDS, wish=st.sampled_from([w for w in WISHES if "align" not in w]))
def test_the_past_is_what_a_reader_of_one_trade_at_a_time_knows(
    cases: SimpleNamespace, seed: int, wish: dict[str, Any]
) -> None:
    case = cases.random(seed)
    if case.view == "all":  # a trade outside of hours hands its price on only at a date's end; see below
        case = type(case)(case.sessions, case.trades, "extended")
        if len(case.shown()) < 2:
            return
    index = int(np.random.default_rng(seed).integers(0, len(case.shown())))
    assert equal([adapter(case).get_bars(index, COUNT, **wish)], [naive(case, index, wish)])


@settings(max_examples=EXAMPLES * 2, deadline=None)
@given(seed=SEEDS, wish=WISH)
def test_a_tape_that_ends_at_the_index_gives_the_same_past(
    cases: SimpleNamespace, seed: int, wish: dict[str, Any]
) -> None:
    case = cases.random(seed)
    index = int(np.random.default_rng(seed).integers(0, len(case.shown())))
    cut = cases.cut_after(case, index)
    found = [adapter(version).get_bars(index, COUNT, **wish, companions=True) for version in (case, cut)]
    assert equal(*found)


@settings(max_examples=EXAMPLES * 3, deadline=None)
@given(seed=SEEDS, wish=WISH)
def test_the_past_enters_labels_only_as_carried_prices(cases: SimpleNamespace, seed: int, wish: dict[str, Any]) -> None:
    case = cases.random(seed)
    index = int(np.random.default_rng(seed).integers(0, len(case.shown())))
    pair = [case, cases.other_past(case, index, seed)]
    a, b = (adapter(version).get_bars(index, COUNT, **wish, future=True, companions=True) for version in pair)
    assert equal(a[1:], b[1:])
    assert np.array_equal(a.bars[:, 4:], b.bars[:, 4:])
    # Prices may differ only in bars that no trade gave an open: from the first such to the first that did.
    shown = case.shown()
    for row, start, end in zip(range(COUNT), a.start_ts, a.end_ts, strict=True):
        if np.array_equal(a.bars[row], b.bars[row], equal_nan=True):
            continue
        closed = (shown.ts >= start) & (shown.ts <= end) & (np.arange(len(shown)) >= index) & (shown.flags & 2 > 0)
        assert not closed[shown.ts < end].any() or wish["unit"] in ("tick", "volume", "dollar")


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, size=st.integers(1, 6))
def test_one_group_of_ticks_before_and_one_after_meet_at_the_index(
    cases: SimpleNamespace, seed: int, size: int
) -> None:
    case = cases.random(seed, plain=True)
    shown, tape = case.shown(), adapter(case)
    for index in range(size, len(shown) - size + 1, max(len(shown) // 5, 1)):
        past = tape.get_bars(index, 1, "tick", size)[0]
        assert [past[0], past[3], past[5]] == pytest.approx(
            [shown.price[index - size], shown.price[index - 1], shown.volume[index - size : index].sum()]
        )
        if index < len(shown):
            ahead = tape.get_bars(index, 1, "tick", size, future=True)[0]
            assert [ahead[0], ahead[3], ahead[5]] == pytest.approx(
                [shown.price[index], shown.price[index + size - 1], shown.volume[index : index + size].sum()]
            )


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, unit=st.sampled_from(["tick", "sec", "min", "hour", "day", "volume", "dollar"]))
def test_the_bars_of_a_date_hold_its_trades(cases: SimpleNamespace, seed: int, unit: str) -> None:
    case = cases.random(seed)
    if case.view == "all":
        case = type(case)(case.sessions, case.trades, "extended")
        if len(case.shown()) < 2:
            return
    tape = adapter(case)
    size = {"tick": 3, "sec": 20, "volume": 700, "dollar": 9000}.get(unit, 1)
    for day in tape.tape.days("X"):
        trades, bars = tape.get_date(day), tape.get_bar_daterange(day, unit, size)
        assert bars.trade_count.sum() == len(trades)
        assert bars.vol_sum.sum() == pytest.approx(float(trades.volume[trades["flags"] & 4 > 0].sum()), rel=1e-12)
        ranged, lasts = trades[trades["flags"] & 1 > 0].price, trades[trades["flags"] & 2 > 0].price
        some = bars[bars.trade_count > 0]
        if len(ranged):
            assert some.price_high.max() >= ranged.max()
            assert some.price_low.min() <= ranged.min()
        if len(lasts):
            assert bars.price_close.iloc[-1] == lasts.iloc[-1]


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS)
def test_wide_bars_fold_narrow_ones(cases: SimpleNamespace, seed: int) -> None:
    case = cases.random(seed)
    tape = adapter(case)
    narrow = tape._lookups.rows("min", 1)
    for unit, size in (("min", 5), ("hour", 1), ("day", 1)):
        wide = tape._lookups.rows(unit, size)
        for row in range(len(wide)):
            part = narrow.bars[(narrow.start >= wide.start[row]) & (narrow.start < wide.end[row])]
            some = part[part[:, 4] > 0]
            if case.view == "all" or not len(some):
                continue
            expected = [part[:, 4].sum(), part[:, 7].max(), some[-1, 3]]
            assert wide.bars[row, [4, 7, 3]].tolist() == pytest.approx(expected, rel=0, nan_ok=True)
            assert wide.bars[row, 5] == pytest.approx(part[:, 5].sum(), rel=1e-12)
            if (case.shown().flags == 7).all():
                assert wide.bars[row, [0, 1, 2]].tolist() == [some[0, 0], some[:, 1].max(), some[:, 2].min()]


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, unit=st.sampled_from([("min", 1), ("sec", 30), ("volume", 900)]))
def test_a_whole_bar_is_the_same_from_every_later_index(
    cases: SimpleNamespace, seed: int, unit: tuple[str, int]
) -> None:
    tape = adapter(cases.random(seed))
    seen: dict[tuple[int, int, float], bytes] = {}
    many = tape.get_bars_many(np.arange(len(tape) + 1), 3, *unit, companions=True)
    for bars, start, end, whole in zip(*many, strict=True):
        for row in np.flatnonzero(whole):
            key = (int(start[row]), int(end[row]), float(bars[row, 4]))
            if unit[0] != "volume":
                assert seen.setdefault(key, bars[row].tobytes()) == bars[row].tobytes()
    assert unit[0] == "volume" or len(seen) > 0 or not many.complete.any()


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, wish=WISH, future=st.booleans())
def test_many_indices_answer_as_each_alone(
    cases: SimpleNamespace, seed: int, wish: dict[str, Any], future: bool
) -> None:
    tape = adapter(cases.random(seed))
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, len(tape) + (not future), 15)
    many = tape.get_bars_many(indices, COUNT, **wish, future=future, companions=True)
    single = tape.get_bars_many(indices, COUNT, **wish, future=future, dtype=np.float32)
    assert np.array_equal(single, many.bars.astype(np.float32), equal_nan=True)
    for k, index in enumerate(indices):
        one = tape.get_bars(int(index), COUNT, **wish, future=future, companions=True)
        assert equal(one, [part[k] for part in many])
    if not future and wish.get("partial") != "truncate" and "align" not in wish and wish["unit"] != "tick":
        grid, row, valid = tape.get_bars_many(indices, COUNT, **wish, grid=True)
        for k in np.flatnonzero(valid):
            assert np.array_equal(grid[row[k] - COUNT : row[k]], many.bars[k], equal_nan=True)
        assert (valid == (row >= COUNT)).all()


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, unit=st.sampled_from([("tick", 3), ("sec", 20), ("min", 1), ("volume", 900), ("dollar", 20_000)]))
def test_an_as_of_join_on_known_bars_never_leaks(cases: SimpleNamespace, seed: int, unit: tuple[str, int]) -> None:
    import pandas as pd

    tape = adapter(cases.random(seed))
    for day in tape.tape.days("X"):
        bars = tape.get_bar_daterange(day, *unit)
        last = tape._lookups.rows(*unit)
        mine = last.session == last.dates.index(day)
        held = last.end[mine] - (1 if unit[0] in ("sec", "min") else 0)
        bars["latest"] = pd.DatetimeIndex(held.astype("datetime64[ns]"), tz="UTC")
        left = pd.DataFrame({"timestamp": tape.get_date(day)["timestamp"]})
        joined = pd.merge_asof(left, bars.sort_values("timestamp"), on="timestamp").dropna(subset=["latest"])
        assert (joined["latest"] < joined["timestamp"]).all()


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=SEEDS, weeks=st.integers(-40, 40))
def test_a_tape_moved_by_whole_days_gives_the_same_bars(cases: SimpleNamespace, seed: int, weeks: int) -> None:
    case = cases.random(seed)
    by = weeks * 7 * 86_400 * SECOND + (3600 * SECOND if weeks % 2 else 0)  # a clock change moves opens by an hour
    moved = type(case)(
        tuple(row._replace(**{f: getattr(row, f) + by for f in row._fields[2:]}) for row in case.sessions),
        type(case.trades)(case.trades.ts + by, case.trades.price, case.trades.volume, case.trades.flags),
        case.view,
    )
    a, b = adapter(case), adapter(moved)
    index = np.arange(len(a))
    for wish in WISHES:
        x, y = (t.get_bars_many(index, COUNT, **wish, companions=True) for t in (a, b))
        assert equal([x.bars, x.complete], [y.bars, y.complete])
