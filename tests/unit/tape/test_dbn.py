"""Databento's files, written by the vendor's own encoder: what is read is what was written, to the nanosecond."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tapeline.errors import TapelineError
from tapeline.tape.imports import import_tape
from tapeline.tape.options import ImportOptions
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.trades import Trades
from tapeline.tape.view import OpenTape

dbn = pytest.importorskip("databento_dbn")
NS = 1_704_200_000_000_000_000  # 2024-01-02 12:53:20
DAY = 86_400_000_000_000


def head(version: int = 3, schema: str = "trades", by_id: bool = False, ts_out: bool = False) -> bytes:
    """Metadata in which instrument 17 is AAA until 2024-01-03 and BBB from then on, and 18 is CCC."""

    def interval(first: int, stop: int, symbol: str) -> SimpleNamespace:
        return SimpleNamespace(start_date=date(2024, 1, first), end_date=date(2024, 1, stop), symbol=symbol)

    names = {"AAA": [interval(1, 3, "17")], "BBB": [interval(3, 9, "17")], "CCC": [interval(1, 9, "18")]}
    if by_id:
        names = {"17": [interval(1, 3, "AAA"), interval(3, 9, "BBB")], "18": [interval(1, 9, "CCC")]}
    kinds = (dbn.SType.RAW_SYMBOL, dbn.SType.INSTRUMENT_ID)
    made = dbn.Metadata(
        dataset="XNAS.ITCH", start=NS, schema=dbn.Schema.from_str(schema), version=version, ts_out=ts_out,
        stype_in=kinds[by_id], stype_out=kinds[not by_id], symbols=list(names),
        mappings=[SimpleNamespace(raw_symbol=name, intervals=spans) for name, spans in names.items()],
    )  # fmt: skip
    return bytes(made.encode())


def trade(ts: int, price: int, size: int = 1, instrument: int = 17, seq: int = 0, **more: Any) -> bytes:
    return bytes(
        dbn.TradeMsg(
            publisher_id=2, instrument_id=instrument, ts_event=ts, price=price, size=size, action=dbn.Action.TRADE,
            side=dbn.Side.BID, depth=0, sequence=seq, **({"ts_recv": ts + 5} | more),
        )
    )  # fmt: skip


TRADES = (
    trade(NS, 1_500_000_000, 3, seq=4)
    + trade(NS + 1, 1_500_000_001, 2_000_000_000, seq=5)
    + trade(NS + 2, dbn.UNDEF_PRICE, 1, seq=6)
    + trade(NS + 2, 7_000_000_000, 8, 18, seq=7)
    + trade(NS + DAY, 2_000_000_000, 9, seq=8)
)


def read(folder: Path, data: bytes, name: str = "x.dbn", symbol: str | None = None, **options: Any) -> PreparedTape:
    path = folder / name
    path.write_bytes(data)
    chosen = ImportOptions(**({"calendar": "24/7", "max_void": 1.0} | options))
    return import_tape(
        [path], "auto", symbol=symbol, out_dir=folder / f"out-{len(list(folder.iterdir()))}", options=chosen
    )


def trades(tape: PreparedTape, symbol: str) -> Trades:
    return OpenTape(tape.manifest, tape.path_of, view="all").all_trades(symbol)


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_trades_are_read_under_the_symbols_of_their_days(tmp_path: Path, version: int, by_id: bool) -> None:
    tape = read(tmp_path, head(version, by_id=by_id) + TRADES)
    assert (tape.report["format"], tape.symbols) == ("databento-dbn", ["AAA", "BBB", "CCC"])
    found = trades(tape, "AAA")
    assert found.ts.tolist() == [NS, NS + 1]
    assert found.price.tolist() == [1.5, 1.500000001]
    assert found.volume.tolist() == [3, 2_000_000_000]
    assert found.seq is not None
    assert found.seq.tolist() == [4, 5]
    assert trades(tape, "BBB").price.tolist() == [2.0]
    assert trades(tape, "CCC").price.tolist() == [7.0]


def test_a_trade_without_a_price_is_void(tmp_path: Path) -> None:
    tape = read(tmp_path, head() + TRADES)
    assert (tape.report["void"], tape.report["bad_price"], tape.rows) == (1, 1, 5)
    with pytest.raises(TapelineError) as caught:
        read(tmp_path, head() + TRADES, max_void=0.01)
    assert caught.value.code == "too_many_bad_rows"


def test_the_time_of_receipt_is_taken_on_wish(tmp_path: Path) -> None:
    assert trades(read(tmp_path, head() + TRADES, ts="recv"), "AAA").ts.tolist() == [NS + 5, NS + 6]


def test_records_with_the_time_of_sending_are_read_too(tmp_path: Path) -> None:
    data = head(ts_out=True) + trade(NS, 10**9, ts_out=NS + 9) + trade(NS + 1, 2 * 10**9, ts_out=NS + 9)
    assert trades(read(tmp_path, data), "AAA").price.tolist() == [1.0, 2.0]


def test_a_packed_file_of_many_blocks_gives_the_same_tape(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    draw = np.random.default_rng(1)
    data = head() + b"".join(trade(NS + k, int(draw.integers(1, 10**12)), seq=k) for k in range(150_000))
    packed = zstandard.ZstdCompressor().compress(data)
    plain = read(tmp_path, data)
    assert plain.rows == 150_000
    assert read(tmp_path, packed, "x.dbn.zst").content_sha256 == plain.content_sha256
    with pytest.raises(TapelineError, match="is no complete Zstandard file") as caught:
        read(tmp_path, packed[:-100], "cut.dbn.zst")
    assert caught.value.code == "unsupported_format"


def test_one_symbol_may_be_picked_and_an_unknown_instrument_named(tmp_path: Path) -> None:
    assert read(tmp_path, head() + TRADES, symbol="CCC").symbols == ["CCC"]
    lost = head() + trade(NS, 10**9, instrument=99)
    with pytest.raises(TapelineError, match="instrument 99 has no symbol in the file at record 1") as caught:
        read(tmp_path, lost)
    assert caught.value.code == "invalid_row"
    assert read(tmp_path, lost, symbol="ZZZ").symbols == ["ZZZ"]


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (head(schema="mbp-1"), "unsupported_format", "holds mbp-1, not trades"),
        (b"DBN\x09" + head()[4:], "unsupported_format", "no DBN file of version 1 to 3"),
        (head()[:60], "unsupported_format", "ends within its metadata"),
        (head() + TRADES[:-7], "unsupported_format", "ends within a record"),
        (head() + TRADES + b"\x0c\x01" + TRADES[2:48], "invalid_row", "record 6 is no trade"),
        (head(), "empty_input", "no row"),
        (head() + trade(dbn.UNDEF_TIMESTAMP, 10**9, ts_recv=NS), "invalid_timestamp", "before 1970"),
        (b"DBN\x03\x08\0\0\0abcdefgh", "unsupported_format", "metadata that cannot be read"),
    ],
)
def test_an_odd_file_is_refused(tmp_path: Path, data: bytes, code: str, said: str) -> None:
    with pytest.raises(TapelineError, match=said) as caught:
        read(tmp_path, data)
    assert (caught.value.code, bool(caught.value.hint)) == (code, True)
