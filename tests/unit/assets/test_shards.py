"""Shards: bytes that depend on their key alone, whoever computes them, and in whatever order."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline.assets.asset.spec import KnownTape, parse, resolve
from tapeline.assets.asset.work import messages
from tapeline.assets.build import Built, assemble, build
from tapeline.assets.component import Columns, Component, FeatureParams
from tapeline.assets.components import FEATURES, LABELS, registry
from tapeline.assets.days import Pieces, SymbolDays
from tapeline.assets.plan import Plan, make_plan
from tapeline.assets.shard import compute, compute_each, from_bytes, to_bytes
from tapeline.assets.view import Market, View
from tapeline.errors import TapelineError
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate
from tapeline.tape.trades import join
from tapeline.tape.view import open_tape

SPEC: dict[str, Any] = {
    "tapes": ["demo"],
    "features": [
        "bars_20_1min",
        "rsi_14_1min",
        {"name": "20sma_day", "component": "sma_ratio", "params": {"unit": "day", "n": 20}},
        {"name": "ticks", "component": "bars", "params": {"unit": "tick", "size": 10, "count": 5}},
    ],
    "labels": [
        "updown_5min",
        {"name": "far", "component": "fwd_return", "params": {"horizon": "100 min", "cross_session": True}},
    ],
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> PreparedTape:
    return simulate(tmp_path_factory.mktemp("two"), days=40, trades_per_day=600, symbols=2)


def resolved(tape: PreparedTape, more: tuple[Component, ...] = (), **change: Any) -> Any:
    known = KnownTape("t1", "demo", tape.content_sha256, tuple(tape.symbols), tuple(tape.days), "SIM")
    spec = (
        SPEC
        | {"range": {"from": sorted(tape.days)[-6:][0]}, "split": {"embargo": "5 min", "validation_fraction": 0}}
        | change
    )
    return resolve(parse(spec), [known], registry(*more))


def planned(tape: PreparedTape, more: tuple[Component, ...] = (), **change: Any) -> Plan:
    tapes = {"t1": open_tape(tape.manifest, tape.path_of)}
    return make_plan(resolved(tape, more, **change).spec, tapes, registry(*more))


def put_together(plan: Plan, parts: list[Any], folder: Path) -> Built:
    folder.mkdir()
    named: dict[str, Any] = {"name": "demo", "team": "contoso", "spec_digest": "d" * 64}
    return assemble(plan, parts, **named, folder=folder, tell=lambda *progress: None)


def digests(built: Built) -> list[str]:
    return [hashlib.sha256(file.path.read_bytes()).hexdigest() for file in built.files]


@pytest.mark.parametrize("count", [3, *(pytest.param(count, marks=pytest.mark.long) for count in (1, 2, 8))])
def test_shards_of_many_workers_in_any_order_give_the_bytes_of_one(
    two: PreparedTape, tmp_path: Path, count: int
) -> None:
    (tmp_path / "one").mkdir()
    one = build(
        resolved(two).spec,
        name="demo",
        team="contoso",
        spec_digest="d" * 64,
        tapes={"t1": open_tape(two.manifest, two.path_of)},
        folder=tmp_path / "one",
        components=registry(),
        tell=lambda *progress: None,
    )
    # Each worker plans for itself, begins elsewhere, and some shards are computed twice.
    workers = [planned(two) for _ in range(count)]
    order = [*range(len(workers[0].shards)), 2, 5]
    random.Random(3).shuffle(order)
    kept: dict[int, bytes] = {}
    for turn, i in enumerate(order):
        content = to_bytes(compute(workers[turn % count], workers[turn % count].shards[i]))
        assert kept.setdefault(i, content) == content
    parts = [from_bytes(kept[i], str(i)) for i in range(len(kept))]
    many = put_together(workers[0], parts, tmp_path / "many")
    assert digests(many) == digests(one)
    assert (many.data_digest, many.certificate, many.stats) == (one.data_digest, one.certificate, one.stats)
    assert one.certificate["checks"][0]["numbers"]["cuts"] >= 30


SHORT: dict[str, dict[str, Any]] = {
    "ema_ratio": {"n": 3}, "macd": {"fast": 2, "slow": 3, "signal": 2}, "rsi": {"n": 3}, "adx": {"n": 3},
    "natr": {"n": 3}, "rvol": {"d": 2}, "tick_imbalance": {"n": 20}, "frac_diff": {"tau": 1e-2},
    "vwap_ratio": {"anchor": "session"}, "bars": {"count": 9, "norm": "max_values"},
    "triple_barrier": {"n": 3}, "rr_atr": {"n": 3, "horizon": 400, "cross_session": True},
    "meta_label": {"n": 3, "tp": 1.0, "side": {"name": "side", "component": "roc", "params": {"k": 3}}},
}  # fmt: skip
"""Parameters with which everything fits into a few sessions."""


@pytest.mark.parametrize("missing", ["drop", "carry"])
def test_shards_computed_together_have_the_bytes_of_each_by_itself(two: PreparedTape, missing: str) -> None:
    every = [
        [{"name": f"{each.id} it", "component": each.id, "params": SHORT.get(each.id, {})} for each in components]
        for components in (FEATURES, LABELS)
    ]
    plan = planned(two, features=every[0], labels=every[1], missing=missing)
    alone = planned(two, features=every[0], labels=every[1], missing=missing)
    together = compute_each(plan, plan.shards)
    assert sum(len(each.samples.t0) for each in together) > 500
    assert sum(each.found.cuts for each in together) >= 30
    for shard, found in zip(plan.shards, together, strict=True):
        assert to_bytes(found) == to_bytes(compute(alone, shard))


def test_a_formula_that_sees_other_markets_is_given_one_at_a_time(two: PreparedTape) -> None:
    def away(view: View, params: FeatureParams) -> Any:
        close = view.grid("min", 1).bars[:, 3]
        return (view.newest(close, "min", 1, 0) - np.nanmean(close))[:, None]

    # Its mean is over all bars that it is shown: of a stack it would be over those of other sessions too.
    component = Component("away", "feature", 1, FeatureParams, lambda params: 2, lambda params: Columns((1,), ("x",)),
                          away, "distance from the mean")  # fmt: skip
    spec = {"features": [{"name": "away", "component": "away", "params": {}}], "labels": ["updown_5min"]}
    plans = [planned(two, more=(component,), **spec) for _ in range(2)]
    together = compute_each(plans[0], plans[0].shards)
    for shard, found in zip(plans[1].shards, together, strict=True):
        assert to_bytes(found) == to_bytes(compute(plans[1], shard))


def test_a_shard_that_was_damaged_is_not_believed(two: PreparedTape) -> None:
    plan = planned(two, features=["session_fraction"], labels=["updown_5min"])
    content = bytearray(to_bytes(compute(plan, plan.shards[0])))
    content[len(content) // 2] ^= 1
    for broken in (bytes(content), bytes(content[:100]), b""):
        with pytest.raises(TapelineError, match="is damaged") as refused:
            from_bytes(broken, "x")
        assert refused.value.code == "corrupt"


def test_moving_a_cut_uses_every_shard_again(two: PreparedTape) -> None:
    keys = [shard.key for shard in planned(two).shards]
    assert [shard.key for shard in planned(two, split={"test_fraction": 0.5, "validation_fraction": 0}).shards] == keys
    assert not set(keys) & {shard.key for shard in planned(two, missing="zero").shards}
    assert not set(keys) & {shard.key for shard in planned(two, features=["rsi_14_1min"]).shards}


def test_a_feature_fitted_on_train_rows_makes_shards_depend_on_the_cut(two: PreparedTape) -> None:
    fitted = {"name": "m", "component": "bars", "params": {"count": 3, "norm": "max_values"}}
    one = planned(two, features=[fitted])
    other = planned(two, features=[fitted], split={"test_fraction": 0.5})
    assert not {shard.key for shard in one.shards} & {shard.key for shard in other.shards}


def test_a_shard_depends_on_no_trade_that_comes_after_what_it_may_read(tmp_path: Path) -> None:
    short = simulate(tmp_path / "short", days=4, trades_per_day=600)
    long = simulate(tmp_path / "long", days=5, trades_per_day=600)
    change: dict[str, Any] = {"features": ["rsi_14_1min"], "labels": ["updown_5min"], "split": {"test_fraction": 0}}
    last = sorted(short.days)[-1]
    a = planned(short, range={"to": last}, **change)
    b = planned(long, range={"to": last}, **change)
    assert [shard.key for shard in a.shards] == [shard.key for shard in b.shards]


@pytest.mark.parametrize(("unit", "size"), [("min", 1), ("min", 7), ("tick", 10), ("day", 1), ("day", 3)])
def test_bars_by_session_are_those_of_the_whole_tape(prepared: PreparedTape, unit: Any, size: int) -> None:
    tape = open_tape(prepared.manifest, prepared.path_of)
    days = SymbolDays(tape, prepared.symbols[0], Pieces())
    n = len(days.dates)
    whole = Market(
        days.symbol, join([days.trades(i) for i in range(n)]), days.segments, days.session, days.dates
    ).grid(unit, size)  # fmt: skip
    needs = {(unit, size): (10**9, n)}
    for first in range(n):
        found = days.market(first, n, needs).grid(unit, size)
        for name in ("bars", "end", "segment", "session"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name), err_msg=f"{name} from {first}")


def test_history_is_read_as_far_back_as_something_needs_it(prepared: PreparedTape) -> None:
    tape = open_tape(prepared.manifest, prepared.path_of)
    days = SymbolDays(tape, prepared.symbols[0], Pieces())
    grid = days.market(3, 4, {("min", 1): (5, 0)}).grid("min", 1)
    assert set(grid.session.tolist()) == {2, 3}
    assert set(days.market(3, 4, {("min", 1): (5, 3)}).grid("min", 1).session.tolist()) == {0, 1, 2, 3}


def test_a_message_names_neighbours_of_one_symbol(two: PreparedTape) -> None:
    plan = planned(two, range={}, features=["session_fraction"], labels=["updown_5min"])
    made = messages(plan, set(range(len(plan.shards))))
    assert sorted(i for message in made for i in message) == list(range(len(plan.shards)))
    assert max(map(len, made)) == 8
    for message in made:
        assert len({plan.shards[i].symbol for i in message}) == 1
        numbers = [plan.shards[i].number for i in message]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [len(message) for message in messages(plan, {0, 1, 2})] == [1, 1, 1]
