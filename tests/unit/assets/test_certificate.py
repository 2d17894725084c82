"""Planted leaks are caught, named and refused; causal features pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import talib
from numpy.typing import NDArray

from tapeline.assets.asset.spec import KnownTape, parse, resolve
from tapeline.assets.build import Built, build
from tapeline.assets.causality import Subject, cut_places, cut_rows, examine, verdicts
from tapeline.assets.certificate import Check, allowed, fit_range
from tapeline.assets.component import Columns, Component, FeatureParams, Instance, LabelParams
from tapeline.assets.components import BUILT_IN, FEATURES, registry
from tapeline.assets.samples import Samples, computed, joined
from tapeline.assets.sampling import sample_times
from tapeline.assets.split import Parts, assign
from tapeline.assets.stats import of_train
from tapeline.assets.view import Market, View, newest
from tapeline.errors import TapelineError
from tapeline.security.hdf5 import open_asset
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.view import open_tape


def causality(market: Market, features: list[Instance], labels: list[Instance], digest: str) -> list[Check]:
    """Checks 1 to 4 over one whole market, as if it were one session."""
    times, _ = sample_times(market, EVERY, {day: i for i, day in enumerate(market.dates)}, "24/7")
    shares = [share for _, share in cut_places(1, 1, digest, market.symbol)]
    rows = sorted({0, len(times) - 1, *cut_rows(len(times), shares)})
    values = computed(View(market, times), features, labels)
    found = examine([Subject(market, times, rows, values)], features, labels, digest)
    return verdicts(found, {each.name: values[each.name] for each in features}, len(labels))


EVERY = {"kind": "every", "unit": "min", "size": 1}
Formula = Callable[[View, Any], NDArray[np.float64]]


def leaky(name: str, compute: Formula, warmup: int = 1) -> Component:
    return Component(
        id=name,
        kind="feature",
        version=1,
        params=FeatureParams,
        warmup_bars=lambda params: warmup,
        columns=lambda params: Columns((1,), (name,)),
        compute=compute,
        doc="a planted leak",
    )


def closes(view: View, params: Any) -> NDArray[np.float64]:
    return view.grid(params.unit, params.size).bars[:, 3]


def unshifted(view: View, params: Any) -> NDArray[np.float64]:
    """The bar that still runs at the sample's time."""
    close, past = closes(view, params), view.past(params.unit, params.size)
    return close[np.minimum(past, len(close) - 1)][:, None]


def global_z_score(view: View, params: Any) -> NDArray[np.float64]:
    """Mean and deviation of the whole tape."""
    close = closes(view, params)
    z = (close - close.mean()) / (close.std() or 1.0)
    return newest(z, view.past(params.unit, params.size), 0)[:, None]


def centred(view: View, params: Any) -> NDArray[np.float64]:
    """An average with as many bars after as before."""
    close = closes(view, params)
    mean = np.convolve(close, np.ones(5) / 5, mode="same") if len(close) >= 5 else close
    return newest(mean, view.past(params.unit, params.size), 0)[:, None]


def forward_return(view: View, params: Any) -> NDArray[np.float64]:
    """The label itself."""
    close, past = closes(view, params), view.past(params.unit, params.size)
    later = np.minimum(past + 5, len(close) - 1)
    return (close[later] / close[np.maximum(past - 1, 0)] - 1)[:, None]


def whole_tape_maximum(view: View, params: Any) -> NDArray[np.float64]:
    """A scale that knows the future."""
    close = closes(view, params)
    return newest(close / close.max(), view.past(params.unit, params.size), 0)[:, None]


def backfilled(view: View, params: Any) -> NDArray[np.float64]:
    """Empty bars take the close of the next bar with trades."""
    grid = view.grid(params.unit, params.size)
    close = grid.bars[:, 3].copy()
    for i in range(len(close) - 2, -1, -1):
        if i % 7 == 0:
            close[i] = close[i + 1]
    return newest(close, view.past(params.unit, params.size), 0)[:, None]


def cumulative(view: View, params: Any) -> NDArray[np.float64]:
    """Causal, but it needs all of history: on-balance volume from the first bar."""
    bars = view.grid(params.unit, params.size).bars
    signed = np.sign(np.diff(bars[:, 3], prepend=bars[:1, 3])) * bars[:, 5]
    return newest(np.cumsum(signed), view.past(params.unit, params.size), 0)[:, None]


def unshifted_day(view: View, params: Any) -> NDArray[np.float64]:
    """The close of the day that the sample lies in, as daily history files hold it."""
    grid = view.market.grid("day", 1)
    here = np.searchsorted(grid.end, view.times, "left")
    return np.asarray(grid.bars[np.minimum(here, len(grid.end) - 1), 3][:, None])


LEAKS = (
    unshifted,
    global_z_score,
    centred,
    forward_return,
    whole_tape_maximum,
    backfilled,
    unshifted_day,
)


def running_count(view: View, params: Any) -> NDArray[np.float64]:
    """How many trades the bar that still runs is going to have: no price or volume of it."""
    grid = view.market.grid("min", 1)
    running = np.searchsorted(grid.end, view.times, "right")
    return np.asarray(grid.bars[np.minimum(running, len(grid.end) - 1), 4][:, None])


def asking(view: View, params: Any) -> NDArray[np.float64]:
    """The next bar, asked for openly."""
    grid, past = view.grid("min", 1, future=True), view.past("min", 1)
    return np.asarray(grid.bars[np.minimum(past, len(grid.end) - 1), 3][:, None])


def cut(tape: PreparedTape, folder: Path, *more: Component, seed: int = 0, **spec: Any) -> Built:
    """Build an asset whose features are the components given."""
    components = registry(*more)
    names = [each.id for each in more if each.kind == "feature"]
    wanted: dict[str, Any] = {
        "tapes": ["demo"],
        "features": [{"name": f"KURT_{name}", "component": name} for name in names],
        "labels": [{"name": "up", "component": "updown", "params": {"horizon": 5 + seed}}],
    } | spec
    known = KnownTape("t1", "demo", tape.content_sha256, tuple(tape.symbols), tuple(tape.days), "SIM")
    resolved = resolve(parse(wanted), [known], components)
    return build(
        resolved.spec,
        name="demo",
        team="contoso",
        spec_digest=resolved.digest,
        tapes={"t1": open_tape(tape.manifest, tape.path_of)},
        folder=folder,
        components=components,
        tell=lambda *progress: None,
    )


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.__name__)
def test_a_leak_fails_the_build_and_is_named(prepared: PreparedTape, tmp_path: Path, leak: Formula) -> None:
    with pytest.raises(TapelineError) as refused:
        cut(prepared, tmp_path, leaky(leak.__name__, leak))
    error = refused.value
    assert error.code == "leak_found"
    assert not list(tmp_path.glob("*.h5")), "files are written beside the checks, and go where one refuses"
    assert error.message.startswith(f"feature 'KURT_{leak.__name__}' column 0 changed at 2024-01-")
    assert "when data from 2024-01-" in error.message
    failure = error.data["failure"]
    assert failure["time"] <= failure["cut"]
    assert failure["values"][0] != failure["values"][1]
    verdicts = {check["name"]: check["verdict"] for check in error.data["certificate"]["checks"]}
    assert verdicts["causality"] == "failed"
    assert list(tmp_path.iterdir()) == []


def test_a_leak_is_found_whatever_the_cuts_are(prepared: PreparedTape, tmp_path: Path) -> None:
    for seed in range(2):
        with pytest.raises(TapelineError, match="KURT_unshifted"):
            cut(prepared, tmp_path, leaky("unshifted", unshifted), seed=seed)


def test_a_feature_that_needs_all_history_fails_truncation_alone(prepared: PreparedTape, tmp_path: Path) -> None:
    with pytest.raises(TapelineError, match="needs more than its 20 bars of history") as refused:
        cut(prepared, tmp_path, leaky("cumulative", cumulative, warmup=20))
    verdicts = {check["name"]: check["verdict"] for check in refused.value.data["certificate"]["checks"]}
    assert (verdicts["causality"], verdicts["truncation"]) == ("passed", "failed")


def test_a_label_that_reads_past_its_t1_is_found(prepared: PreparedTape, tmp_path: Path) -> None:
    def compute(view: View, params: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        grid, past = view.grid("min", 1), view.past("min", 1)
        later = np.minimum(past + 5, len(grid.end) - 1)
        y = (grid.bars[later, 3] > grid.bars[np.maximum(past - 1, 0), 3]).astype(np.float64)[:, None]
        return y, grid.end[np.minimum(past + 1, len(grid.end) - 1)]

    lying = Component(
        id="lying",
        kind="label",
        version=1,
        params=LabelParams,
        warmup_bars=lambda params: 1,
        columns=lambda params: Columns((1,), ("up",), ("binary",)),
        compute=compute,
        doc="says that it ends before it does",
    )
    with pytest.raises(TapelineError, match=r"label 'lie' at .* says that it read up to") as refused:
        cut(
            prepared,
            tmp_path,
            lying,
            features=["log_return_1min"],
            labels=[{"name": "lie", "component": "lying"}],
        )
    assert refused.value.code == "leak_found"


def test_a_count_of_the_running_bar_is_found_by_taking_the_data_away(prepared: PreparedTape, tmp_path: Path) -> None:
    with pytest.raises(TapelineError, match=r"column 0 changed at .* on was taken away") as refused:
        cut(prepared, tmp_path, leaky("running_count", running_count))
    verdicts = {check["name"]: check["verdict"] for check in refused.value.data["certificate"]["checks"]}
    assert (verdicts["causality"], verdicts["adapter_flags"]) == ("passed", "failed")
    assert refused.value.data["failure"]["values"][0] != refused.value.data["failure"]["values"][1]


def test_a_feature_that_asks_for_the_future_is_refused(prepared: PreparedTape, tmp_path: Path) -> None:
    with pytest.raises(TapelineError, match=r"feature 'KURT_asking' asked for the future at 2024-01-") as refused:
        cut(prepared, tmp_path, leaky("asking", asking))
    assert refused.value.code == "lookahead_refused"
    assert refused.value.hint


@pytest.mark.parametrize("leak", [asking, unshifted, running_count], ids=lambda leak: leak.__name__)
def test_what_looks_ahead_on_purpose_carries_a_flag(prepared: PreparedTape, tmp_path: Path, leak: Formula) -> None:
    built = cut(prepared, tmp_path, leaky(leak.__name__, leak), allow_lookahead=True)
    assert built.certificate["lookahead"] is True
    assert built.certificate["verdict"] == "warned"
    flagged = [check for check in built.certificate["checks"] if check["verdict"] == "flagged"]
    assert flagged
    assert all(check["failure"]["feature"] == f"KURT_{leak.__name__}" for check in flagged)
    for file in built.files:
        with open_asset(file.path) as opened:
            assert opened.attrs["lookahead"] == b"true"


def test_lookahead_is_no_licence_for_a_lying_label_or_split(prepared: PreparedTape, tmp_path: Path) -> None:
    checks = [Check(number, "x", "failed", failure={"message": "x"}) for number in range(1, 11)]
    assert [each.number for each in allowed(checks) if each.verdict == "failed"] == [4, 5, 6, 8, 9, 10]


@pytest.mark.parametrize("seeds", [4, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("leak", [*LEAKS, running_count], ids=lambda leak: leak.__name__)
def test_a_leak_is_caught_by_every_choice_of_cuts(market_of: Callable[..., Market], leak: Formula, seeds: int) -> None:
    component = leaky(leak.__name__, leak)
    instance = Instance(component.id, component, component.params())
    for seed in range(seeds):
        market = market_of(seed, minutes=30, trades=200)
        found = causality(market, [instance], [], str(seed))
        assert "failed" in [check.verdict for check in found], seed


@pytest.mark.parametrize("seeds", [1, pytest.param(40, marks=pytest.mark.long)])
def test_no_registered_feature_is_ever_blamed(market_of: Callable[..., Market], seeds: int) -> None:
    features = [
        Instance(f"{component.id}_{i}", component, component.params.model_validate(params))
        for component in FEATURES
        for i, params in enumerate(SHORT.get(component.id, [{}]))
    ]
    for seed in range(seeds):
        market = market_of(seed, minutes=40, trades=300)
        found = causality(market, features, [], str(seed))
        assert [check.failure for check in found] == [None] * 4


SHORT: dict[str, list[dict[str, Any]]] = {
    "bars": [{"count": 5, "norm": norm} for norm in ("none", "last_price_pct", "zscore_window")],
    "ema_ratio": [{"n": 3}],
    "macd": [{"fast": 2, "slow": 3, "signal": 2}],
    "rsi": [{"n": 2}],
    "adx": [{"n": 2}],
    "natr": [{"n": 2}],
    "vwap_ratio": [{}, {"anchor": "session"}],
    "rvol": [{"d": 1}],
    "tick_imbalance": [{"n": 20}],
    "frac_diff": [{"tau": 0.02}],
}


@pytest.mark.parametrize("raw", ["obv", "vwap"])
def test_cumulative_indicators_fail_truncation_and_windows_do_not(market_of: Callable[..., Market], raw: str) -> None:
    """OBV and VWAP from the first bar on: causal, but what they say depends on where history begins."""

    def compute(view: View, params: Any) -> NDArray[np.float64]:
        bars = np.nan_to_num(view.grid("min", 1).bars)
        if raw == "obv":
            values = talib.OBV(np.ascontiguousarray(bars[:, 3]), np.ascontiguousarray(bars[:, 5]))
        else:
            values = np.cumsum(bars[:, 3] * bars[:, 5]) / np.maximum(np.cumsum(bars[:, 5]), 1) - bars[:, 3]
        return newest(values, view.past("min", 1), 0)[:, None]

    component, sound = leaky(raw, compute, warmup=20), registry()["sma_ratio"]
    market = market_of(7)
    for each, expected in ((component, ["passed", "failed"]), (sound, ["passed", "passed"])):
        instance = Instance(each.id, each, each.params())
        found = causality(market, [instance], [], "0")
        assert [check.verdict for check in found[:2]] == expected


def test_statistics_of_all_rows_are_found(
    prepared: PreparedTape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scaler that is fitted before the split."""
    held: list[Samples] = []

    def of_all(features: Any, labels: Any, instances: Any) -> dict[str, Any]:
        rows = len(features["session_fraction"])
        return of_train(held[0].features, held[0].labels, instances) | {"first_row": 0, "stop_row": rows}

    def keep(parts: Any) -> Any:
        found = joined(parts)
        held.append(found[0])
        return found

    monkeypatch.setattr("tapeline.assets.build.joined", keep)
    monkeypatch.setattr("tapeline.assets.build.stats.of_train", of_all)
    with pytest.raises(TapelineError, match="is not that of the train rows") as refused:
        cut(prepared, tmp_path, features=["session_fraction", "log_return_1min"])
    assert refused.value.code == "leak_found"
    assert refused.value.data["failure"]["feature"] in ("session_fraction", "log_return_1min")
    assert list(tmp_path.iterdir()) == []


def test_statistics_that_name_other_rows_are_found() -> None:
    values = {"x": np.arange(8, dtype=np.float32)[:, None]}
    part = np.array([0] * 5 + [2] * 3, np.uint8)
    whole = of_train(values, {}, [])
    named = fit_range(whole, values, part).failure
    assert named is not None
    assert "rows 0 to 8 of train, where train has 5 rows" in named["message"]
    assert fit_range(of_train({"x": values["x"][:5]}, {}, []), values, part).verdict == "passed"


def test_a_feature_fitted_on_all_sessions_is_found(market_of: Callable[..., Market]) -> None:
    market = market_of(3)
    train = {market.symbol: market.until(int(market.segments[1, 0]))}
    component = registry()["bars"]
    maxima = Instance("maxima", component, component.params.model_validate({"count": 2, "norm": "max_values"}))
    none: dict[str, NDArray[np.float32]] = {"maxima": np.zeros((1, 2, 8), np.float32)}
    stats = of_train(none, {}, [])
    part = np.zeros(1, np.uint8)
    assert fit_range(stats, none, part, [maxima.fit(train)], train).verdict == "passed"
    found = fit_range(stats, none, part, [maxima.fit({market.symbol: market})], train)
    assert found.failure is not None
    assert found.failure["message"] == "feature 'maxima' was fitted on more than the train sessions of 'SIM1'"


def test_a_split_without_purge_is_found(
    prepared: PreparedTape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(t0: Any, t1: Any, session: Any, opens: Any, of_session: Any, embargo: int) -> Parts:
        return replace(assign(t0, t1, session, opens, of_session, embargo), part=of_session[session])

    monkeypatch.setattr("tapeline.assets.build.assign", careless)
    label = {"name": "up", "component": "updown", "params": {"horizon": 30, "cross_session": True}}
    with pytest.raises(TapelineError, match=r"the row at 2024-01-.* reads into the next part") as refused:
        cut(prepared, tmp_path, features=["session_fraction"], labels=[label])
    assert refused.value.data["failure"]["row"] >= 0
    with pytest.raises(TapelineError, match="lies in the embargo"):
        cut(prepared, tmp_path, features=["session_fraction"], split={"embargo": "1 hour"})


def test_windows_that_reach_back_over_a_cut_are_told_and_allowed(prepared: PreparedTape, tmp_path: Path) -> None:
    long = {"name": "long", "component": "bars", "params": {"count": 120}}
    day = {"name": "day", "component": "gap", "params": {"unit": "day"}}
    split = {"validation_fraction": 0, "test_fraction": 0.25, "embargo": "90 min"}
    built = cut(prepared, tmp_path, features=["session_fraction", long, day], split=split)
    check = built.certificate["checks"][4]
    assert (check["name"], check["verdict"]) == ("split", "passed")
    ((names, _, time),) = [warning.partition(" reach back over the cut at ") for warning in check["warnings"]]
    assert (names, time[:10]) == ("windows of 'long', 'day'", max(prepared.days))
    short = cut(prepared, tmp_path, features=["session_fraction"], split=split)
    assert "warnings" not in short.certificate["checks"][4]


def test_a_certificate_has_all_ten_checks(prepared: PreparedTape, tmp_path: Path) -> None:
    short = {"name": "rsi_2", "component": "rsi", "params": {"n": 2}}
    names = [name for name, each in BUILT_IN.items() if each["component"] not in ("updown", "rsi")]
    z = {"name": "z", "component": "bars", "params": {"count": 10, "norm": "zscore_window", "unit": "min", "size": 5}}
    m = {"name": "m", "component": "bars", "params": {"count": 10, "norm": "max_values"}}
    built = cut(prepared, tmp_path, features=[*names, short, z, m])
    checks = {check["name"]: check for check in built.certificate["checks"]}
    assert [check["check"] for check in built.certificate["checks"]] == list(range(1, 11))
    proofs = ("causality", "truncation", "adapter_flags", "label_time", "split", "fit_range")
    assert [checks[name]["verdict"] for name in proofs] == ["passed"] * 6
    assert checks["causality"]["numbers"]["cuts"] >= 30
    assert checks["fit_range"]["numbers"]["fitted"] == ["m"]
    assert set(built.certificate["components"]) >= {"bars/1", "rsi/1", "session_fraction/1", "updown/1"}
    assert "lookahead" not in built.certificate
    fitted = built.stats["fitted"]["m"]["SIM1"]
    assert (fitted["part"], len(fitted["values"])) == ("train", 8)
    assert fitted["to"] < min(prepared.days[-2:])
