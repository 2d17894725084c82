"""Builds: equal bytes, files that map into memory, statistics of train rows alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from tapeline.asset_files import AssetFile
from tapeline.assets.asset.spec import KnownTape, parse, resolve
from tapeline.assets.build import Built, build
from tapeline.assets.components import registry
from tapeline.assets.stats import of_train
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


def cut(tape: PreparedTape, folder: Path, opened: OpenTape | None = None, **change: Any) -> Built:
    known = KnownTape("t1", "demo", tape.content_sha256, tuple(tape.symbols), tuple(tape.days), "SIM")
    resolved = resolve(parse(SPEC | change), [known], registry())
    folder.mkdir(exist_ok=True)
    return build(
        resolved.spec,
        name="demo",
        team="contoso",
        spec_digest=resolved.digest,
        tapes={"t1": opened or open_tape(tape.manifest, tape.path_of)},
        folder=folder,
        components=registry(),
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
    built = cut(prepared, tmp_path / "a")
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
