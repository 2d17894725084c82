"""Bars of real trades against the vendor's own bars; the data lie beside the project and are never copied."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tapeline.tape import day_file
from tapeline.tape.imports import import_tape
from tapeline.tape.manifest import sessions_of
from tapeline.tape.options import ImportOptions
from tapeline.tape.prepared import PreparedTape, TapeWriter
from tapeline.tape.sessions import Calendar
from tapeline.tape.trades import Trades
from tapeline.tape.view import OpenTape

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / "lean").is_dir(), reason="shared data not present")

DAYS = ["20131007", "20131008", "20131009", "20131010", "20131011"]
MINUTE = 60_000_000_000
COUNTS = {
    "spy": [
        (250_601, 97_062_721),
        (451_545, 178_346_557),
        (439_677, 165_525_328),
        (460_032, 195_649_869),
        (285_605, 109_016_858),
    ],
    "bac": [
        (88_172, 64_411_712),
        (125_872, 92_437_597),
        (122_832, 94_550_724),
        (124_567, 101_835_137),
        (112_177, 83_213_319),
    ],
}
MINUTES = {"spy": [828, 828, 813, 883, 776], "bac": [595, 573, 541, 646, 594]}
FLOORS = {"spy": (0.996, 0.91), "bac": (0.994, 0.95)}


def vendor(path: Path, member: str | None = None) -> NDArray[np.float64]:
    """The vendor's minutes: milliseconds, open, high, low, close, volume."""
    with zipfile.ZipFile(path) as archive:
        text = archive.read(member or archive.namelist()[0]).decode()
    return np.array([[float(field) for field in line.split(",")] for line in text.split()], np.float64)


@pytest.fixture(scope="module", params=["spy", "bac"])
def equity(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, PreparedTape]:
    name = str(request.param)
    folder = DATA / "lean" / "equity" / "usa" / "tick" / name
    pytest.importorskip("exchange_calendars")
    return name, import_tape([folder], "lean", out_dir=tmp_path_factory.mktemp(name))


def minutes(name: str, tape: PreparedTape, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Our and the vendor's bars of one day in the minutes that both have, and the minutes of day as text."""
    opened = OpenTape(tape.manifest, tape.path_of, view="extended")
    date = tape.days[k]
    grid = opened.minute_grid(name.upper(), first=date, last=date)
    midnight = int(np.datetime64(f"{date}T04:00", "ns").astype(np.int64))  # New York is 4 hours behind
    traded = grid.bars[:, 4] > 0
    ours = grid.bars[traded]
    at = (grid.start_ns[traded] - midnight) // 1_000_000
    theirs = vendor(DATA / "lean" / "equity" / "usa" / "minute" / name / f"{DAYS[k]}_trade.zip")
    theirs[:, 1:5] /= 10_000
    assert at.tolist() == theirs[:, 0].astype(np.int64).tolist()
    return ours, theirs, [f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}" for ms in at.tolist()]


def test_trades_and_volume_of_each_day_are_the_vendors(equity: tuple[str, PreparedTape]) -> None:
    name, tape = equity
    opened = OpenTape(tape.manifest, tape.path_of, view="all")
    found = [opened.trades(name.upper(), date) for date in tape.days]
    assert [(len(trades), int(trades.volume.sum())) for trades in found] == COUNTS[name]
    assert tape.report["suspicious"] == (10 if name == "spy" else 0)


@pytest.mark.parametrize("k", range(5))
def test_minutes_are_the_vendors(equity: tuple[str, PreparedTape], k: int) -> None:
    name, tape = equity
    ours, theirs, at = minutes(name, tape, k)
    assert len(at) == MINUTES[name][k]
    volume_floor, price_floor = FLOORS[name]
    assert (ours[:, 5] == theirs[:, 5]).mean() >= volume_floor
    for column in range(4):
        assert (ours[:, column] == theirs[:, column + 1]).mean() >= price_floor
    # The vendor leaves trades out, so its range lies within ours; it folds the official close into 15:59.
    wider = (theirs[:, 2] > ours[:, 1]) | (theirs[:, 3] < ours[:, 2])
    assert {at[row] for row in np.flatnonzero(wider)} <= {"15:59"}


def test_volume_of_suspicious_trades_belongs_to_bars(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("exchange_calendars")
    file = DATA / "lean" / "equity" / "usa" / "tick" / "spy" / "20131010_trade.zip"
    tape = import_tape([file], "lean", out_dir=tmp_path_factory.mktemp("one"))
    opened = OpenTape(tape.manifest, tape.path_of, view="extended")
    trades = opened.trades("SPY", "2013-10-10")
    odd = trades.ts[trades.flags == 4] // MINUTE
    assert len(odd) == 10
    midnight = int(np.datetime64("2013-10-10T04:00", "ns").astype(np.int64))
    grid = opened.minute_grid("SPY")
    theirs = vendor(DATA / "lean" / "equity" / "usa" / "minute" / "spy" / "20131010_trade.zip")
    known = {int(row[0]): row[5] for row in theirs.tolist()}
    for row in np.flatnonzero(np.isin(grid.start_ns // MINUTE, odd)):
        assert grid.bars[row, 5] == known[(int(grid.start_ns[row]) - midnight) // 1_000_000]


# Lean's bits of a condition: derivatively priced trades count for volume alone, average prices not for high and low.
CONDITIONS = ((0x200, 4), (0x100000, 6))


def marked_anew(tape: PreparedTape, folder: Path, flags_of: Callable[[Trades], NDArray[np.uint8]]) -> PreparedTape:
    """The tape with other eligibility flags."""
    symbol = tape.manifest["symbols"][0]
    writer = TapeWriter(folder, Calendar(symbol["calendar"]))
    for day in tape.manifest["days"]:
        trades = day_file.read(tape.path_of(day["artifact"]["sha256"]), day)
        writer.add(day["symbol"], day["trade_date"], replace(trades, flags=flags_of(trades)))
    return writer.finish(sessions_of(tape.manifest), {})


def equal_minutes(name: str, tape: PreparedTape, days: Sequence[int] = range(5)) -> NDArray[np.float64]:
    """The share of minutes whose open, high, low, close and volume are the vendor's."""
    pairs = [minutes(name, tape, k) for k in days]
    same = np.concatenate([ours[:, [0, 1, 2, 3, 5]] == theirs[:, 1:6] for ours, theirs, _ in pairs])
    return np.asarray(same.mean(axis=0))


def test_flags_bring_every_column_nearer_to_the_vendors(equity: tuple[str, PreparedTape], tmp_path: Path) -> None:
    name, tape = equity
    folder = DATA / "lean" / "equity" / "usa" / "tick" / name
    options = ImportOptions(conditions=CONDITIONS)
    without = marked_anew(tape, tmp_path / "all", lambda trades: np.full(len(trades), 7, np.uint8))
    shares = {
        "without flags": equal_minutes(name, without),
        "suspicious": equal_minutes(name, tape),
        "and conditions": equal_minutes(name, import_tape([folder], "lean", out_dir=tmp_path / "c", options=options)),
    }
    print(f"\n{name.upper()}: minutes equal to the vendor's, %     open    high     low   close  volume")
    for what, share in shares.items():
        print(f"{what:>40}", " ".join(f"{100 * each:7.2f}" for each in share))
    first, second, third = shares.values()
    assert (second >= first).all()
    assert (third >= second).all()
    assert (third[:4] > first[:4]).all()


def test_a_suspicious_trade_made_void_takes_its_volume_from_the_vendors_bars(tmp_path: Path) -> None:
    """The negative control: that such trades count for volume is seen, since bars without them are wrong."""
    pytest.importorskip("exchange_calendars")
    file = DATA / "lean" / "equity" / "usa" / "tick" / "spy" / "20131010_trade.zip"
    tape = import_tape([file], "lean", out_dir=tmp_path / "one")

    def without(trades: Trades) -> NDArray[np.uint8]:
        return np.where(trades.flags == 4, 0, trades.flags).astype(np.uint8)

    theirs = vendor(DATA / "lean" / "equity" / "usa" / "minute" / "spy" / "20131010_trade.zip")
    shares = []
    for made in (tape, marked_anew(tape, tmp_path / "void", without)):
        grid = OpenTape(made.manifest, made.path_of, view="extended").minute_grid("SPY")
        midnight = int(np.datetime64("2013-10-10T04:00", "ns").astype(np.int64))
        row = np.searchsorted(grid.start_ns, midnight + theirs[:, 0].astype(np.int64) * 1_000_000)
        shares.append((grid.bars[row, 5] == theirs[:, 5]).mean())
    print(
        f"\nSPY 2013-10-10: volumes equal in {100 * shares[0]:.2f} % of minutes, {100 * shares[1]:.2f} % without them"
    )
    assert shares[0] >= 0.996
    assert shares[1] < 0.987


def test_gold_futures_equal_the_vendor_in_every_minute(tmp_path: Path) -> None:
    pytest.importorskip("exchange_calendars")
    source = DATA / "lean" / "future" / "comex"
    tape = import_tape([source / "tick" / "gc"], "lean", out_dir=tmp_path)
    assert (tape.report["rows_read"], tape.rows, len(tape.symbols)) == (40_192, 40_182, 10)
    midnight = int(np.datetime64("2013-10-07", "ns").astype(np.int64))
    opened = OpenTape(tape.manifest, tape.path_of)
    compared = 0
    for symbol in tape.symbols:
        grid = opened.minute_grid(symbol)
        traded = grid.bars[:, 4] > 0
        member = f"20131007_gc_minute_trade_{symbol.split('-')[1]}.csv"
        theirs = vendor(source / "minute" / "gc" / "20131007_trade.zip", member)
        at = (grid.start_ns[traded] - midnight) // 1_000_000
        assert at.tolist() == theirs[:, 0].astype(np.int64).tolist()
        assert np.array_equal(grid.bars[traded][:, [0, 1, 2, 3, 5]], theirs[:, 1:])
        compared += len(theirs)
    assert compared == 1500


def test_an_evening_of_futures_belongs_to_the_next_date(tmp_path: Path) -> None:
    pytest.importorskip("exchange_calendars")
    tape = import_tape([DATA / "lean" / "future" / "comex" / "tick" / "gc"], "lean", out_dir=tmp_path)
    opened = OpenTape(tape.manifest, tape.path_of)
    evening = int(np.datetime64("2013-10-07T22:00", "ns").astype(np.int64))
    first, second = (opened.trades("GC-201312", date) for date in ("2013-10-07", "2013-10-08"))
    assert first.ts[-1] < evening <= second.ts[0]
    grid = opened.minute_grid("GC-201312")
    pause = (grid.start_ns >= evening - 45 * MINUTE) & (grid.start_ns < evening)
    assert pause.sum() == 45
    assert (grid.bars[pause, 4] == 0).all()


def test_binance_trades_are_read_by_their_columns(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    options = ImportOptions(
        calendar="24/7",
        map={"ts": "timestamp", "price": "price", "volume": "quantity", "seq": "trade_id"},
        tz="UTC",
    )
    path = DATA / "binance" / "btcusdt-trades.parquet"
    tape = import_tape([path], "parquet", symbol="BTCUSDT", out_dir=tmp_path, options=options)
    assert tape.rows == 2001
    assert tape.manifest["symbols"][0]["volume_kind"] == "float64"
    assert tape.report["seq_gaps"] >= 0
