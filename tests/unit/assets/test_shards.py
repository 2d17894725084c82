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
from tapeline.assets.components import registry
from tapeline.assets.days import Pieces, SymbolDays
from tapeline.assets.plan import Plan, make_plan
from tapeline.assets.shard import compute, from_bytes, to_bytes
from tapeline.assets.view import Market
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


def resolved(tape: PreparedTape, **change: Any) -> Any:
    known = KnownTape("t1", "demo", tape.content_sha256, tuple(tape.symbols), tuple(tape.days), "SIM")
    spec = (
        SPEC
        | {"range": {"from": sorted(tape.days)[-6:][0]}, "split": {"embargo": "5 min", "validation_fraction": 0}}
        | change
    )
    return resolve(parse(spec), [known], registry())


def planned(tape: PreparedTape, **change: Any) -> Plan:
    return make_plan(resolved(tape, **change).spec, {"t1": open_tape(tape.manifest, tape.path_of)}, registry())


def put_together(plan: Plan, parts: list[Any], folder: Path) -> Built:
    folder.mkdir()
    named: dict[str, Any] = {"name": "demo", "team": "contoso", "spec_digest": "d" * 64}
    return assemble(plan, parts, **named, folder=folder, tell=lambda *progress: None)


def digests(built: Built) -> list[str]:
    return [hashlib.sha256(file.path.read_bytes()).hexdigest() for file in built.files]


def test_shards_of_many_workers_in_any_order_give_the_bytes_of_one(two: PreparedTape, tmp_path: Path) -> None:
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
    workers = [planned(two) for _ in range(3)]
    order = [*range(len(workers[0].shards)), 2, 5]
    random.Random(3).shuffle(order)
    kept: dict[int, bytes] = {}
    for turn, i in enumerate(order):
        content = to_bytes(compute(workers[turn % 3], workers[turn % 3].shards[i]))
        assert kept.setdefault(i, content) == content
    parts = [from_bytes(kept[i], str(i)) for i in range(len(kept))]
    many = put_together(workers[0], parts, tmp_path / "many")
    assert digests(many) == digests(one)
    assert (many.data_digest, many.certificate, many.stats) == (one.data_digest, one.certificate, one.stats)
    assert one.certificate["checks"][0]["numbers"]["cuts"] >= 30


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
