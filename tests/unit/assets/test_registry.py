"""Laws of every component of the registry: the future changes nothing, warm-up is enough, columns are named."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapeline.assets.asset.instances import instances_of
from tapeline.assets.causality import disturbed
from tapeline.assets.component import Instance
from tapeline.assets.components import FEATURES, LABELS, described, installed, newest, of_version, registry
from tapeline.assets.sampling import sample_times
from tapeline.assets.view import Market, View
from tapeline.errors import TapelineError

MakeMarket = Callable[..., Market]
SIDE = {"name": "momentum", "component": "roc", "component_version": 1, "params": {"k": 2}}
FEATURE_CASES: dict[str, list[dict[str, Any]]] = {
    "bars": [{"count": 4, "norm": norm} for norm in ("none", "last_price_pct", "zscore_window", "max_values")],
    "log_return": [{"k": 3}],
    "roc": [{"k": 4, "shift": 2}],
    "gap": [{}, {"size": 7}, {"unit": "tick", "size": 9}],
    "kbar": [{}, {"unit": "tick", "size": 5}],
    "sma_ratio": [{"n": 6}],
    "ema_ratio": [{"n": 3}],
    "macd": [{"fast": 2, "slow": 3, "signal": 2}],
    "bb": [{"n": 5}, {"n": 4, "k": 1.5, "unit": "tick", "size": 3}],
    "rsi": [{"n": 2}],
    "stoch": [{"n": 5, "slow_k": 2, "slow_d": 3}],
    "willr": [{"n": 5}],
    "cci": [{"n": 5, "shift": 1}],
    "aroonosc": [{"n": 6}],
    "adx": [{"n": 2}],
    "natr": [{"n": 3}],
    "realised_vol": [{"n": 5}],
    "parkinson": [{"n": 5}],
    "garman_klass": [{"n": 5}],
    "linreg": [{"n": 6}],
    "rank": [{"n": 6}],
    "rsv": [{"n": 6}],
    "vwap_ratio": [{"windows": [3, 7]}, {"anchor": "session"}, {"anchor": "session", "shift": 4, "price": "high"}],
    "volume_ratio": [{"n": 5}],
    "rvol": [{"d": 1}, {"d": 2, "size": 5, "shift": 3}],
    "obv_slope": [{"n": 5}],
    "mfi": [{"n": 4}],
    "trade_size": [{"n": 5}],
    "tick_imbalance": [{"n": 30}, {"n": 4, "unit": "min"}],
    "amihud": [{"n": 5}],
    "session_fraction": [{}],
    "day_of_week": [{}, {"one_hot": True}],
    "frac_diff": [{"d": 0.4, "tau": 0.02}],
}
LABEL_CASES: dict[str, list[dict[str, Any]]] = {
    "fwd_return": [{"horizon": "300s"}, {"horizon": 20, "unit": "tick", "size": 4, "entry_delay": 2}],
    "updown": [{"horizon": 4, "entry_delay": 0}],
    "three_class": [{"horizon": 4, "eps": 0.0002, "cross_session": True}],
    "triple_barrier": [{"horizon": 8, "measure": kind, "n": 3, "tp": 0.5, "sl": 0.4} for kind in ("atr", "sigma")],
    "rr_atr": [{"horizon": "600s", "tp": 1.0, "sl": 1.0, "n": 2}],
    "meta_label": [{"horizon": 5, "side": SIDE}, {"horizon": 9, "side": SIDE, "tp": 1.0, "sl": 0.5, "n": 3}],
    "fwd_vol": [{"horizon": 4}],
    "trend_scan": [{"horizon": 6}],
}
FEATURE_LIST = [(name, params) for name, cases in FEATURE_CASES.items() for params in cases]
LABEL_LIST = [(name, params) for name, cases in LABEL_CASES.items() for params in cases]
EVERY = {"kind": "every", "unit": "min", "size": 1}
LAW = settings(max_examples=3, deadline=None)


def named(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *(str(value) for value in case[1].values() if not isinstance(value, dict))])


def instance(component: str, params: dict[str, Any]) -> Instance:
    known = registry()[component]
    chosen = known.params.model_validate(params)
    read = known.inputs(chosen) or {}
    inputs = {key: instance(each.component, each.params) for key, each in read.items()}
    return Instance(component, known, chosen, inputs=inputs)


def view_of(market: Market) -> View:
    times, _ = sample_times(market, EVERY, {date: i for i, date in enumerate(market.dates)}, "24/7")
    return View(market, times)


def bits(values: Any) -> bytes:
    return np.ascontiguousarray(values).tobytes()


def test_every_component_has_a_case() -> None:
    assert set(FEATURE_CASES) == {each.id for each in FEATURES}
    assert set(LABEL_CASES) == {each.id for each in LABELS}
    assert len(registry()) == len(FEATURES) + len(LABELS) + len(installed())


def valued(source: str) -> set[str]:
    """The components whose values the tests of a module compute, by name or in a table that they are run over."""
    module = ast.parse(source)
    tables = {
        target.id: node.value
        for node in module.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    found: set[str] = set()
    for test in module.body:
        if not isinstance(test, ast.FunctionDef) or not test.name.startswith("test_"):
            continue
        for node in ast.walk(test):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("compute", "instance"):
                found |= {each.value for each in node.args if isinstance(each, ast.Constant)}  # type: ignore[misc]
        names = {node.id for each in test.decorator_list for node in ast.walk(each) if isinstance(node, ast.Name)}
        for table in (tables[name] for name in names & set(tables)):
            if isinstance(table, ast.Dict):
                found |= {key.value for key in table.keys if isinstance(key, ast.Constant)}  # type: ignore[misc]
            elif isinstance(table, ast.List):
                # Naive twins bear the names of what they are twins of.
                found |= {row.elts[0].id for row in table.elts if isinstance(row, ast.Tuple)}  # type: ignore[attr-defined]
    return found


def test_every_component_has_a_test_of_its_values() -> None:
    here = Path(__file__).parent
    found = {
        name: valued((here / name).read_text(encoding="utf-8"))
        for name in ("test_indicators.py", "test_components.py", "test_labels.py")
    }
    assert {each.id for each in (*FEATURES, *LABELS)} - set().union(*found.values()) == set()
    # The search itself: a table that no test is run over is no test, nor is a call outside of one.
    assert valued("T = {'rsi': 1}\ndef helper():\n    compute(m, 'roc')\ndef test_x():\n    pass") == set()
    assert valued("T = {'rsi': 1}\n@run('n', T)\ndef test_x(n):\n    compute(m, 'gap')") == {"rsi", "gap"}


@pytest.mark.parametrize("case", FEATURE_LIST, ids=named)
@LAW
@given(seed=st.integers(0, 10_000), cut=st.floats(0.05, 1.0))
def test_the_future_of_a_feature_changes_nothing(
    market_of: MakeMarket, case: tuple[str, dict[str, Any]], seed: int, cut: float
) -> None:
    market = market_of(seed, trades=200, minutes=40)
    view = view_of(market)
    row = int(cut * (len(view.times) - 1))
    time = int(view.times[row])
    early = market.until(int(market.segments[0, 1]))
    feature = instance(*case).fit({market.symbol: early})
    whole = feature.compute(view)[: row + 1]
    seen = View(disturbed(market, time, "digest"), view.times)
    assert bits(feature.compute(seen)[: row + 1]) == bits(whole)
    # Nor is it missed: not a bar that had not ended when the tape did was looked at.
    gone = View(market.until(time), view.times[: row + 1])
    np.testing.assert_allclose(feature.compute(gone), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", FEATURE_LIST, ids=named)
@LAW
@given(seed=st.integers(0, 10_000))
def test_the_warm_up_of_a_feature_is_all_that_it_needs(
    market_of: MakeMarket, case: tuple[str, dict[str, Any]], seed: int
) -> None:
    market = market_of(seed, trades=200, minutes=40)
    view, feature = view_of(market), instance(*case).fit({market.symbol: market})
    whole = np.asarray(feature.compute(view), np.float64)
    past = view.past(feature.params.unit, feature.params.size)
    spread = np.nan_to_num(np.nanstd(whole, axis=0)) if np.isfinite(whole).any() else np.zeros(whole.shape[1:])
    rows = np.flatnonzero(past >= feature.warmup_bars)
    assert len(rows)
    for row in rows[:: max(1, len(rows) // 10)]:
        alone = np.asarray(feature.compute(View(market, view.times[row : row + 1], feature.history)), np.float64)[0]
        assert (np.isnan(alone) == np.isnan(whole[row])).all()
        assert (np.nan_to_num(np.abs(alone - whole[row])) <= 1e-9 * spread + 1e-300).all(), (alone, whole[row])


@pytest.mark.parametrize("case", FEATURE_LIST + LABEL_LIST, ids=named)
def test_columns_are_those_that_are_computed(market_of: MakeMarket, case: tuple[str, dict[str, Any]]) -> None:
    market = market_of(5)
    view, made = view_of(market), instance(*case).fit({market.symbol: market})
    found = made.compute(view)
    values = found[0] if made.component.kind == "label" else found
    columns = made.columns
    assert values.shape == (len(view.times), *columns.shape)
    assert len(columns.names) == columns.shape[-1] == len(set(columns.names))
    assert not np.isinf(values).any()
    assert np.isfinite(values).any()
    if made.component.kind == "label":
        assert len(columns.types) == columns.shape[-1]
        for column, kind in zip(values[found[1] >= 0].T, columns.types, strict=True):
            classes = {"binary": 2, "multiclass(3)": 3}.get(kind)
            assert classes is None or set(column.tolist()) <= set(range(classes))


@pytest.mark.parametrize("case", LABEL_LIST, ids=named)
@LAW
@given(seed=st.integers(0, 10_000), cut=st.floats(0.05, 1.0))
def test_a_label_reads_nothing_after_its_t1(
    market_of: MakeMarket, case: tuple[str, dict[str, Any]], seed: int, cut: float
) -> None:
    market = market_of(seed, trades=200, minutes=40)
    view, label = view_of(market), instance(*case)
    y, t1 = label.compute(view)
    time = int(view.times[int(cut * (len(view.times) - 1))])
    after, _ = label.compute(View(disturbed(market, time, "digest"), view.times))
    settled = (t1 >= 0) & (t1 <= time)
    assert bits(after[settled]) == bits(y[settled])
    assert (np.isnan(y).any(axis=1) == (t1 < 0)).all()
    assert (t1[t1 >= 0] > view.times[t1 >= 0]).all()


def test_components_are_described_with_the_schema_of_their_parameters() -> None:
    for each in described(registry().values()):
        assert each["doc"]
        assert {"unit", "size"} <= set(each["params"]["properties"])


@pytest.mark.parametrize(
    ("component", "params"),
    [
        ("macd", {"fast": 26, "slow": 12}),
        ("vwap_ratio", {"windows": [20], "anchor": "session"}),
        ("vwap_ratio", {"windows": []}),
        ("vwap_ratio", {"windows": [0]}),
        ("rvol", {"unit": "tick"}),
        ("frac_diff", {"d": 0}),
        ("trend_scan", {"horizon": 2}),
        ("bars", {"count": 3, "norm": "zscore"}),
        ("triple_barrier", {"tp": -1}),
        ("log_return", {"kk": 1}),
        ("log_return", {"k": float("nan")}),
    ],
)
def test_parameters_out_of_bounds_are_refused(component: str, params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        registry()[component].params.model_validate(params)


def test_an_older_version_stays_for_the_recipes_that_name_it() -> None:
    first = registry()["roc"]
    second = replace(first, version=2, doc="another formula")
    for known in (registry(second), registry(replace(first, id="x"), second)):
        assert known["roc"] is second
        assert of_version(known, "roc", 1) is first
        assert of_version(known, "roc", None) is second
        assert of_version(known, "roc", 3) is None
        assert [each.version for each in newest(known) if each.id == "roc"] == [2]
        (old,) = instances_of([{"name": "a", "component": "roc", "component_version": 1, "params": {}}], known)
        (new,) = instances_of([{"name": "a", "component": "roc", "component_version": 2, "params": {}}], known)
        assert (old.component, new.component) == (first, second)
        with pytest.raises(TapelineError, match="needs component 'roc' version 3") as refused:
            instances_of([{"name": "a", "component": "roc", "component_version": 3, "params": {}}], known)
        assert refused.value.code == "unknown_component"
