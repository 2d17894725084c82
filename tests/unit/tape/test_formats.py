"""Formats of vendors, each from a file that the test writes: what is read is what was written, to the ns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapeline.errors import TapelineError
from tapeline.tape.imports import import_tape
from tapeline.tape.options import ImportOptions, conditions_of
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.view import OpenTape

NS = 1_381_104_000_000_000_000


def read(folder: Path, name: str, text: str, format: str, symbol: str | None = "X", **options: Any) -> PreparedTape:
    path = folder / name
    path.write_text(text)
    return import_tape([path], format, symbol=symbol, out_dir=folder / "out", options=ImportOptions(**options))


def trades(tape: PreparedTape, symbol: str = "X") -> Any:
    return OpenTape(tape.manifest, tape.path_of).all_trades(symbol)


def test_decimal_seconds_of_kraken_keep_every_nanosecond(tmp_path: Path) -> None:
    text = "1381104000.000000001,123.5,0.25\n1381104000.5,124,1\n1381104001,123,2.5\n"
    found = trades(read(tmp_path, "XBTUSD.csv", text, "kraken-csv"))
    assert found.ts.tolist() == [NS + 1, NS + 500_000_000, NS + 1_000_000_000]
    assert found.price.tolist() == [123.5, 124.0, 123.0]
    assert found.volume.tolist() == [0.25, 1.0, 2.5]


HEAD = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"


@pytest.mark.parametrize("format", ["tardis-csv", "auto"])
def test_a_tardis_file_of_two_symbols_is_split(tmp_path: Path, format: str) -> None:
    text = HEAD + "deribit,A,1381104000000001,1381104000000009,id-1,buy,10.5,3\n"
    text += "deribit,B,1381104000000002,1381104000000009,id-2,sell,20,4\n"
    tape = read(tmp_path, "trades.csv", text, format, None)
    assert tape.symbols == ["A", "B"]
    assert trades(tape, "A").ts.tolist() == [NS + 1000]
    assert trades(tape, "B").price.tolist() == [20.0]


@pytest.mark.parametrize("stamp", ["1381104000001", "1381104000001000"])
@pytest.mark.parametrize("format", ["binance-aggtrades", "auto"])
def test_aggregated_trades_say_so(tmp_path: Path, stamp: str, format: str) -> None:
    text = f"7,10.5,3,1,2,{stamp},true,true\n8,11,1,3,3,{stamp},false,true\n"
    tape = read(tmp_path, "agg.csv", text, format)
    assert tape.manifest["aggregated"] is True
    found = trades(tape)
    assert found.ts.tolist() == [NS + 1_000_000] * 2
    assert found.seq.tolist() == [7, 8]
    assert tape.report["ts_unit"] == ("ms" if len(stamp) == 13 else "us")


def test_aggregated_trades_are_not_plain_ones(tmp_path: Path) -> None:
    with pytest.raises(TapelineError) as caught:
        read(tmp_path, "agg.csv", "7,10.5,3,1,2,x,1381104000001,true,true,1\n", "binance-aggtrades")
    assert caught.value.code == "unsupported_format"


def test_an_arrow_file_is_read_by_its_columns(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    stamps = np.array([NS + 1, NS + 2, NS + 3])
    table = pa.table(
        {
            "t": pa.array(stamps, pa.timestamp("ns", "UTC")),
            "p": [1.5, 2.5, 3.5],
            "q": [1, 2, 3],
            "more": ["a", "b", "c"],
        }
    )
    path = tmp_path / "x.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    options = ImportOptions(calendar="24/7", map={"ts": "t", "price": "p", "volume": "q"})
    tape = import_tape([path], "auto", symbol="X", out_dir=tmp_path / "out", options=options)
    assert trades(tape).ts.tolist() == stamps.tolist()
    assert trades(tape).volume.tolist() == [1, 2, 3]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TapelineError) as caught:
        import_tape([path], "arrow", symbol="X", out_dir=tmp_path / "cut", options=options)
    assert caught.value.code == "unsupported_format"


def test_a_condition_table_says_what_a_trade_counts_for(tmp_path: Path) -> None:
    table = tmp_path / "conditions.csv"
    table.write_text("mask,flags\n0x1,4\n2,5\n")
    assert conditions_of(table) == ((1, 4), (2, 5))
    rows = "".join(f"{NS + k},10,1,{cond}\n" for k, cond in enumerate((0, 1, 2, 3, 4)))
    names = {"ts": "t", "price": "p", "volume": "q", "cond": "c"}
    tape = read(
        tmp_path, "x.csv", "t,p,q,c\n" + rows, "csv", calendar="24/7", map=names, conditions=conditions_of(table)
    )
    assert trades(tape).flags.tolist() == [7, 4, 5, 4, 7]
    assert tape.manifest["eligibility"] == [[1, 4], [2, 5]]
    for wrong in ("0,7\n", "1,8\n", "a,b\n", "1\n"):
        table.write_text(wrong)
        with pytest.raises(TapelineError) as caught:
            conditions_of(table)
        assert caught.value.code == "invalid_row"
