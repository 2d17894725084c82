"""The adapter's face: the names of the seed, what bad input gets, caching, threads, days and maxima."""

from __future__ import annotations

import doctest
import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tapeline.errors import TapelineError
from tapeline.tape.adapter import BaseAdapter, TapeAdapter
from tapeline.tape.simulate import simulate
from tapeline.tape.view import OpenTape


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> OpenTape:
    made = simulate(tmp_path_factory.mktemp("tape"), days=4, trades_per_day=3000)
    return OpenTape(made.manifest, made.path_of)


@pytest.fixture(scope="module")
def adapter(tape: OpenTape) -> TapeAdapter:
    return TapeAdapter(tape, "SIM1")


SEED = {
    "get_bars": {
        "index": None, "count": 1, "unit": "tick", "size": 1, "future": False, "prevent_lookahead_bias": True,
    },
    "get_bar_daterange": {"date": inspect.Parameter.empty, "unit": "tick", "size": 1, "future": False},
    "get_minute_bars": {"date": inspect.Parameter.empty, "size": 1, "future": False},
    "get_date": {"date": inspect.Parameter.empty},
    "get_max_values": {},
}  # fmt: skip


@pytest.mark.parametrize("name", SEED)
@pytest.mark.parametrize("kind", [BaseAdapter, TapeAdapter])
def test_names_order_and_defaults_are_the_seeds(kind: type[BaseAdapter], name: str) -> None:
    parameters = list(inspect.signature(getattr(kind, name)).parameters.values())[1:]
    free = {p.name: p.default for p in parameters if p.kind is not p.KEYWORD_ONLY}
    assert list(free.items()) == list(SEED[name].items())


def test_the_sdk_has_the_base_class() -> None:
    from tapeline import sdk
    from tapeline.sdk import assets

    assert sdk.BaseAdapter is assets.BaseAdapter is BaseAdapter


@pytest.mark.parametrize("kind", [BaseAdapter, TapeAdapter])
def test_the_examples_of_the_docstrings_hold(tmp_path_factory: pytest.TempPathFactory, kind: type[BaseAdapter]) -> None:
    made = simulate(tmp_path_factory.mktemp("examples"), days=2, start="2025-02-03", trades_per_day=6000)
    tape = OpenTape(made.manifest, made.path_of)
    names = {"adapter": TapeAdapter(tape, "SIM1"), "tape": tape, "pd": pd, "TapeAdapter": TapeAdapter}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for found in doctest.DocTestFinder().find(kind, kind.__name__, globs=names):
        runner.run(found)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries >= 7


def code(call: Any) -> tuple[Any, str]:
    with pytest.raises(TapelineError) as caught:
        call()
    return caught.value.code, str(caught.value)


def test_an_index_outside_of_the_view_is_named_with_its_bounds(adapter: TapeAdapter) -> None:
    n = len(adapter)
    for index in (-1, n + 1, True, 1.0, "3"):
        assert code(lambda index=index: adapter.get_bars(index))[0] == "invalid_argument"  # type: ignore[misc]
    assert f"index {n + 1} is outside [0, {n}]" in code(lambda: adapter.get_bars(n + 1))[1]
    assert f"index {n} is outside [0, {n})" in code(lambda: adapter.get_bars(n, future=True))[1]
    assert adapter.get_bars(n).shape == (1, 8)
    assert code(lambda: adapter.get_bars(future=True))[0] == "invalid_argument"


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": 0}, {"count": 1_000_001}, {"count": 1.5}, {"size": 0}, {"size": True}, {"unit": "week"},
        {"unit": "sec", "size": 86_401}, {"unit": "hour", "size": 25}, {"align": "left"}, {"partial": "all"},
        {"empty": "zero"}, {"unit": "tick", "align": "index"}, {"unit": "min", "align": "index", "empty": "skip"},
        {"unit": "min", "cross_session": True},
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused(adapter: TapeAdapter, wrong: dict[str, Any]) -> None:
    assert code(lambda: adapter.get_bars(5, **wrong))[0] == "invalid_argument"


def test_an_answer_too_large_is_refused(tape: OpenTape) -> None:
    small = TapeAdapter(tape, "SIM1", max_result_bytes=1000)
    assert code(lambda: small.get_bars(5, 16))[0] == "limit_exceeded"
    assert "1,024 bytes" in code(lambda: small.get_bars(5, 16))[1]


def test_the_running_bar_is_whole_only_with_two_keys(tape: OpenTape, adapter: TapeAdapter) -> None:
    assert code(lambda: adapter.get_bars(500, 2, "min", prevent_lookahead_bias=False))[0] == "lookahead_refused"
    assert adapter.get_bars(500, 2, "min", future=True, prevent_lookahead_bias=False).shape == (2, 8)
    open_ = TapeAdapter(tape, "SIM1", allow_lookahead=True)
    whole = open_.get_bars(500, 2, "min", prevent_lookahead_bias=False, companions=True)
    ahead = open_.get_bars(500, 1, "min", future=True, partial="truncate")
    cut = open_.get_bars(500, 2, "min", partial="truncate")
    assert whole.bars[1, 4] == cut[1, 4] + ahead[0, 4]
    assert whole.complete.tolist() == [True, False]


def test_rows_beyond_the_tape_have_no_price(adapter: TapeAdapter) -> None:
    found = adapter.get_bars(0, 2, "min", companions=True)
    assert np.isnan(found.bars[:, :4]).all()
    assert (found.bars[:, 4:] == 0).all()
    assert not found.complete.any()
    assert np.isnan(adapter.get_bars(len(adapter) - 1, 3, "day", future=True)[:, :4]).all()


def test_answers_are_read_only_and_kept(adapter: TapeAdapter) -> None:
    first = adapter.get_bars(1000, 5, "min")
    assert not first.flags.writeable
    assert adapter.get_bars(1000, 5, "min") is first


def test_the_oldest_answers_go_first(tape: OpenTape) -> None:
    small = TapeAdapter(tape, "SIM1", cache_bytes=2000)
    first = small.get_bars(100, 8)
    for index in range(101, 110):
        small.get_bars(index, 8)
    assert small._held <= 2000
    assert small.get_bars(100, 8) is not first


def test_minute_bars_are_the_bars_of_the_date(adapter: TapeAdapter) -> None:
    day = adapter.tape.days("SIM1")[1]
    for future in (False, True):
        a, b = adapter.get_minute_bars(day, 5, future), adapter.get_bar_daterange(day, "min", 5, future)
        assert list(a) == ["open", "high", "low", "close", "count", "vol_sum", "vol_mean", "vol_max", "timestamp"]
        assert np.array_equal(a.to_numpy()[:, :8].astype(float), b.to_numpy()[:, :8].astype(float))
        assert (a["timestamp"] == b["timestamp"]).all()
        assert str(a["timestamp"].dtype) == "datetime64[ns, UTC]"
    assert len(a) == 78
    assert a.attrs["view"] == "regular"
    assert a.attrs["complete"].all()


def test_all_dates_together_are_the_view(adapter: TapeAdapter) -> None:
    frames = [adapter.get_date(day) for day in adapter.tape.days("SIM1")]
    assert np.array_equal(np.concatenate([f["index"] for f in frames]), np.arange(len(adapter)))
    assert sum(map(len, frames)) == len(adapter.tape.all_trades("SIM1"))


def test_dates_may_be_written_in_many_ways(adapter: TapeAdapter) -> None:
    day = adapter.tape.days("SIM1")[2]
    expected = len(adapter.get_date(day))
    night = pd.Timestamp(day, tz="America/New_York") + pd.Timedelta(hours=23)
    for form in (pd.Timestamp(day), pd.Timestamp(day).date(), night.tz_convert("UTC"), np.datetime64(day)):
        assert len(adapter.get_date(form)) == expected
    empty = adapter.get_minute_bars("2024-01-06")
    assert len(empty) == 0
    assert (empty.dtypes == adapter.get_minute_bars(day).dtypes).all()
    for wrong in (None, pd.NaT, "someday", "2024-13-01"):
        assert code(lambda wrong=wrong: adapter.get_date(wrong))[0] == "invalid_date"  # type: ignore[misc]


def test_the_maxima_are_those_of_bars_known_by_then(adapter: TapeAdapter) -> None:
    days = adapter.tape.days("SIM1")
    part = np.concatenate([adapter.get_minute_bars(day).to_numpy()[:, :8].astype(float) for day in days[:2]])
    assert np.array_equal(adapter.get_max_values(until=days[1]), part.max(axis=0))
    assert (adapter.get_max_values() >= part.max(axis=0)).all()
    assert np.isnan(adapter.get_max_values(until=0)).all()


def test_no_price_is_adjusted(tape: OpenTape) -> None:
    assert code(lambda: TapeAdapter(tape, "SIM1", adjust="split"))[0] == "unsupported"  # type: ignore[arg-type]


def test_eight_threads_get_what_one_gets(tape: OpenTape, adapter: TapeAdapter) -> None:
    asked = [(i, unit) for i in range(50, 4000, 170) for unit in ("tick", "min", "volume", "day")]
    expected = [adapter.get_bars(i, 4, unit) for i, unit in asked]
    shared = TapeAdapter(tape, "SIM1", cache_bytes=5000)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda a: shared.get_bars(a[0], 4, a[1]), asked * 4))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(expected * 4, found, strict=True))
