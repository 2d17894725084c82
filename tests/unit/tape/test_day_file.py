"""Day files and manifests: equal numbers give equal bytes, and any changed bit is found."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline.errors import TapelineError
from tapeline.tape import day_file, manifest
from tapeline.tape.day_file import file_sha256, read, verify_day_file
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.simulate import simulate
from tapeline.tape.trades import Trades, check

TS = 1_704_200_000_000_000_000


def some(n: int = 5, **columns: Any) -> Trades:
    plain: dict[str, Any] = {
        "ts": TS + np.arange(n),
        "price": np.linspace(1, 2, n),
        "volume": np.arange(n),
        "flags": np.full(n, 7, np.uint8),
    }
    return Trades(**(plain | columns))


@pytest.fixture
def tape(tmp_path: Path) -> PreparedTape:
    return simulate(tmp_path / "tape", days=2, trades_per_day=200)


def test_two_writes_of_one_day_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        day_file.write(tmp_path / name, some(100_000), symbol="É", trade_date="2024-01-02", tick_size=0.01)
        time.sleep(1.1)  # HDF5 counts object times in seconds
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_a_day_comes_back_as_it_was_written(tmp_path: Path, codec: str) -> None:
    trades = some(7, volume=np.linspace(0, 1, 7), seq=np.arange(7), cond=np.arange(7, dtype=np.uint32))
    path = tmp_path / "day.h5"
    day_file.write(path, trades, symbol="X", trade_date="2024-01-02", codec=codec)
    entry = {"symbol": "X", "trade_date": "2024-01-02", "rows": 7, "columns": trades.digests()}
    found = read(path, entry)
    assert found.digests() == trades.digests()
    for change in ({"symbol": "Y"}, {"rows": 6}, {"columns": trades.digests() | {"price": "0" * 64}}):
        with pytest.raises(TapelineError) as caught:
            read(path, entry | change)
        assert caught.value.code == "tape_corrupt"


def test_a_changed_byte_of_a_file_is_found(tape: PreparedTape) -> None:
    entry = tape.manifest["days"][0]
    path = tape.path_of(entry["artifact"]["sha256"])
    assert len(verify_day_file(path, entry)) == entry["rows"]
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(TapelineError, match="does not match its digest") as caught:
        verify_day_file(path, entry)
    assert caught.value.code == "tape_corrupt"
    forged = entry | {"artifact": {"sha256": file_sha256(path), "size": len(data)}}
    with pytest.raises(TapelineError) as caught:
        verify_day_file(path, forged)
    assert caught.value.code in ("tape_corrupt", "asset_refused")


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"ts": TS - np.arange(5)}, "tape_unsorted"),
        ({"ts": np.arange(5) - 1}, "invalid_timestamp"),
        ({"price": np.array([1, 2, np.nan, 4, 5.0])}, "tape_corrupt"),
        ({"price": np.array([1, 2, 0, 4, 5.0])}, "tape_corrupt"),
        ({"volume": np.array([1, 2, -3, 4, 5])}, "invalid_volume"),
        ({"volume": np.array([1, 2, np.nan, 4, 5])}, "invalid_volume"),
        ({"flags": np.array([1, 2, 8, 4, 5], np.uint8)}, "tape_corrupt"),
        ({"price": np.ones(4)}, "tape_corrupt"),
        ({"ts": np.empty(0, np.int64)}, "tape_corrupt"),
    ],
)
def test_a_day_that_no_import_makes_is_refused(columns: dict[str, Any], code: str) -> None:
    with pytest.raises(TapelineError) as caught:
        check(some(5, **columns), where="X 2024-01-02")
    assert caught.value.code == code


def test_the_content_digest_speaks_of_numbers(tape: PreparedTape, tmp_path: Path) -> None:
    again = simulate(tmp_path / "again", days=2, trades_per_day=200)
    assert again.content_sha256 == tape.content_sha256
    changed = json.loads(json.dumps(tape.manifest))
    changed["report"] = {}
    for day in changed["days"]:
        day["artifact"] = {"sha256": "0" * 64, "size": 1}
    assert manifest.content_sha256(changed) == tape.content_sha256
    changed["days"][0]["columns"]["price"] = "0" * 64
    assert manifest.content_sha256(changed) != tape.content_sha256


def test_a_manifest_survives_its_bytes(tape: PreparedTape) -> None:
    data = tape.manifest_file.path.read_bytes()
    assert manifest.parse(data) == tape.manifest
    assert manifest.artifacts(tape.manifest) == {file.sha256: file.size for file in tape.files}
    assert manifest.digest(data) == tape.manifest_file.sha256


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], bytes]:
    def edited(made: dict[str, Any]) -> bytes:
        change(made)
        return manifest.canonical(made)

    return edited


@pytest.mark.parametrize(
    "spoil",
    [
        lambda made: b"{",
        lambda made: b"[" * 100_000,
        lambda made: b"[]",
        edit(lambda m: m.update(schema="tapeline.tape/2")),
        edit(lambda m: m.pop("days")),
        edit(lambda m: m.update(days=3)),
        edit(lambda m: m["days"][0].update(rows=True)),
        edit(lambda m: m["days"][0].update(rows=7)),
        edit(lambda m: m["days"][0]["artifact"].update(sha256="../../etc/passwd")),
        edit(lambda m: m["days"].append(m["days"][0])),
        edit(lambda m: m["days"][0].update(symbol="other")),
        edit(lambda m: m["sessions"][0].reverse()),
        edit(lambda m: m["sessions"].pop()),
        edit(lambda m: m["symbols"][0].update(volume_kind="float64")),
    ],
)
def test_a_spoilt_manifest_is_refused(tape: PreparedTape, spoil: Callable[[dict[str, Any]], bytes]) -> None:
    with pytest.raises(TapelineError) as caught:
        manifest.parse(spoil(json.loads(tape.manifest_file.path.read_bytes())))
    assert caught.value.code == "tape_corrupt"


def test_a_manifest_says_where_columns_lie_and_they_are_read_from_there(tape: PreparedTape, tmp_path: Path) -> None:
    entry = tape.manifest["days"][0]
    path = tape.path_of(entry["artifact"]["sha256"])
    places = entry["artifact"]["places"]
    assert places == day_file.places(path)
    by_places, by_library = read(path, entry), read(path, entry | {"artifact": {"sha256": "", "size": 1}})
    assert by_places.digests() == by_library.digests() == entry["columns"]
    zipped = tmp_path / "zipped.h5"
    day_file.write(zipped, by_places, symbol="X", trade_date="2024-01-02", codec="gzip")
    assert day_file.places(zipped) == {}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p["price"].update(at=[at + 8 for at in p["price"]["at"]]),
        lambda p: p["price"].update(at=[10**9]),
        lambda p: p["price"].update(at=[]),
        lambda p: p["price"].update(dtype="<f4"),
        lambda p: p.pop("price"),
        lambda p: p.update(other=p["price"]),
    ],
)
def test_places_that_are_wrong_are_found(tape: PreparedTape, spoil: Callable[[dict[str, Any]], object]) -> None:
    entry = json.loads(json.dumps(tape.manifest["days"][0]))
    path = tape.path_of(entry["artifact"]["sha256"])
    spoil(entry["artifact"]["places"])
    for check_it in (read, verify_day_file):
        with pytest.raises(TapelineError) as caught:
            check_it(path, entry)
        assert caught.value.code == "tape_corrupt"


def test_some_days_are_read_as_each_of_them_is(tape: PreparedTape) -> None:
    days = [(tape.path_of(entry["artifact"]["sha256"]), entry) for entry in tape.manifest["days"]]
    together = day_file.read_each(days)
    assert [each.digests() for each in together] == [read(*day).digests() for day in days]
    gone = (days[0][0].with_name("gone.h5"), days[0][1])
    with pytest.raises(TapelineError) as caught:
        day_file.read_each([*days, gone])
    assert caught.value.code == "not_found"
