"""Builds: equal bytes, files that map into memory, statistics of train rows alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline.asset_files import AssetFile
from tapeline.assets.asset.spec import KnownTape, parse, resolve
from tapeline.assets.build import Built, build
from tapeline.assets.component import Component
from tapeline.assets.components import registry
from tapeline.assets.stats import of_train
from tapeline.assets.uniqueness import uniqueness
from tapeline.errors import TapelineError
from tapeline.security.hdf5 import open_asset
from tapeline.tape import day_file, manifest
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate
from tapeline.tape.trades import Trades
from tapeline.tape.view import OpenTape, open_tape

SPEC: dict[str, Any] = {
    "tapes": ["demo"],
    "features": ["bars_20_1min", "log_return_1min", "trade_size_1min"],
    "labels": ["updown_5min"],
}


def cut(
    tape: PreparedTape, folder: Path, opened: OpenTape | None = None, more: Component | None = None, **change: Any
) -> Built:
    components = registry(*([more] if more else []))
    known = KnownTape("t1", "demo", tape.content_sha256, tuple(tape.symbols), tuple(tape.days), "SIM")
    resolved = resolve(parse(SPEC | change), [known], components)
    folder.mkdir(exist_ok=True)
    return build(
        resolved.spec,
        name="demo",
        team="contoso",
        spec_digest=resolved.digest,
        tapes={"t1": opened or open_tape(tape.manifest, tape.path_of)},
        folder=folder,
        components=components,
        tell=lambda *progress: None,
    )


def test_two_builds_give_equal_bytes(prepared: PreparedTape, tmp_path: Path) -> None:
    first, second = cut(prepared, tmp_path / "a"), cut(prepared, tmp_path / "b")
    assert [file.name for file in first.files] == ["demo_test.h5", "demo_train_0.h5", "demo_train_1.h5"]
    for one, other in zip(first.files, second.files, strict=True):
        assert hashlib.sha256(one.path.read_bytes()).digest() == hashlib.sha256(other.path.read_bytes()).digest()
    assert first.data_digest == second.data_digest
    assert first.certificate == second.certificate


def test_files_hold_what_the_layout_says(prepared: PreparedTape, tmp_path: Path) -> None:
    built = cut(prepared, tmp_path / "a", layout="materialised")
    for file in built.files:
        with open_asset(file.path) as opened:
            assert opened.attrs["schema"] == b"tapeline.asset/1"
            assert opened.attrs["team"] == b"contoso"
            assert opened.attrs["rows"] == file.rows
            for name in ("bars_20_1min", "updown_5min"):
                data = opened[name]
                assert (data.dtype.str, data.chunks, data.shape[0]) == ("<f4", None, file.rows)
                assert data.id.get_offset() % 4096 == 0
            assert opened["_index/t1"].shape == (file.rows, 1)
            assert list(opened["_index/symbol"].attrs["names"]) == [b"SIM1"]
            spec = json.loads(bytes(opened["_meta/spec"][()]))
            assert [each["name"] for each in spec["features"]] == SPEC["features"]
        mapped = AssetFile(file.path)
        assert isinstance(mapped.column("bars_20_1min"), np.memmap)
        assert np.isfinite(mapped.column("bars_20_1min")).all()
        assert (mapped.t0[1:] > mapped.t0[:-1]).all()


def test_statistics_know_nothing_of_later_parts(tmp_path: Path) -> None:
    tape = simulate(tmp_path / "tape", days=5, trades_per_day=800)
    later = sorted(tape.days)[3:]

    class TenTimes(OpenTape):
        """The same tape with prices and volumes ten times as high in the later parts."""

        def trades(self, symbol: str, trade_date: str) -> Trades:
            found = super().trades(symbol, trade_date)
            if trade_date not in later:
                return found
            return Trades(found.ts, found.price * 10, found.volume * 10, found.flags)

    plain = cut(tape, tmp_path / "a", features=["log_return_1min", "trade_size_1min"])
    high = cut(
        tape,
        tmp_path / "b",
        TenTimes(tape.manifest, tape.path_of),
        features=["log_return_1min", "trade_size_1min"],
    )
    assert plain.stats["features"] == high.stats["features"]
    assert plain.stats["labels"] == high.stats["labels"]
    stored = []
    for built in (plain, high):
        with open_asset(built.files[0].path) as opened:
            stored.append(bytes(opened["_meta/stats"][()]))
    assert stored[0] == stored[1]


def test_two_symbols_lie_in_order_of_time_and_symbol(tmp_path: Path) -> None:
    tape = simulate(tmp_path / "tape", days=3, trades_per_day=1500, symbols=2)
    built = cut(tape, tmp_path / "a", features=["log_return_1min", "session_fraction"])
    with open_asset(built.files[1].path) as opened:
        t0, symbol = opened["_index/t0"][()], opened["_index/symbol"][()]
    assert set(symbol.tolist()) == {0, 1}
    order = np.lexsort((symbol, t0))
    assert (order == np.arange(len(t0))).all()
    assert sum(file.rows for file in built.files) == sum(built.stats["rows"].values())


def test_the_range_reads_history_before_it_and_nothing_after(prepared: PreparedTape, tmp_path: Path) -> None:
    days = sorted(prepared.days)
    whole = cut(prepared, tmp_path / "a", split={"test_fraction": 0, "validation_fraction": 0})
    part = cut(
        prepared,
        tmp_path / "b",
        range={"from": days[1], "to": days[2]},
        split={"test_fraction": 0, "validation_fraction": 0},
    )
    a, b = AssetFile(whole.files[0].path), AssetFile(part.files[0].path)
    rows = np.isin(a.t0, b.t0)
    # The first minutes of the range have their windows from the day before.
    assert rows.sum() == len(b)
    np.testing.assert_array_equal(a.column("bars_20_1min")[rows], b.column("bars_20_1min"))


def test_moments_are_those_of_numpy() -> None:
    draw = np.random.default_rng(1)
    values = draw.normal(5, 3, (20_000, 4)).astype(np.float32)
    found = of_train({"x": values}, {}, [])["features"]["x"]
    np.testing.assert_allclose(found["mean"], values.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["variance"], values.astype(np.float64).var(axis=0), rtol=1e-10)
    assert found["count"] == 20_000


def test_the_digest_of_a_spec_does_not_depend_on_its_name_or_spelling(prepared: PreparedTape) -> None:
    known = KnownTape("t1", "demo", prepared.content_sha256, tuple(prepared.symbols), tuple(prepared.days), "SIM")
    plain = resolve(parse(SPEC), [known], registry())
    spelled = {
        **SPEC,
        "name": "other",
        "tapes": [{"tape": "t1", "symbols": ["SIM1"]}],
        "labels": [{"name": "updown_5min", "component": "updown", "params": {"horizon": "300s"}}],
        "split": {"embargo": "300s"},
    }
    assert resolve(parse(spelled), [known], registry()).digest == plain.digest
    other = resolve(parse({**SPEC, "missing": "zero"}), [known], registry())
    assert other.digest != plain.digest


def test_the_tape_is_the_one_that_was_imported(prepared: PreparedTape) -> None:
    assert manifest.content_sha256(prepared.manifest) == prepared.content_sha256
    assert day_file.file_sha256(prepared.files[0].path) == prepared.files[0].sha256


def test_uniqueness_is_stored_as_the_weight_of_train_rows_among_themselves(
    prepared: PreparedTape, tmp_path: Path
) -> None:
    change: dict[str, Any] = {"features": ["session_fraction"], "uniqueness": True}
    built = cut(prepared, tmp_path / "a", **change)
    for file in built.files:
        opened = AssetFile(file.path)
        with open_asset(file.path) as raw:
            t1 = raw["_index/t1"][()].max(axis=1)
        expected = uniqueness(opened.t0, t1, np.zeros(len(opened), np.uint16))
        np.testing.assert_array_equal(opened.sample_weight, expected.astype(np.float32))
        assert 0 < opened.sample_weight.mean() < 0.5
    checks = {check["name"]: check for check in built.certificate["checks"]}
    assert checks["overlap"]["verdict"] == "passed"
    plain = cut(prepared, tmp_path / "b", features=["session_fraction"])
    assert (AssetFile(plain.files[1].path).sample_weight == 1).all()
    assert "use uniqueness: true" in plain.certificate["checks"][5]["warnings"][0]


def test_weights_of_a_label_are_stored(prepared: PreparedTape, tmp_path: Path) -> None:
    plain = registry()["updown"]

    def weighed(view: Any, params: Any) -> Any:
        y, t1 = plain.compute(view, params)
        return y, t1, np.abs(y[:, 0]) * 100

    component = replace(plain, id="weighed", compute=weighed)
    built = cut(
        prepared,
        tmp_path / "a",
        features=["session_fraction"],
        labels=[{"name": "up", "component": "weighed"}],
        more=component,
    )
    opened = AssetFile(built.files[0].path)
    expected = np.abs(opened.column("up")[:, 0].astype(np.float64)) * 100
    np.testing.assert_allclose(opened.sample_weight, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "sampling",
    [
        {"kind": "cusum", "threshold": 0.0005},
        {"kind": "at_times", "times": ["10:00", "11:30", "14:00"]},
        {"unit": "tick", "size": 50},
        {"unit": "min", "size": 15},
    ],
    ids=str,
)
def test_other_samplings_are_causal_too(prepared: PreparedTape, tmp_path: Path, sampling: dict[str, Any]) -> None:
    ticks = {"name": "ticks", "component": "bars", "params": {"unit": "tick", "size": 10, "count": 5}}
    built = cut(prepared, tmp_path / "a", features=["log_return_1min", ticks], sampling=sampling)
    verdicts = {check["name"]: check["verdict"] for check in built.certificate["checks"]}
    assert {verdicts[name] for name in ("causality", "truncation", "adapter_flags", "label_time", "split")} == {
        "passed"
    }
    assert sum(built.stats["rows"].values()) > 5


def test_a_meta_label_reads_the_feature_it_names(prepared: PreparedTape, tmp_path: Path) -> None:
    side = {"name": "momentum", "component": "roc", "params": {"k": 3}}
    built = cut(
        prepared,
        tmp_path / "a",
        features=[side],
        labels=[
            {"name": "own", "component": "meta_label", "params": {"side": "momentum"}},
            {"name": "spelled", "component": "meta_label", "params": {"side": side}},
            {"name": "known", "component": "meta_label", "params": {"side": "log_return_1min"}},
        ],
    )
    opened = AssetFile(built.files[1].path)
    np.testing.assert_array_equal(opened.column("own"), opened.column("spelled"))
    assert built.labels == {"own": ["binary"], "spelled": ["binary"], "known": ["binary"]}


def refused(tape: PreparedTape, folder: Path, **change: Any) -> TapelineError:
    with pytest.raises(TapelineError) as found:
        cut(tape, folder, **change)
    assert found.value.hint
    assert list(folder.iterdir()) == []
    return found.value


def test_a_label_without_future_data_is_named(prepared: PreparedTape, tmp_path: Path) -> None:
    long = {"name": "far", "component": "fwd_return", "params": {"horizon": "2 day", "cross_session": True}}
    error = refused(prepared, tmp_path, features=["session_fraction"], labels=[long])
    assert error.code == "empty_range"
    assert "label 'far' leaves out " in error.message
    assert "shorter horizon" in str(error.hint)


def test_a_window_longer_than_the_tape_is_named(prepared: PreparedTape, tmp_path: Path) -> None:
    long = {"name": "old", "component": "sma_ratio", "params": {"n": 5000}}
    error = refused(prepared, tmp_path, features=["session_fraction", long])
    assert error.code == "empty_range"
    assert "feature 'old' leaves out " in error.message
    assert "5000 bars of history" in str(error.hint)


def test_a_split_that_leaves_no_test_rows_is_refused(prepared: PreparedTape, tmp_path: Path) -> None:
    error = refused(prepared, tmp_path, features=["session_fraction"], split={"embargo": "1 day"})
    assert error.code == "too_few_sessions"
    assert error.message.startswith("no row is left in validation")
    late = {"validation_fraction": 0, "embargo": "390 min"}
    assert refused(prepared, tmp_path, features=["session_fraction"], split=late).message.startswith(
        "no row is left in test"
    )
