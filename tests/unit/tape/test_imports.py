"""Imports of small hand-made files: what is kept, what is counted, what is refused and how."""

from __future__ import annotations

import gzip
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline.errors import CODES, TapelineError
from tapeline.tape.day_file import verify_day_file
from tapeline.tape.imports import import_tape
from tapeline.tape.options import ImportOptions
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.trades import Trades

MAP = {"ts": "ts", "price": "px", "volume": "qty"}
Importing = Callable[..., PreparedTape]


@pytest.fixture
def importing(tmp_path: Path) -> Importing:
    """Imports a text as a CSV file into a fresh folder."""

    def run(text: str | bytes, symbol: str | None = "X", format: str = "csv", **options: Any) -> PreparedTape:
        path = tmp_path / "in.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        chosen = ImportOptions(**({"calendar": "24/7", "map": MAP} | options))
        number = len(list(tmp_path.glob("out*")))
        return import_tape([path], format, symbol=symbol, out_dir=tmp_path / f"out{number}", options=chosen)

    return run


def trades_of(tape: PreparedTape, k: int = 0) -> Trades:
    entry = tape.manifest["days"][k]
    odd = bool(tape.manifest["symbols"][0]["allow_nonpositive"])
    return verify_day_file(tape.path_of(entry["artifact"]["sha256"]), entry, allow_nonpositive=odd)


def refusal(importing: Importing, text: str | bytes, code: str, **options: Any) -> str:
    """The message of the refusal, its code and hint checked, and that no manifest is left."""
    with pytest.raises(TapelineError) as caught:
        importing(text, **options)
    assert caught.value.code == code
    assert code in CODES
    assert caught.value.hint
    return caught.value.message


GOOD = "ts,px,qty\n1704200000,10.5,3\n1704200001,10.25,4\n"


def test_seconds_become_whole_nanoseconds(importing: Importing) -> None:
    trades = trades_of(importing("ts,px,qty\n1381104000.000000001,10.5,3\n1381104000.5,1e1,4\n", ts_unit="s"))
    assert trades.ts.tolist() == [1_381_104_000_000_000_001, 1_381_104_000_500_000_000]
    assert trades.price.tolist() == [10.5, 10.0]
    assert trades.volume.dtype == np.int64


@pytest.mark.parametrize("digits", ["1704200000", "1704200000000", "1704200000000000", "1704200000000000000"])
def test_the_unit_of_times_is_found_by_their_digits(importing: Importing, digits: str) -> None:
    assert trades_of(importing(f"ts,px,qty\n{digits},1,1\n")).ts.tolist() == [1_704_200_000_000_000_000]


def test_local_times_need_a_zone(importing: Importing) -> None:
    text = "ts,px,qty\n2024-01-02 09:30:00.25,10,1\n2024-07-02 09:30:00,10,1\n"
    assert "name no zone" in refusal(importing, text, "timezone_required")
    tape = importing(text, tz="America/New_York")
    assert tape.days == ["2024-01-02", "2024-07-02"]
    assert trades_of(tape, 0).ts[0] == np.datetime64("2024-01-02T14:30:00.25", "ns").astype(int)
    assert trades_of(tape, 1).ts[0] == np.datetime64("2024-07-02T13:30", "ns").astype(int)


def test_times_with_an_offset_need_none(importing: Importing) -> None:
    text = "ts,px,qty\n2024-01-02T09:30:00-05:00,10,1\n2024-01-02T14:30:00Z,10,1\n"
    assert len(set(trades_of(importing(text)).ts.tolist())) == 1


def test_trades_are_sorted_and_counted(importing: Importing) -> None:
    text = "ts,px,qty\n1704200005,1,1\n1704200001,2,1\n1704200001,3,1\n"
    tape = importing(text)
    assert trades_of(tape).price.tolist() == [2, 3, 1]
    assert tape.report["unsorted"] == 1
    assert "row 3" in refusal(importing, text, "tape_unsorted", strict=True)


def test_a_sequence_orders_equal_times_whatever_the_order_of_rows(importing: Importing) -> None:
    named = MAP | {"seq": "id"}
    one = importing("ts,px,qty,id\n1704200001,1,1,1\n1704200001,2,1,2\n1704200001,3,1,9\n", map=named)
    two = importing("ts,px,qty,id\n1704200001,3,1,9\n1704200001,1,1,1\n1704200001,2,1,2\n", map=named)
    assert one.content_sha256 == two.content_sha256
    assert (one.report["seq_gaps"], one.report["largest_seq_gap"]) == (1, 6)


def test_impossible_prices_are_void_and_kept(importing: Importing) -> None:
    text = "ts,px,qty\n" + "".join(f"170420000{k},{p},1\n" for k, p in enumerate(["1", "nan", "-2", "0", "inf"]))
    tape = importing(text, max_void=1.0)
    assert trades_of(tape).flags.tolist() == [7, 0, 0, 0, 0]
    assert tape.report["bad_price"] == 4
    assert "4 of 5 rows are void" in refusal(importing, text, "too_many_bad_rows")
    assert trades_of(importing(text, max_void=1.0, allow_nonpositive=True)).flags.tolist() == [7, 0, 7, 7, 0]


@pytest.mark.parametrize("volume", ["-1", "nan", "inf", "1e17", ""])
def test_an_impossible_volume_is_refused_with_its_row(importing: Importing, volume: str) -> None:
    text = f"ts,px,qty\n1704200000,1,1\n1704200001,1,{volume}\n"
    assert "in.csv, row 3" in refusal(importing, text, "invalid_volume")


def test_fractions_make_every_volume_of_a_symbol_float(importing: Importing) -> None:
    tape = importing("ts,px,qty\n1704200000,1,1\n1704300000,1,0.5\n")
    assert [trades_of(tape, k).volume.dtype for k in (0, 1)] == [np.float64, np.float64]
    assert tape.manifest["symbols"][0]["volume_kind"] == "float64"


def test_an_unreadable_row_is_named_and_may_be_skipped(importing: Importing) -> None:
    text = GOOD + "1704200002,ten,1\n1704200003,1,1\n"
    message = refusal(importing, text, "invalid_row")
    assert message == "in.csv: line 4, column 2 is not a number: 'ten'"
    tape = importing(text, skip_bad=1)
    assert (tape.rows, tape.report["bad_rows"]) == (3, 1)
    assert "line 6" in refusal(importing, text + "1704200004,x,1\n", "invalid_row", skip_bad=1)


def test_a_missing_column_lists_those_there_are(importing: Importing) -> None:
    with pytest.raises(TapelineError, match="it has ts, px, qty"):
        importing(GOOD, map=MAP | {"price": "Price"})
    assert "does not name volume" in refusal(importing, GOOD, "column_missing", map={"ts": "ts", "price": "px"})
    assert "no columns price, volume" in refusal(importing, GOOD, "column_missing", map={})


def test_columns_that_bear_our_names_need_no_map(importing: Importing) -> None:
    mapped, plain = importing(GOOD), importing(GOOD.replace("ts,px,qty", "ts,price,volume"), map={})
    assert plain.content_sha256 == mapped.content_sha256


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "empty_input", "no row"),
        ("ts,px,qty\n", "empty_input", "no row"),
        ("ts,px,qty\n12345,1,1\n", "timestamp_unit_ambiguous", "5 digits"),
        ("ts,px,qty\n1704200000,1,1\n1704200000000,1,1\n", "timestamp_unit_ambiguous", "line 3"),
        ("ts,px,qty\nnoon,1,1\n", "invalid_row", "'noon' is no time"),
        ("ts,px,qty\n3000-01-01 00:00:00Z,1,1\n", "invalid_timestamp", "after 2199"),
        ("ts,px,qty\n1704200000,1\n", "invalid_row", "line 2 lacks a column"),
        (b"ts,px,qty\n1704200000,1,\0\n", "invalid_row", "NUL"),
        (b"ts,px,qty,x\n1704200000,1,1,\xff\n", "invalid_row", "line 2 is not UTF-8"),
        ("ts,px,qty\n" + "1" * 70_000 + ",1,1\n", "timestamp_unit_ambiguous", "70000 digits"),
        (GOOD + "1704200002,1,1," + "x" * 70_000 + "\n", "limit_exceeded", "64 KiB"),
        (GOOD + "1704200002,1,1" + ",2" * 70 + "\n", "limit_exceeded", "64 columns"),
    ],
)
def test_odd_files_are_refused(importing: Importing, text: str | bytes, code: str, said: str) -> None:
    assert said in refusal(importing, text, code)


def test_equal_rows_are_counted_and_dropped_on_wish(importing: Importing) -> None:
    text = GOOD + "1704200001,10.25,4\n"
    assert (importing(text).rows, importing(text).report["equal_rows"]) == (3, 1)
    tape = importing(text, drop_duplicates="exact")
    assert (tape.rows, tape.report["dropped_duplicates"]) == (2, 1)


def test_outliers_are_counted_and_void_on_wish(importing: Importing) -> None:
    rows = [f"{1704200000 + k},{1000 if k == 70 else 10},1" for k in range(100)]
    tape = importing("ts,px,qty\n" + "\n".join(rows) + "\n")
    assert tape.report["outliers"] == 1
    assert "row 70" in tape.report["examples"][0]
    voided = importing("ts,px,qty\n" + "\n".join(rows) + "\n", void_outliers=True)
    assert np.flatnonzero(trades_of(voided).flags == 0).tolist() == [70]


def test_conditions_take_rights_away(importing: Importing) -> None:
    text = "ts,px,qty,c\n1704200000,1,1,0\n1704200001,1,1,4\n1704200002,1,1,6\n"
    tape = importing(text, map=MAP | {"cond": "c"}, conditions=((4, 5), (2, 6)))
    assert trades_of(tape).flags.tolist() == [7, 5, 4]


def test_days_without_trades_are_listed(importing: Importing) -> None:
    text = "ts,px,qty\n1704200000,1,1\n1704400000,1,1\n"
    assert importing(text).report["missing_days"] == ["2024-01-03"]
    assert "2024-01-03" in refusal(importing, text, "empty_input", require_complete=True)


def test_a_file_with_several_symbols_is_split(importing: Importing) -> None:
    text = "ts,px,qty,s\n1704200000,1,1,A\n1704200001,2,1,B\n1704200002,3,1,A\n"
    tape = importing(text, symbol=None, map=MAP | {"symbol": "s"})
    assert tape.symbols == ["A", "B"]
    assert trades_of(tape, 0).price.tolist() == [1, 3]


def test_columns_may_be_counted_where_there_is_no_header(importing: Importing) -> None:
    tape = importing("7;1704200000;1,5;2\n", map={"ts": "1", "price": "2", "volume": "3"}, delimiter=";", decimal=",")
    assert trades_of(tape).price.tolist() == [1.5]


def test_packed_files_are_read_in_place(tmp_path: Path) -> None:
    plain, packed, zipped = (tmp_path / name for name in ("a.csv", "a.csv.gz", "a.zip"))
    plain.write_text(GOOD)
    packed.write_bytes(gzip.compress(GOOD.encode()))
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", GOOD)
    options = ImportOptions(calendar="24/7", map=MAP)
    made = [
        import_tape([path], "csv", symbol="X", out_dir=tmp_path / path.suffix, options=options)
        for path in (plain, packed, zipped)
    ]
    assert len({tape.content_sha256 for tape in made}) == 1
    cut = tmp_path / "cut.zip"
    cut.write_bytes(zipped.read_bytes()[:-30])
    short = tmp_path / "cut.csv.gz"
    short.write_bytes(packed.read_bytes()[:-12])
    for path in (cut, short):
        with pytest.raises(TapelineError, match="is no complete") as caught:
            import_tape([path], "csv", symbol="X", out_dir=tmp_path / f"out-{path.name}", options=options)
        assert caught.value.code == "unsupported_format"


def test_a_bomb_is_refused_while_it_is_read(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", GOOD + "\n" * 40_000_000)
    with pytest.raises(TapelineError, match="unpacks to more than") as caught:
        import_tape(
            [bomb], "csv", symbol="X", out_dir=tmp_path / "out", options=ImportOptions(calendar="24/7", map=MAP)
        )
    assert caught.value.code == "limit_exceeded"
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "out" / ".buckets").exists()


@pytest.mark.parametrize(
    ("stamps", "unit"), [(("1735603200000", "1735603200001"), 10**6), (("1735689600000000", "1735689600000001"), 10**3)]
)
def test_binance_times_are_ms_before_2025_and_us_after(tmp_path: Path, stamps: tuple[str, str], unit: int) -> None:
    path = tmp_path / "BTCUSDT-trades.csv"
    path.write_text(f"7,93000.10,0.5,46500.05,{stamps[0]},true,true\n9,93000.2,1,93000.2,{stamps[1]},false,true\n")
    tape = import_tape([path], "auto", symbol="BTCUSDT", out_dir=tmp_path / "out")
    trades = trades_of(tape)
    assert trades.ts.tolist() == [int(stamp) * unit for stamp in stamps]
    assert trades.seq is not None
    assert (trades.seq.tolist(), tape.report["format"]) == ([7, 9], "binance-trades")
    assert tape.manifest["symbols"][0]["calendar"] == "24/7"


def test_parquet_columns_are_read_by_name(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    ts = np.array([1_704_200_000_000_000_000, 1_704_200_000_000_000_001])
    options = ImportOptions(calendar="24/7", map=MAP)
    path = tmp_path / "a.parquet"
    for kind in (pa.timestamp("ns", "UTC"), pa.int64()):
        pq.write_table(pa.table({"ts": pa.array(ts).cast(kind), "px": ["1.5", "2.25"], "qty": [1, 2]}), path)
        tape = import_tape([path], "auto", symbol="X", out_dir=tmp_path / f"out-{kind}"[:20], options=options)
        assert trades_of(tape).ts.tolist() == ts.tolist()
        assert trades_of(tape).price.tolist() == [1.5, 2.25]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TapelineError, match="no complete Parquet file"):
        import_tape([path], "parquet", symbol="X", out_dir=tmp_path / "bad", options=options)


def lean_file(folder: Path, name: str, rows: str, member: str = "a.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, rows)
    return folder / name


def test_lean_equities_count_from_midnight_in_new_york(tmp_path: Path) -> None:
    folder = tmp_path / "equity" / "usa" / "tick" / "aaa"
    lean_file(folder, "20131007_trade.zip", "34200000,1674100,100,P,20,0\r\n34200001,1674200,5,D,,1\r\n")
    tape = import_tape([tmp_path / "equity"], "auto", out_dir=tmp_path / "out")
    trades = trades_of(tape)
    assert (tape.symbols, tape.days, tape.manifest["symbols"][0]["calendar"]) == (["AAA"], ["2013-10-07"], "XNYS")
    assert trades.ts[0] == np.datetime64("2013-10-07T13:30", "ns").astype(int)
    assert (trades.price.tolist(), trades.flags.tolist()) == ([167.41, 167.42], [7, 4])
    assert trades.cond is not None
    assert trades.cond.tolist() == [0x20, 0]


def test_the_last_row_of_a_lean_future_is_dropped_when_it_stands_twice(tmp_path: Path) -> None:
    folder = tmp_path / "future" / "comex" / "tick" / "gc"
    rows = "1000,1313.8,1,usa,,0\n1001,1313.9,2,usa,,0\n1001,1313.9,2,usa,,0\n"
    lean_file(folder, "20131007_trade.zip", rows, "20131007_gc_tick_trade_201312.csv")
    tape = import_tape([folder], "lean", out_dir=tmp_path / "out")
    assert (tape.symbols, tape.rows, tape.report["final_duplicates"]) == (["GC-201312"], 2, 1)
    kept = ImportOptions(keep_final_duplicate=True)
    assert import_tape([folder], "lean", out_dir=tmp_path / "kept", options=kept).rows == 3


def test_a_lean_file_out_of_place_is_refused(tmp_path: Path) -> None:
    lost = lean_file(tmp_path / "x", "20131007_trade.zip", "1,1,1,P,,0\n")
    minute = lean_file(tmp_path / "equity" / "usa" / "minute" / "spy", "20131007_trade.zip", "1,1,1,1,1,1\n")
    bad = lean_file(tmp_path / "equity" / "usa" / "tick" / "spy", "20131008_trade.zip", "1,1,1,P,,0\n2,one,1,P,,0\n")
    late = lean_file(tmp_path / "equity" / "usa" / "tick" / "bac", "20131008_trade.zip", "99999999,1,1,P,,0\n")
    for path, code, said in [
        (lost, "unsupported_format", "folders as Lean has them"),
        (minute, "unsupported_format", "holds bars, not trades"),
        (bad, "invalid_row", "20131008_trade.zip: line 2, column 2 is not a number: 'one'"),
        (late, "invalid_row", "not within a day"),
        (tmp_path / "none", "not_found", "there is no file"),
    ]:
        with pytest.raises(TapelineError, match=said) as caught:
            import_tape([path], "lean", out_dir=tmp_path / f"out-{path.parent.name}")
        assert caught.value.code == code


def test_unknown_formats_calendars_and_symbols_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(GOOD)
    for format, symbol, calendar, code, said in [
        ("csw", "X", "24/7", "unsupported_format", "did you mean csv"),
        ("csv", "X", "XNY", "calendar_unknown", "XNYS"),
        ("csv", "X", None, "calendar_unknown", "--calendar"),
        ("csv", None, "24/7", "invalid_argument", "--symbol"),
        ("csv", "a\nb", "24/7", "invalid_argument", "128"),
        ("lean", "X", None, "unsupported_format", "20131007_trade.zip"),
        ("binance-trades", "X", None, "unsupported_format", "6 or 7"),
    ]:
        options = ImportOptions(calendar=calendar, map=MAP)
        with pytest.raises(TapelineError, match=said) as caught:
            import_tape([path], format, symbol=symbol, out_dir=tmp_path / "out", options=options)
        assert caught.value.code == code
    with pytest.raises(TapelineError) as caught:
        import_tape([], "csv", symbol="X", out_dir=tmp_path / "out")
    assert caught.value.code == "empty_input"


def test_progress_never_falls_and_ends_at_the_total(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("ts,px,qty\n" + "".join(f"{1704200000 + k},10.5,1\n" for k in range(600_000)))
    told: list[dict[str, Any]] = []
    options = ImportOptions(calendar="24/7", map=MAP)
    import_tape([path], "csv", symbol="X", out_dir=tmp_path / "out", options=options, progress=told.append)
    for stage in ("read", "write"):
        steps = [line for line in told if line["stage"] == stage]
        assert [line["done"] for line in steps] == sorted(line["done"] for line in steps)
        assert steps[-1]["done"] == steps[-1]["total"]
    assert len([line for line in told if line["stage"] == "read"]) > 2


def test_an_interrupted_import_leaves_no_tape(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(GOOD)

    def stop(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    options = ImportOptions(calendar="24/7", map=MAP)
    with pytest.raises(KeyboardInterrupt):
        import_tape([path], "csv", symbol="X", out_dir=tmp_path / "out", options=options, progress=stop)
    assert list((tmp_path / "out").iterdir()) == []
    import_tape([path], "csv", symbol="X", out_dir=tmp_path / "out", options=options)


def test_rows_in_any_order_in_one_file_or_ten_give_one_tape(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    ts = 1_704_200_000_000 + np.sort(draw.integers(0, 10 * 86_400_000, 400)) // 5_000_000 * 5_000_000
    rows = [f"{t},{draw.integers(1, 99)},{draw.integers(1, 9)},{k}" for k, t in enumerate(ts.tolist())]
    options = ImportOptions(calendar="24/7", map=MAP | {"seq": "id"})

    def made(name: str, *parts: list[str]) -> str:
        paths = [tmp_path / f"{name}-{k}.csv" for k in range(len(parts))]
        for path, part in zip(paths, parts, strict=True):
            path.write_text("ts,px,qty,id\n" + "\n".join(part) + "\n")
        return import_tape(paths, "csv", symbol="X", out_dir=tmp_path / name, options=options).content_sha256

    shuffled = [rows[k] for k in draw.permutation(len(rows))]
    assert made("one", rows) == made("shuffled", shuffled) == made("ten", *(shuffled[k::10] for k in range(10)))


@pytest.mark.parametrize(
    ("module", "format", "calendar", "extra"),
    [
        ("exchange_calendars", "csv", "XNYS", "assets"),
        ("pyarrow", "parquet", "24/7", "io"),
        ("databento_dbn", "databento-dbn", "24/7", "dbn"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    importing: Importing, monkeypatch: pytest.MonkeyPatch, module: str, format: str, calendar: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TapelineError) as caught:
        importing(GOOD, format=format, calendar=calendar)
    assert (caught.value.code, caught.value.hint) == ("dependency_missing", f"pip install 'tapeline[{extra}]'")
    assert importing(GOOD).rows == 2  # text and built-in calendars need none of them
    assert importing("ts,px,qty\n1704207600,1,1\n", calendar="SIM").rows == 1
